//! 2,000 models in all the places that the catalog lists: a folder of the user, the Hugging Face cache, and the hive's
//! store, which has a record for each.

use std::fs;
use std::path::{Path, PathBuf};

use rbee_hive::models::gguf::{TensorType, Value, Writer};

/// The places in a folder of the bench, as `daemon` has them.
pub(crate) struct Places {
    pub(crate) data: PathBuf,
    pub(crate) models: PathBuf,
    pub(crate) hub: PathBuf,
}

impl Places {
    /// Makes so many models in a folder: a half of them in the user's, and a quarter each in the other two.
    pub(crate) fn with_models(root: &Path, models: usize) -> Self {
        let places = Self { data: root.join("hive"), models: root.join("models"), hub: root.join("hub") };
        let store = places.data.join("models");
        fs::create_dir_all(&store).expect("a folder");
        for number in 0..models / 2 {
            let file = format!("family-{}/model-{number}.gguf", number % 40);
            write_model(&places.models.join(file), number);
        }
        for number in 0..models / 4 {
            write_to_hub_cache(&places.hub, number);
        }
        for number in 0..models / 4 {
            let path = root.join(format!("elsewhere/import-{number}.gguf"));
            write_model(&path, number);
            import(&store, &path);
        }
        places
    }
}

/// Writes a small model, different for each number.
fn write_model(path: &Path, number: usize) {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", Value::String("llama".to_owned()));
    writer.metadata("general.name", Value::String(format!("model {number}")));
    writer.metadata("llama.context_length", Value::U32(4096));
    writer.tensor("output.weight", &[32, 2], TensorType::F32, vec![0; 256]);
    let mut file = Vec::new();
    writer.write(&mut file).expect("memory takes it");
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, file).expect("a file");
}

/// Writes a model in the layout of huggingface_hub's cache.
fn write_to_hub_cache(cache: &Path, number: usize) {
    let (commit, blob) = (format!("{number:040x}"), format!("{number:064x}"));
    let folder = cache.join(format!("models--org--model-{number}-GGUF"));
    write_model(&folder.join("blobs").join(&blob), number);
    fs::create_dir_all(folder.join("refs")).expect("a folder");
    fs::write(folder.join("refs/main"), &commit).expect("a file");
    let snapshot = folder.join("snapshots").join(&commit);
    fs::create_dir_all(&snapshot).expect("a folder");
    let link = snapshot.join(format!("model-{number}-Q4_K_M.gguf"));
    std::os::unix::fs::symlink(Path::new("../../blobs").join(&blob), link).expect("a link");
}

/// Adds an imported file to the store. An import by the hive itself would list all models each time.
fn import(store: &Path, file: &Path) {
    let name = file.file_name().and_then(|name| name.to_str()).expect("text");
    std::os::unix::fs::symlink(file, store.join(name)).expect("a link");
    let record = serde_json::json!({
        "source": format!("file:{}", file.display()),
        "files": [{
            "name": name,
            "size_bytes": fs::metadata(file).expect("a file").len(),
            "link": file,
        }],
    });
    fs::write(store.join(format!("{name}.json")), record.to_string()).expect("a record");
}
