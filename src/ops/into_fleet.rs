//! How this hive comes into a fleet: by its settings, or by what an operation has made of it.

use std::time::Duration;

use super::operation::Context;
use crate::app::AppState;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::fleet::identity;
use crate::n;
use crate::spawn;

/// How long an operation waits until the hive is in. It comes in later all the same.
const COMES_IN: Duration = Duration::from_secs(20);

/// Comes into the fleet of these settings, in the background.
///
/// # Errors
/// [`Code::ConfigInvalid`] if they cannot be used.
async fn enter(app: &AppState, settings: config::Fleet) -> Result<()> {
    app.fleet.join(settings, app.fleet_name()?, &app.config.data_dir).await
}

/// Comes into the fleet of the settings, else into that of an earlier run, whose server it starts where this machine has
/// it. A hive whose fleet cannot be reached works alone meanwhile.
pub(crate) async fn resume(app: AppState) {
    let tell = |failure: Failure| {
        tracing::error!(code = %failure.code, hint = failure.hint, "this hive is not in its fleet: {failure}");
    };
    let found = app.fleet_setup.resume().await.unwrap_or_else(|failure| {
        tell(failure);
        None
    });
    let given = app.config.fleet.clone();
    let settings = if given.nats.is_some() { Some(given) } else { found };
    if let Some(settings) = settings
        && !app.shutdown.is_cancelled()
        && let Err(failure) = enter(&app, settings).await
    {
        tell(failure);
    }
}

/// The id of the data folder.
pub(super) async fn data_id(app: &AppState) -> Result<String> {
    let data_dir = app.config.data_dir.clone();
    spawn::blocking(move || identity(&data_dir)).await?
}

/// Comes into the fleet of these settings, and waits for that.
pub(super) async fn come_in(cx: &Context, action: &'static str, settings: config::Fleet) -> Result<()> {
    let fleet = settings.name.clone();
    enter(&cx.app, settings).await?;
    match stoppable(cx, cx.app.fleet.wait_until_in(COMES_IN)).await {
        Ok(()) => n!(action, "This hive is in the fleet '{fleet}'"),
        Err(failure) if failure.code == Code::Cancelled => return Err(failure),
        // It is tried again for as long as the hive runs.
        Err(failure) => n!(warn: action, "This hive is not in the fleet '{fleet}' yet: {failure}"),
    }
    Ok(())
}

/// Does the work unless the job is stopped first.
pub(super) async fn stoppable<T>(cx: &Context, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => Err(Failure::new(Code::Cancelled, "stopped before it was done")),
        done = work => done,
    }
}
