//! The fleet: many hives that work as one, by way of NATS.
//!
//! A hive that is in a fleet keeps everything that it has alone: its jobs, its journals, its models. The fleet adds
//! what others need to know of it and to ask of it:
//!
//! - an entry in a bucket with signs of life ([`registry`]), from which each hive knows who is there ([`members`]);
//! - a stream with the events of every act ([`stream`]), written by the [`outbox`] of the hive that runs it;
//! - subjects on which others ask it ([`serving`]), and on which it asks others ([`asking`]);
//! - an address at which others reach it directly, over HTTP ([`door`]), where it asks them ([`peers`]);
//! - the jobs of other hives as local logs ([`mirrors`]), so that a reader cannot tell where a job runs.
//!
//! [`setup`] makes a fleet, joins one and leaves it: [`server`] runs nats-server, [`gate`] decides who is let in, by the
//! list of the [`ledger`] and with the keys of [`authority`] and [`certificates`], and [`joining`] is the way there.
//!
//! Invariants:
//! - Nothing that concerns this hive alone waits for NATS: not a job, not its stream, not a start or a stop.
//! - Without `[fleet] nats` there is no connection, no task and no memory for any of this.
//! - Of a job, the stream has each event once, in order, and one end ([`outbox`]).
//!
//! `docs/FLEET.md` draws the subjects, and says what happens in each failure.

mod setup;
mod wanted;
mod joining;
mod gate;
mod ledger;
mod join_code;
mod server;
mod authority;
mod folder;
mod others;
mod neighbours;
mod membership;
mod agree;
mod leads;
mod keys;
mod duty;
mod serving;
mod listing;
mod places;
mod mirrors;
mod inventory;
mod asking;
#[cfg(test)]
mod simulation;
mod outbox;
mod store;
mod follow;
mod stream;
mod registry;
mod link;
mod home;
mod balance;
mod choice;
mod placing;
mod holdings;
mod index;
mod peers;
mod door;
mod wire;
mod offer;
mod members;
mod record;
mod names;
mod certificates;
mod addresses;
mod visits;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use self::membership::Membership;
use self::mirrors::find;
use self::wire::{OfJob, OfModel, verb};
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::files;
use crate::jobs::{Job, JobFilter, JobId, JobPage, OperationKind, Submitted};
use crate::models::{Found, Neighbours, Sheet, WantedFile};
use crate::text::nearest_ids;

pub(crate) use agree::{Agreed, Asks, agree};
pub(crate) use balance::Sent;
pub(crate) use choice::{Candidate, Choice, choose as choose_hive};
pub(crate) use door::{Access, HiveListener};
pub(crate) use holdings::{Called, Holder, ModelRecord, Served, Serving};
pub(crate) use home::Home;
pub(crate) use leads::Lead;
pub(crate) use members::{HiveChange, Member, Presence};
pub(crate) use names::HiveName;
pub use offer::Offer;
pub(crate) use others::{NamedThere, Others};
pub(crate) use peers::{HIVE_HEADER, Peer};
pub(crate) use placing::{Place, Placement};
pub(crate) use record::{DeviceRecord, HiveRecord};
pub(crate) use setup::{Expelled, Hosted, Invitation, Left, Setup};
pub(crate) use visits::Visits;
pub(crate) use wanted::Wanted;
pub(crate) use wire::{HasModel, Submit};

/// How long the end of a cancelled job of another hive may take.
const CANCEL: Duration = Duration::from_secs(60);
/// How long a leaving hive tries to publish what is not published.
const LEAVE: Duration = Duration::from_secs(2);

/// How long the hive on duty may take to place a model.
const PLACE: Duration = Duration::from_secs(20);
/// How long it may take to look the places up.
const PLACES: Duration = Duration::from_secs(5);

/// How often is looked whether the hive is in.
const LOOK: Duration = Duration::from_millis(50);

/// The fleet, as one hive is in it or not. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet(Arc<Inner>);

#[derive(Default)]
struct Inner {
    membership: RwLock<Option<Arc<Membership>>>,
    /// The hive around it, while that runs.
    home: RwLock<Option<Arc<dyn Home>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.membership.read().fmt(f)
    }
}

