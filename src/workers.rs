//! The workers: the processes that serve models, and the tasks that supervise them.
//!
//! # Theory of operation
//!
//! A worker is a child process in a process group of its own, bound to loopback, with its output in a
//! file. One [`owner`] task holds the unreaped child. It alone may signal the group, and it outlives
//! the job that started the worker. Everything else holds a [`handle`]: through it, it sends controls
//! (`listening`, `ready`, `stop`), watches the state that the owner publishes, and counts requests in
//! flight.
//!
//! ```text
//! start() ──launch──▶ owner ─▶ starting ─▶ loading ─▶ ready ⇄ busy ⇄ unresponsive
//!    │                            │           │         │ ├─ exits ──▶ crashed (stays in the list)
//!    │ report, port, /health      └───────────┴─ stop ──┴─▶ stopping ─▶ gone
//!    └ fails, is cancelled or dropped: stop
//! ```
//!
//! [`start`] makes a [`plan`] (an [engine](engines) and a device, chosen by what is installed and by how
//! much [`memory`] is free for the model), [launches](launch) the process and watches its
//! [`readiness`]: it waits until the worker's own group holds the port that the worker [reports](report)
//! or was assigned ([`socket_owner`]), then polls `/health`. Meanwhile it narrates the worker's log
//! ([`log_follow`]) to the job.
//!
//! Invariants:
//! - A child is signalled only by its owner and only while it is unreaped. Until then the system gives
//!   its process id to no other process, so a signal never reaches a process that is not the hive's
//!   worker.
//! - The leader is reaped last: while it is unreaped, its id, which is also the group's, stays taken, and
//!   the rest of the group is killed under that id. A stop succeeds after the group was seen to be gone.
//! - A start that fails, is cancelled or whose future is dropped leaves no process behind.
//! - A worker that is not ready dies with its daemon: its standard input is a pipe that only the daemon
//!   holds, and the worker ends when the pipe closes. A ready worker gets its [`record`] on disk and is
//!   then told that it may stay. It outlives a daemon that is killed; the next daemon adopts it
//!   ([`adopt`]) or ends it.
//! - A process that is not the daemon's child is signalled only through a descriptor of the process
//!   itself ([`adopted`]).
//! - A worker whose record has a newer version is neither adopted nor signalled, and its record stays.
//! - The secret is passed in the environment, and sent only to a socket whose owner was verified.
//! - A worker gets no variable of the hive that looks like a secret ([`environment`]), and cannot gain
//!   privileges (`no_new_privs`).
//! - A worker's log is a bounded file, never a pipe to the daemon.
//! - No lock of this module is held across an await.
//! - A worker that serves is asked for a sign of life ([`pulse`]) as long as it lives, whoever started it.
//! - A worker that tries an engine ([`trial`]) is named by no request, makes no room for itself, is not started
//!   again, and ends with the hive that tries.
//! - A crash, a failed load and a requested stop stay distinct ([`Cause`]). A crashed worker is started
//!   again ([`restart`]) only if the settings say so.
//! - What follows a failed start is decided by its kind ([`start_error`]), never by its public code.
//!
//! # Files
//!
//! From top to bottom, as in the `mod` lines: a file uses only files below it. This file only re-exports.
//!
//! | file | |
//! |---|---|
//! | [`telemetry`] | samples for heartbeats and `/v1/events` |
//! | [`supervisor`] | the interface to the rest of the hive |
//! | [`adopt`], [`restart`] | workers of an earlier run; crashed workers |
//! | [`removal`] | the removal of an engine, from which no worker starts meanwhile |
//! | [`trial`] | workers that try an engine |
//! | [`start`] | from a request to a ready worker |
//! | [`readiness`], [`start_failure`] | a started worker until it is ready, and how it can fail |
//! | [`launch`] | the process of a worker and its owner |
//! | [`plan`] | the engine, the devices and the memory of a start |
//! | [`survey`] | what there is for a start, and the places where it could go |
//! | [`conditions`] | what slows a worker down that is not its own work |
//! | [`memory`] | what a model needs, what is free, and who holds the rest |
//! | [`owner`], [`pulse`], [`stop`], [`measure`] | the task that holds the processes; signs of life; stopping; measuring |
//! | [`shared`] | what the files above share |
//! | [`trouble`] | engines that fail since they were installed, and the way back |
//! | [`learned`] | what workers took of memory, for later plans |
//! | [`support`], [`tried`] | which engines can run a model; what they were tried with |
//! | [`registry`], [`affinity`], [`resident`], [`endpoint`] | the list of workers; who has which conversation; what a decision knows of a worker; requests in flight |
//! | [`handle`] | what everything but the owner holds of a worker |
//! | [`record`] | a worker on disk, for a later daemon |
//! | [`processes`], [`child`], [`adopted`] | the process group of a worker, by who started it |
//! | [`usage`], [`devices`], [`socket_owner`], [`health`], [`log_follow`], [`load_progress`] | what workers and machine use, serve, answer and write |
//! | [`abilities`] | what a model can do on an engine |
//! | [`request`] | what a caller asks of a new worker |
//! | [`engines`] | descriptions of engines, their search and their choice |
//! | [`gpus`], [`process_group`], [`identity`], [`oom_killer`] | what drivers and the system tell |
//! | [`start_error`], [`state`], [`end`], [`causes`], [`exit`], [`folder`], [`report`], [`log_progress`] | plain values and files |
//! | [`environment`], [`place`], [`worker`], [`secret`], [`device`] | plain values |

