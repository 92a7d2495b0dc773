//! Bringing a model here.
//!
//! The road of a download: say what is there already; ask the server; compare the size with the
//! free disk; and, unless it is a dry run, receive into a partial file, check length, hash and
//! header, write the record, and only then give the file its name.

use rustix::fs::statvfs;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::fetch::{self, Answer, failed};
use super::guard::{Guard, Vetted, authority};
use super::headers::sound_model;
use super::import::{self, Present};
use super::partial::{PartialFile, Written};
use super::progress::{self, Meter};
use super::store::{Record, RecordedFile};
use super::{Catalog, Model, RemoteFile, Source, Status, units};
use crate::error::{Code, Failure, Result};
use crate::n;
use crate::narration::waiting_for;

/// Disk space that a download leaves free, in bytes: a full disk hurts more than a missing model.
const MARGIN: u64 = 256 << 20;

/// How a model is to be brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The revision of the source; sources without revisions have only `main`.
    pub revision: String,
    /// Whether to stop before the first byte, with a [`Plan`].
    pub dry_run: bool,
    /// Whether to fetch again what is there, and to replace what the hive itself put there.
    pub force: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self { revision: "main".to_owned(), dry_run: false, force: false }
    }
}

/// What came of it. Serialises as what is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Downloaded {
    /// The model, which is here now.
    Model(Box<Model>),
    /// What would have been done.
    Plan(Plan),
}

/// What a download would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The name that the model would have.
    pub model: String,
    /// As [`Model::source`].
    pub source: String,
    /// The files that it has.
    pub files: Vec<PlannedFile>,
    /// Size of all files in bytes, where the server says.
    pub total_bytes: Option<u64>,
    /// Bytes to be transferred: none for what is here already or only linked.
    pub transfer_bytes: Option<u64>,
    /// Free bytes on the store's disk.
    pub free_bytes: u64,
    /// Whether they are enough, with a margin.
    pub fits: bool,
    /// Whether the model is here already.
    pub already_present: bool,
}