/// The id of a data folder, made where it has none. It stays for good.
pub(crate) fn identity(data_dir: &Path) -> Result<String> {
    let path = data_dir.join("folder-id");
    match files::read_text(&path) {
        Ok(id) if uuid::Uuid::try_parse(id.trim()).is_ok() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("read the id of the data folder", &path, &error)),
    }
    let id = uuid::Uuid::new_v4().to_string();
    let written = files::put(&path, format!("{id}\n").as_bytes());
    written.map_err(|error| Failure::io("write the id of the data folder", &path, &error))?;
    Ok(id)
}

/// How a hive stands in its fleet.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = FleetState)]
pub(crate) struct Status {
    /// The name of the fleet; null where the hive stands alone.
    pub(crate) fleet: Option<String>,
    /// The name of this hive in it.
    pub(crate) hive: Option<String>,
    /// The servers.
    pub(crate) nats: Vec<String>,
    /// The URL at which other hives reach this one directly.
    pub(crate) direct: Option<String>,
    /// Why they cannot.
    pub(crate) direct_trouble: Option<Failure>,
    /// Whether this hive is connected and in.
    pub(crate) is_in: bool,
    /// Why it is not.
    pub(crate) trouble: Option<Failure>,
    /// Jobs of this hive of which the fleet does not have all that there is.
    pub(crate) unpublished: usize,
    /// The hives, by name.
    pub(crate) hives: Vec<Member>,
    /// The models that are kept on several hives. Only [`Fleet::places`] knows them.
    pub(crate) places: Vec<Placement>,
}

impl Fleet {
    /// Says which hive is around it.
    pub(crate) fn open(&self, home: Arc<dyn Home>) {
        *self.0.home.write() = Some(home);
    }

    /// Leaves the fleet, because the hive stops. Where another process serves next with its data folder, the hive stays
    /// a member meanwhile, so that nobody gives up what it still answers.
    pub(crate) async fn close(&self, has_successor: bool) {
        *self.0.home.write() = None;
        self.end(has_successor).await;
    }

    /// Comes into the fleet of the settings, in the background.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the settings cannot be used.
    pub(crate) async fn join(&self, settings: config::Fleet, hive: HiveName, data_dir: &Path) -> Result<()> {
        let home = self.0.home.read().clone();
        let home = home.ok_or_else(|| Failure::new(Code::ShuttingDown, "the hive does not run"))?;
        // It has the addresses that the next one needs.
        self.leave().await;
        let membership = Membership::begin(settings, hive, identity(data_dir)?, home).await?;
        *self.0.membership.write() = Some(membership);
        Ok(())
    }

