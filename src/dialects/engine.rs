//! The form that engines speak: OpenAI's chat completions, with llama.cpp's fields
//! (<https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>).

mod stream;
mod read;
mod write;
mod systems;

pub(crate) use read::answer;
pub(crate) use stream::Reader;
pub(crate) use write::{completion, request};

#[cfg(test)]
mod tests;
