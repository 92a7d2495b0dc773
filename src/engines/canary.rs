//! The canary: a new build of an engine proves itself on this machine before it is used.
//!
//! It tells its version and lists its devices. Then a worker tries it on each kind of device that it is for, with a
//! small model that the hive makes: it has to answer with exactly the known sentence, without an error in its log,
//! and to give its memory back. Last, where a model of this machine fits beside what is in memory, it is measured with
//! that; and compared with the version before, where there is one: it must not be much slower.
//!
//! Nothing goes for a try, and each step is bounded by `timers.readiness`: a build that hangs does not prove itself.
//! What cannot be tried for want of memory is left out, and told.

mod compare;
mod sample;
mod ask;
mod attempt;

#[cfg(test)]
mod tests;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use self::attempt::Try;
use self::attempt::Unproven;
pub(crate) use self::attempt::{Canary, Candidate, Proof};
use crate::engine_store::{Build, BuildDraft, EngineStore, Provenance, Trouble};
use crate::error::{Failure, Result};
use crate::{n, spawn};

impl Canary {
    /// Tries the build in a draft, and gives the draft back with what it has shown. A build that fails is set aside
    /// with its log, and the version before stays in use.
    ///
    /// # Errors
    /// [`EngineUnproven`](crate::error::Code::EngineUnproven), which says where the log is; or why nothing was found out: then the draft is gone.
    pub(crate) async fn prove_draft(
        &self,
        store: &EngineStore,
        draft: BuildDraft,
        from: Provenance,
        candidate: &Candidate,
        before: Option<&Build>,
        stop: &CancellationToken,
    ) -> Result<(BuildDraft, Proof)> {
        let (failure, log) = match self.prove(candidate, before, &store.downloads(), stop).await {
            Ok(proof) => return Ok((draft, proof)),
            Err(Unproven::Undecided(failure)) => return Err(failure),
            Err(Unproven::Failed { failure, log }) => (failure, log),
        };
        let trouble =
            Trouble { version: candidate.version.clone(), from, reason: failure.message.clone(), log };
        let (store, id) = (store.clone(), candidate.id);
        let set_aside = spawn::blocking(move || store.set_aside(draft, id, trouble)).await.flatten();
        let stays = before.map(|build| format!("; {} stays in use", build.version)).unwrap_or_default();
        let log = match set_aside {
            Ok(failed) => format!("; its log is {}", failed.log.display()),
            Err(error) => {
                n!(warn: "worker_install_try", "The build could not be set aside with its log: {error}");
                String::new()
            }
        };
        Err(Failure { message: format!("{}{stays}{log}", failure.message), ..failure })
    }

    /// Tries a build, and compares it with the version before, if there is one. `folder` is where the model is
    /// written that it is tried with, and removed again.
    ///
    /// # Errors
    /// Why it did not prove itself.
    pub(crate) async fn prove(
        &self,
        candidate: &Candidate,
        before: Option<&Build>,
        folder: &Path,
        stop: &CancellationToken,
    ) -> Result<Proof, Unproven> {
        let Candidate { id, version, .. } = candidate;
        n!("worker_install_try", "Trying {id} {version} before it is used");
        let (proof, log) = (Proof::default(), Vec::new());
        let mut tried = Try { canary: self, candidate, stop, proof, log };
        let engine = tried.describe().await?;
        tried.answer_with_sample(&engine, folder).await?;
        tried.measure(&engine, before).await?;
        n!("worker_install_try", "{id} {version} has proved itself");
        Ok(tried.proof)
    }
}
