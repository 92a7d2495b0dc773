//! What a decision is made from, and what it says: plain values without clocks, locks or tasks.
//!
//! Times are durations since the start of the hive, on its monotonic clock.

use std::sync::Arc;
use std::time::Duration;

use crate::workers::Device;

/// Bytes on each of some devices, each device once. A worker whose layers are split holds memory on several.
pub(crate) type Amounts = Vec<(Device, u64)>;
/// A worker, by its process id.
pub(crate) type WorkerKey = u32;
/// A load, numbered by the owner in the order of arrival.
pub(crate) type LoadKey = u64;
/// A lease, numbered by the owner.
pub(crate) type LeaseKey = u64;

/// Everything that a decision depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// This moment.
    pub(crate) now: Duration,
    pub(crate) rules: Rules,
    /// Measured after the latest change of a worker's phase.
    pub(crate) devices: Vec<DeviceMemory>,
    /// The workers that live, and those that have ended so recently that their memory may not be free yet: they
    /// count as stopping until the memory was measured again.
    pub(crate) workers: Vec<Resident>,
    /// The models that requests wait for.
    pub(crate) demand: Vec<Demand>,
    /// The loads that were submitted, each until its worker is ready or it has ended.
    pub(crate) loads: Vec<Load>,
    pub(crate) leases: Vec<Lease>,
}

/// The settings of the decision.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Whether a request loads its model.
    pub(crate) on_demand: bool,
    /// How long a model stays once it is ready, while it has requests.
    pub(crate) min_stay: Duration,
    /// How long a model must have had no request to go before `min_stay`.
    pub(crate) linger: Duration,
    /// How long a load or a lease may wait for answers under way to end.
    pub(crate) drain_limit: Duration,
    /// Workers that may load at the same time.
    pub(crate) concurrent_loads: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            on_demand: true,
            min_stay: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            drain_limit: Duration::from_secs(120),
            concurrent_loads: 2,
        }
    }
}

/// The memory of one device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceMemory {
    pub(crate) device: Device,
    /// All of it; `None` where it is unknown.
    pub(crate) capacity: Option<u64>,
    /// What is free now, as measured; `None` where it is unknown.
    pub(crate) free: Option<u64>,
    /// What is kept for other programs.
    pub(crate) reserve: u64,
}

/// A worker, from its start until its memory is free again.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    pub(crate) key: WorkerKey,
    /// The id under which requests name what it serves.
    pub(crate) model: Arc<str>,
    /// What it holds now, as measured, of what does not count as free: what its end brings back.
    pub(crate) holds: Amounts,
    /// What it is expected to hold once it is ready.
    pub(crate) expected: Amounts,
    pub(crate) phase: Phase,
    /// Whether it accepts no more requests, and for whom.
    pub(crate) draining: Option<Drain>,
    /// Requests under way.
    pub(crate) in_flight: usize,
    /// When it became ready.
    pub(crate) ready_at: Duration,
    /// When its last request ended, or when it became ready.
    pub(crate) last_used: Duration,
    /// How long its load took.
    pub(crate) load_time: Duration,
    pub(crate) keep: Keep,
    /// Whether its settings have changed since it was started, and no load with the new ones has failed.
    pub(crate) outdated: bool,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It loads; the load of that number waits for it, unless it is a restart after a crash.
    Loading(Option<LoadKey>),
    Ready,
    Unresponsive,
    /// It is about to end.
    Stopping,
}

/// For whom a worker was drained, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) by: Beneficiary,
    pub(crate) since: Duration,
}

/// Who gets the memory of a worker that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beneficiary {
    Load(LoadKey),
    Lease(LeaseKey),
    /// Nobody: it was idle for as long as it may be.
    Idle,
}

/// How long a worker stays when nobody needs its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Until it has had no request for so long.
    For(Duration),
    /// Until room is needed.
    UntilNeeded,
    /// It never goes by itself.
    Pinned,
}

/// A model that requests wait for.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    pub(crate) model: Arc<str>,
    /// How many wait.
    pub(crate) waiting: usize,
    /// Until when a load is not tried again, because one has failed.
    pub(crate) not_before: Option<Duration>,
}

/// A load, from its submission to its end.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) key: LoadKey,
    pub(crate) model: Arc<str>,
    pub(crate) by: Origin,
    /// When it was submitted.
    pub(crate) since: Duration,
    pub(crate) phase: LoadPhase,
}

/// Who asked for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Requests for its model.
    Requests,
    /// A person or a program, by an operation.
    Person,
    /// The settings: it is loaded at the start of the hive.
    Preload,
    /// It was there before a lease took its place.
    Restore,
    /// Changed settings of a model that is loaded already.
    Settings,
}

