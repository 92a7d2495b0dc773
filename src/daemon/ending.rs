//! How a hive ends, for good or for a successor.
//!
//! Where another process serves next, on the same sockets, nothing that can be finished soon is cut:
//!
//! 1. It accepts no more connections: those who connect wait for the successor. Those who have connected get one more
//!    answer.
//! 2. Jobs that run and requests that wait for a worker have [`Timers::hand_over`](crate::config::Timers) to end. A
//!    download is not waited for: its bytes are kept. What is left ends as interrupted.
//! 3. The workers stay, and the data folder is released. From here on this hive writes nothing.
//! 4. Answers under way go on to their ends.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::wire::{Channel, FromHive};
use crate::app::App;
use crate::http::Closing;
use crate::jobs::job::JobClass;

/// Why a hive ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// For good. Its workers stay only if the settings say so.
    Ended,
    /// Another process serves next, with the workers.
    ForSuccessor,
}

impl From<()> for Stop {
    fn from((): ()) -> Self {
        Self::Ended
    }
}

/// How long a connection without a request is waited for: its client has connected to send one.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How often it is looked whether everything has ended.
const CHECK: Duration = Duration::from_millis(10);

/// Steps 1 and 2: lets everything finish that does so soon.
pub(super) async fn settle(app: &App, closing: &Closing) {
    closing.finishing.cancel();
    closing.unasked.close();
    let settled = async {
        let _all_asked = timeout(FIRST_REQUEST, closing.unasked.wait()).await;
        while !is_settled(app) {
            sleep(CHECK).await;
        }
    };
    let limit = *app.config.timers.hand_over;
    if timeout(limit, settled).await.is_err() {
        tracing::info!(?limit, "ending the jobs that did not finish in time");
    }
}

fn is_settled(app: &App) -> bool {
    let waits_for = |class| class != Some(JobClass::Downloads);
    app.requests.all_have_workers() && !app.jobs.running().iter().any(|job| waits_for(job.class()))
}

/// Tells the successor, until this is dropped, at which workers answers are under way.
pub(super) async fn report(app: &App, channel: &Channel) -> Infallible {
    let mut told = None;
    loop {
        let in_flight = app.workers.in_flight();
        if told.as_ref() != Some(&in_flight) {
            if channel.send(&FromHive::InFlight { in_flight: in_flight.clone() }, &[]).await.is_err() {
                tracing::warn!("the hive that took over is gone");
                return std::future::pending().await;
            }
            told = Some(in_flight);
        }
        sleep(CHECK).await;
    }
}
