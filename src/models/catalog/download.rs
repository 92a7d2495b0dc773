//! Bringing a model here.
//!
//! The road of a download: ask the source which files there are; say what is there already; compare
//! the rest with the free disk; and, unless it is a dry run, transfer what is missing and make a
//! model of it.

use std::fs;
use std::path::Path;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::files;
use crate::models::Catalog;
use crate::models::Model;
use crate::models::Source;
use crate::models::catalog::import::{self, Present};
use crate::models::catalog::resolve::Resolution;
use crate::models::plan::{Downloaded, MARGIN, Plan, PlannedFile, Request};
use crate::models::transfer::partial;
use crate::models::transfer::remote::{Destination, RemoteFile, Resolved};
use crate::models::transfer::transfers::Fetched;
use crate::models::units;
use crate::n;
use crate::narration::waiting_for;

impl Catalog {
    /// Brings the model that `source` names, or says what that would take. Jobs that want the same
    /// file share its transfer.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled; [`Code::DownloadFailed`],
    /// [`Code::SourceNotFound`], [`Code::SourceRefused`], [`Code::ModelCorrupt`],
    /// [`Code::ModelExists`], [`Code::DiskFull`], and those of [`Self::import`]. What a download that
    /// ended early can go on with stays on the disk.
    pub async fn download(
        &self,
        source: &Source,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        if !source.has_revisions() {
            check_revision(request)?;
        }
        if let Source::File(path) = source {
            return if request.dry_run {
                self.plan_import(path).await
            } else {
                Ok(model(self.import_unless(path, request.force, stop).await?))
            };
        }
        let resolved = unless_cancelled(stop, self.resolve(source, request)).await?;
        match resolved.map_err(|failure| failure.stage("preflight"))? {
            Resolution::Here(present) => {
                let (name, size) = (&present.name, units::bytes(present.size_bytes));
                n!("model_download_present", "{name} is here already ({size})");
                if request.dry_run {
                    return Ok(Downloaded::Plan(Plan::nothing(&present, self.free_bytes().await?)));
                }
                Ok(model(*present))
            }
            Resolution::Files(resolved) => self.fetch(resolved, request, stop).await,
        }
    }

    async fn plan_import(&self, path: &Path) -> Result<Downloaded> {
        let import = self.inspect(path).await?;
        let free_bytes = self.free_bytes().await?;
        let record = import.record.clone();
        let already_present = self.on_pool(move |inner| inner.present(&record)).await? == Present::Same;
        Ok(Downloaded::Plan(Plan::link(&import.record, free_bytes, already_present)))
    }

    /// Transfers the files that are missing, one after another, and makes a model of all.
    async fn fetch(
        &self,
        resolved: Resolved,
        request: &Request,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        let plan = self.preflight(&resolved).await?;
        if request.dry_run {
            return Ok(Downloaded::Plan(plan));
        }
        if !plan.fits {
            let folder =
                resolved.files.first().and_then(|(_, to)| to.target.parent()).unwrap_or(Path::new("."));
            return Err(Failure::new(
                Code::DiskFull,
                format!(
                    "{} needs {}, and {} has {} free, of which {} are kept",
                    plan.model,
                    units::bytes(plan.transfer_bytes.unwrap_or_default()),
                    folder.display(),
                    units::bytes(plan.free_bytes),
                    units::bytes(MARGIN)
                ),
            )
            .stage("preflight")
            .hint("free some space on that disk, or start the hive with another --data-dir"));
        }
        let mut stored_files = Vec::new();
        for (file, destination) in &resolved.files {
            match self.0.transfers.fetch(file, destination, stop).await? {
                Fetched::Stored(stored) => stored_files.push(stored),
                Fetched::OtherFile => return Err(import::exists(&file.name, true)),
            }
        }
        // What is left to do takes a moment, and is done even where the job was cancelled by now: all
        // files are here.
        let commit = resolved.commit;
        let path = self.on_pool(move |_| commit(&stored_files)).await??;
        let brought = self.at(&path).await?;
        n!("model_download_done", "{} is here: {}", brought.id, units::bytes(brought.size_bytes));
        Ok(model(brought))
    }

