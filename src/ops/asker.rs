//! Who asks for an operation, for the log.

use std::sync::Arc;

/// Who asks for an operation, and by what way.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The caller of the request that asks; empty for the hive itself.
    pub caller: Arc<str>,
    /// The way.
    pub by: By,
}

/// The way by which an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A program, with `POST /v1/jobs`.
    Api,
    /// A web page, with the same.
    Page,
    /// A client of Ollama's, by its dialect.
    Ollama,
    /// A request to a model that needs another worker.
    Gateway,
    /// The hive itself: a request waits for a model, or the room of a worker is needed.
    Residency,
    /// Another hive of the fleet.
    Fleet,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Page => "page",
            Self::Ollama => "ollama",
            Self::Gateway => "gateway",
            Self::Residency => "residency",
            Self::Fleet => "fleet",
        }
    }
}

impl Asker {
    /// The hive itself.
    #[must_use]
    pub fn hive() -> Self {
        Self { caller: "".into(), by: By::Residency }
    }

    /// This hive, for a read on all hives of its fleet.
    pub(super) fn fleet() -> Self {
        Self { caller: "".into(), by: By::Fleet }
    }

    /// Notes in the audit log that an act was accepted.
    pub(super) fn acts(&self, operation: &str, job_id: &str) {
        let (caller, by) = (&*self.caller, self.by.name());
        tracing::info!(target: "audit", operation, job_id, caller, by, "accepted an act");
    }
}
