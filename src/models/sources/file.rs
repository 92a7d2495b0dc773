//! Files and folders of the hive's own machine: `file:/path`. [`crate::models::Catalog::import`]
//! links them.

use std::path::PathBuf;

use reqwest::Url;

use super::{Source, invalid};
use crate::error::Result;

/// Understands a path. `None` where the text is none.
pub(crate) fn parse(text: &str) -> Option<Result<Source>> {
    text.strip_prefix("file:").map(|path| file(text, path))
}

fn file(text: &str, path: &str) -> Result<Source> {
    let path = if path.starts_with("//") {
        let url = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        url.ok_or_else(|| invalid("it is not a file of this machine", "write it as file:/path/model.gguf"))?
    } else {
        PathBuf::from(path)
    };
    if !path.is_absolute() {
        return Err(invalid("the path after file: is not absolute", "write it as file:/path/model.gguf"));
    }
    Ok(Source::File(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_stand_and_urls_decoded() {
        assert_eq!(Source::parse("file:/a b/x.gguf").unwrap(), Source::File("/a b/x.gguf".into()));
        assert_eq!(Source::parse("file:///a%20b/x.gguf").unwrap(), Source::File("/a b/x.gguf".into()));
    }
}
