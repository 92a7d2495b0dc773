//! Files and folders of the hive's own machine: `file:/path`. The store gets a link to the file, and
//! nothing is copied.
//!
//! The link leads to the file's canonical path, so that changing a link on the way to the file does
//! not change what was imported. It is a symbolic link, not a hard link or a copy of the extents: it
//! works across file systems, the disk's usage stays clear, and deleting the import cannot be mistaken
//! for deleting the model. A folder is imported where it holds one model. Where other machines can
//! reach the hive, only files beneath the user's model folders may be imported, and a refusal does not
//! tell whether the file exists.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;

use crate::error::{Code, Failure, Result};
use crate::models::library::Library;
use crate::models::library::companions::{Role, Surroundings, are_one_model, projector_of, role_of};
use crate::models::library::file_name::{is_model_name, name_of};
use crate::models::library::headers::{FileKind, check_model, kind_of};
use crate::models::library::location::file_source;
use crate::models::library::ollama_store;
use crate::models::library::record::{RecordedFile, StoreRecord};
use crate::models::library::split::{ModelFiles, SplitPart, group_by_model};
use crate::models::library::store;
use crate::models::library::walk::{LinkPolicy, gguf_files};
use crate::models::sources::grammar::invalid;
use crate::models::sources::places::Places;
use crate::models::sources::request::DownloadRequest;
use crate::models::sources::resolution::{ModelSource, Resolution};
use crate::models::transfer::remote::GGUF_MAGIC;
use crate::{files, n, spawn};

/// How many models of a folder a failure names.
const MAX_NAMED: usize = 20;

/// A file or a folder of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// Absolute.
    pub path: PathBuf,
}

impl ModelSource for FileSource {
    const EXAMPLE: &'static str = "file:/path/x.gguf";
    const HAS_REVISIONS: bool = false;

    fn parse(text: &str) -> Option<Result<Self>> {
        text.strip_prefix("file:").map(|path| Self::parse_path(text, path))
    }

    /// # Errors
    /// [`Code::SourceNotFound`], [`Code::SourceRefused`] and [`Code::SourceUnsupported`] for the path;
    /// [`Code::ModelAmbiguous`] for a folder with several models; [`Code::ModelCorrupt`] for the
    /// contents.
    async fn resolve(&self, _: &DownloadRequest, places: &Places) -> Result<Resolution> {
        let inspection = Inspection { library: Arc::clone(&places.library), may_read_all: places.is_local };
        let path = self.path.clone();
        spawn::blocking(move || inspection.import(&path))
            .await?
            .map(|record| Resolution::Link(Box::new(record)))
    }
}

impl FileSource {
    fn parse_path(text: &str, path: &str) -> Result<Self> {
        let path = if path.starts_with("//") {
            let url = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
            url.ok_or_else(|| {
                invalid("it is not a file of this machine", "write it as file:/path/model.gguf")
            })?
        } else {
            PathBuf::from(path)
        };
        if !path.is_absolute() {
            return Err(invalid("the path after file: is not absolute", "write it as file:/path/model.gguf"));
        }
        Ok(Self { path })
    }
}

/// Whether a file begins as GGUF files do. Blocks on the disk.
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; GGUF_MAGIC.len()];
    files::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *GGUF_MAGIC
}

/// Inspects a path of this machine. Blocks on the disk.
struct Inspection {
    library: Arc<Library>,
    /// Whether any file may be imported, not only those beneath the user's model folders.
    may_read_all: bool,
}

impl Inspection {
    /// The record of an import of the model at `path`. Its links lead to canonical paths.
    fn import(&self, path: &Path) -> Result<StoreRecord> {
        let in_folder = self.model_of_folder(path)?;
        let path = in_folder.as_deref().unwrap_or(path);
        let first = self.permitted(path)?;
        let in_ollama = ollama_store::model_at(&first, &self.library.probe());
        let name = match &in_ollama {
            Some(ollama) => ollama.file_name(),
            None => name_of(path),
        };
        // Tools keep models under other names too: what a file begins with says what it is.
        let name = match is_model_name(&name) {
            true => name,
            false if is_gguf(&first) => format!("{name}.gguf"),
            false => {
                return Err(Failure::new(
                    Code::SourceUnsupported,
                    format!("{} is not the file of a model", path.display()),
                )
                .hint("name a GGUF file that is a model by itself"));
            }
        };
        // Any part of a split model may be named; all parts are imported.
        let mut files = vec![(name.clone(), first)];
        if let Some(part) = SplitPart::parse(&name) {
            files.clear();
            for number in 1..=part.count {
                let sibling = part.sibling(number);
                let file = self.permitted(&path.with_file_name(&sibling)).map_err(|failure| {
                    failure.hint(format!("{name} is one of {} parts; all must be in its folder", part.count))
                })?;
                files.push((sibling, file));
            }
        }
        let mut recorded = Vec::new();
        for (name, file) in &files {
            if let Some(unknown) = check_model(file)? {
                n!(warn: "model_import", "{name}: {unknown}");
            }
            let size = file.metadata().map_err(|error| Failure::io("read", file, &error))?.len();
            recorded.push(RecordedFile::new(store::file_name(name), size, Some(file.clone())));
        }
        let mut record = StoreRecord::new(file_source(&files[0].1), recorded);
        let of_ollama = in_ollama.and_then(|ollama| self.permitted(&ollama.projector?).ok());
        if let Some(projector) = of_ollama.or_else(|| self.projector_beside(&files[0].1)) {
            n!("model_import", "Its projector is {}", projector.display());
            let size = projector.metadata().map_err(|error| Failure::io("read", &projector, &error))?.len();
            let name = store::projector_name(record.name());
            record.projector = Some(RecordedFile::new(name, size, Some(projector)));
        }
        Ok(record)
    }

