//! `rbee-hive run MODEL [PROMPT…]`: an answer of a model, or a conversation with it.

mod talk;
mod conversation;
mod screen;
mod input;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::{Interrupts, Session};
use crate::cli::{show, words};
use crate::error::{Code, Failure};
use conversation::{Conversation, Received};
use screen::Screen;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// The id of the model, or what else names it
    model: String,
    /// The question, behind what standard input has [default: a conversation in the terminal]
    prompt: Vec<String>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// An image to ask about (PNG, JPEG, GIF or WebP); may be given several times
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// What the answer has to be: `json`, or a file with a JSON Schema
    #[arg(long, value_name = "json|FILE")]
    format: Option<String>,
    /// The most tokens of an answer
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<u32>,
    /// How freely tokens are chosen: 0 for the likeliest ones
    #[arg(long)]
    temperature: Option<f64>,
    /// How long the worker stays without a request from now on: 10m, seconds, -1 or 0
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    keep_alive: Option<String>,
    /// Let the model think before it answers, where it can
    #[arg(long, overrides_with = "no_think")]
    think: bool,
    /// Have the model answer without thinking, where it can
    #[arg(long)]
    no_think: bool,
    /// Download the model first where the hive does not have it
    #[arg(long)]
    pull: bool,
    /// Print how many tokens the answer took, and how fast they came
    #[arg(long)]
    verbose: bool,
}

impl Verb for Args {
    const ASKS_ITSELF: bool = true;

    async fn run(self, session: &Session) -> Ended {
        let prompt = input::prompt(&self.prompt)?;
        if prompt.is_none() && session.json {
            let failure =
                Failure::new(Code::InvalidField, "a conversation in the terminal has no form in JSON");
            return Err(End::Usage(failure.hint("give the prompt as arguments or on standard input")));
        }
        let images = self.image.iter().map(|file| input::image(file)).collect::<Ended<Vec<_>>>()?;
        let request = self.request()?;
        let model = session.model(&self.model, self.pull).await?;
        let id = model["id"].as_str().unwrap_or(&self.model).to_owned();
        let mut conversation = Conversation::new(request, &id, self.system, images);
        let Some(prompt) = prompt else { return talk::talk(session, conversation, self.verbose).await };

        let mut interrupts = Interrupts::listen();
        let mut screen = if session.json { Screen::silent() } else { Screen::new(session.quiet) };
        let answer = match conversation.ask(session, &prompt, &mut screen, &mut interrupts).await? {
            Received::Answer(answer) => answer,
            Received::Stopped(_) => return Err(End::INTERRUPTED),
        };
        if session.json {
            show::json(&answer.document())?;
        }
        if let Some(why) = answer.cut_off() {
            session.say(&words::yellow(why));
        }
        if self.verbose {
            screen::tell(&answer.costs());
        }
        Ok(())
    }
}

impl Args {
    /// What every request of the conversation has.
    fn request(&self) -> Ended<Value> {
        let mut request = json!({ "stream_options": { "include_usage": true } });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                request[name] = value;
            }
        };
        set("max_tokens", self.max_tokens.map(Value::from));
        set("temperature", self.temperature.map(Value::from));
        let keep = |text: &String| text.parse::<i64>().map_or_else(|_| text.as_str().into(), Value::from);
        set("keep_alive", self.keep_alive.as_ref().map(keep));
        set("response_format", self.format.as_deref().map(input::format).transpose()?);
        if self.think || self.no_think {
            set("chat_template_kwargs", Some(json!({ "enable_thinking": self.think })));
        }
        Ok(request)
    }
}
