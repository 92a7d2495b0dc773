//! Which hive does what may run on any of them, where several are asked for it in the same moment: each chooses by what
//! the hives offer, and where that begins to load a model, they agree on one hive by the lead of the load.
//!
//! Invariants:
//! - A hive that has the model or loads it is never passed over for one that would begin to load it: whoever takes the lead,
//!   and whoever finds it taken, asks once more, because the leader before may have loaded it since.
//! - Nothing depends on the lead: where nobody tells who has it, each goes by its own choice.

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tokio_util::sync::DropGuard;

use super::leads::Lead;
use super::names::HiveName;
use super::offer::{Best, Offer, choose};
use crate::error::Result;

/// How many hives are asked at once.
const AT_ONCE: usize = 32;

/// What a choice asks for: the seam at which `simulation` puts another fleet in its place.
pub(crate) trait Asks: Send + Sync {
    /// What a hive offers.
    ///
    /// # Errors
    /// Why it cannot do it, or that it does not answer.
    fn offer<'a>(&'a self, hive: &'a HiveName) -> BoxFuture<'a, Result<Offer>>;

    /// The lead of the load of a model of so many bytes, for `hive` unless one of those that are `able` has it. `None`
    /// where nobody tells who has it.
    fn lead<'a>(
        &'a self,
        bytes: u64,
        hive: &'a HiveName,
        able: &'a [HiveName],
    ) -> BoxFuture<'a, Option<Lead>>;
}

/// The hive that does it.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) hive: HiveName,
    /// Why, in words.
    pub(crate) why: String,
    /// Where this request has the lead: to be held until the hive has the model.
    pub(crate) lead: Option<DropGuard>,
}

/// The hive that does it, of these.
///
/// # Errors
/// Why none of them can.
pub(crate) async fn agree(asks: &dyn Asks, hives: Vec<HiveName>) -> Result<Agreed> {
    let offers = offers(asks, hives).await;
    let able = offers.iter().filter(|(_, offer)| offer.is_ok()).map(|(hive, _)| hive.clone());
    let able: Vec<_> = able.collect();
    let Best { hive, why, begins } = choose(offers)?;
    let Some(bytes) = begins else { return Ok(Agreed { hive, why, lead: None }) };
    let Some(lead) = asks.lead(bytes, &hive, &able).await else {
        return Ok(Agreed { hive, why, lead: None });
    };
    if let Ok(Best { hive, why, begins: None }) = choose(self::offers(asks, able).await) {
        return Ok(Agreed { hive, why, lead: None });
    }
    Ok(match lead {
        Lead::Ours(lead) => Agreed { hive, why, lead: Some(lead) },
        Lead::Theirs(chosen) if chosen == hive => Agreed { hive, why, lead: None },
        Lead::Theirs(chosen) => {
            let why = format!("hive '{chosen}' does it: another request has just chosen it");
            Agreed { hive: chosen, why, lead: None }
        }
    })
}

async fn offers(asks: &dyn Asks, hives: Vec<HiveName>) -> Vec<(HiveName, Result<Offer>)> {
    let offers = stream::iter(hives).map(|hive| async move {
        let offer = asks.offer(&hive).await;
        (hive, offer)
    });
    offers.buffer_unordered(AT_ONCE).collect().await
}
