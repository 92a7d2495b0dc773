//! `rbee-hive login`: gives the hive a token of the Hugging Face Hub to keep.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Verb;
use crate::cli::end::{End, Ended};
use crate::cli::session::Session;
use crate::cli::show::fields;
use crate::cli::terminal;
use crate::error::{Code, Failure};
use crate::files;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    /// A file with the token of the Hub [default: standard input, which a terminal does not show]
    #[arg(long, value_name = "FILE")]
    hub_token_file: Option<PathBuf>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        let token = token(self.hub_token_file.as_deref(), session)?;
        let result = session.run("HubLogin", json!({ "token": token })).await?;
        session.show(&result, fields)
    }
}

fn token(file: Option<&Path>, session: &Session) -> Ended<String> {
    let text = match file {
        Some(file) => files::read_text(file).map_err(|error| {
            End::Usage(Failure::io("read the token", file, &error).hint("check --hub-token-file"))
        })?,
        None if io::stdin().is_terminal() => {
            let ask =
                || session.say("Paste a token from https://huggingface.co/settings/tokens; it is not shown");
            terminal::hidden_line(ask).map_err(unreadable)?
        }
        None => {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
            text
        }
    };
    let token = text.trim();
    if token.is_empty() {
        let failure = Failure::new(Code::InvalidField, "there is no token");
        return Err(End::Usage(failure.hint("give it on standard input, or in a file by --hub-token-file")));
    }
    Ok(token.to_owned())
}

fn unreadable(error: io::Error) -> End {
    let failure = Failure::new(Code::Io, format!("could not read the token: {error}"));
    failure.hint("give it on standard input, or in a file by --hub-token-file").into()
}
