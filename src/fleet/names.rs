//! The names of hives within a fleet, and those that the fleet has at the NATS servers.

use std::fmt;

use crate::error::{Code, Failure, Result};
use crate::jobs::JobId;
use crate::origin::without_brackets;
use crate::text::excerpt;

/// The longest name of a hive, in bytes: that of a host (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// `hive_id`s that mean something else than one hive's name.
const TAKEN: [&str; 3] = ["any", "all", "localhost"];

/// The name of a hive within its fleet: 1 to 253 of `a-z`, `0-9`, `-`, `_` and `.`. Upper case means the same as lower
/// case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HiveName(String);

impl HiveName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if no hive of a fleet can have it.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let name = text.to_ascii_lowercase();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_address = without_brackets(&name).parse::<std::net::IpAddr>().is_ok();
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(is_plain) || is_address {
            return Err(Failure::new(
                Code::ConfigInvalid,
                format!("'{}' cannot be the name of a hive in a fleet", excerpt(text)),
            )
            .hint("give this hive a name with --hive-id, of letters, digits, '-', '_' and '.'"));
        }
        if TAKEN.contains(&&*name) {
            return Err(Failure::new(
                Code::ConfigInvalid,
                format!("'{name}' means something else in a fleet and cannot be a hive's name"),
            )
            .hint("give this hive a name of its own with --hive-id"));
        }
        Ok(Self(name))
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one token of a subject, and as a key of a bucket.
    fn token(&self) -> String {
        self.0.replace('.', "=")
    }

    /// The name that a token stands for.
    fn of_token(token: &str) -> Option<Self> {
        Self::new(&token.replace('=', ".")).ok()
    }
}

impl fmt::Display for HiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What streams, buckets and subjects of one fleet are called. `docs/FLEET.md` lists them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    fleet: String,
}

impl Names {
    pub(super) fn of(fleet: &str) -> Self {
        Self { fleet: fleet.to_owned() }
    }

    /// The stream of the events of acts.
    pub(super) fn events_stream(&self) -> String {
        format!("rbee_{}_jobs", self.fleet)
    }

    /// The subjects of that stream.
    pub(super) fn all_events(&self) -> String {
        format!("rbee.{}.jobs.*.*", self.fleet)
    }

    /// The subject of a job's events.
    pub(super) fn events(&self, hive: &HiveName, job: &JobId) -> String {
        format!("rbee.{}.jobs.{}.{job}", self.fleet, hive.token())
    }

    /// The subject of a job's events, whichever hive ran it.
    pub(super) fn events_anywhere(&self, job: &JobId) -> String {
        format!("rbee.{}.jobs.*.{job}", self.fleet)
    }

    /// The subjects of the events of all acts of a hive.
    pub(super) fn events_of(&self, hive: &HiveName) -> String {
        format!("rbee.{}.jobs.{}.*", self.fleet, hive.token())
    }

    /// The hive and the job of a subject of events.
    pub(super) fn job_of(&self, subject: &str) -> Option<(HiveName, JobId)> {
        let rest = subject.strip_prefix(&format!("rbee.{}.jobs.", self.fleet))?;
        let (hive, job) = rest.split_once('.')?;
        Some((HiveName::of_token(hive)?, JobId::parse(job)?))
    }

    /// The bucket of the hives.
    pub(super) fn hives_bucket(&self) -> String {
        format!("rbee_{}_hives", self.fleet)
    }

    /// The bucket of idempotency keys.
    pub(super) fn keys_bucket(&self) -> String {
        format!("rbee_{}_keys", self.fleet)
    }

    /// The bucket of the models.
    pub(super) fn models_bucket(&self) -> String {
        format!("rbee_{}_models", self.fleet)
    }

    /// The bucket of what the workers serve.
    pub(super) fn workers_bucket(&self) -> String {
        format!("rbee_{}_workers", self.fleet)
    }

    /// The key of a model of a hive.
    pub(super) fn model_key(hive: &HiveName, key: &str) -> String {
        format!("{}.{key}", hive.token())
    }

    /// The hive and the rest of the key of a model.
    pub(super) fn model_of(key: &str) -> Option<(HiveName, &str)> {
        let (hive, key) = key.split_once('.')?;
        Some((HiveName::of_token(hive)?, key))
    }

    /// The bucket of the hives that do one thing for all.
    pub(super) fn leads_bucket(&self) -> String {
        format!("rbee_{}_leads", self.fleet)
    }

    /// The bucket of the models that are kept on several hives.
    pub(super) fn places_bucket(&self) -> String {
        format!("rbee_{}_places", self.fleet)
    }

    /// The key of a hive in the bucket.
    pub(super) fn key(hive: &HiveName) -> String {
        hive.token()
    }

    /// The hive of a key.
    pub(super) fn hive_of(key: &str) -> Option<HiveName> {
        HiveName::of_token(key)
    }

    /// The subject of a request to one hive.
    pub(super) fn request(&self, hive: &HiveName, verb: &str) -> String {
        format!("rbee.{}.hives.{}.{verb}", self.fleet, hive.token())
    }

    /// The subject of a request to whichever hive has the answer.
    pub(super) fn question(&self, verb: &str) -> String {
        format!("rbee.{}.everyone.{verb}", self.fleet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_hive_is_one_token_and_read_back_from_it() {
        let names = Names::of("home");
        for text in ["a", "GPU-1.lab.example", "x_y"] {
            let (hive, job) = (HiveName::new(text).unwrap(), JobId::new());
            let subject = names.events(&hive, &job);
            assert_eq!(subject.split('.').count(), 5, "{subject}");
            assert_eq!(names.job_of(&subject), Some((hive.clone(), job)));
            assert_eq!(Names::hive_of(&Names::key(&hive)), Some(hive));
        }
        assert_eq!(names.job_of("rbee.other.jobs.a.b"), None);
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for text in ["", "any", "ALL", "localhost", "127.0.0.1", "::1", "a b", "a*", "a>", "ä"] {
            assert_eq!(HiveName::new(text).unwrap_err().code, Code::ConfigInvalid, "{text}");
        }
    }
}
