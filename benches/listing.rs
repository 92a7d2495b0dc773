//! Measures the listing of 2,000 models whose headers were read before, as for a page or a client that
//! lists the models repeatedly.
//!
//! `cargo bench --bench listing`. The models are in all the places that the catalog lists: a folder of
//! the user, the Hugging Face cache, and the hive's store, which has a record for each.

#![expect(clippy::print_stdout, reason = "figures are printed")]
#![expect(clippy::disallowed_methods, reason = "a bench makes the files that it names")]

#[expect(dead_code, reason = "this bench compares nothing")]
mod paired;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use paired::Spread;
use rbee_hive::config::Config;
use rbee_hive::models::Catalog;
use rbee_hive::models::gguf::{TensorType, Value, Writer};

/// The same allocator as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long after a change the hive does not rely on a file's modification time.
const FRESH: Duration = Duration::from_secs(3);

fn main() {
    let (models, rounds) = if paired::for_figures() { (2000, 100) } else { (20, 2) };
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().canonicalize().expect("a folder");
    let config = Config {
        data_dir: root.join("data"),
        models_dirs: vec![root.join("models")],
        hub_cache: Some(root.join("hub")),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let catalog = Catalog::new(&config).expect("a catalog");
    for number in 0..models / 2 {
        write_model(&root.join(format!("models/family-{}/model-{number}.gguf", number % 40)), number);
    }
    for number in 0..models / 4 {
        write_to_hub_cache(&root.join("hub"), number);
    }
    for number in 0..models / 4 {
        let path = root.join(format!("elsewhere/import-{number}.gguf"));
        write_model(&path, number);
        import(&config.data_dir.join("models"), &path);
    }

    let begin = Instant::now();
    let listed = runtime.block_on(catalog.list()).expect("a listing").len();
    println!("{listed} models; the first listing, which reads every header: {:.1?}", begin.elapsed());
    assert_eq!(listed, models);
    std::thread::sleep(FRESH);
    assert_eq!(runtime.block_on(catalog.list()).expect("a listing").len(), models);
    let list = || {
        let begin = Instant::now();
        let models = runtime.block_on(catalog.list()).expect("a listing");
        (begin.elapsed(), models)
    };
    let took = (0..rounds).map(|_| list().0);
    println!("a listing, ms (20 is the aim): {}", Spread::of(took.map(milliseconds)));
    let took = (0..rounds).map(|_| {
        let models = list().1;
        let begin = Instant::now();
        assert!(!serde_json::to_vec(&models).expect("JSON").is_empty());
        begin.elapsed()
    });
    println!("writing it as JSON, ms:        {}", Spread::of(took.map(milliseconds)));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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