    /// Waits until the hive is in its fleet, for as long as `limit`.
    ///
    /// # Errors
    /// Why it is not: [`Code::FleetUnreachable`], or [`Code::HiveNameTaken`].
    pub(crate) async fn wait_until_in(&self, limit: Duration) -> Result<()> {
        let is_in = async {
            loop {
                if let Some(membership) = self.current() {
                    let refused = membership.refused.lock().clone();
                    if let Some(refused) = refused.filter(|refused| refused.code == Code::HiveNameTaken) {
                        return Err(refused);
                    }
                    let is_shown = membership.asking.members.lock().get(&membership.hive).is_some();
                    if membership.check().is_ok() && is_shown {
                        return Ok(());
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match timeout(limit, is_in).await {
            Ok(is_in) => is_in,
            Err(_) => self.required().and_then(|_| {
                Err(Failure::new(Code::FleetUnreachable, "the fleet does not show this hive yet")
                    .hint("`rbee-hive fleet status` shows when it does"))
            }),
        }
    }

    /// Leaves the fleet, if the hive is in one.
    pub(crate) async fn leave(&self) {
        self.end(false).await;
    }

    async fn end(&self, has_successor: bool) {
        let membership = self.0.membership.write().take();
        if let Some(membership) = membership {
            membership.end(LEAVE, has_successor).await;
        }
    }

    /// Shows a hive no more that is out, so that nobody lets it in. Does nothing where this hive is in no fleet.
    pub(crate) async fn forget(&self, hive: &str) {
        if let (Some(membership), Ok(hive)) = (self.current(), HiveName::new(hive)) {
            membership.forget(&hive).await;
        }
    }

    /// The membership, if the settings name a fleet.
    fn current(&self) -> Option<Arc<Membership>> {
        self.0.membership.read().clone()
    }

    fn required(&self) -> Result<Arc<Membership>> {
        let membership = self.current().ok_or_else(|| {
            Failure::new(Code::NotInFleet, "this hive is in no fleet")
                .hint("docs/FLEET.md says how to join one")
        })?;
        membership.check()?;
        Ok(membership)
    }

    /// Whether the settings name a fleet.
    pub(crate) fn is_on(&self) -> bool {
        self.0.membership.read().is_some()
    }

    /// The name of this hive in its fleet, if it is in one.
    pub(crate) fn hive(&self) -> Option<HiveName> {
        self.current().map(|membership| membership.hive.clone())
    }

    /// How this hive stands in its fleet.
    pub(crate) fn status(&self) -> Status {
        let Some(membership) = self.current() else { return Status::default() };
        let trouble = membership.check().err();
        let hives = membership.asking.members.lock().all().map(|(_, member)| member.clone()).collect();
        Status {
            fleet: Some(membership.settings.name.clone()),
            hive: Some(membership.hive.to_string()),
            nats: membership.settings.servers().map(str::to_owned).collect(),
            direct: membership.door.as_ref().ok().map(|door| door.url.clone()),
            direct_trouble: membership.door.as_ref().err().cloned(),
            is_in: trouble.is_none(),
            trouble,
            unpublished: membership.publishing.len(),
            hives,
            places: Vec::new(),
        }
    }

    /// The other hive that a `hive_id` names.
    ///
    /// # Errors
    /// [`Code::UnknownHive`] with the nearest names; [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) fn named(&self, hive_id: &str) -> Result<HiveName> {
        let membership = self.required()?;
        let members = membership.asking.members.lock();
        let named = HiveName::new(hive_id).ok().filter(|hive| members.get(hive).is_some());
        named.ok_or_else(|| {
            let names: Vec<_> = members.all().map(|(hive, _)| hive.to_string()).collect();
            let near = nearest_ids(hive_id, names.iter().map(|name| (name.as_str(), "")));
            let hint = match near.as_slice() {
                [] => format!(
                    "the hives of the fleet are {}; any and all stand for no single one",
                    names.join(", ")
                ),
                near => format!("did you mean {}?", near.join(" or ")),
            };
            let shown = crate::text::excerpt(hive_id);
            Failure::new(Code::UnknownHive, format!("no hive of the fleet is called '{shown}'")).hint(hint)
        })
    }

    /// The hives of the fleet that can be reached, and those that cannot.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) fn hives(&self) -> Result<Vec<(HiveName, Member)>> {
        let membership = self.required()?;
        let members = membership.asking.members.lock();
        Ok(members.all().map(|(hive, member)| (hive.clone(), member.clone())).collect())
    }

    /// The other hives, for requests to models; `None` where this hive is in no fleet. What is known of them stays while
    /// the servers are away.
    pub(crate) fn others(&self) -> Option<Others> {
        self.current().map(Others::of)
    }

    /// What a model of another hive is, for a copy of it.
    ///
    /// # Errors
    /// What that hive answers; [`Code::HiveUnreachable`]; [`Code::FleetUnreachable`].
    pub(crate) async fn sheet(&self, hive: &HiveName, model: &str) -> Result<Sheet> {
        let request = OfModel { model: model.to_owned() };
        self.required()?.asking.one(hive, verb::SHEET, &request).await
    }

    /// Keeps a model on several hives. The hive on duty does it.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] if no hive has it; [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) async fn place(&self, place: Place) -> Result<Placement> {
        let membership = self.required()?;
        let on_duty = membership.asking.members.lock().on_duty().cloned();
        match on_duty.filter(|hive| *hive != membership.hive) {
            Some(hive) => membership.asking.one_within(PLACE, &hive, verb::PLACE, &place).await,
            None => membership.places.set(membership.hives(), place).await,
        }
    }

    /// The models that are kept on several hives, and where they are.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) async fn places(&self) -> Result<Vec<Placement>> {
        let membership = self.required()?;
        let standing = timeout(PLACES, places::standing(membership.hives())).await;
        standing.unwrap_or_else(|_| Err(membership.asking.cut_off("the servers do not answer")))
    }

