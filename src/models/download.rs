//! Bringing a model here.
//!
//! The road of a download: say what is there already; ask the server; compare the size with the
//! free disk; and, unless it is a dry run, receive into a partial file, check length, hash and
//! header, write the record, and only then give the file its name.

use std::sync::Arc;

use rustix::fs::statvfs;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::fetch::{self, Answer, failed};
use super::guard::{Guard, Vetted, authority};
use super::headers::sound_model;
use super::import::{self, Present};
use super::partial::{PartialFile, Written};
use super::plan::{Downloaded, MARGIN, Plan, Request};
use super::store::{Record, RecordedFile};
use super::transfer::Transfer;
use super::{Catalog, Model, RemoteFile, Source, Status, units};
use crate::error::{Code, Failure, Result};
use crate::n;
use crate::narration::waiting_for;

impl Catalog {
    /// Brings the model that `source` names, or says what that would take. Jobs that want the same
    /// file wait for each other, and find it there.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled; [`Code::DownloadFailed`],
    /// [`Code::SourceNotFound`], [`Code::SourceRefused`], [`Code::ModelCorrupt`],
    /// [`Code::DiskFull`], [`Code::ModelExists`], and those of [`Self::import`]. Nothing of a
    /// download that failed stays on the disk.
    pub async fn download(
        &self,
        source: &Source,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        if request.revision != "main" {
            return Err(Failure::new(
                Code::InvalidField,
                format!("revision: '{}' means nothing for a file or a URL", request.revision),
            )
            .hint("leave the field out: only models of a hub have revisions"));
        }
        match source {
            Source::File(path) if request.dry_run => self.plan_import(path).await,
            Source::File(path) => Ok(model(self.import_unless(path, request.force, stop).await?)),
            Source::Remote(remote) => self.fetch(remote, request, stop).await,
        }
    }

    async fn plan_import(&self, path: &std::path::Path) -> Result<Downloaded> {
        let import = self.inspect(path).await?;
        let free_bytes = self.free_bytes().await?;
        let record = import.record.clone();
        let already_present = self.on_pool(move |inner| inner.present(&record)).await? == Present::Same;
        Ok(Downloaded::Plan(Plan::link(&import.record, free_bytes, already_present)))
    }

    async fn fetch(
        &self,
        remote: &RemoteFile,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        let name = &remote.file_name;
        let _turn = if request.dry_run { None } else { Some(self.take_turn(name, stop).await?) };
        if let Some(present) = self.already_present(remote, request).await? {
            n!("model_download_present", "{name} is here already ({})", units::bytes(present.size_bytes));
            return if request.dry_run {
                self.plan_nothing(remote, &present).await
            } else {
                Ok(model(present))
            };
        }

        let guard = self.guard(remote);
        let answer = {
            let _waiting = waiting_for(format!("{} to answer", remote.url.host_str().unwrap_or_default()));
            let answer = unless_cancelled(stop, fetch::open(&remote.url, &guard, &self.0.timers)).await?;
            answer.map_err(|failure| failure.stage("preflight"))?
        };
        let plan = self.preflight(remote, &answer).await?;
        if request.dry_run {
            return Ok(Downloaded::Plan(plan));
        }
        if !plan.fits {
            let needed = plan.total_bytes.unwrap_or_default();
            return Err(Failure::new(
                Code::DiskFull,
                format!(
                    "{name} has {}, and {} has {} free, of which {} are kept",
                    units::bytes(needed),
                    self.0.store.dir().display(),
                    units::bytes(plan.free_bytes),
                    units::bytes(MARGIN)
                ),
            )
            .stage("preflight")
            .hint("free some space on that disk, or start the hive with another --data-dir"));
        }
        self.receive(remote, answer, plan.free_bytes, stop).await.map(model)
    }

