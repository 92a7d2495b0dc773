//! This hive in its fleet: the connection, its name, and the loops that run for as long as it is in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asking::Asking;
use super::balance::Balance;
use super::door::{self, Door, Papers};
use super::duty::{self, Gone};
use super::holdings::Holdings;
use super::home::Home;
use super::inventory::Inventory;
use super::link::{Link, failed};
use super::members::{Happened, HiveChange, Members};
use super::mirrors::Mirrors;
use super::names::{HiveName, Names};
use super::outbox::Outbox;
use super::peers::Peers;
use super::places::{Fleet, Places};
use super::record::{HiveRecord, Told};
use super::registry::{NotRenewed, Registry};
use super::serving::Serving;
use super::stream;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::events::Topic;
use crate::spawn;
use crate::time::monotonic;

/// The wait before the next attempt to come in.
const AGAIN: Duration = Duration::from_secs(1);
/// After how many signs of life it is looked whether models are where they are to be.
const PLACES: u32 = 6;
/// How often it is tried to keep on three servers what is kept on one.
const SPREAD: Duration = Duration::from_secs(60);
/// How often, and for how long, the entry of a hive that is out is looked for.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 30;
/// For how long a sign of life is waited for at least: where `heartbeat` is longer, until the next one is due.
const SIGN: Duration = Duration::from_secs(1);
/// For how long no sign of life may be taken before everything is set up anew, at another server.
const UNANSWERED: Duration = Duration::from_secs(10);

/// This hive in its fleet.
pub(super) struct Membership {
    pub(super) settings: config::Fleet,
    pub(super) hive: HiveName,
    /// The data folder and the run, as the record has them.
    pub(super) folder: String,
    pub(super) run: String,
    pub(super) home: Arc<dyn Home>,
    pub(super) asking: Asking,
    pub(super) peers: Peers,
    /// Where the others reach this hive directly, or why they cannot.
    pub(super) door: Result<Door>,
    /// What all hives have.
    pub(super) holdings: Arc<RwLock<Holdings>>,
    pub(super) balance: Balance,
    pub(super) mirrors: Arc<Mirrors>,
    /// The models that the fleet keeps on several hives.
    pub(super) places: Arc<Places>,
    /// Why it is not in, although it is connected.
    pub(super) refused: Mutex<Option<Failure>>,
    /// The jobs whose events are being published.
    pub(super) publishing: TaskTracker,
    gone: Gone,
    /// Whether the entry stays when it ends.
    keeps_name: AtomicBool,
    stop: CancellationToken,
    /// Cancelled when everything has ended.
    ended: CancellationToken,
}

/// What a hive has that is in.
struct CameIn {
    registry: Registry,
    inventory: Inventory,
    /// That of its entry.
    revision: u64,
    /// On how many servers everything is kept.
    replicas: usize,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("hive", &self.hive).finish_non_exhaustive()
    }
}

impl Membership {
    /// Begins to come in.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if the settings cannot be used.
    pub(super) async fn begin(
        settings: config::Fleet,
        hive: HiveName,
        folder: String,
        home: Arc<dyn Home>,
    ) -> Result<Arc<Self>> {
        let link = Link::open(&settings, &hive).await?;
        let members = Arc::new(Mutex::new(Members::new(*settings.heartbeat, settings.longest_silence())));
        let asking = Asking {
            link,
            names: Arc::new(Names::of(&settings.name)),
            members,
            bounds: home.jobs().bounds(),
        };
        let papers = Papers::of(&settings)?;
        let peers = Peers::new(hive.clone(), papers.as_ref(), Arc::clone(&asking.members))?;
        let stop = CancellationToken::new();
        let door = match door::open(&settings, papers.as_ref(), Arc::clone(&asking.members)).await {
            Ok((door, listener)) => {
                home.answer_hives(listener, stop.clone());
                Ok(door)
            }
            Err(failure) => {
                tracing::warn!(code = %failure.code, hint = failure.hint, "{failure}");
                Err(failure)
            }
        };
        let membership = Arc::new(Self {
            peers,
            door,
            holdings: Arc::default(),
            balance: Balance::default(),
            mirrors: Arc::default(),
            places: Arc::default(),
            run: uuid::Uuid::new_v4().simple().to_string(),
            refused: Mutex::default(),
            publishing: TaskTracker::new(),
            gone: Gone::default(),
            keeps_name: AtomicBool::default(),
            stop,
            ended: CancellationToken::new(),
            settings,
            hive,
            folder,
            home,
            asking,
        });
        let running = Arc::clone(&membership);
        spawn::detached(async move {
            running.run().await;
            running.ended.cancel();
        });
        Ok(membership)
    }

    /// Ends it. What is not published yet gets `limit` for that. A successor takes the name over.
    pub(super) async fn end(&self, limit: Duration, has_successor: bool) {
        self.keeps_name.store(has_successor, Ordering::Release);
        self.publishing.close();
        if self.asking.link.trouble().is_none() && self.refused.lock().is_none() {
            let _published = timeout(limit, self.publishing.wait()).await;
        }
        self.stop.cancel();
        let _ended = timeout(limit, self.ended.cancelled()).await;
        self.hear_nobody();
    }