    /// Sends an operation to another hive, and follows the job that it makes of it.
    ///
    /// # Errors
    /// What that hive answers; [`Code::HiveUnreachable`]; [`Code::FleetUnreachable`].
    pub(crate) async fn submit(
        &self,
        hive: &HiveName,
        kind: OperationKind,
        mut submit: Submit,
    ) -> Result<Submitted> {
        let membership = self.required()?;
        let asking = &membership.asking;
        let inbox = match kind {
            OperationKind::Read => Some(asking.inbox().await?),
            OperationKind::Act => None,
        };
        submit.from = membership.hive.to_string();
        submit.inbox = inbox.as_ref().map(|inbox| inbox.subject.clone());
        let made: wire::Made = asking.one(hive, verb::SUBMIT, &submit).await?;
        let mirror = membership.mirrors.follow(asking, hive, made.job, inbox);
        Ok(Submitted { job: Arc::clone(mirror.job()), repeated: made.repeated })
    }

    /// What another hive offers for an operation.
    ///
    /// # Errors
    /// Why it cannot do it; [`Code::HiveUnreachable`]; [`Code::FleetUnreachable`].
    pub(crate) async fn offer(&self, hive: &HiveName, mut submit: Submit) -> Result<Offer> {
        let membership = self.required()?;
        submit.from = membership.hive.to_string();
        membership.asking.one(hive, verb::OFFER, &submit).await
    }

    /// The lead of the load of a model of so many bytes, for `hive` unless one of those that are `able` has it. `None` where
    /// the servers do not tell soon.
    pub(crate) async fn lead_of_load(&self, bytes: u64, hive: &HiveName, able: &[HiveName]) -> Option<Lead> {
        let membership = self.required().ok()?;
        leads::of_load(&membership.asking, bytes, hive, |leader| able.contains(leader)).await
    }

    /// The hive that a key of a repeated request belongs to; `hive`, if it belongs to none yet.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) async fn hive_of_key(&self, key: &str, hive: Option<&HiveName>) -> Result<Option<HiveName>> {
        let membership = self.required()?;
        keys::hive_of(&membership.asking, *membership.settings.keep, key, hive).await
    }

    /// A job of another hive.
    ///
    /// # Errors
    /// [`Code::JobNotFound`]; [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) async fn job(&self, id: &JobId) -> Result<Arc<Job>> {
        let membership = self.required()?;
        find(&membership.mirrors, &membership.asking, id).await
    }

    /// The hive that runs or ran a job; `None` where this hive is in no fleet.
    pub(crate) fn hive_of(&self, job: &Job) -> Option<String> {
        let hive = self.other_hive_of(job).or_else(|| self.hive())?;
        Some(hive.to_string())
    }

    /// The other hive that runs or ran a job; `None` for a job of this one.
    pub(crate) fn other_hive_of(&self, job: &Job) -> Option<HiveName> {
        self.current()?.mirrors.hive_of(job)
    }

    /// Cancels a job of another hive, and waits until its end is known here.
    ///
    /// # Errors
    /// What that hive answers; [`Code::HiveUnreachable`]; [`Code::FleetUnreachable`].
    pub(crate) async fn cancel(&self, hive: &HiveName, job: &Job) -> Result<()> {
        let membership = self.required()?;
        let request = OfJob { job_id: job.id().clone(), after: 0, inbox: None };
        membership.asking.one_within::<()>(CANCEL, hive, verb::CANCEL, &request).await?;
        let _ended = timeout(CANCEL, job.ended()).await;
        Ok(())
    }

    /// A page of the jobs of a hive, or of `all`. `own` lists those of this hive.
    ///
    /// # Errors
    /// [`Code::UnknownHive`]; [`Code::NotInFleet`]; [`Code::FleetUnreachable`].
    pub(crate) async fn list_jobs(
        &self,
        hive: &str,
        filter: &JobFilter,
        limit: usize,
        own: impl Fn(&JobFilter) -> JobPage,
    ) -> Result<JobPage> {
        let membership = self.required()?;
        let mut hives = self.hives()?;
        if !hive.eq_ignore_ascii_case("all") {
            let hive = self.named(hive)?;
            hives.retain(|(name, _)| *name == hive);
        }
        listing::list(&membership.asking, &membership.hive, hives, filter, limit, own).await
    }
}

impl Neighbours for Fleet {
    fn find(self: Arc<Self>, wanted: WantedFile) -> BoxFuture<'static, Found> {
        async move {
            match self.current() {
                Some(membership) => neighbours::find(&membership, &wanted).await,
                None => Found::default(),
            }
        }
        .boxed()
    }
}
