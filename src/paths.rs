//! Paths in JSON, which has no text but UTF-8, while a file's name may be any bytes. No form can fail: one
//! odd file name must not destroy the list or the record that it is a member of. And the programs on `PATH`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The program of that name on `PATH`.
pub(crate) fn on_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|program| is_executable(program))
}

/// Whether somebody may run the file at that path.
pub(crate) fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// For readers, as `#[serde(serialize_with)]`: what is not UTF-8 is replaced.
pub(crate) fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// As [`shown`], for a path that may be unset.
pub(crate) fn shown_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

/// For the hive's own records, as `#[serde(with)]`: text, or the bytes of a path that is not UTF-8.
pub(crate) mod exact {
    use super::{Deserialize, Deserializer, ExactPath, Path, PathBuf, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => path.as_os_str().serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        ExactPath::deserialize(deserializer).map(Into::into)
    }
}

/// As [`exact`], for a path that may be unset.
pub(crate) mod exact_option {
    use super::{Deserialize, Deserializer, ExactPath, Path, PathBuf, Serialize, Serializer, exact};

    #[derive(Serialize)]
    struct Exact<'a>(#[serde(serialize_with = "exact::serialize")] &'a Path);

    pub(crate) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Exact).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<ExactPath>::deserialize(deserializer)?.map(Into::into))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExactPath {
    Text(PathBuf),
    Bytes(std::ffi::OsString),
}

impl From<ExactPath> for PathBuf {
    fn from(path: ExactPath) -> Self {
        match path {
            ExactPath::Text(path) => path,
            ExactPath::Bytes(bytes) => bytes.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Record {
        #[serde(with = "exact")]
        path: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none", with = "exact_option")]
        link: Option<PathBuf>,
    }

    #[derive(Serialize)]
    struct Shown(#[serde(serialize_with = "shown")] PathBuf);

    #[test]
    fn any_path_can_be_recorded_and_shown() {
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/m/mod\xe8le.gguf".to_vec()));
        for path in [odd.clone(), "/m/模型.gguf".into()] {
            for link in [None, Some(path.clone())] {
                let record = Record { path: path.clone(), link };
                let json = serde_json::to_string(&record).unwrap();
                assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record, "{json}");
            }
        }
        let plain: Record = serde_json::from_str(r#"{"path":"/m/x.gguf"}"#).unwrap();
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"path":"/m/x.gguf"}"#);
        assert_eq!(serde_json::to_string(&Shown(odd)).unwrap(), "\"/m/mod\u{fffd}le.gguf\"");
    }
}
