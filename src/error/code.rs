//! The table of error codes.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Declares [`Code`]. Each row has the code's name on the wire, its HTTP status, the exit status of a
/// process that ends because of it (`sysexits.h`), and its title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $exit:literal, $title:literal;)+) => {
        /// A stable error code. Clients may match on its name; its meaning never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
    /// The body is not JSON, or is not the JSON object that the route takes.
    InvalidJson = "invalid_json", 400, 65, "The body is not valid JSON";
    /// No operation has that name.
    UnknownOperation = "unknown_operation", 400, 64, "Unknown operation";
    /// A field is missing, unknown, of the wrong type or out of range.
    InvalidField = "invalid_field", 400, 64, "A field is not valid";
    /// The prompt is longer than the worker's context.
    ContextLengthExceeded = "context_length_exceeded", 400, 65, "The prompt is longer than the context";
    /// The model, or the engine that serves it, does not have what the request needs.
    CapabilityMissing = "capability_missing", 400, 69, "The model or its engine cannot do that";
    /// A model id is malformed.
    InvalidId = "invalid_id", 400, 64, "The id is malformed";
    /// A path, a query parameter or a header cannot be parsed.
    InvalidRequest = "invalid_request", 400, 64, "The request is not valid";
    /// The queen offers the operation, not a hive.
    QueenOperation = "queen_operation", 400, 64, "The queen offers this operation";
    /// Another rbee daemon, or Ollama, offers the operation, not a hive.
    NotOffered = "not_offered", 400, 64, "No hive offers this operation";
    /// The `hive_id` names another hive.
    UnknownHive = "unknown_hive", 404, 64, "Unknown hive";
    /// The body is larger than the route takes.
    BodyTooLarge = "body_too_large", 413, 65, "The body is too large";
    /// The route takes another content type.
    UnsupportedMediaType = "unsupported_media_type", 415, 65, "Unsupported media type";
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, 75, "The request took too long";
    /// The `Idempotency-Key` was used before with another request.
    IdempotencyConflict = "idempotency_conflict", 422, 64, "The idempotency key belongs to another request";
    /// The queue of the operation's class is full.
    QueueFull = "queue_full", 429, 75, "The queue is full";
    /// The hive is stopping and takes no more work.
    ShuttingDown = "shutting_down", 503, 75, "The hive is shutting down";

    // Who may call.
    /// The `Host` header names neither this machine nor an allowed host.
    HostRefused = "host_refused", 403, 77, "The host is not allowed";
    /// The `Origin` header names a page that may not call this hive.
    OriginRefused = "origin_refused", 403, 77, "The origin is not allowed";
    /// The token is missing or wrong.
    Unauthorized = "unauthorized", 401, 77, "A token is required";
    /// The token's role, or its models, do not let the caller do that.
    Forbidden = "forbidden", 403, 77, "The token does not allow that";
    /// The token has a limit, and it is reached.
    TooManyRequests = "too_many_requests", 429, 75, "Too many requests";
    /// No token has that name.
    TokenNotFound = "token_not_found", 404, 66, "No such token";
    /// Another token has that name, or that secret.
    TokenExists = "token_exists", 409, 73, "A token of that name or secret exists";
    /// Nobody could manage the hive then, or everybody on the network could.
    TokenRefused = "token_refused", 409, 65, "The change of the tokens is refused";
    /// No such route.
    RouteNotFound = "route_not_found", 404, 64, "No such route";
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", 405, 64, "Method not allowed";
    /// The route does not speak the protocol that the client wants to change to.
    UpgradeRefused = "upgrade_refused", 426, 64, "The route speaks HTTP alone";

    // Jobs.
    /// No job has that id, or it ended long ago and was pruned.
    JobNotFound = "job_not_found", 404, 66, "No such job";
    /// The job had ended already.
    JobEnded = "job_ended", 409, 65, "The job has ended";
    /// The operation passed its deadline.
    Timeout = "timeout", 504, 75, "The deadline passed";
    /// A caller cancelled the job.
    Cancelled = "cancelled", 499, 75, "Cancelled";
    /// The hive stopped, or was killed, while the job ran.
    Interrupted = "interrupted", 503, 75, "The hive stopped";
    /// The job's journal does not tell how it ended: it is damaged, or of a newer version of the hive.
    OutcomeUnknown = "outcome_unknown", 500, 74, "The outcome is not known";
    /// No request to the gateway has that id, or it ended long ago.
    RequestNotFound = "request_not_found", 404, 66, "No such request";
    /// No response of that id is kept, or it is somebody else's.
    ResponseNotFound = "response_not_found", 404, 66, "No such response";
    /// A request goes on with a response that is not kept.
    PreviousResponseNotFound = "previous_response_not_found", 400, 66, "The previous response is not kept";
    /// A defect of the hive.
    Internal = "internal", 500, 70, "Internal error";

    // Models.
    /// No model of the catalog has that id or name.
    ModelNotFound = "model_not_found", 404, 66, "No such model";
    /// More than one model has that name.
    ModelAmbiguous = "model_ambiguous", 409, 65, "More than one model has that name";
    /// A worker serves the model.
    ModelInUse = "model_in_use", 409, 75, "The model is in use";
    /// No worker serves the model.
    ModelNotLoaded = "model_not_loaded", 404, 66, "The model is not loaded";
    /// The file contradicts itself, or is not GGUF at all.
    ModelCorrupt = "model_corrupt", 422, 65, "The model file is damaged";
    /// A file of the model, or the end of one, is missing: it may still be on its way.
    ModelIncomplete = "model_incomplete", 422, 65, "The model is not complete";
    /// The file is sound, but the engine does not know its architecture, type or tokenizer.
    ModelUnsupported = "model_unsupported", 422, 65, "The engine does not support this kind of model";
    /// The hive did not put the file there.
    NotOwned = "not_owned", 409, 77, "The hive does not own the file";

    // Downloads.
    /// The name of the model has the form of no known source.
    SourceUnsupported = "source_unsupported", 400, 64, "Unknown kind of model source";
    /// This hive may not read from that source.
    SourceRefused = "source_refused", 403, 77, "The source is not allowed";
    /// The source has no such file.
    SourceNotFound = "source_not_found", 404, 66, "The source has no such file";
    /// The source has no such repository, or hides it from this caller.
    RepositoryNotFound = "repository_not_found", 404, 66, "No such repository";
    /// The repository has no such branch, tag or commit.
    RevisionNotFound = "revision_not_found", 404, 66, "No such revision";
    /// Only accounts with granted access may read the repository.
    SourceGated = "source_gated", 403, 77, "The repository is gated";
    /// The source requires a token, or rejected the token that it got.
    SourceUnauthorized = "source_unauthorized", 403, 77, "The source requires a token";
    /// The settings forbid the network, and the file is not on this machine.
    SourceOffline = "source_offline", 503, 69, "The network is turned off";
    /// The name of a server is not known, or it gave no connection.
    ServerUnreachable = "server_unreachable", 502, 69, "The server cannot be reached";
    /// The certificate of a server has expired, is of no trusted authority, or is for another name.
    CertificateInvalid = "certificate_invalid", 502, 69, "The server's certificate is not valid";
    /// A server was asked over https and speaks plain http, or the reverse.
    WrongProtocol = "wrong_protocol", 502, 76, "The server speaks another protocol";
    /// The transfer failed.
    DownloadFailed = "download_failed", 502, 69, "The download failed";
    /// A model of that name exists already.
    ModelExists = "model_exists", 409, 73, "A model of that name exists";
    /// The disk is full.
    DiskFull = "disk_full", 507, 74, "The disk is full";
    /// A file system operation failed.
    Io = "io", 500, 74, "A file system operation failed";

    // Workers.
    /// No worker of this hive has that process id.
    WorkerNotFound = "worker_not_found", 404, 66, "No such worker";
    /// No engine of that name, or for that kind of device, is installed.
    EngineUnavailable = "engine_unavailable", 422, 69, "No such engine";
    /// No device of that name or number.
    DeviceUnavailable = "device_unavailable", 422, 69, "No such device";
    /// The worker process could not be started, or ended before it was ready.
    WorkerFailed = "worker_failed", 502, 69, "The worker failed to start";
    /// The worker did not answer the gateway.
    WorkerUnreachable = "worker_unreachable", 502, 69, "The worker did not answer";
    /// The worker neither answers nor computes.
    WorkerUnresponsive = "worker_unresponsive", 503, 75, "The worker does not respond";
    /// The worker sent an answer that the gateway cannot forward.
    WorkerError = "worker_error", 502, 76, "The worker's answer is not valid";
    /// No lease of memory has that id, or it has ended.
    LeaseNotFound = "lease_not_found", 404, 66, "No such lease";
    /// The model needs more memory than is free.
    OutOfMemory = "out_of_memory", 507, 71, "Not enough memory";

    // Engines that the hive installs.
    /// The hive installs no engine of that id, or that version of it is not installed.
    EngineNotFound = "engine_not_found", 404, 66, "No such installed engine";
    /// A worker runs the engine.
    EngineInUse = "engine_in_use", 409, 75, "The engine is in use";
    /// The archive of an engine is not the promised one, is not safe to unpack, or has no program for this machine.
    EngineRefused = "engine_refused", 422, 65, "The engine's archive is refused";
    /// The engine could not be built from its sources.
    EngineBuildFailed = "engine_build_failed", 500, 70, "The engine could not be built";
    /// The new build did not prove itself, and is not used.
    EngineUnproven = "engine_unproven", 422, 70, "The engine did not prove itself";

    // The fleet.
    /// This hive stands alone.
    NotInFleet = "not_in_fleet", 409, 64, "The hive is in no fleet";
    /// The fleet's NATS servers cannot be reached, or did not do what they were asked for.
    FleetUnreachable = "fleet_unreachable", 503, 69, "The fleet cannot be reached";
    /// Another hive of the fleet does not answer.
    HiveUnreachable = "hive_unreachable", 503, 69, "The other hive does not answer";
    /// Another hive of the fleet has that name.
    HiveNameTaken = "hive_name_taken", 409, 73, "Another hive has that name";
    /// This hive is in a fleet already, or its settings name one.
    InFleet = "in_fleet", 409, 73, "The hive is in a fleet";
    /// What is to join a fleet is not let in: its invitation is unknown, used or has expired, or the machine that
    /// answered is not the one that invited.
    InvitationRefused = "invitation_refused", 403, 77, "The invitation is refused";
    /// The fleet's nats-server is missing, too old, or does not run.
    FleetServerFailed = "fleet_server_failed", 500, 69, "The fleet's server does not run";
    /// No hive of the fleet can do that.
    NowhereToRun = "nowhere_to_run", 422, 69, "No hive of the fleet can do that";

    // The daemon.
    /// A setting is not valid.
    ConfigInvalid = "config_invalid", 500, 78, "A setting is not valid";
    /// The address to bind is in use.
    PortInUse = "port_in_use", 500, 69, "The port is in use";
    /// Another hive uses the data folder.
    DataDirLocked = "data_dir_locked", 500, 75, "The data folder is in use";
}

impl<'de> Deserialize<'de> for Code {
    /// A name of a later version is [`Code::OutcomeUnknown`], so that the words beside it can be read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let known = Self::ALL.iter().find(|code| code.name() == name);
        Ok(known.copied().unwrap_or(Self::OutcomeUnknown))
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ErrorCode")
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|code| code.name());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names))
            .description(Some(
                "A stable error code. Clients may match on its name; its meaning never changes.",
            ))
            .into()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
}
