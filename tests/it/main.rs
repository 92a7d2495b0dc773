//! The real hive, over real sockets, with real worker processes.

mod documentation;
mod https;
mod operations;
mod streams;
mod support;