pub mod telemetry;
mod supervisor;
mod adopt;
mod restart;
mod removal;
mod trial;
mod start;
mod readiness;
mod start_failure;
mod launch;
mod plan;
mod survey;
mod conditions;
mod memory;
mod owner;
mod pulse;
mod stop;
mod measure;
mod shared;
mod trouble;
mod learned;
mod support;
mod tried;
mod registry;
mod resident;
mod affinity;
mod endpoint;
mod handle;
mod record;
mod processes;
mod child;
mod adopted;
mod usage;
pub mod devices;
mod socket_owner;
mod health;
pub mod log_follow;
mod load_progress;
mod abilities;
mod request;
pub mod engines;
pub mod gpus;
mod process_group;
mod identity;
mod oom_killer;
mod start_error;
mod state;
mod end;
mod causes;
mod exit;
mod folder;
mod report;
mod log_progress;
mod environment;
pub(crate) mod sandbox;
mod place;
mod worker;
mod route;
mod secret;
mod device;

#[cfg(test)]
mod tests;

pub use abilities::{Abilities, Served};
pub use adopt::{Adoption, NewerWorker};
pub(crate) use affinity::Affinity;
pub use affinity::{Conversation, Preference};
pub(crate) use child::{ChildGroup, WITH_LIFELINE};
pub use conditions::Conditions;
pub use device::Device;
pub(crate) use end::GroupEnd;
pub use endpoint::{Endpoint, InFlight};
pub(crate) use environment::keep_secrets;
pub(crate) use exit::Exit;
pub(crate) use log_follow::last_lines;
pub(crate) use memory::DEFAULT_CONTEXT;
pub(crate) use memory::{DeviceMemory, free_ram};
pub use memory::{ForeignProcess, StoppableWorker};
pub use place::{MemoryPart, Place, Share};
pub use plan::LoadPlan;
pub use registry::{Cause, ChangeKind, WorkerChange};
pub use request::{Asked, StartRequest, Trial};
pub(crate) use resident::{ResidentWorker, WorkerPhase};
pub use route::Route;
pub use secret::Secret;
pub use socket_owner::port_holder;
pub(crate) use socket_owner::port_holder_in_words;
pub use stop::Stopped;
pub use supervisor::Supervisor;
pub(crate) use trial::{Fate, TrialWorker, Tried, TryError, WhyNot};
pub use worker::{Status, Worker};
