//! Importing a file of this machine: the store gets a link to it, and nothing is copied.
//!
//! The link leads to the file's canonical path, so that a link on the way to it that is changed
//! later does not change what was imported. A reference and not a hard link or a copy of the extents:
//! it works across file systems, it doubles no accounting of the disk, and deleting the import can
//! never be taken for deleting the model. A folder is imported where it holds one model. Where the network can reach the hive, only files
//! beneath the user's model folders may be imported, and a refusal does not tell whether the file
//! exists.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::error::{Code, Failure, Result};
use crate::models::Catalog;
use crate::models::Model;
use crate::models::catalog::Inner;
use crate::models::library::headers::sound_model;
use crate::models::library::look::Look;
use crate::models::library::scan;
use crate::models::library::scan::Links;
use crate::models::library::split::{self, Part};
use crate::models::library::store::{Record, RecordedFile, file_name, remove_file};
use crate::models::units;
use crate::n;

/// How many models of a folder a failure names.
const MOST_NAMED: usize = 20;

/// A file to import, looked at and found sound.
#[derive(Debug)]
pub(crate) struct Import {
    /// The canonical paths of its files, in order.
    pub(crate) files: Vec<PathBuf>,
    /// What the record will say.
    pub(crate) record: Record,
}

/// What has that name in the store already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Present {
    /// Nothing.
    No,
    /// The very same.
    Same,
    /// Something else; whether the hive put it there.
    Other {
        /// Whether it may be replaced by force.
        owned: bool,
    },
}

impl Catalog {
    /// Puts a link to the GGUF file at `path` into the store, with all its parts if it is split.
    /// Doing so twice changes nothing.
    ///
    /// # Errors
    /// [`Code::SourceNotFound`] and [`Code::SourceRefused`] for the path; [`Code::ModelCorrupt`]
    /// for its contents; [`Code::ModelExists`] where the name is taken by another file, unless
    /// `force` and the hive put that there.
    pub async fn import(&self, path: &Path, force: bool) -> Result<Model> {
        self.import_unless(path, force, &CancellationToken::new()).await
    }

    /// The same, unless `stop` is cancelled while another job holds the name.
    pub(crate) async fn import_unless(
        &self,
        path: &Path,
        force: bool,
        stop: &CancellationToken,
    ) -> Result<Model> {
        let import = self.inspect(path).await?;
        let name = import.record.files[0].name.clone();
        // A download to that name holds its turn until it has ended.
        let _turn = self.take_turn(&name, stop).await?;
        let path = self.on_pool(move |inner| inner.link(&import, force)).await??;
        self.at(&path).await
    }

    /// Looks at a file to import.
    pub(crate) async fn inspect(&self, path: &Path) -> Result<Import> {
        let path = path.to_owned();
        self.on_pool(move |inner| inner.inspect(&path)).await?
    }
}

impl Inner {
    fn inspect(&self, path: &Path) -> Result<Import> {
        let named = self.model_of_folder(path)?;
        let path = named.as_deref().unwrap_or(path);
        let first = self.permitted(path)?;
        let name = split::name_of(path);
        if !scan::is_model_name(&name) {
            return Err(Failure::new(
                Code::SourceUnsupported,
                format!("{} is not a model's file", path.display()),
            )
            .hint("name a .gguf file that is a model by itself"));
        }
        // Of a split model any part may be named; all are imported.
        let mut files = vec![(name.clone(), first)];
        if let Some(part) = Part::parse(&name) {
            files.clear();
            for number in 1..=part.of {
                let sibling = part.sibling(number);
                let found = self.permitted(&path.with_file_name(&sibling)).map_err(|failure| {
                    failure.hint(format!("{name} is one of {} parts; all must lie beside it", part.of))
                })?;
                files.push((sibling, found));
            }
        }
        let mut recorded = Vec::new();
        for (name, file) in &files {
            let header = sound_model(file)?;
            recorded.push(RecordedFile {
                name: file_name(name),
                size_bytes: header.file_bytes,
                link: Some(file.clone()),
            });
        }
        let source = format!("file:{}", files[0].1.display());
        let record = Record { source, url_sha256: None, revision: None, sha256: None, files: recorded };
        Ok(Import { files: files.into_iter().map(|(_, file)| file).collect(), record })
    }

