//! Downloads or imports a model.
//!
//! A download resolves the source to files; states which of them exist; compares the rest with the free
//! disk; and, unless it is a dry run, transfers what is missing and makes a model of it. A file of this
//! machine is linked instead.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Catalog;
use super::plan::{Downloaded, MARGIN, Plan, PlannedFile};
use crate::error::{Code, Failure, Result};
use crate::models::library::record::StoreRecord;
use crate::models::library::store::{NameStatus, name_taken};
use crate::models::model::Model;
use crate::models::needs::Needs;
use crate::models::sources::resolution::{Resolution, ResolvedModel};
use crate::models::sources::{DownloadRequest, FileSource, Source};
use crate::models::transfer::partial;
use crate::models::transfer::remote::{Destination, RemoteFile};
use crate::models::transfer::transfers::Fetched;
use crate::narration::waiting_for;
use crate::text::bytes;
use crate::{files, n};

/// How long a disk may take to tell how much is free, where nobody waits for it.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Catalog {
    /// Downloads or imports the model that `source` names, or plans that. Jobs that want the same file
    /// share its transfer.
    ///
    /// # Errors
    /// [`Code::Cancelled`] once `stop` is cancelled; [`Code::DownloadFailed`],
    /// [`Code::SourceNotFound`], [`Code::SourceRefused`], [`Code::ModelCorrupt`],
    /// [`Code::ModelExists`], [`Code::DiskFull`], and those of [`Self::import`]. What an interrupted
    /// download can resume stays on the disk.
    pub async fn download(
        &self,
        source: &Source,
        request: &DownloadRequest,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        if !source.has_revisions() {
            check_revision(request)?;
        }
        // Before this download writes what could be taken for the files of a killed hive.
        unless_cancelled(stop, self.tidy()).await??;
        match unless_cancelled(stop, source.resolve(request, &self.places)).await?? {
            Resolution::Present(path) => self.present(&path, request).await,
            Resolution::Link(record) if request.dry_run => self.plan_link(*record).await,
            Resolution::Link(record) => self.link(*record, request.force, stop).await.map(downloaded),
            Resolution::Fetch(resolved) => self.fetch(resolved, request, stop).await,
        }
    }

    /// Puts a link to the GGUF file at `path` into the store, with all its parts if it is split.
    /// Repeating this changes nothing.
    ///
    /// # Errors
    /// [`Code::SourceNotFound`] and [`Code::SourceRefused`] for the path; [`Code::ModelCorrupt`]
    /// for its contents; [`Code::ModelExists`] where the name is taken by another file, unless
    /// `force` and the hive put that there.
    pub async fn import(&self, path: &Path, force: bool) -> Result<Model> {
        let source = Source::File(FileSource { path: path.to_owned() });
        let request = DownloadRequest { force, ..DownloadRequest::default() };
        match self.download(&source, &request, &CancellationToken::new()).await? {
            Downloaded::Model(model) => Ok(*model),
            Downloaded::Plan(_) => Err(Failure::internal("an import was only planned")),
        }
    }

    async fn present(&self, path: &Path, request: &DownloadRequest) -> Result<Downloaded> {
        let model = self.at(path).await?;
        n!("model_download_present", "{} is here already ({})", model.name, bytes(model.size_bytes));
        if request.dry_run {
            let support = model.needs.as_ref().map(|needs| self.places.judge.support(needs));
            let free_bytes = self.free_bytes().await?;
            let plan = Plan::present(&model, support.unwrap_or_default(), free_bytes);
            return Ok(Downloaded::Plan(Box::new(plan)));
        }
        Ok(downloaded(model))
    }

    async fn plan_link(&self, record: StoreRecord) -> Result<Downloaded> {
        let free_bytes = self.free_bytes().await?;
        self.on_pool(move |catalog| {
            let library = &catalog.places.library;
            let status = library.store().name_status(&record, &library.probe())?;
            let plan = Plan::link(&record, free_bytes, status == NameStatus::SameModel);
            Ok(Downloaded::Plan(Box::new(plan)))
        })
        .await?
    }

    async fn link(&self, record: StoreRecord, force: bool, stop: &CancellationToken) -> Result<Model> {
        // A download to one of these names holds its turn until it has ended, and waits for no other.
        let mut turns = Vec::new();
        for file in record.all_files() {
            turns.push(self.take_turn(&file.name, stop).await?);
        }
        let link = move |catalog: &Self| {
            let library = &catalog.places.library;
            library.store().link(&record, force, &library.probe())
        };
        let path = self.on_pool(link).await??;
        drop(turns);
        self.at(&path).await
    }

    /// Transfers the missing files, one after another, and makes a model of all.
    pub(super) async fn fetch(
        &self,
        resolved: ResolvedModel,
        request: &DownloadRequest,
        stop: &CancellationToken,
    ) -> Result<Downloaded> {
        let plan = self.preflight(&resolved).await?;
        if request.dry_run {
            return Ok(Downloaded::Plan(Box::new(plan)));
        }
        if !plan.fits {
            return Err(does_not_fit(&plan, &resolved));
        }
        let mut stored_files = Vec::new();
        for (file, destination) in &resolved.files {
            match self.transfers.fetch(file, destination, stop).await? {
                Fetched::Stored(stored) => stored_files.push(stored),
                Fetched::OtherFile => return Err(name_taken(&file.name, true)),
            }
        }
        // The rest takes a moment, and is done even where the job was cancelled meanwhile: all files
        // are stored.
        let commit = resolved.commit;
        let path = self.on_pool(move |_| commit(&stored_files)).await??;
        let model = self.at(&path).await?;
        n!("model_download_done", "{} is here: {}", model.id, bytes(model.size_bytes));
        Ok(downloaded(model))
    }

    /// Plans the transfer and narrates the plan, before the first byte.
    async fn preflight(&self, resolved: &ResolvedModel) -> Result<Plan> {
        for remark in &resolved.remarks {
            n!("model_download_preflight", "{remark}");
        }
        let files = resolved.files.clone();
        let (existing, free_bytes) = self
            .on_pool(move |_| {
                let existing: Vec<_> = files.iter().map(|(file, to)| existing_part(file, to)).collect();
                let folder = files.first().map(|(_, to)| existing_folder(&to.partial));
                (existing, folder.map_or(Ok(u64::MAX), free_bytes_of))
            })
            .await?;
        let free_bytes = free_bytes?;
        let mut total_bytes = Some(0_u64);
        let mut transfer_bytes = Some(0_u64);
        let mut planned = Vec::new();
        for ((file, _), existing) in resolved.files.iter().zip(&existing) {
            let size = file.size.or(existing.is_complete.then_some(existing.bytes));
            let text = size.map_or_else(|| "of unknown size".to_owned(), bytes);
            let state = match (existing.is_complete, existing.bytes) {
                (true, _) => "is here already".to_owned(),
                (false, 0) => "nothing of it is here".to_owned(),
                (false, part) => format!("{} of it are here", bytes(part)),
            };
            n!("model_download_present", "{} ({text}): {state}", file.name);
            let add = |sum: Option<u64>, size: Option<u64>| Some(sum?.saturating_add(size?));
            total_bytes = add(total_bytes, size);
            let missing =
                |size: u64| if existing.is_complete { 0 } else { size.saturating_sub(existing.bytes) };
            transfer_bytes = add(transfer_bytes, size.map(missing));
            planned.push(PlannedFile { name: file.name.clone(), size_bytes: size });
        }
        let already_present = existing.iter().all(|existing| existing.is_complete);
        let fits = already_present || transfer_bytes.unwrap_or(0).saturating_add(MARGIN) <= free_bytes;
        n!(
            "model_download_preflight",
            "{} from {}{}: {} file(s), {} to transfer; the disk has {} free",
            resolved.model,
            resolved.source,
            resolved.revision.as_ref().map(|revision| format!(" at {revision}")).unwrap_or_default(),
            planned.len(),
            transfer_bytes.map_or_else(|| "an unknown amount".to_owned(), bytes),
            bytes(free_bytes)
        );
        let architecture = resolved.architecture.clone();
        let needs = architecture.as_deref().map(Needs::of_architecture);
        let support = needs.map(|needs| self.places.judge.support(&needs)).unwrap_or_default();
        if let Some(warning) = support.warning() {
            n!(warn: "model_download_engine", "{}: {warning}", resolved.model);
        }
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
            architecture,
            support,
        })
    }

    /// Waits until no other job writes that file of the store.
    async fn take_turn(&self, name: &str, stop: &CancellationToken) -> Result<OwnedMutexGuard<()>> {
        let path = self.places.library.store().path(name);
        if let Some(turn) = self.turns.try_take(&path) {
            return Ok(turn);
        }
        n!("model_download_joined", "Another job is writing {name}: waiting for it");
        let _waiting = waiting_for(format!("another job to finish {name}"));
        unless_cancelled(stop, self.turns.take(&path)).await
    }

    /// The free bytes on the store's disk; `None` where it does not tell at once.
    pub(crate) async fn free_bytes_soon(&self) -> Option<u64> {
        timeout(AT_ONCE, self.free_bytes()).await.ok()?.ok()
    }

    /// The free bytes on the store's disk.
    async fn free_bytes(&self) -> Result<u64> {
        self.on_pool(|catalog| free_bytes_of(catalog.places.library.store().dir())).await?
    }
}