    /// Waits until no other job writes that file of the store.
    pub(super) async fn take_turn(
        &self,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<OwnedMutexGuard<()>> {
        let turn = self.turn(name);
        if let Ok(turn) = Arc::clone(&turn).try_lock_owned() {
            return Ok(turn);
        }
        n!("model_download_joined", "Another job is bringing {name}: waiting for it");
        let _waiting = waiting_for(format!("another job to bring {name}"));
        unless_cancelled(stop, turn.lock_owned()).await
    }

    /// The model, if this very source was brought before and is sound.
    async fn already_present(&self, remote: &RemoteFile, request: &Request) -> Result<Option<Model>> {
        let (name, wanted) = (&remote.file_name, record(remote, 0, String::new()));
        let (present, known) = self
            .on_pool({
                let name = name.clone();
                move |inner| (inner.present(&wanted), inner.store.record(&name))
            })
            .await?;
        match present {
            Present::No => {
                n!("model_download_present", "Nothing of {name} is here yet");
                Ok(None)
            }
            Present::Other { owned } if !(owned && request.force) => Err(import::exists(name, owned)),
            Present::Same if !request.force => {
                let model = self.at(&self.0.store.path(name)).await?;
                let hash = known.and_then(|record| record.sha256);
                if model.status != Status::Available {
                    n!(warn: "model_download_present", "{name} is here, but damaged: fetching it again");
                    return Ok(None);
                }
                if remote.sha256.is_some() && hash != remote.sha256 {
                    n!(warn: "model_download_present", "{name} is here with other contents: fetching it again");
                    return Ok(None);
                }
                Ok(Some(model))
            }
            Present::Same | Present::Other { .. } => {
                n!("model_download_present", "The {name} that is here will be replaced");
                Ok(None)
            }
        }
    }

    fn guard(&self, remote: &RemoteFile) -> Guard {
        Guard {
            allowed: self.0.downloads.allow_hosts.clone(),
            named: authority(&remote.url).filter(|_| self.0.is_local),
            patience: self.0.timers.connect,
            vetted: Vetted::default(),
        }
    }

    async fn free_bytes(&self) -> Result<u64> {
        self.on_pool(|inner| {
            let dir = inner.store.dir();
            let disk =
                statvfs(dir).map_err(|error| Failure::io("measure the disk of", dir, &error.into()))?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        })
        .await?
    }

    /// Compares what is to come with what is free, and says so.
    async fn preflight(&self, remote: &RemoteFile, answer: &Answer) -> Result<Plan> {
        let free_bytes = self.free_bytes().await?;
        let size = answer.length.map_or_else(|| "of unknown size".to_owned(), units::bytes);
        n!(
            "model_download_preflight",
            "{} ({size}) from {}; the disk has {} free",
            remote.file_name,
            answer.host,
            units::bytes(free_bytes)
        );
        Ok(Plan::remote(remote, answer.length, free_bytes))
    }

    async fn plan_nothing(&self, remote: &RemoteFile, present: &Model) -> Result<Downloaded> {
        let plan = Plan::remote(remote, Some(present.size_bytes), self.free_bytes().await?);
        Ok(Downloaded::Plan(Plan { transfer_bytes: Some(0), fits: true, already_present: true, ..plan }))
    }

    /// Receives the body, and makes it a model of the store if it is sound.
    ///
    /// Cancelling ends the transfer. Once the whole file is here it is kept: what is left to do takes
    /// a moment, and a model that a cancelled job put down would be a lie.
    async fn receive(
        &self,
        remote: &RemoteFile,
        mut answer: Answer,
        free_bytes: u64,
        stop: &CancellationToken,
    ) -> Result<Model> {
        let target = self.0.store.path(&remote.file_name);
        let partial_path = self.0.store.partial_path(&remote.file_name);
        let partial = self.on_pool(move |_| PartialFile::create(&partial_path)).await??;
        let _active = self.0.store.activate(&target, &remote.shown());

        let length = answer.length;
        let mut transfer = Transfer::new(&mut answer, &self.0.timers, free_bytes);
        let received = unless_cancelled(stop, transfer.run(&partial)).await.and_then(|received| received);
        let written = received.map_err(|mut failure| {
            // How far it came says whether to try again.
            failure.message += &format!(", after {}", came(transfer.done, length));
            failure.stage("transfer")
        })?;
        verify(remote, &answer, &written)?;
        n!("model_download_verify", "Received {}; checking the file", units::bytes(written.length));

        let record = record(remote, written.length, written.sha256);
        let at = target.clone();
        let host = answer.host;
        self.on_pool(move |inner| {
            sound_model(partial.path()).map_err(|failure| damaged(&host, failure))?;
            // The record comes first: a record without its file is ignored, and a file without its
            // record would not be the hive's own.
            inner.store.write_record(&record)?;
            partial.keep(&at)?;
            inner.store.sync()
        })
        .await??;
        let model = self.at(&target).await?;
        n!("model_download_done", "{} is here: {}", model.id, units::bytes(model.size_bytes));
        Ok(model)
    }
}

/// Does the work until it is done or `stop` is cancelled.
async fn unless_cancelled<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::new(Code::Cancelled, "the download was cancelled")),
        done = work => Ok(done),
    }
}

fn model(model: Model) -> Downloaded {
    Downloaded::Model(Box::new(model))
}

fn record(remote: &RemoteFile, size_bytes: u64, sha256: String) -> Record {
    Record {
        source: remote.shown(),
        url_sha256: Some(remote.digest()),
        revision: None,
        sha256: Some(sha256),
        files: vec![RecordedFile { name: remote.file_name.clone(), size_bytes, link: None }],
    }
}

fn came(done: u64, length: Option<u64>) -> String {
    match length {
        Some(length) => format!("{} of {}", units::bytes(done), units::bytes(length)),
        None => units::bytes(done),
    }
}

fn verify(remote: &RemoteFile, answer: &Answer, written: &Written) -> Result<()> {
    if let Some(length) = answer.length.filter(|&length| length != written.length) {
        return Err(failed(format!(
            "{} sent {} where it had announced {}",
            answer.host,
            units::bytes(written.length),
            units::bytes(length)
        )));
    }
    match &remote.sha256 {
        Some(expected) if *expected != written.sha256 => Err(Failure::new(
            Code::DownloadFailed,
            format!("what {} sent has the SHA-256 {}, not {expected}", answer.host, written.sha256),
        )
        .stage("verify")
        .hint("the file was changed or damaged: check the hash, or where it comes from")),
        _ => Ok(()),
    }
}

fn damaged(host: &str, failure: Failure) -> Failure {
    let message = format!("the file that {host} sent is no usable model: {}", failure.message);
    Failure { message, ..failure }.stage("verify")
}

#[cfg(test)]
mod tests;
