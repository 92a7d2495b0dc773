//! The ways in which a started worker can fail before it is ready: what users are told, and what may
//! be done about it.

use std::time::Duration;

use super::causes;
use super::end::GroupEnd;
use super::exit::Exit;
use super::handle::Handle;
use super::start_error::{StartError, StartErrorKind};
use crate::error::{Code, Failure};

/// A failure of the worker, in the stage of its start that it has reached.
fn failure(worker: &Handle, code: Code, message: String) -> Failure {
    let stage = if worker.url().is_some() { "load" } else { "start" };
    Failure::new(code, message).stage(stage)
}

/// The caller cancelled the start.
pub(super) fn cancelled(worker: &Handle) -> StartError {
    let message = format!("cancelled while worker {} started", worker.pid);
    StartError::new(StartErrorKind::Cancelled, failure(worker, Code::Cancelled, message))
}

/// Another request stopped the worker.
pub(super) fn stopped(worker: &Handle) -> StartError {
    let message = format!("worker {} was stopped by another request while it started", worker.pid);
    let failure = failure(worker, Code::WorkerFailed, message).hint("start it again if it is still wanted");
    StartError::new(StartErrorKind::StoppedByRequest, failure)
}

/// The worker made no progress for too long. `last_error` is why it last did not answer.
pub(super) fn timed_out(worker: &Handle, limit: Duration, last_error: Option<&anyhow::Error>) -> StartError {
    let awaited = match worker.url() {
        None if worker.assigned_port().is_some() => "it to listen".to_owned(),
        None => "its report of where it listens".to_owned(),
        Some(url) => format!("{url}{} to answer that it is ready", worker.engine.health_route),
    };
    let (pid, limit) = (worker.pid, limit.as_secs_f64());
    let message = format!("worker {pid} made no progress for {limit} s, waiting for {awaited}");
    let mut failure = failure(worker, Code::Timeout, message)
        .hint("look at the end of its log; a slow disk needs a longer timers.readiness");
    failure.causes = last_error.into_iter().flat_map(anyhow::Error::chain).map(ToString::to_string).collect();
    StartError::temporary(failure)
}

/// The readiness report of the worker cannot be read.
pub(super) fn unreadable_report(worker: &Handle, error: &std::io::Error) -> StartError {
    let message = format!("the report of worker {} could not be read: {error}", worker.pid);
    StartError::temporary(
        failure(worker, Code::WorkerFailed, message)
            .hint("this is a defect of the engine: its log says more"),
    )
}

/// The worker reported a port that is not its own. `problem` ends a sentence about the port.
pub(super) fn untrusted_report(worker: &Handle, port: u16, problem: &str) -> StartError {
    let message = format!("port {port}, which worker {} reported, {problem}", worker.pid);
    StartError::temporary(
        failure(worker, Code::WorkerFailed, message)
            .hint("check whether another program serves on that port, then try again"),
    )
}

/// Another process listens on the port that the worker was assigned.
pub(super) fn assigned_port_taken(worker: &Handle, port: u16) -> StartError {
    let message =
        format!("port {port}, which worker {} was assigned, was taken by another process", worker.pid);
    StartError::new(StartErrorKind::PortTaken, failure(worker, Code::PortInUse, message))
}

/// The worker does not listen on its assigned port as it should. `problem` ends a sentence about the
/// port.
pub(super) fn misused_port(worker: &Handle, port: u16, problem: &str) -> StartError {
    let message = format!("port {port}, which worker {} was assigned, {problem}", worker.pid);
    StartError::temporary(
        failure(worker, Code::WorkerFailed, message)
            .hint("an engine must listen on 127.0.0.1 alone: check its arguments"),
    )
}

/// The worker reported why it cannot serve; `end` is how its process ended, if it has.
pub(super) fn reported(worker: &Handle, reported: Failure, end: Option<GroupEnd>) -> StartError {
    // The report is a message of another process, whose code is all that classifies it.
    let kind = match reported.code {
        Code::WorkerFailed | Code::Timeout | Code::OutOfMemory | Code::DeviceUnavailable => {
            StartErrorKind::Temporary
        }
        _ => StartErrorKind::Permanent,
    };
    let exit = end.and_then(|end| end.exit);
    let stage = failure(worker, reported.code, String::new()).stage;
    let failure = Failure {
        stage: reported.stage.or(stage),
        exit_code: reported.exit_code.or_else(|| exit?.code),
        signal: reported.signal.or_else(|| exit?.signal()),
        ..reported
    };
    StartError::new(kind, failure)
}

/// The worker ended without a report. `tail` has the last lines of its log.
pub(super) fn ended_early(worker: &Handle, exit: Option<Exit>, tail: &[String]) -> StartError {
    let (pid, engine) = (worker.pid, &worker.engine.name);
    if worker.assigned_port().is_some() && names_a_taken_port(tail) {
        let message = format!("worker {pid} (engine '{engine}') could not listen: its port was taken");
        return StartError::new(StartErrorKind::PortTaken, failure(worker, Code::PortInUse, message));
    }
    let hint = causes::next_step(exit, tail, worker.saw_oom_kill(), worker.is_restricted());
    let how = exit.map_or_else(|| "its end is unknown".to_owned(), |exit| exit.to_string());
    let message = format!("worker {pid} (engine '{engine}') ended before it was ready: {how}");
    let mut failure = failure(worker, Code::WorkerFailed, message).hint(hint);
    failure.exit_code = exit.and_then(|exit| exit.code);
    failure.signal = exit.and_then(Exit::signal);
    StartError::temporary(failure)
}

/// Whether the end of a log says that an address was in use.
fn names_a_taken_port(tail: &[String]) -> bool {
    let phrases = ["address already in use", "couldn't bind", "eaddrinuse", "errno 98"];
    tail.iter().any(|line| {
        let line = line.to_lowercase();
        phrases.iter().any(|phrase| line.contains(phrase))
    })
}
