//! The table of errors: every way in which the hive says no.
//!
//! A [`Failure`] keeps apart what anybody may read (`code`, `message`, `hint`, `causes`, the end of
//! a worker's log) from the private detail, which only reaches the hive's own log. It becomes
//! either an RFC 9457 problem (`http::problem`) or a job's terminal event (`jobs::event`); it is
//! logged once, there, and nowhere on the way.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares [`Code`] with, for each code: its stable name on the wire, its HTTP status, the exit
/// status of the process where it ends one (`sysexits.h`), and its title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $exit:literal, $title:literal;)+) => {
        /// A stable error code. Clients may match on its name; it never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on the wire, in `snake_case`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The HTTP status of a problem with this code.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// The exit status of a process that ends because of it, after `sysexits.h`.
            #[must_use]
            pub const fn exit_status(self) -> u8 {
                match self { $(Self::$variant => $exit,)+ }
            }

            /// A short, fixed description: the `title` of RFC 9457.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    // What a caller sent.
    /// The body is not JSON, or not a JSON object where one is asked for.
    InvalidJson = "invalid_json", 400, 65, "The body is not valid JSON";
    /// No row of the operation table has that name.
    UnknownOperation = "unknown_operation", 400, 64, "Unknown operation";
    /// A field is missing, unknown, of the wrong type or out of range.
    InvalidField = "invalid_field", 400, 64, "A field is not valid";
    /// A model id outside its grammar.
    InvalidId = "invalid_id", 400, 64, "The id is outside its grammar";
    /// A path, a query parameter or a header that cannot be understood.
    InvalidRequest = "invalid_request", 400, 64, "The request is not valid";
    /// An operation that the queen offers, not a hive.
    QueenOperation = "queen_operation", 400, 64, "An operation of the queen";
    /// An operation of another rbee daemon that no hive offers.
    NotOffered = "not_offered", 400, 64, "Not offered by a hive";
    /// The `hive_id` names another hive.
    UnknownHive = "unknown_hive", 404, 64, "Unknown hive";
    /// The body is larger than the route takes.
    BodyTooLarge = "body_too_large", 413, 65, "The body is too large";
    /// The content type is not the one that the route takes.
    UnsupportedMediaType = "unsupported_media_type", 415, 65, "Unsupported media type";
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, 75, "The request took too long";
    /// An `Idempotency-Key` came back with another body.
    IdempotencyConflict = "idempotency_conflict", 422, 64, "The idempotency key belongs to another request";
    /// The queue of the operation's class is full.
    QueueFull = "queue_full", 429, 75, "The queue is full";
    /// The hive is stopping and takes no more work.
    ShuttingDown = "shutting_down", 503, 75, "The hive is shutting down";

    // Who may call.
    /// The `Host` header names neither this machine nor an allowed host.
    HostRefused = "host_refused", 403, 77, "The host is not allowed";
    /// The `Origin` header names a page that may not act here.
    OriginRefused = "origin_refused", 403, 77, "The origin is not allowed";
    /// No token, or another one than the hive's.
    Unauthorized = "unauthorized", 401, 77, "A token is required";
    /// No such route.
    RouteNotFound = "route_not_found", 404, 64, "No such route";
    /// The route exists, under another method.
    MethodNotAllowed = "method_not_allowed", 405, 64, "Method not allowed";

    // Jobs.
    /// No job has that id, or it ended long ago and was pruned.
    JobNotFound = "job_not_found", 404, 66, "No such job";
    /// The job had ended already.
    JobEnded = "job_ended", 409, 65, "The job has ended";
    /// The operation ran past its deadline.
    Timeout = "timeout", 504, 75, "The deadline passed";
    /// A caller cancelled the job.
    Cancelled = "cancelled", 499, 75, "Cancelled";
    /// The hive stopped, or was killed, while the job ran.
    Interrupted = "interrupted", 503, 75, "Interrupted by a stop of the hive";
    /// A defect of the hive.
    Internal = "internal", 500, 70, "A defect in the hive";

    // Models.
    /// No model of the catalog has that id or name.
    ModelNotFound = "model_not_found", 404, 66, "No such model";
    /// A name that more than one model has.
    ModelAmbiguous = "model_ambiguous", 409, 65, "The name fits more than one model";
    /// A worker serves the model.
    ModelInUse = "model_in_use", 409, 75, "The model is in use";
    /// No worker serves the model.
    ModelNotLoaded = "model_not_loaded", 404, 66, "The model is not loaded";
    /// The file is truncated, inconsistent or not GGUF at all.
    ModelCorrupt = "model_corrupt", 422, 65, "The model file is damaged";
    /// The file is sound, but the engine does not know its architecture, type or tokenizer.
    ModelUnsupported = "model_unsupported", 422, 65, "The engine does not know this kind of model";
    /// The file was not put there by the hive.
    NotOwned = "not_owned", 409, 77, "The file is not the hive's own";

    // Downloads.
    /// The name of a model source fits none of the sources.
    SourceUnsupported = "source_unsupported", 400, 64, "Unknown kind of model source";
    /// The source is one that this hive may not read from.
    SourceRefused = "source_refused", 403, 77, "The source is not allowed";
    /// The source has no such file.
    SourceNotFound = "source_not_found", 404, 66, "The source has no such file";
    /// The source has no such repository, or shows it to nobody who asks like this.
    RepositoryNotFound = "repository_not_found", 404, 66, "No such repository";
    /// The repository has no such branch, tag or commit.
    RevisionNotFound = "revision_not_found", 404, 66, "No such revision";
    /// The repository is given only to accounts that were given access.
    SourceGated = "source_gated", 403, 77, "The repository is gated";
    /// The source asks for a token, or for another one.
    SourceUnauthorized = "source_unauthorized", 403, 77, "The source asks for a token";
    /// The settings forbid the network, and what was asked for is not here.
    SourceOffline = "source_offline", 503, 69, "The source may not be asked";
    /// The transfer failed.
    DownloadFailed = "download_failed", 502, 69, "The download failed";
    /// A model of that name is there already.
    ModelExists = "model_exists", 409, 73, "A model of that name exists";
    /// The disk is full.
    DiskFull = "disk_full", 507, 74, "The disk is full";
    /// The file system refused.
    Io = "io", 500, 74, "The file system refused";

    // Workers.
    /// No worker of this hive has that process id.
    WorkerNotFound = "worker_not_found", 404, 66, "No such worker of this hive";
    /// No engine of that name, or for that kind of device, is installed.
    EngineUnavailable = "engine_unavailable", 422, 69, "No such engine here";
    /// No device of that name or number.
    DeviceUnavailable = "device_unavailable", 422, 69, "No such device here";
    /// The worker process could not be started, or ended before it was ready.
    WorkerFailed = "worker_failed", 502, 69, "The worker failed to start";
    /// The worker did not answer the gateway.
    WorkerUnreachable = "worker_unreachable", 502, 69, "The worker did not answer";
    /// The worker answered something that the gateway cannot pass on.
    WorkerError = "worker_error", 502, 76, "The worker's answer was not usable";
    /// A model is larger than the memory that is free.
    OutOfMemory = "out_of_memory", 507, 71, "Not enough memory";

    // The daemon.
    /// A setting is not valid.
    ConfigInvalid = "config_invalid", 500, 78, "A setting is not valid";
    /// The address to bind is taken.
    PortInUse = "port_in_use", 500, 69, "The port is taken";
    /// Another hive runs on the data folder.
    DataDirLocked = "data_dir_locked", 500, 75, "The data folder is in use";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why something failed, as the user reads it; `detail` is what only the log gets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// One sentence that names the object. Public.
    pub message: String,
    /// The next step to take. Public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What was being done: `preflight`, `start`, `load`, `transfer`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Underlying causes, outermost first. Public.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The exit code of the process concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The name of the signal that ended the process concerned, such as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The last lines of the log of the process concerned, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// What a name may mean that fits no model or several, for programs that let a person choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// For the hive's own log only; never serialised.
    #[serde(skip)]
    pub detail: Option<anyhow::Error>,
}

