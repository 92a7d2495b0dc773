//! The real hive, over real sockets, with real worker processes.

#![expect(
    clippy::disallowed_methods,
    reason = "tests read and write the files that they made, and run programs outside any job"
)]

mod access;
mod adoption;
mod anthropic;
mod callers;
mod capabilities;
mod cli;
mod client;
mod clients;
mod configuration;
mod contract;
mod counting;
mod described_engines;
mod documentation;
mod downloads;
mod embeddings;
mod engine_downloads;
mod engine_sources;
mod engine_support;
mod engines;
mod faults;
mod fleet;
mod fleet_faults;
mod fleet_files;
mod fleet_models;
#[cfg(target_os = "linux")]
mod fleet_partitions;
mod fleet_setup;
mod full_disk;
mod gateway;
#[cfg(target_os = "linux")]
mod gpus;
mod https;
mod hub;
mod images;
mod jobs;
mod layers;
mod leases;
mod journals;
mod lifecycle;
mod loads;
mod llama_server;
mod logs;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod models;
mod openai;
mod openapi;
mod ollama;
mod operations;
mod page;
mod queue;
mod quickstart;
mod real_weights;
mod residency;
mod responses;
mod service;
mod settings;
mod sharing;
mod shell;
mod streams;
mod support;
mod surface;
mod take_over;
mod templates;
mod thinking;
#[cfg(feature = "otlp")]
mod traces;
mod workers;
