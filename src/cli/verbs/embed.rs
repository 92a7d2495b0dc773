//! `rbee-hive embed MODEL [TEXT…]`: vectors of texts.

use std::io::{self, BufRead, IsTerminal};

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::words;
use crate::error::{Code, Failure};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it
    model: String,
    /// The texts [default: the lines of standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// How many numbers a vector has, where the model can make shorter ones
    #[arg(long)]
    dimensions: Option<u32>,
}

impl Verb for Args {
    const ASKS_ITSELF: bool = true;

    async fn run(self, session: &Session) -> Ended {
        let texts = if self.texts.is_empty() { lines()? } else { self.texts };
        let model = session.model(&self.model, false).await?;
        let mut request = json!({ "model": model["id"], "input": texts });
        if let Some(dimensions) = self.dimensions {
            request["dimensions"] = dimensions.into();
        }
        let answer = session.hive.embeddings(&request).await.map_err(|error| session.explained(error))?;
        session.show(&answer, of_answer)?;
        let vectors = answer["data"].as_array().map_or(0, Vec::len);
        let dimension = answer["data"][0]["embedding"].as_array().map_or(0, Vec::len);
        session.say(&words::counted(vectors, "vector", &format!(" of {dimension} numbers")));
        Ok(())
    }
}

/// The lines of standard input that are not empty.
fn lines() -> Ended<Vec<String>> {
    if io::stdin().is_terminal() {
        let failure = Failure::new(Code::InvalidField, "there is no text to embed");
        let hint = "give texts as arguments, or lines on standard input";
        return Err(End::Usage(failure.hint(hint)));
    }
    let lines: Vec<_> = io::stdin().lock().lines().collect::<io::Result<_>>().map_err(unreadable)?;
    let lines: Vec<String> = lines.into_iter().filter(|line: &String| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        let failure = Failure::new(Code::InvalidField, "standard input has no text");
        return Err(End::Usage(failure.hint("give texts as arguments, or lines on standard input")));
    }
    Ok(lines)
}

fn unreadable(error: io::Error) -> End {
    let failure = Failure::new(Code::Io, format!("could not read standard input: {error}"));
    failure.hint("it has to be UTF-8 text").into()
}

/// A line of numbers for each vector.
fn of_answer(answer: &Value) -> String {
    let mut text = String::new();
    for vector in answer["data"].as_array().into_iter().flatten() {
        let numbers = vector["embedding"].as_array().into_iter().flatten();
        text += &numbers.map(Value::to_string).collect::<Vec<_>>().join(" ");
        text.push('\n');
    }
    text
}
