//! The engines that could be had for this machine.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::choose::choose;
use super::machine::{KindHere, Machine};
use super::parts::{Engines, id_of};
use super::plan::{or_from_source, version_of_archive};
use super::release::{KnownRelease, LATEST};
use super::shown::{instant, name_of};
use super::source;
use crate::config::DeviceKind;
use crate::engine_store::{EngineId, Provenance, llama_cpp};
use crate::error::{Code, Failure, Result};
use crate::time::Instant;

/// How old an answer of the releases may be, unless somebody asks for a new one: the API may be asked only a few dozen
/// times an hour.
const FRESH: Duration = Duration::from_secs(600);

/// An engine that could be had here.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = EngineOffer)]
pub(crate) struct Offer {
    id: EngineId,
    name: String,
    worker_type: DeviceKind,
    platform: &'static str,
    /// The newest version; null where nobody can be asked.
    version: Option<String>,
    /// The bytes to fetch.
    size: Option<u64>,
    /// The devices that it is for.
    devices: Vec<String>,
    /// The architectures of models that it runs, and perhaps others.
    architectures: &'static [&'static str],
    recommended: bool,
    /// Why it is recommended or not.
    reason: String,
    from: Option<Provenance>,
    /// The version that is installed.
    installed: Option<String>,
    /// Why it cannot be installed now.
    problem: Option<String>,
    /// When the releases were asked.
    asked_at: Option<Instant>,
}

impl Engines {
    /// The engines for the devices of this machine, the recommended one first. `asks_anew` asks the releases even if
    /// they were asked a moment ago.
    pub(crate) async fn offers(&self, asks_anew: bool) -> Result<Vec<Offer>> {
        let machine = self.machine().await?;
        let fresh = if asks_anew { Duration::ZERO } else { FRESH };
        let known = match self.settings.archive {
            Some(_) => None,
            None => Some(self.releases.find(&self.settings.version, fresh).await),
        };
        let installed = self.on_disk(|store| Ok(store.installed())).await?;
        let offer = |here: &KindHere| {
            let id = EngineId { kind: here.kind };
            let current = installed.iter().find(|installed| installed.id == id);
            let mut offer = self.offer(id, here, &machine, known.as_ref());
            offer.installed = current.map(|installed| installed.current.version.clone());
            offer
        };
        let mut offers: Vec<Offer> = machine.kinds.iter().map(offer).collect();
        if let Some(best) = offers.iter_mut().find(|offer| offer.problem.is_none()) {
            best.recommended = true;
            let why = match best.worker_type {
                DeviceKind::Cpu => "it runs more models than the built-in engine",
                _ => "it computes on the GPU, and on the processor what does not fit there",
            };
            best.reason = match best.from {
                Some(Provenance::Source) => format!("{why}; it is built on this machine from source"),
                _ => why.to_owned(),
            };
            // What a model needs is told without asking anybody: it is this from now on.
            self.workers.recommend(best.id);
        }
        offers.sort_by_key(|offer| !offer.recommended);
        Ok(offers)
    }

    /// The one of that id.
    ///
    /// # Errors
    /// [`Code::EngineNotFound`]: there is none, or not for this machine.
    pub(crate) async fn offer_of(&self, worker_id: &str) -> Result<Offer> {
        let id = id_of(worker_id)?;
        let found = self.offers(false).await?.into_iter().find(|offer| offer.id == id);
        found.ok_or_else(|| {
            let message =
                format!("{id} is not for this machine, which has no device of the kind {}", id.kind);
            Failure::new(Code::EngineNotFound, message).hint("WorkerCatalogList says what fits this machine")
        })
    }

    fn offer(
        &self,
        id: EngineId,
        here: &KindHere,
        machine: &Machine,
        known: Option<&Result<KnownRelease>>,
    ) -> Offer {
        let mut offer = Offer {
            id,
            name: name_of(id),
            worker_type: id.kind,
            platform: machine.os,
            version: None,
            size: None,
            devices: vec![here.detail.clone()],
            architectures: llama_cpp::architectures(),
            recommended: false,
            reason: "another engine is better for this machine".to_owned(),
            from: None,
            installed: None,
            problem: None,
            asked_at: None,
        };
        match known {
            None => match self.archive_of_settings(id) {
                Some(Err(failure)) => offer.problem = Some(in_words(&failure)),
                named => {
                    let archive = named.and_then(Result::ok);
                    offer.version =
                        archive.map(|archive| version_of_archive(&archive.name, &self.settings.version));
                    offer.from = Some(Provenance::Archive);
                }
            },
            Some(Err(failure)) if self.settings.version == LATEST => {
                offer.problem = Some(in_words(&or_from_source(failure.clone(), machine, id)));
            }
            Some(Err(failure)) => offer.problem = Some(in_words(failure)),
            Some(Ok(KnownRelease { release, at, .. })) => {
                offer.version = Some(release.tag.clone());
                offer.asked_at = Some(instant(*at));
                match choose(release, machine, id.kind) {
                    Ok(chosen) => {
                        offer.size = Some(chosen.size_bytes());
                        offer.from = Some(Provenance::Release);
                    }
                    Err(unfit) => match source::check_tools(&machine.tools, id.kind) {
                        Ok(_) => offer.from = Some(Provenance::Source),
                        Err(tools) => offer.problem = Some(format!("{unfit}; {}", in_words(&tools))),
                    },
                }
            }
        }
        offer
    }
}

fn in_words(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{failure}: {hint}"),
        None => failure.to_string(),
    }
}
