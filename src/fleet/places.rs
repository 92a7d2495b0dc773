//! The bucket of places: the models that the fleet keeps on several hives, and on how many.
//!
//! The hive on duty carries it out: where fewer hives have a model than are to have it, it has others copy it, those with
//! the most room first. It looks once in a while, and when a place is set.
//!
//! Invariants:
//! - A hive that is silent may be back in a moment: only once it is gone, another one gets its copies.
//! - A copy that fails is not begun again on that hive at once, but after a wait that doubles.
//! - Nothing is deleted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::Store;
use futures::{StreamExt, future};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as Turn;
use utoipa::ToSchema;

use super::asking::Asking;
use super::link::failed;
use super::members::Presence;
use super::names::HiveName;
use super::wire::{HasModel, Made, OfModel, Submit, verb};
use crate::error::{Code, Failure, Result};
use crate::jobs::JobId;
use crate::text::{bytes, hex, json};
use crate::time::monotonic;

/// How long a hive may take to say whether it has a model.
const LIMIT: Duration = Duration::from_secs(2);
/// The wait after a first copy before the next one of the same model.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Room that a copy leaves free on a disk, in bytes: as a download does.
const MARGIN: u64 = 256 << 20;

/// A model that is kept on several hives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its id or name.
    pub(crate) model: String,
    /// How many hives are to have it. 0 ends the keeping.
    pub(crate) copies: usize,
}

/// How a model that is kept on several hives stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Placement {
    /// The model.
    pub(crate) model: String,
    /// How many hives are to have it.
    pub(crate) copies: usize,
    /// The hives that have it, as far as they can be reached.
    pub(crate) hives: Vec<String>,
    /// The copies under way.
    pub(crate) copying: Vec<Copying>,
    /// Why there are fewer than there are to be, where no more copies are under way.
    pub(crate) lacking: Option<String>,
}

/// A copy under way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Copying {
    /// The hive that gets it.
    pub(crate) hive: String,
    /// The job that copies it there.
    #[schema(value_type = String)]
    pub(crate) job_id: JobId,
}

/// What the hive on duty remembers.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Held while it is carried out.
    turn: Turn<()>,
    /// Of each model and hive: how many copies were begun there since the model was on as many hives as it is to be, and
    /// when the next may be.
    begun: Mutex<HashMap<(String, HiveName), (u32, Instant)>>,
}

/// What a hive said.
struct Said {
    hive: HiveName,
    has: HasModel,
    free_bytes: Option<u64>,
}

impl Places {
    /// Sets a place, and carries it out.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] if no hive that can be reached has the model; [`Code::FleetUnreachable`].
    pub(super) async fn set(&self, asking: &Asking, own: &HiveName, place: Place) -> Result<Placement> {
        let _turn = self.turn.lock().await;
        let said = ask(asking, &place.model).await;
        if place.copies > 0 && !said.iter().any(|said| said.has.is_here || said.has.copying.is_some()) {
            return Err(Failure::new(
                Code::ModelNotFound,
                format!("no hive of the fleet that can be reached has the model '{}'", place.model),
            )
            .hint("`rbee-hive list --hive all` shows what they have; download it on one of them first"));
        }
        let bucket = bucket(asking).await?;
        let key = key(&place.model);
        if place.copies == 0 {
            bucket.delete(&key).await.map_err(|error| failed("forget a place", &error))?;
        } else {
            bucket.put(&key, json(&place).into()).await.map_err(|error| failed("keep a place", &error))?;
        }
        // Whoever asks for it does not wait for a copy that failed earlier.
        self.forget(&place.model);
        Ok(self.carry_out(asking, own, &place, said).await)
    }

