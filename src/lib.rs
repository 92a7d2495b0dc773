//! rbee-hive: the daemon that manages a machine's language models and the worker processes that
//! serve them, and narrates every step.
//!
//! The modules below are the layers of the hive, top to bottom: a module uses only modules that are
//! declared below it. The same holds for the `mod` lines of every other file, and no two files use each
//! other, directly or through others. `tests/it/layers.rs` checks both.
//!
//! A request passes through them in this order: [`cli`] starts a [`daemon`]; its [`http`] surface takes
//! an operation; [`ops`] finds it in the operation table and submits it to [`jobs`], which runs it; the
//! operation does its work with [`workers`] and [`models`]. [`engine`] is the built-in worker, which
//! runs in processes of its own.

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests read and write the files that they made")
)]

// What the process is asked to do.
pub mod cli;
pub mod client;
pub mod daemon;
pub mod http;
mod metrics;
pub mod ops;
pub mod doctor;
mod diagnosis;

// The hive's parts, and the struct that holds them.
pub mod app;
mod queen;
pub mod fleet;
mod residency;
mod settings;
pub mod jobs;
pub mod engines;
pub mod workers;
pub mod engine;
pub mod engine_store;
pub mod models;
mod requests;
mod responses;
mod callers;
mod usage;

// What every part may use.
mod dialects;
pub mod markdown;
mod event_stream;
pub mod spawn;
pub mod narration;
pub mod events;
mod readers;
mod traces;
mod outgoing;
pub mod config;
mod origin;
mod secret_hash;
pub mod address;
mod fields;
mod files;
mod disk;
pub mod turns;
pub mod error;
pub mod text;
mod secrets;
mod paths;
mod histogram;
pub mod time;
#[cfg(test)]
mod testing;
