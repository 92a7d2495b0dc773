//! Leases: memory that another program asked for, for a while.
//!
//! Invariants:
//! - What went for a lease comes back when the lease has ended, however it ends: it was released, it expired, it was
//!   refused, or its job was stopped while it asked.
//! - What the other program does not seem to use yet is not free for loads. What it uses is measured: by how much
//!   the memory grew that no worker holds, since the lease was given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::ledger::Told;
use super::memory::on;
use super::snapshot::{DeviceMemory, Lease, LeaseKey, LeasePhase, Refusal, Resident, Waiting, WorkerKey};
use crate::error::{Code, Failure, Result};
use crate::workers::Device;

/// Memory that a program asks for.
#[derive(Clone, Debug)]
pub(crate) struct LeaseRequest {
    pub(crate) device: Device,
    pub(crate) bytes: u64,
    /// How long it lasts.
    pub(crate) lasts: Duration,
    /// Who gets the memory, for people.
    pub(crate) holder: Option<String>,
}

/// The leases that ask or are held. What changes them wakes the owner.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Held for short work in memory alone.
    books: Mutex<Books>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Books {
    leases: Vec<LeaseEntry>,
    /// What went for leases that have ended.
    to_restore: Vec<Gone>,
}

/// A lease that has not ended.
#[derive(Clone, Debug)]
pub(super) struct LeaseEntry {
    pub(super) key: LeaseKey,
    pub(super) id: String,
    pub(super) request: LeaseRequest,
    pub(super) since: Duration,
    pub(super) held: Option<Held>,
    /// The workers that went for it.
    pub(super) gone: Vec<Gone>,
    waits_for: Option<Waiting>,
    told: mpsc::UnboundedSender<Told>,
}

/// A lease that was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) expires_at: Duration,
    /// What no worker held when it was given.
    others: u64,
}

/// A worker that went for a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = EvictedWorker)]
pub(crate) struct Gone {
    pub(crate) model: String,
    #[schema(value_type = u32)]
    pub(crate) pid: WorkerKey,
    /// The operation that brings it back.
    #[serde(skip)]
    pub(super) restore: Value,
}

impl Leases {
    /// A lease is asked for. Returns its number and what it is told from now on.
    pub(super) fn ask(
        &self,
        request: LeaseRequest,
        since: Duration,
    ) -> (LeaseKey, mpsc::UnboundedReceiver<Told>) {
        let (told, receiver) = mpsc::unbounded_channel();
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("lease-{}", uuid::Uuid::now_v7());
        let lease =
            LeaseEntry { key, id, request, since, held: None, gone: Vec::new(), waits_for: None, told };
        self.books.lock().leases.push(lease);
        (key, receiver)
    }

    pub(super) fn all(&self) -> Vec<LeaseEntry> {
        self.books.lock().leases.clone()
    }

    fn change<R>(&self, key: LeaseKey, change: impl FnOnce(&mut LeaseEntry) -> R) -> Option<R> {
        self.books.lock().leases.iter_mut().find(|lease| lease.key == key).map(change)
    }

    pub(super) fn get(&self, key: LeaseKey) -> Option<LeaseEntry> {
        self.change(key, |lease| lease.clone())
    }

    pub(super) fn tell(&self, key: LeaseKey, what: Told) {
        self.change(key, |lease| lease.tell(what));
    }

    /// Tells a lease that asks what it waits for, unless it was told that already.
    pub(super) fn tell_wait(&self, key: LeaseKey, why: Waiting) {
        self.change(key, |lease| {
            if !lease.waits_for.as_ref().is_some_and(|waiting| waiting.is_like(&why)) {
                lease.tell(Told::Waits(why.to_string()));
                lease.waits_for = Some(why);
            }
        });
    }

    /// Gives the lease. `others` is what no worker holds of its device.
    pub(super) fn grant(&self, key: LeaseKey, now: Duration, others: u64) {
        self.change(key, |lease| {
            if lease.held.is_none() {
                lease.held = Some(Held { expires_at: now + lease.request.lasts, others });
                lease.tell(Told::Granted(0));
            }
        });
    }

    pub(super) fn refuse(&self, key: LeaseKey, why: Refusal) {
        self.tell(key, Told::Refused(why));
    }

    /// A worker went for the lease.
    pub(super) fn has_cost(&self, key: LeaseKey, gone: Gone) {
        self.change(key, |lease| {
            if lease.gone.iter().all(|other| other.pid != gone.pid) {
                lease.gone.push(gone);
            }
        });
    }

    /// The lease ends. Returns it, unless it had ended.
    pub(super) fn end(&self, which: impl Fn(&LeaseEntry) -> bool) -> Option<LeaseEntry> {
        let mut books = self.books.lock();
        let place = books.leases.iter().position(which)?;
        let ended = books.leases.remove(place);
        books.to_restore.extend(ended.gone.iter().cloned());
        Some(ended)
    }

    /// The same, by the lease's id.
    ///
    /// # Errors
    /// [`Code::LeaseNotFound`].
    pub(super) fn release(&self, id: &str) -> Result<LeaseEntry> {
        self.end(|lease| lease.id == id).ok_or_else(|| {
            let id = crate::text::excerpt(id);
            Failure::new(Code::LeaseNotFound, format!("there is no lease '{id}'"))
                .hint("it may have expired, or the hive was restarted since; ResidencyGet lists the leases")
        })
    }

    /// What went for leases that have ended, and was not asked for since.
    pub(super) fn take_to_restore(&self) -> Vec<Gone> {
        std::mem::take(&mut self.books.lock().to_restore)
    }
}

impl LeaseEntry {
    /// The lease as a decision sees it. Where no memory was measured, all of it counts as not taken.
    pub(super) fn lease(&self, devices: &[DeviceMemory], workers: &[Resident]) -> Lease {
        let LeaseRequest { device, bytes, .. } = self.request;
        let phase = self.held.map_or(LeasePhase::Asking, |held| {
            let taken = others_on(device, devices, workers).map_or(0, |now| now.saturating_sub(held.others));
            LeasePhase::Held { untaken: bytes.saturating_sub(taken), expires_at: held.expires_at }
        });
        Lease { key: self.key, device, bytes, since: self.since, phase }
    }

    fn tell(&self, what: Told) {
        // Whoever asked and hears it no more has been stopped.
        let _heard = self.told.send(what).is_ok();
    }
}

/// The bytes of the device that no worker holds and that are not free; `None` where its memory is not known.
pub(super) fn others_on(device: Device, devices: &[DeviceMemory], workers: &[Resident]) -> Option<u64> {
    let memory = devices.iter().find(|memory| memory.device == device)?;
    let held: u64 = workers.iter().map(|worker| on(&worker.holds, device)).sum();
    Some(memory.capacity?.saturating_sub(memory.free?).saturating_sub(held))
}
