//! The bucket of places: the models that the fleet keeps on several hives, and on how many.
//!
//! The hive on duty carries it out: where fewer hives have a model than are to have it, it has others copy it
//! ([`placing`](super::placing) decides). It looks once in a while, and when a place is set. What the hives have it knows
//! from their bucket; only where that is too little, it asks those that lack the model: whether they copy it, or have it
//! by now.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv::Store;
use futures::{StreamExt, future};
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as Turn;

use super::asking::Asking;
use super::holdings::Holdings;
use super::link::failed;
use super::names::HiveName;
use super::placing::{Begun, Copying, Has, Known, Next, Place, Placement, is_due, known, next};
use super::wire::{HasModel, Made, OfModel, Submit, verb};
use crate::error::{Code, Failure, Result};
use crate::jobs::JobId;
use crate::text::{hex, json};
use crate::time::monotonic;

/// How long a hive may take to say whether it has a model.
const LIMIT: Duration = Duration::from_secs(2);

/// What the hive on duty remembers.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Held while it is carried out.
    turn: Turn<()>,
    begun: Mutex<Begun>,
}

/// What places need of the hives: the seam at which `simulation` puts others in their place.
pub(super) trait Hives: Sync {
    /// What is known of them without asking.
    fn known(&self, model: &str) -> Vec<Known>;

    /// Asks a hive what it has of a model.
    fn has(&self, hive: &HiveName, model: &str) -> impl Future<Output = Result<HasModel>> + Send;

    /// Has a hive copy a model from another one.
    fn copy(&self, model: &str, from: &HiveName, to: &HiveName)
    -> impl Future<Output = Result<JobId>> + Send;
}

/// The hives of the fleet, as one of them sees them.
#[derive(Clone, Copy)]
pub(super) struct Fleet<'a> {
    pub(super) own: &'a HiveName,
    pub(super) asking: &'a Asking,
    pub(super) holdings: &'a RwLock<Holdings>,
}

impl Places {
    /// Sets a place, and carries it out.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] if no hive that can be reached has the model; [`Code::FleetUnreachable`].
    pub(super) async fn set(&self, fleet: Fleet<'_>, place: Place) -> Result<Placement> {
        let _turn = self.turn.lock().await;
        let known = look(&fleet, &place).await;
        let is_there = |known: &Known| matches!(known.has, Has::All(_) | Has::Copying(_));
        if place.copies > 0 && !known.iter().any(|known| !known.is_silent && is_there(known)) {
            return Err(Failure::new(
                Code::ModelNotFound,
                format!("no hive of the fleet that can be reached has the model '{}'", place.model),
            )
            .hint("`rbee-hive list --hive all` shows what they have; download it on one of them first"));
        }
        let bucket = bucket(fleet.asking).await?;
        let key = key(&place.model);
        if place.copies == 0 {
            bucket.delete(&key).await.map_err(|error| failed("forget a place", &error))?;
        } else {
            bucket.put(&key, json(&place).into()).await.map_err(|error| failed("keep a place", &error))?;
        }
        // Whoever asks for it does not wait for a copy that failed earlier.
        self.begun.lock().forget(&place.model);
        Ok(self.carry_out(&fleet, &place, known, monotonic()).await)
    }

    /// Looks after all places, for as long as it is awaited.
    pub(super) async fn run(&self, fleet: Fleet<'_>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            if !is_due(&fleet.asking.members.lock(), fleet.own, monotonic()) {
                continue;
            }
            match all(fleet.asking).await {
                Ok(places) => {
                    for place in places {
                        self.see_to(&fleet, &place, monotonic()).await;
                    }
                }
                Err(failure) => tracing::debug!(error = %failure, "models are placed later"),
            }
        }
    }

    /// Has hives copy a model, if fewer have it than are to have it.
    pub(super) async fn see_to(&self, hives: &impl Hives, place: &Place, now: Instant) -> Placement {
        let _turn = self.turn.lock().await;
        let known = look(hives, place).await;
        self.carry_out(hives, place, known, now).await
    }

    async fn carry_out(
        &self,
        hives: &impl Hives,
        place: &Place,
        mut known: Vec<Known>,
        now: Instant,
    ) -> Placement {
        let mut refused = None;
        let lacking = loop {
            let next = next(place, &known, &self.begun.lock(), now);
            match next {
                Next::Enough => {
                    self.begun.lock().forget(&place.model);
                    break None;
                }
                Next::UnderWay => break None,
                Next::Lacking(why) => break refused.or(Some(why)),
                Next::Copy { from, to } => {
                    self.begun.lock().begin(&place.model, &to, now);
                    match hives.copy(&place.model, &from, &to).await {
                        Ok(job) => change(&mut known, &to, |known| known.has = Has::Copying(job)),
                        Err(failure) => {
                            tracing::warn!(model = place.model, hive = %to, error = %failure, "a model is not copied");
                            refused = Some(format!("hive '{to}': {failure}"));
                            // One that does not answer may have begun it all the same.
                            let is_silent = failure.code == Code::HiveUnreachable;
                            change(&mut known, &to, |known| known.is_silent = is_silent);
                        }
                    }
                }
            }
        };
        Placement { lacking, ..placement(place, &known) }
    }
}