    /// Compares what is to come with what is free, and says so, before the first byte.
    async fn preflight(&self, resolved: &Resolved) -> Result<Plan> {
        for remark in &resolved.remarks {
            n!("model_download_preflight", "{remark}");
        }
        let files = resolved.files.clone();
        let (here, free_bytes) = self
            .on_pool(move |_| {
                let here: Vec<_> = files.iter().map(|(file, to)| here(file, to)).collect();
                let folder = files.first().map(|(_, to)| existing_folder(&to.partial));
                (here, folder.map_or(Ok(u64::MAX), free_bytes_of))
            })
            .await?;
        let free_bytes = free_bytes?;
        let mut total_bytes = Some(0_u64);
        let mut transfer_bytes = Some(0_u64);
        let mut planned = Vec::new();
        for ((file, _), here) in resolved.files.iter().zip(&here) {
            let size = file.size.or(here.is_whole.then_some(here.bytes));
            let text = size.map_or_else(|| "of unknown size".to_owned(), units::bytes);
            let state = match (here.is_whole, here.bytes) {
                (true, _) => "is here already".to_owned(),
                (false, 0) => "nothing of it is here yet".to_owned(),
                (false, bytes) => format!("{} of it are here", units::bytes(bytes)),
            };
            n!("model_download_present", "{} ({text}): {state}", file.name);
            let add = |sum: Option<u64>, size: Option<u64>| Some(sum?.saturating_add(size?));
            total_bytes = add(total_bytes, size);
            let missing = size.map(|size| if here.is_whole { 0 } else { size.saturating_sub(here.bytes) });
            transfer_bytes = add(transfer_bytes, missing);
            planned.push(PlannedFile { name: file.name.clone(), size_bytes: size });
        }
        let already_present = here.iter().all(|here| here.is_whole);
        let fits = already_present || transfer_bytes.unwrap_or(0).saturating_add(MARGIN) <= free_bytes;
        n!(
            "model_download_preflight",
            "{} from {}{}: {} file(s), {} to transfer; the disk has {} free",
            resolved.model,
            resolved.source,
            resolved.revision.as_ref().map(|revision| format!(" at {revision}")).unwrap_or_default(),
            planned.len(),
            transfer_bytes.map_or_else(|| "an unknown amount".to_owned(), units::bytes),
            units::bytes(free_bytes)
        );
        Ok(Plan {
            model: resolved.model.clone(),
            source: resolved.source.clone(),
            files: planned,
            total_bytes,
            transfer_bytes,
            free_bytes,
            fits,
            already_present,
            gated: resolved.gated,
        })
    }

    /// Waits until no other job writes that file of the store.
    pub(crate) async fn take_turn(
        &self,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<OwnedMutexGuard<()>> {
        let path = self.0.store.path(name);
        if let Some(turn) = self.0.turns.try_take(&path) {
            return Ok(turn);
        }
        n!("model_download_joined", "Another job is bringing {name}: waiting for it");
        let _waiting = waiting_for(format!("another job to bring {name}"));
        unless_cancelled(stop, self.0.turns.take(&path)).await
    }

    async fn free_bytes(&self) -> Result<u64> {
        self.on_pool(|inner| free_bytes_of(inner.store.dir())).await?
    }
}

/// What is here of a file.
struct Here {
    bytes: u64,
    is_whole: bool,
}

fn here(file: &RemoteFile, to: &Destination) -> Here {
    if !to.replace
        && let Ok(metadata) = fs::metadata(&to.target)
    {
        return Here { bytes: metadata.len(), is_whole: true };
    }
    let bytes = partial::unfinished_at(&to.partial, Some(file)).map_or(0, |left| left.done);
    Here { bytes, is_whole: false }
}

/// The nearest folder above `path` that is there.
fn existing_folder(path: &Path) -> &Path {
    path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

fn free_bytes_of(folder: &Path) -> Result<u64> {
    files::free_bytes(folder).map_err(|error| Failure::io("measure the disk of", folder, &error))
}

fn check_revision(request: &Request) -> Result<()> {
    if request.revision == "main" {
        return Ok(());
    }
    let message = format!("revision: '{}' means nothing for a file or a URL", request.revision);
    Err(Failure::new(Code::InvalidField, message)
        .hint("leave the field out: only models of a hub have revisions"))
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

#[cfg(test)]
mod tests;
