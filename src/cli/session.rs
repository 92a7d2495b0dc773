//! One run of a verb: the hive that it talks to, and how it follows a job to its end.
//!
//! Narrations go to standard error as they come; the result is for the verb to show. A job that acts goes on in the
//! hive when this process leaves: Ctrl-C says so, and a second one cancels it. A job that only reads is cancelled at
//! once.

mod model;
mod start;
mod find;
mod interrupts;
mod narrator;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::end::{End, Ended};
use super::show::{self, Column, table, text_of};
use crate::client::{Client, Error, Followed, Host, Token};
use crate::error::{Code, Failure};
use crate::jobs::OperationKind;
use crate::jobs::event::{Body, Terminal};
use crate::ops::TABLE;
use crate::spawn;
pub(super) use interrupts::{Interrupt, Interrupts};
pub(super) use narrator::Narrator;

/// How long after Ctrl-C a second one still cancels the job.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

const HOST: &str =
    "Where the hive is: http://HOST:PORT, HOST:PORT or unix:/PATH [default: the hive of this machine]";

// What every verb of a client takes besides its own. Documentation here would be what `--help` says of each verb.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "The hive")]
pub(super) struct Options {
    #[arg(long, env = "RBEE_HIVE_HOST", value_name = "ADDRESS", global = true, help = HOST)]
    host: Option<String>,
    /// A file with the hive's token; `RBEE_HIVE_TOKEN` may hold the token itself
    #[arg(long, env = "RBEE_HIVE_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The hive of the fleet that does it: its name, any (the best for it) or, to look, all [default: the one asked]
    #[arg(long, value_name = "NAME", global = true)]
    hive: Option<String>,
    /// Start a hive on this machine first, unless one runs
    #[arg(long, global = true, conflicts_with = "host")]
    start: bool,
    /// Print the result as JSON: one document, or one a line
    #[arg(long, global = true)]
    json: bool,
    /// Print no narrations, only the result and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// A verb's hive, and how its answers are shown.
#[derive(Debug)]
pub(super) struct Session {
    /// The hive.
    pub(super) hive: Client,
    /// The hive of its fleet that is meant, if not this one.
    pub(super) of_fleet: Option<String>,
    /// Whether results are printed as JSON.
    pub(super) json: bool,
    /// Whether only results and errors are shown.
    pub(super) quiet: bool,
    has_token: bool,
}

impl Options {
    /// Refuses `--hive`, for a verb that asks the hive at its own address.
    pub(super) fn check_asks_itself(&self) -> Ended {
        match &self.hive {
            None => Ok(()),
            Some(_) => Err(End::Usage(
                Failure::new(
                    Code::InvalidField,
                    "--hive is not for this verb: it asks a hive at its own address",
                )
                .hint("give the address of that hive with --host; `rbee-hive fleet status` shows it"),
            )),
        }
    }

    /// The session with the hive that the options, the environment or the data folder name.
    pub(super) async fn open(self) -> Ended<Session> {
        let token = find::token(self.token_file.as_deref())?;
        let host: Host = match &self.host {
            Some(host) => host.parse().map_err(usage)?,
            None if self.start => start::host(self.quiet).await?,
            None => find::host(),
        };
        let has_token = token.is_some();
        let hive = Client::connect(host, token)?;
        Ok(Session { hive, of_fleet: self.hive, json: self.json, quiet: self.quiet, has_token })
    }
}

/// An option that cannot be used.
fn usage(error: Error) -> End {
    match error {
        Error::Unreachable(failure) => End::Usage(failure),
        error => error.into(),
    }
}

impl Session {
    /// Runs an operation, by its name in the table and its fields, to its end: narrates it, and gives its result.
    /// Fields that are null are left out, so that the hive's defaults count.
    pub(super) async fn run(&self, operation: &str, fields: Value) -> Ended<Value> {
        self.run_with(operation, fields, self.narrator()).await
    }

    /// The same, without its narrations: for a result that says the same.
    pub(super) async fn run_silently(&self, operation: &str, fields: Value) -> Ended<Value> {
        self.run_with(operation, fields, Narrator::silent()).await
    }

    async fn run_with(&self, operation: &str, fields: Value, narrator: Narrator) -> Ended<Value> {
        let row = TABLE.iter().find(|row| row.name == operation);
        let kind = row.map_or(OperationKind::Act, |row| row.kind);
        let mut fields: Map<_, _> = match fields {
            Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => Map::new(),
        };
        if let Some(hive) = &self.of_fleet {
            fields.insert("hive_id".to_owned(), hive.as_str().into());
        }
        let submission = Value::Object(Map::from_iter([(operation.to_owned(), Value::Object(fields))]));
        let job = self.hive.submit(&submission).await.map_err(|error| self.explained(error))?;
        self.follow(job.as_str(), kind, narrator).await
    }

    /// This session, with this token where it sends none. A hive that asks for none does not mind one.
    pub(super) fn or_with(&self, token: Token) -> Ended<Self> {
        let host = self.hive.host().clone();
        let hive = if self.has_token { self.hive.clone() } else { Client::connect(host, Some(token))? };
        Ok(Self { hive, has_token: true, of_fleet: self.of_fleet.clone(), ..*self })
    }

    /// How narrations are shown here.
    pub(super) fn narrator(&self) -> Narrator {
        if self.quiet { Narrator::silent() } else { Narrator::for_people() }
    }

