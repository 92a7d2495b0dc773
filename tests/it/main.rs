//! The real hive, over real sockets, with real worker processes.

mod operations;
mod streams;
mod support;