/// How far a load is.
#[derive(Clone, Debug)]
pub(crate) enum LoadPhase {
    /// Its job has not asked for room yet.
    Submitted,
    /// It asks for room.
    Asking {
        /// Where it could go, the best class first; at least one.
        placements: Vec<Placement>,
        /// A worker that it replaces, whose memory counts as its own: it goes first, like those that make room,
        /// and the load is granted once it has ended.
        replaces: Option<WorkerKey>,
    },
    /// It may start, or has started, its worker. Where no worker is loading for it yet, `needs` is set aside.
    Granted { needs: Amounts },
}

/// A place where a load could go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Placements of a lower class are better: a GPU, several GPUs, a GPU and the processor, the processor.
    /// Within a class, one that needs no eviction is better, then the one with the most room.
    pub(crate) class: u8,
    /// What the worker will hold, at its peak. Empty where that is unknown.
    pub(crate) needs: Amounts,
}

/// Memory that another program asked for.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) key: LeaseKey,
    pub(crate) device: Device,
    pub(crate) bytes: u64,
    /// When it was asked for.
    pub(crate) since: Duration,
    pub(crate) phase: LeasePhase,
}

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeasePhase {
    Asking,
    /// It is given. `untaken` is what the other program does not seem to use yet; it is not free for loads.
    Held {
        untaken: u64,
        expires_at: Duration,
    },
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) actions: Vec<Action>,
    /// When to decide again, even if nothing has changed.
    pub(crate) wake_at: Option<Duration>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Submit a job that loads the model.
    Load { model: Arc<str>, because: LoadReason },
    /// Let the load start its worker, at this one of its placements.
    Grant { load: LoadKey, placement: usize },
    /// Refuse the load.
    Refuse { load: LoadKey, why: Refusal },
    /// Cancel the load: nobody waits for it any more, or its model is loaded without it. It has not failed.
    Cancel { load: LoadKey },
    /// The load waits; tell why.
    Wait { load: LoadKey, why: Waiting },
    /// The lease waits; tell why.
    WaitLease { lease: LeaseKey, why: Waiting },
    /// Let the worker accept no more requests.
    Drain { worker: WorkerKey, by: Beneficiary, because: StopReason },
    /// End the worker, which is drained and idle. Does nothing where it no longer is.
    Stop { worker: WorkerKey, because: StopReason },
    /// Let a drained worker accept requests again.
    Reopen { worker: WorkerKey },
    /// Give the lease.
    GrantLease { lease: LeaseKey },
    /// Refuse the lease.
    RefuseLease { lease: LeaseKey, why: Refusal },
    /// The lease has expired.
    EndLease { lease: LeaseKey },
}

/// Why a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadReason {
    /// So many requests wait for it.
    Requests(usize),
    /// Its settings have changed, and its worker is idle.
    SettingsChanged,
}

impl LoadReason {
    /// Who asks for the load.
    pub(crate) const fn origin(self) -> Origin {
        match self {
            Self::Requests(_) => Origin::Requests,
            Self::SettingsChanged => Origin::Settings,
        }
    }
}

/// Why a worker goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A model needs its room. `idle` is how long it had no request; `None` where it has some.
    RoomForModel { model: Arc<str>, idle: Option<Duration> },
    /// Another program needs its room.
    RoomForLease { idle: Option<Duration> },
    /// Another worker of its model replaces it.
    Replaced,
    /// It had no request for as long as it may stay without one.
    Idle { idle: Duration },
}

/// Why a load or a lease is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not fit, even if everything that may go goes. `missing` bytes of `device` are missing then.
    DoesNotFit { device: Device, missing: u64 },
    /// The answers of these workers did not end in time.
    StillBusy { workers: Vec<WorkerKey>, waited: Duration },
}

/// What a load or a lease waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// These workers to finish their answers and to end.
    Workers(Vec<WorkerKey>),
    /// This worker to have stayed for as long as a model with requests may stay.
    Stay { worker: WorkerKey, until: Duration },
    /// The load of this model, which came first.
    Load(Arc<str>),
    /// This lease, which came first.
    Lease(LeaseKey),
    /// Memory of workers that have ended to be free again.
    Memory { device: Device, missing: u64 },
}

impl Waiting {
    /// Whether the two are the same for people: how much is missing changes all the time.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory { device: one, .. }, Self::Memory { device: other, .. }) => one == other,
            (Self::Stay { worker: one, .. }, Self::Stay { worker: other, .. }) => one == other,
            (one, other) => one == other,
        }
    }
}