    /// Says something of this process on standard error, unless that was not wanted.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            Narrator::silent().say(line);
        }
    }

    /// Follows a job to its end and gives its result.
    pub(super) async fn follow(
        &self,
        job: &str,
        kind: OperationKind,
        mut narrator: Narrator,
    ) -> Ended<Value> {
        let mut interrupts = Interrupts::listen();
        let mut follow = self.hive.follow(job);
        let mut result = Value::Null;
        let (mut leave_at, mut is_cancelling) = (None, false);
        loop {
            tokio::select! {
                biased;
                interrupt = interrupts.next() => {
                    if is_cancelling {
                        return Err(End::INTERRUPTED);
                    }
                    if kind == OperationKind::Read || leave_at.is_some() && interrupt == Interrupt::Key {
                        is_cancelling = true;
                        leave_at = None;
                        let (hive, job) = (self.hive.clone(), job.to_owned());
                        // Whether it was cancelled is in the stream.
                        spawn::detached(async move { hive.cancel(&job).await });
                        continue;
                    }
                    let again = if interrupt == Interrupt::Key { "; Ctrl-C again cancels it" } else { "" };
                    narrator.say(&format!("The job goes on: `rbee-hive watch {job}` comes back to it{again}"));
                    if interrupt == Interrupt::Ended {
                        return Err(End::INTERRUPTED);
                    }
                    leave_at = Some(Instant::now() + SECOND_THOUGHTS);
                }
                () = sleep_until(leave_at) => return Err(End::INTERRUPTED),
                followed = follow.next() => {
                    let followed = followed.map_err(|error| self.explained(error))?;
                    let Some(followed) = followed else { return Ok(result) };
                    narrator.show(&followed)?;
                    let Followed::Event(event) = followed else { continue };
                    match event.body {
                        Body::Narration { .. } => {}
                        Body::Result(data) => result = serde_json::from_str(data.get()).unwrap_or_default(),
                        Body::Terminal(Terminal::Done) => return Ok(result),
                        Body::Terminal(Terminal::Failed(failure)) => {
                            return Err(Error::Failed(failure.as_ref().clone()).into());
                        }
                        Body::Terminal(Terminal::Cancelled) => return Err(Error::Cancelled.into()),
                    }
                }
            }
        }
    }

    /// Shows a result: as JSON where that was asked for, else as `people` read it.
    pub(super) fn show(&self, result: &Value, people: impl Fn(&Value) -> String) -> Ended {
        if self.json {
            return show::json(result);
        }
        match self.by_hive(result) {
            None => show::print(&people(result)),
            Some(hives) => hives.iter().try_for_each(|(hive, answer)| {
                let shown = answer.get("result").map_or_else(|| failed(answer), &people);
                show::print(&format!("{hive}:\n{shown}"))
            }),
        }
    }

    /// Shows a list of models, or of what has one, as a table. Those of all hives are one list, with a column that says
    /// where each is.
    pub(super) fn show_list(&self, result: &Value, mut columns: Vec<Column<'_>>) -> Ended {
        let Some(hives) = self.by_hive(result).filter(|_| !self.json) else {
            return self.show(result, |list| table(list.as_array().map_or(&[], Vec::as_slice), &columns));
        };
        columns.insert(1, text_of("HIVE", "hive"));
        show::print(&table(&rows_of(hives), &columns))?;
        let mut silent = hives.iter().filter(|(_, answer)| answer.get("result").is_none());
        silent.try_for_each(|(hive, answer)| show::print(&format!("{hive}: {}", failed(answer))))
    }

    /// The results by hive, where all of them were asked.
    fn by_hive<'a>(&self, result: &'a Value) -> Option<&'a Map<String, Value>> {
        let is_of_all = self.of_fleet.as_ref().is_some_and(|hive| hive.eq_ignore_ascii_case("all"));
        result["hives"].as_object().filter(|_| is_of_all)
    }

    /// An error of this session's hive, with what to do where there is none.
    pub(super) fn explained(&self, error: Error) -> End {
        let failure = match error {
            Error::Unreachable(failure) if failure.code == Code::ServerUnreachable => failure,
            // Something answers there, and the error says what is wrong with it.
            error => return error.into(),
        };
        let hint = if find::is_here(self.hive.host()) {
            "start one with `rbee-hive serve`, or let this command start it with --start"
        } else {
            "check that it runs there, and the address in --host or RBEE_HIVE_HOST"
        };
        Error::Unreachable(Failure { hint: Some(hint.to_owned()), ..failure }).into()
    }
}

/// Why a hive has no result.
fn failed(answer: &Value) -> String {
    format!("error: {}\n", answer["failure"]["message"].as_str().unwrap_or_default())
}

/// The lists of several hives as one, by model and hive; each entry says where it is.
fn rows_of(hives: &Map<String, Value>) -> Vec<Value> {
    let listed = |(hive, answer): (&String, &Value)| {
        let entries = answer["result"].as_array().cloned().unwrap_or_default();
        let hive = hive.clone();
        entries.into_iter().map(move |mut entry| {
            entry["hive"] = hive.as_str().into();
            entry
        })
    };
    let mut rows: Vec<_> = hives.iter().flat_map(listed).collect();
    let model = |row: &Value| row["id"].as_str().or_else(|| row["model"].as_str()).map(str::to_owned);
    rows.sort_by_cached_key(|row| (model(row), row["hive"].as_str().map(str::to_owned)));
    rows
}

/// Completes at that time; never without one.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