    /// The first file of the only model in a folder. `None` where the path is no folder that may be
    /// looked into.
    fn model_of_folder(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some(folder) = path.canonicalize().ok().filter(|path| path.is_dir()) else { return Ok(None) };
        let is_permitted = |root: &PathBuf| root.canonicalize().is_ok_and(|root| folder.starts_with(root));
        if !self.is_local && !self.folders.iter().any(is_permitted) {
            return Ok(None);
        }
        let mut groups = split::group(scan::gguf_files(path, Links::Follow, &Look::new(&self.known)));
        match groups.len() {
            0 => Err(Failure::new(
                Code::SourceNotFound,
                format!("there is no GGUF file of a model beneath {}", path.display()),
            )
            .hint("name the folder with the .gguf files, or one of them")),
            1 => Ok(groups.pop().map(|mut group| group.files.swap_remove(0))),
            count => {
                let name = |group: &split::Group| {
                    let file = &group.files[0];
                    file.strip_prefix(path).unwrap_or(file).display().to_string()
                };
                let mut names: Vec<_> = groups.iter().take(MOST_NAMED).map(name).collect();
                if count > MOST_NAMED {
                    names.push(format!("and {} more", count - MOST_NAMED));
                }
                Err(Failure::new(
                    Code::ModelAmbiguous,
                    format!("{} has {count} models: {}", path.display(), names.join(", ")),
                )
                .hint("name one of them, or start the hive with --models-dir to list them all in place"))
            }
        }
    }

    /// The canonical path of a file that may be imported.
    fn permitted(&self, path: &Path) -> Result<PathBuf> {
        let canonical = path.canonicalize().and_then(|path| Ok((path.metadata()?.is_file(), path)));
        if !self.is_local {
            let folders = self.folders.iter().filter_map(|folder| folder.canonicalize().ok());
            return match canonical {
                Ok((true, file)) if folders.into_iter().any(|folder| file.starts_with(folder)) => Ok(file),
                _ => Err(Failure::new(
                    Code::SourceRefused,
                    format!("{} is no file beneath the hive's model folders", path.display()),
                )
                .hint("beyond loopback, file: is limited to the folders given with --models-dir")),
            };
        }
        match canonical {
            Ok((true, file)) => Ok(file),
            Ok((false, _)) => Err(Failure::new(
                Code::SourceUnsupported,
                format!("{} is not a regular file", path.display()),
            )
            .hint("name a GGUF file, or list a whole folder with --models-dir")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Failure::new(Code::SourceNotFound, format!("there is no file {}", path.display()))
                    .hint("the path is one of the machine that the hive runs on: check it there"))
            }
            Err(error) => Err(Failure::io("read", path, &error)),
        }
    }

    /// What has the name of this import already.
    pub(crate) fn present(&self, record: &Record) -> Present {
        let name = &record.files[0].name;
        if fs::symlink_metadata(self.store.path(name)).is_err() {
            return Present::No;
        }
        let look = Look::new(&self.known);
        let found = self.store.scan(&look).into_iter().find(|found| found.file_name() == *name);
        match found.and_then(|found| self.store.record_of(&found, &look)) {
            None => Present::Other { owned: false },
            Some(existing) if existing.is_from(record) => Present::Same,
            Some(_) => Present::Other { owned: true },
        }
    }

    /// Links the files. Answers the path of the first link.
    fn link(&self, import: &Import, force: bool) -> Result<PathBuf> {
        let source = &import.files[0];
        if self.store.dir().canonicalize().is_ok_and(|store| source.parent() == Some(&*store)) {
            n!("model_import", "{} is in the store already", source.display());
            return Ok(self.store.path(&split::name_of(source)));
        }
        let record = &import.record;
        let name = &record.files[0].name;
        match self.present(record) {
            Present::Same => {
                n!("model_import", "{} is imported already", source.display());
                return Ok(self.store.path(name));
            }
            Present::Other { owned } if !(owned && force) => return Err(exists(name, owned)),
            Present::Other { .. } => n!("model_import", "Replacing the {name} that the hive had put there"),
            Present::No => {}
        }
        self.store.write_record(record)?;
        for (file, recorded) in import.files.iter().zip(&record.files) {
            let (link, draft) = (self.store.path(&recorded.name), self.store.partial_path(&recorded.name));
            // A killed hive may have left one.
            remove_file(&draft)?;
            // Made beside it and renamed over it: the name leads to one file or the other.
            symlink(file, &draft)
                .and_then(|()| fs::rename(&draft, &link))
                .map_err(|error| Failure::io("make the link", &link, &error))
                .inspect_err(|_| drop(fs::remove_file(&draft)))?;
        }
        self.store.sync()?;
        let bytes = record.files.iter().map(|file| file.size_bytes).sum();
        n!(
            "model_import",
            "Linked {} ({}) into the store; nothing was copied",
            source.display(),
            units::bytes(bytes)
        );
        Ok(self.store.path(name))
    }
}

/// The name in the store is taken.
pub(crate) fn exists(name: &str, owned: bool) -> Failure {
    let hint = if owned {
        "repeat this with force to replace it, or delete that model first"
    } else {
        "the hive did not put it there and will not replace it: move that file away first"
    };
    Failure::new(Code::ModelExists, format!("the store has another model as {name}")).hint(hint)
}
