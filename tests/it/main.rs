//! The real hive, over real sockets, with real worker processes.

mod documentation;
mod contract;
mod https;
mod jobs;
mod lifecycle;
mod operations;
mod quickstart;
mod streams;
mod support;
