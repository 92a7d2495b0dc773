//! `[timers]`: deadlines, intervals and grace periods.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::{BoundedDuration, PositiveDuration};

/// Deadlines, intervals and grace periods. The type of each states its bounds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// The deadline of a read.
    pub read_deadline: PositiveDuration,
    /// The deadline of an act that is neither a download nor a load.
    pub act_deadline: PositiveDuration,
    /// How long a disk may take to answer before a listing of the models is given up.
    pub disk: PositiveDuration,
    /// How long a worker that is not yet ready may make no progress.
    pub readiness: PositiveDuration,
    /// How often a worker that serves is asked for a sign of life.
    pub probe: PositiveDuration,
    /// After how long without a sign of life a worker counts as unresponsive.
    pub unresponsive: PositiveDuration,
    /// How long a worker may take to stop before it is killed.
    pub stop_grace: BoundedDuration,
    /// How long a cancelled operation may take to clean up before it is dropped.
    pub cancel_grace: BoundedDuration,
    /// After how long without a narration a job narrates what it is waiting for.
    pub silence: PositiveDuration,
    /// After how long without an event a typed stream sends a comment.
    pub keep_alive: PositiveDuration,
    /// After how long a client of a stream that waits for its model gets a comment, and after how long another.
    pub waiting: PositiveDuration,
    /// How long a client may leave its socket full before its connection is closed.
    pub write_stall: PositiveDuration,
    /// How long a client may take to send a request's head, and then its body.
    pub request_head: PositiveDuration,
    /// How long open connections may take to finish at shutdown.
    pub drain: BoundedDuration,
    /// How long a hive that ends for its successor lets jobs finish. Whoever connects meanwhile waits.
    pub hand_over: BoundedDuration,
    /// How long the answers under way may take to finish in a hive whose successor serves already.
    pub last_answers: BoundedDuration,
    /// How long connecting to a source of models, to the queen or to a worker may take.
    pub connect: PositiveDuration,
    /// After how long without a byte, counted from the connect on, a connection is stalled and
    /// replaced.
    pub stall: PositiveDuration,
    /// The wait before a download's first retry; it doubles with each further one, up to 30 s.
    pub retry: PositiveDuration,
    /// The longest wait that a download grants a server that sends `Retry-After`.
    pub retry_after: PositiveDuration,
    /// The shortest time between two progress narrations of one operation.
    pub progress: BoundedDuration,
    /// How often telemetry is sampled.
    pub telemetry: PositiveDuration,
    /// The wait before the second announcement to the queen; it doubles with each further one.
    pub announce: BoundedDuration,
    /// How long a session cookie lasts.
    pub session: BoundedDuration,
    /// How long the answer to a wrong token waits, from the sixth within a minute on.
    pub wrong_token: BoundedDuration,
    /// How often the usage that was counted is written.
    pub usage: PositiveDuration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            read_deadline: Duration::from_secs(60).into(),
            act_deadline: Duration::from_secs(300).into(),
            disk: Duration::from_secs(20).into(),
            readiness: Duration::from_secs(120).into(),
            probe: Duration::from_secs(5).into(),
            unresponsive: Duration::from_secs(30).into(),
            stop_grace: Duration::from_secs(10).into(),
            cancel_grace: Duration::from_secs(15).into(),
            silence: Duration::from_secs(15).into(),
            keep_alive: Duration::from_secs(15).into(),
            waiting: Duration::from_secs(10).into(),
            write_stall: Duration::from_secs(60).into(),
            request_head: Duration::from_secs(30).into(),
            drain: Duration::from_secs(5).into(),
            hand_over: Duration::from_secs(10).into(),
            last_answers: Duration::from_secs(600).into(),
            connect: Duration::from_secs(10).into(),
            stall: Duration::from_secs(10).into(),
            retry: Duration::from_secs(1).into(),
            retry_after: Duration::from_secs(120).into(),
            progress: Duration::from_millis(500).into(),
            telemetry: Duration::from_secs(1).into(),
            announce: Duration::from_secs(2).into(),
            session: Duration::from_secs(12 * 3600).into(),
            wrong_token: Duration::from_secs(1).into(),
            usage: Duration::from_secs(5).into(),
        }
    }
}
