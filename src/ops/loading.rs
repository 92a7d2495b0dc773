//! From a request for a worker to a ready one: it asks for room first.

use super::operation::Context;
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::fleet::Offer;
use crate::residency::{Denied, Placement, Refusal, Ticket};
use crate::workers::{Place, StartRequest, Worker};
use crate::{n, text};

/// Starts a worker once there is room for it. With `force` it asks for none.
pub(super) async fn start(cx: &Context, ticket: &Ticket, request: StartRequest) -> Result<Worker> {
    start_after(cx, ticket, request, None).await
}

/// The same, but where a worker serves the model on that device already, the new one replaces it: it has at least
/// what that one had. The two may not fit into memory together, so that one ends first, once it is idle; where the
/// start fails then, it is started again.
pub(super) async fn start_or_replace(cx: &Context, ticket: &Ticket, request: StartRequest) -> Result<Worker> {
    let Some((lesser, as_it_was)) = cx.app.workers.lesser(&request) else {
        return start(cx, ticket, request).await;
    };
    let (pid, model) = (lesser.pid, &lesser.model);
    let why = match as_it_was.is_outdated_by(&request) {
        true => "settings that have changed since".to_owned(),
        false => format!("{}, less than what is asked for", capacity(&lesser)),
    };
    n!("worker_replace", "Worker {pid} serves '{model}' with {why}: it is replaced once it is idle");
    let started = start_after(cx, ticket, request.in_place_of(&lesser, &as_it_was), Some(pid)).await;
    if let Err(failure) = &started
        && !cx.stop.is_cancelled()
        && cx.app.workers.get(pid).is_err()
    {
        n!(warn: "worker_replace", "{failure}; '{model}' is started again as it was");
        if let Err(again) = start(cx, ticket, as_it_was).await {
            n!(warn: "worker_replace", "'{model}' could not be started again: {again}");
        }
    }
    started
}

async fn start_after(
    cx: &Context,
    ticket: &Ticket,
    request: StartRequest,
    replaces: Option<u32>,
) -> Result<Worker> {
    let request = StartRequest { load: Some(ticket.load()), ..request };
    let places =
        if request.force { Vec::new() } else { cx.app.workers.placements_that_run(&request).await? };
    let placements = if request.force { anywhere() } else { placements(&places) };
    if replaces.is_some() || !request.force {
        let placement = match ticket.room(placements, replaces, &cx.stop).await {
            Ok(placement) => placement,
            Err(Denied::Stopped) => {
                let failure = Failure::new(Code::Cancelled, "stopped while it waited for room");
                return Err(failure.hint("nothing was loaded, and nothing ends for it").stage("room"));
            }
            Err(Denied::Refused(why)) => return Err(refused(cx, &request, &why).await),
        };
        if let Some(place) = places.get(placement) {
            return cx.app.workers.start(request.at(place), &cx.stop).await;
        }
    }
    cx.app.workers.start(request, &cx.stop).await
}

/// What this hive offers for a load of a model of so many bytes, which one worker suffices for.
pub(super) async fn offer(app: &AppState, request: &StartRequest, bytes: u64) -> Result<Offer> {
    let id = request.served_id();
    let has = |rank, words| Ok(Offer { rank, free_bytes: 0, words, begins: None });
    if let Some(worker) = app.workers.ready(request) {
        return has(Offer::HAS_IT, format!("worker {} serves '{id}' there", worker.pid));
    }
    if app.residency.is_loading(&id) {
        return has(Offer::LOADS_IT, format!("'{id}' is being loaded there"));
    }
    let replaces = app.workers.lesser(request).map(|(lesser, _)| lesser.pid);
    Ok(Offer { begins: Some(bytes), ..offer_of_room(app, request, replaces).await? })
}

/// What this hive offers for another worker, as its planner decides now.
pub(super) async fn offer_of_room(
    app: &AppState,
    request: &StartRequest,
    replaces: Option<u32>,
) -> Result<Offer> {
    let id = request.served_id();
    let places = app.workers.placements_that_run(request).await?;
    let forecast = app.residency.forecast(&id, placements(&places), replaces).await;
    if let Some(refusal) = forecast.refusal {
        return Err(Failure::new(Code::OutOfMemory, format!("there is no room for '{id}': {refusal}")));
    }
    let Some(place) = forecast.placement.and_then(|placement| places.get(placement)).or(places.first())
    else {
        return Err(Failure::new(Code::DeviceUnavailable, format!("there is no place for '{id}'")));
    };
    let memory = app.workers.measure_memory().await;
    let free_bytes =
        memory.iter().find(|memory| memory.device == place.device).map_or(0, |memory| memory.free);
    let (device, free) = (place.device, text::bytes(free_bytes));
    let (rank, words) = match (forecast.evictions.len(), &forecast.waits_for) {
        (0, None) => (Offer::AT_ONCE, format!("'{id}' fits on {device}, of which {free} are free")),
        (0, Some(waits)) => (Offer::AFTER_OTHERS, format!("'{id}' would wait on {device} for {waits}")),
        (gone, _) => {
            (Offer::AFTER_OTHERS, format!("'{id}' fits on {device} once {gone} other worker(s) are gone"))
        }
    };
    Ok(Offer { rank: rank + place.class, free_bytes, words, begins: None })
}

/// The places as a decision sees them.
pub(super) fn placements(places: &[Place]) -> Vec<Placement> {
    places.iter().map(|place| Placement { class: place.class, needs: place.needs() }).collect()
}

/// A placement that fits whatever is free.
fn anywhere() -> Vec<Placement> {
    vec![Placement { class: 0, needs: Vec::new() }]
}

/// The failure of a load that got no room.
async fn refused(cx: &Context, request: &StartRequest, why: &Refusal) -> Failure {
    match why {
        Refusal::DoesNotFit { .. } => cx.app.workers.lacks_room(request, &why.to_string()).await,
        Refusal::StillBusy { .. } => {
            Failure::new(Code::Timeout, format!("'{}' got no room: {why}", request.served_id()))
                .hint(
                    "the answers go on; try again later, end those workers with ModelUnload or \
                     WorkerProcessDelete, or let loads wait longer ([residency] drain)",
                )
                .stage("room")
        }
    }
}

/// The context and the slots of a worker, in words.
fn capacity(worker: &Worker) -> String {
    let slots = format!("{} slot(s)", worker.slots);
    worker.context_length.map_or(slots.clone(), |tokens| format!("{slots} of {tokens} tokens"))
}