/// What exists of a file.
struct ExistingPart {
    bytes: u64,
    is_complete: bool,
}

fn existing_part(file: &RemoteFile, to: &Destination) -> ExistingPart {
    if !to.replace
        && let Ok(metadata) = fs::metadata(&to.target)
    {
        return ExistingPart { bytes: metadata.len(), is_complete: true };
    }
    let unfinished = partial::unfinished_at(&to.partial, Some(file));
    ExistingPart { bytes: unfinished.map_or(0, |unfinished| unfinished.done), is_complete: false }
}

/// The nearest folder above `path` that exists.
fn existing_folder(path: &Path) -> &Path {
    path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

fn free_bytes_of(folder: &Path) -> Result<u64> {
    files::free_bytes(folder).map_err(|error| Failure::io("measure the disk of", folder, &error))
}

fn does_not_fit(plan: &Plan, resolved: &ResolvedModel) -> Failure {
    let folder = resolved.files.first().and_then(|(_, to)| to.target.parent()).unwrap_or(Path::new("."));
    let message = format!(
        "{} needs {}; {} has {} free, and {} must stay free",
        plan.model,
        bytes(plan.transfer_bytes.unwrap_or_default()),
        folder.display(),
        bytes(plan.free_bytes),
        bytes(MARGIN)
    );
    Failure::new(Code::DiskFull, message)
        .stage("preflight")
        .hint("free some space on that disk, or start the hive with another --data-dir")
}

fn check_revision(request: &DownloadRequest) -> Result<()> {
    if request.revision == "main" {
        return Ok(());
    }
    let message = format!("revision: '{}' is given, but this source has no revisions", request.revision);
    Err(Failure::new(Code::InvalidField, message)
        .hint("leave the field out: only models of the Hugging Face Hub have revisions"))
}

/// Does the work until it is done or `stop` is cancelled.
async fn unless_cancelled<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Failure::new(Code::Cancelled, "the download was cancelled")),
        done = work => Ok(done),
    }
}

fn downloaded(model: Model) -> Downloaded {
    Downloaded::Model(Box::new(model))
}

#[cfg(test)]
mod tests;