    async fn run(self: &Arc<Self>) {
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let session = CancellationToken::new();
            let _ends_tasks = session.clone().drop_guard();
            let ended = match stop.run_until_cancelled(self.come_in()).await {
                None => break,
                Some(Ok(came_in)) => self.stay(came_in, &session).await,
                Some(Err(failure)) => Err(failure),
            };
            match ended {
                Ok(()) => {}
                Err(failure) => {
                    self.try_another_server(&failure).await;
                    let mut refused = self.refused.lock();
                    if refused.as_ref().is_none_or(|before| before.message != failure.message) {
                        tracing::warn!(code = %failure.code, hint = failure.hint, causes = ?failure.causes, "not in the fleet: {failure}");
                    }
                    *refused = Some(failure);
                }
            }
            let _stopped = timeout(AGAIN, stop.cancelled()).await;
        }
    }

    /// Connects to another server where this one does not do what it is asked for: it may be the one that is cut off from
    /// the others of its cluster.
    async fn try_another_server(&self, failure: &Failure) {
        let link = &self.asking.link;
        if failure.code == Code::FleetUnreachable
            && link.trouble().is_none()
            && self.settings.servers().nth(1).is_some()
        {
            link.connect_to_next().await;
        }
    }

    /// Comes in: makes what is not there, and takes the name.
    async fn come_in(&self) -> Result<CameIn> {
        let link = &self.asking.link;
        link.up().await;
        let replicas = stream::ensure(link, &self.asking.names, *self.settings.keep).await?;
        let registry =
            Registry::open(link, &self.asking.names, self.settings.longest_silence(), replicas).await?;
        let inventory = self.inventory(replicas).await?;
        let told = self.told().await;
        let revision = registry.claim(&self.hive, &told).await?;
        *self.refused.lock() = None;
        tracing::info!(hive = %self.hive, fleet = self.settings.name, "in the fleet");
        Ok(CameIn { registry, inventory, revision, replicas })
    }

    async fn inventory(&self, replicas: usize) -> Result<Inventory> {
        Inventory::open(&self.asking, &self.hive, replicas, *self.settings.heartbeat, &self.holdings).await
    }

    /// Stays until something ends that: the loss of the name, or [`Self::end`].
    async fn stay(self: &Arc<Self>, came_in: CameIn, ended: &CancellationToken) -> Result<()> {
        let CameIn { registry, inventory, revision, replicas } = came_in;
        let serving = Serving {
            asking: self.asking.clone(),
            places: Arc::clone(&self.places),
            holdings: Arc::clone(&self.holdings),
            hive: self.hive.clone(),
            home: Arc::clone(&self.home),
        };
        self.asking.members.lock().listens(Some(monotonic()));
        tokio::select! {
            left = self.beat(&registry, revision) => left,
            watched = registry.watch(&self.asking.members, |change| self.tell(change)) => watched,
            served = serving.run() => served,
            read = inventory.read(&*self.home) => read,
            told = inventory.tell(&*self.home) => told,
            () = self.judge() => Ok(()),
            () = duty::run(&self.asking, &inventory, &self.hive, &self.gone, self.pause()) => Ok(()),
            () = self.places.run(self.hives(), *self.settings.heartbeat * PLACES) => Ok(()),
            () = self.publish(ended) => Ok(()),
            () = self.spread(replicas) => Ok(()),
        }
    }

    /// Has everything kept on three servers, once there are three.
    async fn spread(&self, mut replicas: usize) {
        let (link, names) = (&self.asking.link, &self.asking.names);
        while replicas < stream::MOST_REPLICAS {
            tokio::time::sleep(SPREAD).await;
            let spread = stream::spread(link, names, *self.settings.keep).await.unwrap_or(replicas);
            if spread > replicas
                && Registry::open(link, names, self.settings.longest_silence(), spread).await.is_ok()
                && self.inventory(spread).await.is_ok()
            {
                replicas = spread;
            }
        }
        std::future::pending::<()>().await;
    }

    /// The hives, for the places of models.
    pub(super) fn hives(&self) -> Fleet<'_> {
        Fleet { own: &self.hive, asking: &self.asking, holdings: &self.holdings }
    }

    /// How often silence is looked for.
    fn pause(&self) -> Duration {
        *self.settings.heartbeat / 2
    }

    /// What the bucket of the hives has of this one.
    async fn told(&self) -> Told {
        let door = self.door.as_ref().ok();
        let record = HiveRecord {
            hive: self.hive.to_string(),
            folder: self.folder.clone(),
            run: self.run.clone(),
            direct: door.map(|door| door.url.clone()),
            ..self.home.record().await
        };
        Told { record, secret: door.and_then(|door| door.secret.clone()) }
    }

    /// Gives signs of life, until the name is lost or the hive is to leave.
    async fn beat(&self, registry: &Registry, mut revision: u64) -> Result<()> {
        let mut beats = interval(*self.settings.heartbeat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beats.tick().await;
        let mut failing = None;
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = self.stop.cancelled() => {
                    // Without a connection its entry goes by its age.
                    if !self.keeps_name.load(Ordering::Acquire) && self.asking.link.trouble().is_none() {
                        registry.leave(&self.hive, revision).await;
                    }
                    return Ok(());
                }
            }
            match self.renew(registry, revision).await {
                Ok(renewed) => (revision, failing) = (renewed, None),
                // Another one has it, or the entry is gone because this hive was cut off for long: it comes in again.
                Err(NotRenewed::Lost) => {
                    tracing::warn!(hive = %self.hive, "this hive's entry in the fleet is not its own any more");
                    return Ok(());
                }
                Err(NotRenewed::Unknown(failure)) if self.asking.link.trouble().is_none() => {
                    let since = *failing.get_or_insert_with(monotonic);
                    if monotonic().saturating_duration_since(since) >= UNANSWERED {
                        return Err(failure);
                    }
                }
                Err(NotRenewed::Unknown(_)) => failing = None,
            }
        }
    }

    /// Gives a sign of life. One whose answer is late is not waited for: the next one is due.
    async fn renew(&self, registry: &Registry, revision: u64) -> Result<u64, NotRenewed> {
        let (told, limit) = (self.told().await, SIGN.max(*self.settings.heartbeat));
        let renewed = timeout(limit, registry.renew(&self.hive, &told, revision)).await;
        renewed.unwrap_or_else(|late| Err(NotRenewed::Unknown(failed("give a sign of life", &late))))
    }

    /// Notes who has become silent, and whether this hive hears anybody.
    async fn judge(&self) {
        let link = &self.asking.link;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {
                    let changes = self.asking.members.lock().tick();
                    changes.into_iter().for_each(|change| self.tell(change));
                }
                () = link.lost() => {
                    tracing::warn!("the connection to the fleet is lost; what concerns this hive alone goes on");
                    self.asking.members.lock().listens(None);
                    self.hear_nobody();
                    link.up().await;
                    tracing::info!("the connection to the fleet is back");
                    self.asking.members.lock().listens(Some(monotonic()));
                }
            }
        }
    }

    /// Counts nothing any more as used by other hives, whose ends nobody tells of.
    fn hear_nobody(&self) {
        let hives: Vec<_> = self.asking.members.lock().all().map(|(hive, _)| hive.clone()).collect();
        hives.iter().for_each(|hive| self.home.tokens_used(hive, None));
    }

    fn tell(&self, change: HiveChange) {
        let (hive, happened) = (&change.hive.record.hive, change.change);
        if happened != Happened::Changed {
            tracing::info!(hive, ?happened, "a hive of the fleet");
        }
        if matches!(happened, Happened::Unreachable | Happened::Gone | Happened::Left)
            && let Ok(hive) = HiveName::new(hive)
        {
            self.home.tokens_used(&hive, None);
            if happened == Happened::Gone {
                self.gone.lock().insert(hive);
            }
        }
        self.home.events().publish(Topic::Hive, &change);
    }

    /// Publishes the acts of this hive.
    async fn publish(self: &Arc<Self>, ended: &CancellationToken) {
        let outbox = Outbox::new(self.asking.store(), self.hive.clone(), *self.settings.keep);
        let (earlier, mut new) = self.home.jobs().follow_acts();
        let publish = |job, is_new| {
            let (membership, outbox, ended) = (Arc::clone(self), outbox.clone(), ended.clone());
            spawn::detached(self.publishing.track_future(async move {
                let publishing = outbox.publish(membership.home.jobs(), job, is_new);
                ended.run_until_cancelled(publishing).await;
            }));
        };
        // The newest first: somebody may follow it.
        earlier.into_iter().rev().for_each(|job| publish(job, false));
        while let Some(job) = new.recv().await {
            publish(job, true);
        }
    }

    /// Removes the entry of a hive that is out, which its last signs of life may write again.
    pub(super) async fn forget(&self, hive: &HiveName) {
        let mut absent = 0;
        for _ in 0..LOOKS {
            absent = if self.asking.members.lock().get(hive).is_some() { 0 } else { absent + 1 };
            if absent > LOOKS / 4 {
                return;
            }
            if absent == 0
                && let Err(failure) = self.remove_entry(hive).await
            {
                tracing::warn!(%hive, error = %failure, "its entry goes once it is old");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn remove_entry(&self, hive: &HiveName) -> Result<()> {
        let bucket = self.asking.link.jetstream.get_key_value(self.asking.names.hives_bucket()).await;
        let bucket = bucket.map_err(|error| failed("open the bucket of the hives", &error))?;
        let deleted = bucket.delete(Names::key(hive)).await;
        deleted.map_err(|error| failed("remove the entry of a hive", &error))
    }

    /// Refuses what needs the fleet while this hive is not in it.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`], or why the hive was not let in.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(trouble) = self.asking.link.trouble() {
            return Err(self.asking.cut_off(&trouble));
        }
        match &*self.refused.lock() {
            Some(refused) => Err(Failure { code: Code::FleetUnreachable, ..refused.clone() }),
            None => Ok(()),
        }
    }
}
