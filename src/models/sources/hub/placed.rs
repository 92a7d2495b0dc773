//! The places in the Hugging Face cache of a model that another hive has there.

use std::sync::Arc;

use super::choice::RepositoryFile;
use super::chosen::ChosenFile;
use super::destinations::Destinations;
use super::name::{HubName, MAIN, is_commit};
use crate::error::Result;
use crate::models::library::Library;
use crate::models::sheet::{HubPlace, Sheet, SheetFile, unusable};
use crate::models::sources::resolution::Commit;
use crate::models::transfer::remote::Destination;

/// Where the files go, and what makes a model of them.
pub(crate) struct Placed {
    pub(crate) destinations: Vec<Destination>,
    pub(crate) commit: Commit,
}

/// The places of the files of a model. Its names become paths, so they are checked as those of the Hub are. Blocks on the
/// disk.
pub(crate) fn placed(library: &Arc<Library>, sheet: &Sheet) -> Result<Placed> {
    let Some(HubPlace { repo, commit, is_main }) = &sheet.hub else {
        return Err(unusable("has no repository"));
    };
    if !is_commit(commit) {
        return Err(unusable("has no commit"));
    }
    let chosen = |file: &SheetFile, is_projector| {
        let name = HubName::parse_text(&format!("hf:{repo}/{}", file.name)).and_then(Result::ok);
        let etag = file.etag.clone().or_else(|| file.sha256.clone()).filter(|etag| is_plain(etag));
        if name.is_none_or(|name| name.repo != *repo) {
            return Err(unusable("has a name that no file of the Hub has"));
        }
        let (path, size, sha256) = (file.name.clone(), Some(file.size_bytes), file.sha256.clone());
        let etag = etag.ok_or_else(|| unusable("has no name of the contents"))?;
        Ok(ChosenFile { file: RepositoryFile { path, size, sha256 }, etag, is_projector })
    };
    let files = sheet.files.iter().map(|file| chosen(file, false));
    let files: Result<Vec<_>> = files.chain(sheet.projector.iter().map(|file| chosen(file, true))).collect();
    let destinations = Destinations {
        library: Arc::clone(library),
        repository: library.hub_cache().repository(repo),
        revision: if *is_main { MAIN.to_owned() } else { commit.clone() },
        commit: commit.clone(),
        files: files?,
    };
    destinations.repository.prepare()?;
    let places = destinations.all(false);
    Ok(Placed { destinations: places, commit: Box::new(move |_| destinations.link()) })
}

/// Whether a name of contents is one component of a path.
fn is_plain(etag: &str) -> bool {
    (1..=128).contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::models::testing::catalog;

    #[test]
    fn what_would_lead_out_of_the_cache_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let library = catalog(root.path()).library();
        let sheet = |repo: &str, commit: &str, name: &str, etag: &str| Sheet {
            id: "x".into(),
            source: "hf:org/m".into(),
            revision: None,
            hub: Some(HubPlace { repo: repo.into(), commit: commit.into(), is_main: true }),
            url_sha256: None,
            left_out: Vec::new(),
            files: vec![SheetFile {
                name: name.into(),
                size_bytes: 1,
                sha256: Some("a".repeat(64)),
                etag: Some(etag.into()),
            }],
            projector: None,
            reading: None,
        };
        let (commit, etag) = ("c".repeat(40), "a".repeat(64));
        let fine = placed(&library, &sheet("org/m", &commit, "a/m.gguf", &etag)).unwrap();
        assert!(fine.destinations[0].target.ends_with(format!("models--org--m/blobs/{etag}")));
        for (repo, commit, name, etag) in [
            ("../m", &*commit, "m.gguf", &*etag),
            ("org", &commit, "m.gguf", &etag),
            ("org/m/deeper", &commit, "m.gguf", &etag),
            ("org/m", "../../x", "m.gguf", &etag),
            ("org/m", &commit, "../m.gguf", &etag),
            ("org/m", &commit, "/m.gguf", &etag),
            ("org/m", &commit, "m.gguf", "../x"),
        ] {
            let refused = placed(&library, &sheet(repo, commit, name, etag));
            assert_eq!(
                refused.err().map(|failure| failure.code),
                Some(Code::DownloadFailed),
                "{repo} {name}"
            );
        }
    }
}
