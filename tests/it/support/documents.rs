//! The documents of the repository, as the tests read them.

use std::path::{Path, PathBuf};

use super::files_beneath;

/// The text of a document, by its path in the repository.
pub(crate) fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands beneath a heading, up to the next one of any level.
pub(crate) fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading '{heading}'"));
    rest.split_once("\n#").map_or(rest, |(section, _)| section)
}

/// The paths of the documents in the repository.
pub(crate) fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let at_the_top =
        std::fs::read_dir(root).expect("the repository").map(|entry| entry.expect("a file").path());
    let mut paths: Vec<PathBuf> = at_the_top.chain(files_beneath(&root.join("docs"))).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root).expect("beneath it").display().to_string();
    paths.iter().map(relative).collect()
}