/// One model that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The name that means this one alone.
    pub model: String,
    /// In bytes, where the source says.
    pub size_bytes: Option<u64>,
    /// Whether it is what most people want.
    pub recommended: bool,
}

/// The result of everything that can fail in front of a user.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with a public sentence that names the object.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            stage: None,
            causes: Vec::new(),
            exit_code: None,
            signal: None,
            log_tail: Vec::new(),
            choices: Vec::new(),
            detail: None,
        }
    }

    /// Adds the next step to take.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done, unless something closer to the fault said so already.
    #[must_use]
    pub fn stage(mut self, stage: &str) -> Self {
        self.stage.get_or_insert_with(|| stage.to_owned());
        self
    }

    /// Adds an underlying cause, and everything beneath it.
    #[must_use]
    pub fn cause(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Keeps a private detail for the log.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<anyhow::Error>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A failed file system call: names the path, and tells a full disk from the rest.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let message = format!("could not {doing} {}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(Code::DiskFull, message).hint("free some space on that disk, then try again")
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Self::new(Code::Io, message).hint("check who owns the path and whether it is writable")
            }
            _ => Self::new(Code::Io, message),
        }
    }

    /// A defect of the hive itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message).hint("this is a defect: please report it with the hive's log")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_snake_case() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        for name in &names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn the_private_detail_is_never_serialised() {
        let failure = Failure::new(Code::Io, "x").detail(anyhow::anyhow!("secret"));
        let json = serde_json::to_string(&failure).expect("a failure is plain data");
        assert_eq!(json, r#"{"code":"io","message":"x"}"#);
    }
}
