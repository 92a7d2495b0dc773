//! `POST /api/pull`: a `ModelDownload`, told in Ollama's lines of progress.
//!
//! The download is a job like every other one. It goes on where its client leaves; `DELETE /v1/jobs/{job_id}`
//! cancels it, and the next pull of the same model joins it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::asked::{Answered, asker, model, read};
use super::shape::{PullLine, PullRequest};
use crate::app::AppState;
use crate::dialects::trouble::{Dialect, Trouble};
use crate::error::Code;
use crate::fields::Fields;
use crate::http::ignored::telling;
use crate::http::operation::{end_of, outcome, submit};
use crate::jobs::event::{Body as Told, Event};
use crate::jobs::log::Log;
use crate::narration::{Level, Progress};
use crate::text::hex;

/// The codes of a download that fails.
const ERRORS: &[Code] = &[
    Code::SourceUnsupported,
    Code::SourceRefused,
    Code::SourceNotFound,
    Code::RepositoryNotFound,
    Code::RevisionNotFound,
    Code::SourceGated,
    Code::SourceUnauthorized,
    Code::SourceOffline,
    Code::ServerUnreachable,
    Code::CertificateInvalid,
    Code::WrongProtocol,
    Code::DownloadFailed,
    Code::ModelAmbiguous,
    Code::ModelExists,
    Code::ModelCorrupt,
    Code::ModelIncomplete,
    Code::DiskFull,
    Code::Io,
    Code::Cancelled,
    Code::Interrupted,
    Code::QueueFull,
    Code::ShuttingDown,
];

const JOB_ID: HeaderName = HeaderName::from_static("x-rbee-job-id");

/// Downloads a model: a `ModelDownload`, told in lines of progress.
#[utoipa::path(
    post,
    path = "/api/pull",
    operation_id = "ollama_pull",
    tag = "Ollama",
    request_body = PullRequest,
    responses((status = 200, description = "The lines, or the last one alone where `stream` is false.", content(
        (PullLine = "application/json"),
        (PullLine = "application/x-ndjson"),
    ), headers(("x-rbee-job-id" = String, description = "The job.")))),
    extensions(("x-errors" = json!(ERRORS)))
)]
pub(crate) async fn pull(State(app): State<AppState>, request: Request) -> Answered {
    let asker = asker(&request);
    let body = read(&app, request).await?;
    let fields = Fields::new("", &body)?;
    let name = model(&fields)?;
    let streams = fields.bool("stream")?.unwrap_or(true);
    let job = submit(&app, &asker, &json!({ "ModelDownload": { "model": source(name) } }))?;
    let mut response = if streams {
        lines(app.jobs.log(&job).await?, name.to_owned())
    } else {
        end_of(&app, &job).await?;
        Json(json!({ "status": "success" })).into_response()
    };
    if let Ok(id) = HeaderValue::from_str(&job.id().to_string()) {
        response.headers_mut().insert(JOB_ID, id);
    }
    Ok(telling(response, &fields.others(&["model", "name", "stream"])))
}

/// The source that a name of Ollama's clients means, as `ModelDownload` reads it: a plain `name`, `name:tag` or
/// `user/name` is of Ollama's library; a name with a quantization, a host or another scheme is what it says.
fn source(name: &str) -> String {
    let path = name.split(':').next().unwrap_or(name);
    let is_of_library = match path.matches('/').count() {
        0 => !path.is_empty() && !matches!(path, "ollama" | "hf" | "file" | "http" | "https"),
        // Names of Ollama's library have no capitals, and those of the Hub's repositories and their quantizations
        // nearly always have some.
        1 => {
            let is_host = path.split('/').next().is_some_and(|owner| owner.contains('.'));
            !is_host
                && !name.to_lowercase().contains("gguf")
                && !name.bytes().any(|byte| byte.is_ascii_uppercase())
        }
        _ => false,
    };
    if is_of_library { format!("ollama:{name}") } else { name.to_owned() }
}

