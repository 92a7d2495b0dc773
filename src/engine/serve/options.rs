//! What a worker serves, and how.

use std::path::PathBuf;

/// The options of a worker process.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// The model's name in answers; the file's stem if absent.
    pub model_id: Option<String>,
    /// The file of the chat template to use instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// TCP port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// The file to which the worker writes where it listens, or why it failed.
    pub report: Option<PathBuf>,
    /// Context of each slot in tokens. It is limited to the context that the model was trained for.
    /// If absent, it is that context, but at most 8192.
    pub context_length: Option<usize>,
    /// How many sequences run at the same time; at least one.
    pub slots: usize,
    /// Whether to end when standard input ends, that is when the process that holds its other end
    /// has ended.
    pub lifeline: bool,
}