/// What is known of the hives. Where fewer have the model than are to have it, those that lack it are asked.
async fn look(hives: &impl Hives, place: &Place) -> Vec<Known> {
    let mut known = hives.known(&place.model);
    if known.iter().filter(|known| known.can_send()).count() >= place.copies {
        return known;
    }
    let size = known.iter().find_map(|known| match known.has {
        Has::All(size) => Some(size),
        _ => None,
    });
    let lack = known.iter_mut().filter(|known| !known.is_silent && known.has == Has::Nothing);
    let asked = lack.map(async |known| match hives.has(&known.hive, &place.model).await {
        Ok(HasModel { is_here: true, size_bytes, .. }) => {
            // The bucket lags behind.
            let is_like = size.is_none_or(|size| size == size_bytes);
            known.has = if is_like { Has::All(size_bytes) } else { Has::Another };
        }
        Ok(HasModel { copying, .. }) => known.has = copying.map_or(Has::Nothing, Has::Copying),
        Err(error) => {
            tracing::debug!(hive = %known.hive, %error, "a hive did not say what it has");
            known.is_silent = true;
        }
    });
    future::join_all(asked).await;
    known
}

fn change(known: &mut [Known], hive: &HiveName, change: impl FnOnce(&mut Known)) {
    if let Some(known) = known.iter_mut().find(|known| known.hive == *hive) {
        change(known);
    }
}

/// How all places stand, by model.
///
/// # Errors
/// [`Code::FleetUnreachable`]
pub(super) async fn standing(fleet: Fleet<'_>) -> Result<Vec<Placement>> {
    let places = all(fleet.asking).await?;
    let standing = places.iter().map(async |place| placement(place, &look(&fleet, place).await));
    let mut standing = future::join_all(standing).await;
    standing.sort_by(|one, other| one.model.cmp(&other.model));
    Ok(standing)
}

fn placement(place: &Place, known: &[Known]) -> Placement {
    let copying = known.iter().filter_map(|known| match &known.has {
        Has::Copying(job_id) => Some(Copying { hive: known.hive.to_string(), job_id: job_id.clone() }),
        _ => None,
    });
    Placement {
        model: place.model.clone(),
        copies: place.copies,
        hives: known.iter().filter(|known| known.can_send()).map(|known| known.hive.to_string()).collect(),
        copying: copying.collect(),
        lacking: None,
    }
}

impl Hives for Fleet<'_> {
    fn known(&self, model: &str) -> Vec<Known> {
        // In the order of all who take both.
        let holdings = self.holdings.read();
        known(&self.asking.members.lock(), &holdings, model)
    }

    async fn has(&self, hive: &HiveName, model: &str) -> Result<HasModel> {
        let request = OfModel { model: model.to_owned() };
        self.asking.one_within(LIMIT, hive, verb::HAS, &request).await
    }

    async fn copy(&self, model: &str, from: &HiveName, to: &HiveName) -> Result<JobId> {
        let request = serde_json::json!({
            "operation": "model_copy", "hive_id": to.as_str(), "model": model, "from": from.as_str(),
        });
        let request = serde_json::value::to_raw_value(&request)
            .map_err(|error| Failure::internal("a request did not serialise").detail(error))?;
        let submit = Submit { request, from: self.own.to_string(), ..Submit::default() };
        let made: Made = self.asking.one(to, verb::SUBMIT, &submit).await?;
        Ok(made.job.id)
    }
}

async fn bucket(asking: &Asking) -> Result<Store> {
    // They stay.
    asking.bucket(asking.names.places_bucket(), "The models that several hives keep", Duration::ZERO).await
}

/// Every place.
async fn all(asking: &Asking) -> Result<Vec<Place>> {
    if let Some(trouble) = asking.link.trouble() {
        return Err(asking.cut_off(&trouble));
    }
    // Where nobody has set one, there is no bucket.
    let Ok(bucket) = asking.link.jetstream.get_key_value(asking.names.places_bucket()).await else {
        return Ok(Vec::new());
    };
    let error = |error: &(dyn std::error::Error + 'static)| failed("look the places up", error);
    let mut keys = bucket.keys().await.map_err(|cause| error(&cause))?;
    let mut places = Vec::new();
    while let Some(key) = keys.next().await {
        let value = bucket.get(key.map_err(|cause| error(&cause))?).await.map_err(|cause| error(&cause))?;
        places.extend(value.and_then(|value| serde_json::from_slice(&value).ok()));
    }
    Ok(places)
}

/// The key of a model: ids have characters that keys have not.
fn key(model: &str) -> String {
    hex(&Sha256::digest(model))
}