    /// The projector in the folder of a model that is the model's own.
    fn projector_beside(&self, model: &Path) -> Option<PathBuf> {
        let folder = self.library.probe().folder(model.parent()?).ok()?;
        let names: Vec<_> = folder.entries.iter().filter_map(|entry| entry.name.to_str()).collect();
        let of_role =
            |role| names.iter().copied().filter(move |name| is_model_name(name) && role_of(name) == role);
        let around =
            Surroundings { has_one_model: are_one_model(of_role(Role::Model)), is_repository: false };
        let name = projector_of(&name_of(model), of_role(Role::Projector), around)?;
        let path = self.permitted(&model.with_file_name(name)).ok()?;
        (kind_of(&path) == FileKind::Projector).then_some(path)
    }

    /// The first file of the only model in a folder. `None` where the path is not a folder that may
    /// be searched.
    fn model_of_folder(&self, path: &Path) -> Result<Option<PathBuf>> {
        let Some(folder) = path.canonicalize().ok().filter(|path| path.is_dir()) else { return Ok(None) };
        if !self.may_read(&folder) {
            return Ok(None);
        }
        let mut models = group_by_model(gguf_files(path, LinkPolicy::Follow, &self.library.probe()));
        models.retain(|model| kind_of(&model.paths[0]) == FileKind::Model);
        match models.len() {
            0 => Err(Failure::new(
                Code::SourceNotFound,
                format!("there is no GGUF file of a model beneath {}", path.display()),
            )
            .hint("name the folder with the .gguf files, or one of them")),
            1 => Ok(models.pop().map(|mut model| model.paths.swap_remove(0))),
            count => {
                let name = |model: &ModelFiles| {
                    let file = &model.paths[0];
                    file.strip_prefix(path).unwrap_or(file).display().to_string()
                };
                let mut names: Vec<_> = models.iter().take(MAX_NAMED).map(name).collect();
                if count > MAX_NAMED {
                    names.push(format!("and {} more", count - MAX_NAMED));
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
        match canonical {
            Ok((true, file)) if self.may_read(&file) => Ok(file),
            _ if !self.may_read_all => Err(Failure::new(
                Code::SourceRefused,
                format!("{} is not a file beneath the hive's model folders", path.display()),
            )
            .hint(
                "file: is limited to the folders given with --models-dir where others than this machine's \
                 users may call (another --bind than loopback, a token, --allow-host or --public-url)",
            )),
            Ok(_) => Err(Failure::new(
                Code::SourceUnsupported,
                format!("{} is not a regular file", path.display()),
            )
            .hint("name a GGUF file, or list a whole folder with --models-dir")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::new(Code::SourceNotFound, format!("there is no file {}", path.display()))
                    .hint("the path is one of the machine that the hive runs on: check it there"))
            }
            Err(error) => Err(Failure::io("read", path, &error)),
        }
    }

    /// Whether a canonical path may be read.
    fn may_read(&self, path: &Path) -> bool {
        let contains = |folder: &PathBuf| folder.canonicalize().is_ok_and(|folder| path.starts_with(folder));
        self.may_read_all || self.library.locations.user_folders.iter().any(contains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_literal_and_urls_are_decoded() {
        let path = |text: &str| FileSource::parse(text).unwrap().unwrap().path;
        assert_eq!(path("file:/a b/x.gguf"), Path::new("/a b/x.gguf"));
        assert_eq!(path("file:/a%20b/x.gguf"), Path::new("/a%20b/x.gguf"));
        assert_eq!(path("file:///a%20b/x.gguf"), Path::new("/a b/x.gguf"));
    }
}
