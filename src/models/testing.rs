//! Helpers for the tests of models.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::models::Catalog;
use crate::models::gguf::{TensorType, Value, Writer};

/// A small, sound GGUF file.
pub(crate) fn gguf(architecture: &str) -> Vec<u8> {
    gguf_with(architecture, &[])
}

/// The same, with more metadata.
pub(crate) fn gguf_with(architecture: &str, metadata: &[(&str, Value)]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Value::String(architecture.to_owned()));
    writer.metadata(format!("{architecture}.context_length"), Value::U32(2048));
    for (key, value) in metadata {
        writer.metadata(*key, value.clone());
    }
    writer.tensor("output.weight", &[32, 2], TensorType::F32, vec![0; 256]);
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

/// A sound GGUF file with this many bytes of weights, a multiple of 4.
pub(crate) fn gguf_of(bytes: usize) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Value::String("llama".to_owned()));
    let data: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
    writer.tensor("output.weight", &[bytes as u64 / 4], TensorType::F32, data);
    let mut file = Vec::new();
    writer.write(&mut file).unwrap();
    file
}

/// Settings with all folders beneath `root`, and short timers.
pub(crate) fn config(root: &Path) -> Config {
    let mut config = Config {
        data_dir: root.join("data"),
        models_dirs: vec![root.join("models")],
        hub_cache: Some(root.join("hub")),
        ..Config::default()
    };
    // A name that no resolver knows (RFC 6761, section 6.4).
    config.hub.endpoint = Some("http://hub.invalid".to_owned());
    config.hub.token_file = Some(std::path::PathBuf::new());
    config.hub.offline = Some(false);
    config.timers.progress = Duration::from_millis(20).into();
    config.timers.retry = Duration::from_millis(1).into();
    config.timers.retry_after = Duration::from_millis(20).into();
    config.downloads.retries = 2;
    fs::create_dir_all(&config.models_dirs[0]).unwrap();
    config
}

/// A catalog with these settings.
pub(crate) fn catalog(root: &Path) -> Catalog {
    Catalog::new(&config(root)).unwrap()
}

/// Sets the time of the last change of a file or folder to an hour ago.
pub(crate) fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(long_ago).unwrap();
}

/// Writes a file and makes its folders.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
