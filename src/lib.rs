//! rbee-hive: the daemon that manages a machine's language models and the worker processes that
//! serve them, and narrates every step.

pub mod app;
pub mod config;
pub mod error;
pub mod narration;
pub mod spawn;
