//! rbee-hive: the daemon that manages a machine's language models and the worker processes that
//! serve them, and narrates every step.
//!
//! The road of a request, in the order of these modules: [`cli`] starts a [`daemon`], whose
//! [`http`] surface takes an operation and makes it a job of [`jobs`], which routes it through the
//! table of [`ops`] to what it is about: [`models`] or [`workers`]. [`narration`] lies under all of
//! them, and [`spawn`] carries it across tasks, threads and processes. [`engine`] is the built-in
//! worker, which runs in processes of its own.

pub mod app;
pub mod cli;
mod client;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod engine;
pub mod error;
mod event_stream;
pub mod events;
mod files;
pub mod http;
pub mod jobs;
pub mod models;
pub mod narration;
pub mod ops;
mod queen;
pub mod spawn;
pub mod text;
pub mod time;
pub mod turns;
pub mod workers;