    /// Looks after all places, for as long as it is awaited.
    pub(super) async fn run(&self, asking: &Asking, own: &HiveName, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            let is_due = {
                let members = asking.members.lock();
                members.is_on_duty(own)
                    && members.can_judge(monotonic())
                    && members.all().all(|(_, member)| member.presence == Presence::Reachable)
            };
            if !is_due {
                continue;
            }
            match all(asking).await {
                Ok(places) => {
                    for place in places {
                        let _turn = self.turn.lock().await;
                        let said = ask(asking, &place.model).await;
                        self.carry_out(asking, own, &place, said).await;
                    }
                }
                Err(failure) => tracing::debug!(error = %failure, "models are placed later"),
            }
        }
    }

    /// Has hives copy a model, if fewer have it than are to have it.
    async fn carry_out(&self, asking: &Asking, own: &HiveName, place: &Place, said: Vec<Said>) -> Placement {
        let mut placement = placement(place, &said);
        let there = placement.hives.len() + placement.copying.len();
        if placement.hives.len() >= place.copies {
            self.forget(&place.model);
        }
        let Some(source) = said.iter().find(|said| said.has.is_here).filter(|_| there < place.copies) else {
            return placement;
        };
        let size = source.has.size_bytes;
        let mut targets: Vec<_> =
            said.iter().filter(|said| !said.has.is_here && said.has.copying.is_none()).collect();
        let others = targets.len();
        targets.retain(|said| said.free_bytes.is_none_or(|free| free >= size.saturating_add(MARGIN)));
        targets.sort_by_key(|said| std::cmp::Reverse(said.free_bytes));
        let wanted = place.copies - there;
        if targets.len() < wanted {
            placement.lacking = Some(if others < wanted {
                "the fleet has no further hives that can be reached".to_owned()
            } else {
                format!("no further hive has room for it ({} and {} more)", bytes(size), bytes(MARGIN))
            });
        }
        for target in targets {
            if placement.hives.len() + placement.copying.len() == place.copies {
                break;
            }
            if !self.may_begin(&place.model, &target.hive) {
                let why = format!("the copy to hive '{}' failed, and is begun again later", target.hive);
                placement.lacking.get_or_insert(why);
                continue;
            }
            match begin(asking, own, &place.model, &source.hive, &target.hive).await {
                Ok(job_id) => placement.copying.push(Copying { hive: target.hive.to_string(), job_id }),
                Err(failure) => {
                    tracing::warn!(model = place.model, hive = %target.hive, error = %failure, "a model is not copied");
                    placement.lacking = Some(format!("hive '{}': {failure}", target.hive));
                }
            }
        }
        if placement.hives.len() + placement.copying.len() == place.copies {
            placement.lacking = None;
        }
        placement
    }

    /// Whether a copy of a model may be begun on a hive now. It counts as begun then.
    fn may_begin(&self, model: &str, hive: &HiveName) -> bool {
        let (mut begun, now) = (self.begun.lock(), monotonic());
        let (times, not_before) = begun.entry((model.to_owned(), hive.clone())).or_insert((0, now));
        let may = now >= *not_before;
        if may {
            let wait = FIRST_WAIT.saturating_mul(1 << (*times).min(10)).min(LONGEST_WAIT);
            (*times, *not_before) = (*times + 1, now + wait);
        }
        may
    }

    /// Copies of a model may be begun at once again.
    fn forget(&self, model: &str) {
        self.begun.lock().retain(|(of, _), _| of != model);
    }
}

/// How all places stand, by model.
///
/// # Errors
/// [`Code::FleetUnreachable`]
pub(super) async fn standing(asking: &Asking) -> Result<Vec<Placement>> {
    let places = all(asking).await?;
    let standing = places.iter().map(async |place| placement(place, &ask(asking, &place.model).await));
    let mut standing = future::join_all(standing).await;
    standing.sort_by(|one, other| one.model.cmp(&other.model));
    Ok(standing)
}

fn placement(place: &Place, said: &[Said]) -> Placement {
    let has = said.iter().filter(|said| said.has.is_here).map(|said| said.hive.to_string());
    let copying = said.iter().filter(|said| !said.has.is_here).filter_map(|said| {
        let job_id = said.has.copying.clone()?;
        Some(Copying { hive: said.hive.to_string(), job_id })
    });
    Placement {
        model: place.model.clone(),
        copies: place.copies,
        hives: has.collect(),
        copying: copying.collect(),
        lacking: None,
    }
}

/// Asks every hive that can be reached whether it has a model.
async fn ask(asking: &Asking, model: &str) -> Vec<Said> {
    let reachable: Vec<_> = {
        let members = asking.members.lock();
        let reachable = members.all().filter(|(_, member)| member.presence == Presence::Reachable);
        reachable.map(|(hive, member)| (hive.clone(), member.record.disk_free_bytes)).collect()
    };
    let request = OfModel { model: model.to_owned() };
    let said = reachable.into_iter().map(async |(hive, free_bytes)| {
        let has = asking.one_within::<HasModel>(LIMIT, &hive, verb::HAS, &request).await;
        let has = has.inspect_err(|error| tracing::debug!(%hive, %error, "a hive did not say what it has"));
        Some(Said { hive, has: has.ok()?, free_bytes })
    });
    future::join_all(said).await.into_iter().flatten().collect()
}

/// Has a hive copy a model from another one.
async fn begin(
    asking: &Asking,
    own: &HiveName,
    model: &str,
    from: &HiveName,
    to: &HiveName,
) -> Result<JobId> {
    let request = serde_json::json!({
        "operation": "model_copy", "hive_id": to.as_str(), "model": model, "from": from.as_str(),
    });
    let request = serde_json::value::to_raw_value(&request)
        .map_err(|error| Failure::internal("a request did not serialise").detail(error))?;
    let submit = Submit { request, from: own.to_string(), ..Submit::default() };
    let made: Made = asking.one(to, verb::SUBMIT, &submit).await?;
    Ok(made.job.id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_fail_are_begun_again_after_waits_that_double() {
        let (places, hive) = (Places::default(), |name: &str| HiveName::new(name).unwrap());
        assert!(places.may_begin("m", &hive("b")) && !places.may_begin("m", &hive("b")));
        assert!(places.may_begin("another", &hive("b")) && places.may_begin("m", &hive("c")));
        let (key, mut waits) = (("m".to_owned(), hive("b")), Vec::new());
        for _ in 0..8 {
            let now = monotonic();
            waits.push(places.begun.lock()[&key].1.saturating_duration_since(now).as_secs_f64().round());
            places.begun.lock().get_mut(&key).unwrap().1 = now;
            assert!(places.may_begin("m", &hive("b")));
        }
        assert_eq!(waits, [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]);
        places.forget("m");
        assert!(places.may_begin("m", &hive("b")) && !places.may_begin("another", &hive("b")));
    }
}