/// One file of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedFile {
    /// Its name in the store.
    pub name: String,
    /// Its size in bytes, where the server says.
    pub size_bytes: Option<u64>,
}

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
        let work = async {
            match source {
                Source::File(path) if request.dry_run => self.plan_import(path).await,
                Source::File(path) => Ok(model(self.import(path, request.force).await?)),
                Source::Remote(remote) => self.fetch(remote, request).await,
            }
        };
        // Dropping the work closes its connection and removes its partial file.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::new(Code::Cancelled, "the download was cancelled")),
            result = work => result,
        }
    }

    async fn plan_import(&self, path: &std::path::Path) -> Result<Downloaded> {
        let import = self.inspect(path).await?;
        let free_bytes = self.free_bytes().await?;
        let record = import.record.clone();
        let already_present = self.on_pool(move |inner| inner.present(&record)).await? == Present::Same;
        let planned =
            |file: &RecordedFile| PlannedFile { name: file.name.clone(), size_bytes: Some(file.size_bytes) };
        let total = import.record.files.iter().map(|file| file.size_bytes).sum();
        Ok(Downloaded::Plan(Plan {
            model: super::split::stem(&import.record.files[0].name).to_owned(),
            source: import.record.source.clone(),
            files: import.record.files.iter().map(planned).collect(),
            total_bytes: Some(total),
            transfer_bytes: Some(0),
            free_bytes,
            fits: true,
            already_present,
        }))
    }

    async fn fetch(&self, remote: &RemoteFile, request: &Request) -> Result<Downloaded> {
        let name = &remote.file_name;
        let turn = self.turn(name);
        let _turn = match turn.try_lock() {
            _ if request.dry_run => None,
            Ok(turn) => Some(turn),
            Err(_) => {
                n!("model_download_joined", "Another job is bringing {name}: waiting for it");
                let _waiting = waiting_for(format!("another job to bring {name}"));
                Some(turn.lock().await)
            }
        };
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
            fetch::open(&remote.url, &guard, &self.0.timers)
                .await
                .map_err(|failure| failure.stage("preflight"))?
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
        self.receive(remote, answer, plan.free_bytes).await.map(model)
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
            Present::No => Ok(None),
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
            "{} ({size}) from {}; the disk has {} free; nothing of it is here yet",
            remote.file_name,
            answer.host,
            units::bytes(free_bytes)
        );
        Ok(Plan {
            fits: answer.length.unwrap_or(0).saturating_add(MARGIN) <= free_bytes,
            transfer_bytes: answer.length,
            ..plan(remote, answer.length, free_bytes)
        })
    }

    async fn plan_nothing(&self, remote: &RemoteFile, present: &Model) -> Result<Downloaded> {
        let plan = plan(remote, Some(present.size_bytes), self.free_bytes().await?);
        Ok(Downloaded::Plan(Plan { transfer_bytes: Some(0), already_present: true, ..plan }))
    }

    /// Receives the body, and makes it a model of the store if it is sound.
    async fn receive(&self, remote: &RemoteFile, mut answer: Answer, free_bytes: u64) -> Result<Model> {
        let target = self.0.store.path(&remote.file_name);
        let partial_path = self.0.store.partial_path(&remote.file_name);
        let partial = self.on_pool(move |_| PartialFile::create(&partial_path)).await??;
        let _active = self.0.store.activate(&target, &remote.shown());

        let mut done = 0;
        let received = self.transfer(&mut answer, &partial, &mut done, free_bytes).await;
        let written = received.map_err(|mut failure| {
            // A stream that stops says little by itself; how far it came says whether to try again.
            failure.message += &format!(", after {}", came(done, answer.length));
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

    /// Moves the body to the disk, with progress.
    async fn transfer(
        &self,
        answer: &mut Answer,
        partial: &PartialFile,
        done: &mut u64,
        free_bytes: u64,
    ) -> Result<Written> {
        let timers = &self.0.timers;
        let mut writer = partial.writer()?;
        let mut magic = Vec::new();
        let mut last_piece = Instant::now();
        let mut meter = Meter::new(answer.length, last_piece);
        let mut ticks = interval(timers.progress.max(std::time::Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut has_warned = false;
        loop {
            let piece = tokio::select! {
                biased;
                _ = ticks.tick() => {
                    let progress = meter.sample(*done, Instant::now());
                    let sentence = progress::sentence(&progress);
                    n!(progress: progress, "model_download_progress", "{sentence}");
                    let silence = last_piece.elapsed();
                    if !has_warned && silence > timers.stall / 3 {
                        has_warned = true;
                        n!(warn: "model_download_stalled", "{} has sent nothing for {}; giving up after {}",
                           answer.host, units::duration(silence), units::duration(timers.stall));
                    }
                    continue;
                }
                piece = answer.chunk(last_piece) => piece?,
            };
            let Some(piece) = piece else { break };
            // What is no GGUF file is not worth its transfer.
            if magic.len() < GGUF.len() {
                magic.extend(piece.iter().take(GGUF.len() - magic.len()));
                if !GGUF.starts_with(&magic) {
                    return Err(failed(format!("what {} sends is not a GGUF file", answer.host))
                        .hint("check the URL in a browser: it must lead to the file itself"));
                }
            }
            *done += piece.len() as u64;
            if done.saturating_add(MARGIN) > free_bytes {
                return Err(Failure::new(Code::DiskFull, "the file is larger than the free disk")
                    .hint("free some space on that disk, then try again"));
            }
            writer.write(piece).await?;
            last_piece = Instant::now();
            has_warned = false;
        }
        let progress = meter.sample(*done, Instant::now());
        let sentence = progress::sentence(&progress);
        n!(progress: progress, "model_download_progress", "{sentence}");
        writer.finish().await
    }
}

const GGUF: &[u8] = b"GGUF";

fn model(model: Model) -> Downloaded {
    Downloaded::Model(Box::new(model))
}

fn plan(remote: &RemoteFile, size_bytes: Option<u64>, free_bytes: u64) -> Plan {
    let name = remote.file_name.clone();
    Plan {
        model: super::split::stem(&name).to_owned(),
        source: remote.shown(),
        files: vec![PlannedFile { name, size_bytes }],
        total_bytes: size_bytes,
        transfer_bytes: size_bytes,
        free_bytes,
        fits: true,
        already_present: false,
    }
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
