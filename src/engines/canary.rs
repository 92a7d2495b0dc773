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
pub(crate) use self::attempt::{Canary, Candidate, Proof, Unproven};
use crate::engine_store::Build;
use crate::n;

impl Canary {
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