/// The lines of a stream.
fn lines(log: Arc<Log>, name: String) -> Response {
    let begin = stream::iter([Ok(line(&json!({ "status": "pulling manifest" })))]);
    let cursor = Some(log.follow(0));
    let rest = stream::unfold((cursor, log, name), |(cursor, log, name)| async {
        let mut cursor = cursor?;
        while let Some(batch) = cursor.next().await {
            let told: Vec<_> = batch.events.iter().filter_map(|event| told(event, &name)).collect();
            if !told.is_empty() {
                let lines: Vec<u8> = told.iter().flat_map(|value| line(value).to_vec()).collect();
                return Some((Ok::<_, Infallible>(Bytes::from(lines)), (Some(cursor), log, name)));
            }
        }
        let end = line(&end(&log));
        Some((Ok(end), (None, log, name)))
    });
    let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(futures::StreamExt::chain(begin, rest))).into_response()
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

/// What an event of the job says to a client of Ollama's, if anything: progress and warnings.
fn told(event: &Event, name: &str) -> Option<Value> {
    match &event.body {
        Told::Narration { progress: Some(progress), .. } if progress.unit == "bytes" => {
            Some(progress_in_ollamas_form(progress, name))
        }
        Told::Narration { level: Level::Warn | Level::Error, message, .. } => {
            Some(json!({ "status": message }))
        }
        Told::Narration { .. } | Told::Result(_) | Told::Terminal(_) => None,
    }
}

/// The last line: clients take what ends with nothing for a success.
fn end(log: &Log) -> Value {
    match outcome(log) {
        Ok(()) => json!({ "status": "success" }),
        Err(failure) => Dialect::Ollama.error(&Trouble::of(&failure, failure.code.http_status())).into(),
    }
}

/// Clients show one bar for each digest. The hive tells the progress of one file after the other, so the digest is
/// of the model's name and the file's size: it is the same for all lines of one file.
fn progress_in_ollamas_form(progress: &Progress, name: &str) -> Value {
    let digest = hex(&Sha256::digest(format!("{name}\n{}", progress.total.unwrap_or_default())));
    let mut line = json!({
        "status": format!("pulling {}", &digest[..12]),
        "digest": format!("sha256:{digest}"),
        "completed": progress.done,
    });
    if let Some(total) = progress.total {
        line["total"] = total.into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::event::Terminal;
    use crate::jobs::log::Bounds;
    use crate::time::Instant;

    #[test]
    fn a_download_without_an_outcome_does_not_look_complete() {
        let log = Log::new(Bounds { events: 9, bytes: 999 });
        assert!(end(&log)["error"].is_string());
        let done = Event { seq: 1, at: Instant(0), body: Told::Terminal(Terminal::Done) };
        log.append([Arc::new(done)]);
        assert_eq!(end(&log), json!({ "status": "success" }));
    }

    #[test]
    fn names_of_ollamas_clients_mean_its_library_or_the_hub() {
        for (name, meant) in [
            ("smollm2:135m", "ollama:smollm2:135m"),
            ("smollm2", "ollama:smollm2"),
            ("user/model", "ollama:user/model"),
            ("user/model:7b", "ollama:user/model:7b"),
            ("bartowski/model-GGUF", "bartowski/model-GGUF"),
            ("registry.ollama.ai/library/m:7b", "registry.ollama.ai/library/m:7b"),
            ("org/repo:Q4_K_M", "org/repo:Q4_K_M"),
            ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
            ("hf.co/org/repo", "hf.co/org/repo"),
            ("ollama:m:7b", "ollama:m:7b"),
            ("hf:org/repo", "hf:org/repo"),
            ("https://h/x.gguf", "https://h/x.gguf"),
            ("file:/m/x.gguf", "file:/m/x.gguf"),
        ] {
            assert_eq!(source(name), meant, "{name}");
        }
    }
}
