//! What no single setting's type can check: relations between settings, addresses and names.

use reqwest::Url;

use super::{Bind, Config, Downloads, Tokens, models};
use crate::error::{Code, Failure, Result};
use crate::origin::{Host, Origin};

const REMOVE: &str = "correct it, or remove the setting to use its default";

impl Config {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the setting and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.check_names()?;
        self.check_callers()?;
        self.check_engines()?;
        self.check_limits()
    }

    /// The hive's own names and the addresses that it calls.
    fn check_names(&self) -> Result<()> {
        if self.hive_ids.is_empty() || self.hive_ids.iter().any(|id| id.trim().is_empty()) {
            return invalid("--hive-id must not be empty", "give the hive a name, such as 'localhost'");
        }
        for (name, url) in [("--queen-url", &self.queen_url), ("--public-url", &self.public_url)] {
            if let Some(url) = url
                && !Url::parse(url).is_ok_and(|url| is_http(&url))
            {
                return invalid(
                    format!("{name} '{url}' is not an http or https URL"),
                    "write it as http://HOST:PORT",
                );
            }
        }
        let endpoints = [
            ("[hub] endpoint", self.hub.endpoint.as_ref()),
            ("[ollama] endpoint", Some(&self.ollama.endpoint)),
        ];
        for (name, url) in endpoints {
            if let Some(url) = url
                && !Url::parse(url).is_ok_and(|url| is_endpoint(&url))
            {
                // It may contain a password.
                return invalid(
                    format!("{name} is not the address of a registry"),
                    "write it as https://HOST, without a user, a query or a fragment",
                );
            }
        }
        Ok(())
    }

    /// Who may call the hive.
    fn check_callers(&self) -> Result<()> {
        self.origins()?;
        self.hosts()?;
        if self.bind == Bind::None && self.unix_socket.is_none() {
            return invalid(
                "with --bind none and no --unix-socket, nobody could call the hive",
                "pass --unix-socket PATH too",
            );
        }
        if self.bind == Bind::None && self.queen_url.is_some() && self.public_url.is_none() {
            return invalid(
                "with --bind none, the queen at --queen-url cannot reach the hive",
                "pass the --public-url of the proxy in front of it",
            );
        }
        Tokens::read(&self.tokens_file())?.check(&self.exposure())
    }

    /// The origins of `allow_origins`.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the one that is not valid.
    pub(crate) fn origins(&self) -> Result<Vec<Origin>> {
        let parse = |text: &String| {
            Origin::parse(text.trim_end_matches('/')).ok_or_else(|| {
                Failure::new(Code::ConfigInvalid, format!("--allow-origin '{text}' is not an origin"))
                    .hint("write it as scheme://host or scheme://host:port, without a path")
            })
        };
        self.allow_origins.iter().map(parse).collect()
    }

    /// The hosts of `allow_hosts`.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the one that is not valid.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>> {
        let parse = |text: &String| {
            Host::from_setting(text).ok_or_else(|| {
                Failure::new(Code::ConfigInvalid, format!("--allow-host '{text}' is not a host name"))
                    .hint("write a single host name or address, without a scheme or a wildcard")
            })
        };
        self.allow_hosts.iter().map(parse).collect()
    }

    fn check_engines(&self) -> Result<()> {
        for (name, engine) in &self.engines {
            if let Some(problem) = engine.problem(name) {
                return invalid(
                    format!("[engines.{name}] is not valid: {problem}"),
                    "docs/CONFIGURATION.md has an example of an engine",
                );
            }
        }
        if let Some(problem) = models::problem(&self.models) {
            return invalid(problem, REMOVE);
        }
        if let Some((name, problem)) = self.workers.problem() {
            return invalid(format!("[workers] {name} {problem}"), REMOVE);
        }
        if let Some((name, problem)) = self.memory.problem() {
            return invalid(format!("[memory] {name} {problem}"), REMOVE);
        }
        if let Some((name, problem)) = self.gateway.problem() {
            return invalid(format!("[gateway] {name} {problem}"), REMOVE);
        }
        if let Some((name, problem)) = self.fleet.problem() {
            return invalid(format!("[fleet] {name} {problem}"), REMOVE);
        }
        if let Some((name, problem)) = self.llama_server.problem() {
            return invalid(format!("[llama_server] {name} {problem}"), REMOVE);
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<()> {
        if !self.jobs.can_run() {
            return invalid("[jobs] concurrent_… must be at least 1", REMOVE);
        }
        let Downloads { connections, chunk_bytes, .. } = self.downloads;
        if !(1..=64).contains(&connections) || !(4096..=64 << 20).contains(&chunk_bytes) {
            return invalid(
                format!(
                    "[downloads] connections = {connections} or chunk_bytes = {chunk_bytes} is out of bounds"
                ),
                "connections may be 1 to 64, and chunk_bytes 4096 to 67108864",
            );
        }
        Ok(())
    }
}

fn invalid(message: impl Into<String>, hint: &str) -> Result<()> {
    Err(Failure::new(Code::ConfigInvalid, message).hint(hint))
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

fn is_endpoint(url: &Url) -> bool {
    is_http(url)
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}
