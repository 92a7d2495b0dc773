//! Residency: which models are in memory, and which go when others need room.
//!
//! # Theory of operation
//!
//! One pure function, [`decide`](decide::decide), gets a [`Snapshot`](snapshot::Snapshot) of everything that
//! matters (workers, requests under way and waiting, loads, memory, leases, settings, time) and returns
//! [actions](snapshot::Action), each with its reason. One owner task takes the snapshots and carries the actions
//! out. Nothing else loads, drains or stops a worker by itself.
//!
//! A load is an ordinary `ModelLoad` job, and so is the end of a worker an ordinary job: the owner submits them.
//! A load asks for room before it starts its worker, and starts it once the room is granted. A worker that is to
//! go is *drained* first: it accepts no more requests, and those under way end by themselves.
//!
//! Invariants:
//! - No answer is cut to make room. A worker is stopped by a decision only after it was drained and answers no
//!   request.
//! - What is granted was free: memory of a worker that is about to end counts once it is measured as free.
//! - Who asked first gets first: what an earlier load waits for is not granted to a later one.
//! - No worker ends for a load that may wait in vain for another one: all that go for it go together.
//! - A worker with requests stays for its minimum time, and nothing goes that need not go.
//! - A drained worker is stopped or opened again; none stays drained.
//! - The decision reads no clock and no disk. The same snapshot gives the same actions.
//!
//! `simulation.rs` checks them in thousands of random worlds.

mod owner;
mod forecast;
mod news;
mod view;
mod measure;
mod lease;
mod parts;
mod room;
mod leases;
mod ledger;
mod admission;
mod refusal;
mod queue;
pub(crate) mod decide;
mod make_room;
mod draft;
mod victims;
mod claim;
mod memory;
mod words;
pub(crate) mod snapshot;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod simulation;

pub(crate) use admission::{Admission, Admissions, Asking, Settled, Wait, Watch};
pub(crate) use forecast::Forecast;
pub(crate) use leases::{Gone, LeaseRequest};
pub(crate) use owner::{Residency, Submit};
pub(crate) use refusal::{Refused, not_loaded};
pub(crate) use room::{Denied, Ticket};
pub(crate) use snapshot::{Placement, Refusal};
pub(crate) use view::ResidencyView;
#[cfg(test)]
pub(crate) use {admission::LoadNews, queue::Place};
