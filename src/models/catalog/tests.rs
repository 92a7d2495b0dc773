//! The catalog over real folders.

use std::fs;
use std::os::unix::fs::symlink;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::models::Status;
use crate::models::gguf::{Array, TensorType, Value, Writer};
use crate::models::sources::{DownloadRequest, FileSource};
use crate::models::testing::{catalog, config, gguf, gguf_with, put};
use crate::narration::{Entry, Level, NarrationContext, with_narration_context};

fn ids(models: &[Model]) -> Vec<&str> {
    models.iter().map(|model| model.id.as_str()).collect()
}

/// Puts a file into a Hugging Face cache as its client does. Returns the link.
fn hub_file(cache: &Path, repo: &str, revision: &str, name: &str, blob: &str, bytes: &[u8]) -> PathBuf {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    put(&folder.join("blobs").join(blob), bytes);
    let link = folder.join("snapshots").join(revision).join(name);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(folder.join("blobs").join(blob), &link).unwrap();
    put(&folder.join("refs/main"), revision.as_bytes());
    link
}

#[tokio::test]
async fn a_listing_shows_what_is_on_disk_and_never_fails() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let catalog = catalog(root.path());
    assert!(catalog.list().await.unwrap().is_empty());

    put(&models.join("a/good.gguf"), &gguf("llama"));
    put(&models.join("bad.gguf"), b"<html>");
    put(&models.join("cut.gguf"), &gguf("llama")[..60]);
    put(&models.join("mmproj-good.gguf"), &gguf("clip"));
    let adapter = [("general.type", Value::String("adapter".into()))];
    put(&models.join("adapter.gguf"), &gguf_with("llama", &adapter));
    put(&models.join("split-00001-of-00002.gguf"), &gguf("llama"));
    symlink(models.join("a"), models.join("a/loop")).unwrap();

    let list = catalog.list().await.unwrap();
    assert_eq!(ids(&list), ["bad", "cut", "good", "split"]);
    assert_eq!((list[0].status, list[1].status), (Status::Corrupt, Status::Incomplete));
    assert!(list[0].status_detail.as_ref().unwrap().contains("magic"), "{:?}", list[0]);
    let good = &list[2];
    assert_eq!(good.status, Status::Available);
    assert_eq!(good.architecture.as_deref(), Some("llama"));
    assert_eq!((good.parameter_count, good.context_length), (Some(64), Some(2048)));
    assert_eq!(good.source, format!("file:{}", models.join("a/good.gguf").display()));
    assert_eq!(list[3].status, Status::Incomplete);
    assert!(list[3].status_detail.as_ref().unwrap().contains("split-00002-of-00002.gguf"));

    put(&models.join("split-00002-of-00002.gguf"), &gguf("llama"));
    let split = catalog.find("split").await.unwrap();
    assert_eq!(split.status, Status::Available);
    assert_eq!(split.size_bytes, 2 * gguf("llama").len() as u64);
    fs::remove_file(models.join("bad.gguf")).unwrap();
    assert_eq!(ids(&catalog.list().await.unwrap()), ["cut", "good", "split"]);
}

#[tokio::test]
async fn what_the_hive_does_not_know_is_not_damaged_and_is_left_to_an_engine() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let catalog = catalog(root.path());
    let (sound, with_version) = (gguf("llama"), |version: [u8; 4]| {
        let mut file = gguf("llama");
        file[4..8].copy_from_slice(&version);
        file
    });
    let mut new_type = Writer::default();
    new_type.metadata("general.architecture", Value::String("llama".into()));
    new_type.tensor("output.weight", &[256], TensorType::Other(144), vec![1; 150]);
    let mut typed = Vec::new();
    new_type.write(&mut typed).unwrap();
    for (name, file, status, says) in [
        ("newer", with_version([4, 0, 0, 0]), Status::Unknown, "newer"),
        ("older", with_version([1, 0, 0, 0]), Status::Unknown, "too old"),
        ("big-endian", with_version([0, 0, 0, 3]), Status::Unknown, "big-endian"),
        ("typed", typed, Status::Unknown, "output.weight has the type number 144"),
        ("copied", sound[..sound.len() - 40].to_owned(), Status::Incomplete, "ends at byte"),
        ("reserved", vec![0; 4096], Status::Incomplete, "zeros"),
        ("empty", Vec::new(), Status::Incomplete, "magic"),
        ("nonsense", with_version([0x41, 0x42, 0x43, 0x44]), Status::Corrupt, "no version"),
    ] {
        let path = models.join(name).with_extension("gguf");
        put(&path, &file);
        let model = catalog.find(name).await.unwrap();
        assert_eq!(model.status, status, "{name}");
        let detail = model.status_detail.clone().unwrap();
        assert!(detail.contains(says), "{name}: {detail}");
        let refusal = model.check_loadable().err();
        assert_eq!(refusal.is_none(), status == Status::Unknown, "{name}: {refusal:?}");
        let hint = refusal.and_then(|failure| failure.hint).unwrap_or_default();
        assert_eq!(hint.contains("delete"), status == Status::Corrupt, "{name}: {hint}");
    }
    let typed = catalog.find("typed").await.unwrap();
    assert_eq!((typed.architecture.as_deref(), typed.parameter_count), (Some("llama"), Some(256)));
    // Its bytes may be those of an engine that knows it.
    let imported = catalog.import(&models.join("newer.gguf"), false).await.unwrap();
    assert_eq!(imported.status, Status::Unknown);

    let part = models.join("parts-00001-of-00002.gguf");
    put(&part, &with_version([4, 0, 0, 0]));
    put(&models.join("parts-00002-of-00002.gguf"), b"<html>");
    let parts = catalog.find("parts").await.unwrap();
    assert_eq!(parts.status, Status::Corrupt, "damage outweighs what is not known: {parts:?}");
}

#[tokio::test]
async fn companions_are_no_models_and_a_projector_belongs_to_its_own_model() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let catalog = catalog(root.path());
    let of_type = |kind: &str| gguf_with("llama", &[("general.type", Value::String(kind.into()))]);
    let mut vocabulary = Writer::default();
    vocabulary.metadata("tokenizer.ggml.tokens", Value::Array(Array::String(vec!["a".into()])));
    let mut vocabulary_file = Vec::new();
    vocabulary.write(&mut vocabulary_file).unwrap();
    for (name, file) in [
        ("vl/Qwen3-VL-Q8_0.gguf", gguf("qwen3vl")),
        ("vl/mmproj-Qwen3-VL.gguf", gguf("clip")),
        ("vl/text-Q8_0.gguf", gguf("llama")),
        ("not-an-mmproj-Q4_0.gguf", gguf("llama")),
        ("lora.gguf", of_type("adapter")),
        ("vision-f16.gguf", of_type("mmproj")),
        ("x.imatrix.gguf", of_type("imatrix")),
        ("vocabulary.gguf", vocabulary_file),
    ] {
        put(&models.join(name), &file);
    }
    let list = catalog.list().await.unwrap();
    assert_eq!(ids(&list), ["Qwen3-VL-Q8_0", "not-an-mmproj-Q4_0", "text-Q8_0"]);
    let projector = models.join("vl/mmproj-Qwen3-VL.gguf");
    let given: Vec<_> = list.iter().map(|model| model.projector.as_deref()).collect();
    assert_eq!(given, [Some(&*projector), None, None]);

    // An import from elsewhere brings the projector beside it, and deletes its own link only.
    let elsewhere = root.path().join("elsewhere");
    put(&elsewhere.join("m-Q8_0.gguf"), &gguf("llama"));
    put(&elsewhere.join("mmproj-model-f16.gguf"), &gguf("clip"));
    let imported = catalog.import(&elsewhere, false).await.unwrap();
    let link = root.path().join("data/models/mmproj-m-Q8_0.gguf");
    assert_eq!(imported.projector.as_deref(), Some(&*link));
    assert_eq!(fs::read(&link).unwrap(), gguf("clip"));
    assert_eq!(catalog.list().await.unwrap().len(), 4, "the link is no model");
    assert_eq!(catalog.delete(&imported, false).await.unwrap(), 0);
    assert!(link.symlink_metadata().is_err() && elsewhere.join("mmproj-model-f16.gguf").exists());

    let failure = catalog.import(&models.join("lora.gguf"), false).await.unwrap_err();
    assert_eq!(failure.code, Code::ModelUnsupported);
    assert!(failure.message.contains("an adapter"), "{failure}");
}

#[tokio::test]
async fn a_projector_in_the_store_is_given_by_records_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(root.path());
    for is_linked in [false, true] {
        if is_linked {
            config.data_dir = root.path().join("link");
            symlink(root.path().join("data"), &config.data_dir).unwrap();
        }
        let catalog = Catalog::new(&config).unwrap();
        put(&config.store_dir().join("m-Q8_0.gguf"), &gguf("llama"));
        put(&config.store_dir().join("mmproj-m.gguf"), &gguf("clip"));
        assert_eq!(catalog.find("m-Q8_0").await.unwrap().projector, None, "linked: {is_linked}");
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_unreadable() {
    let root = tempfile::tempdir().unwrap();
    let catalog = catalog(root.path());
    // A link to itself cannot be read by root either.
    symlink("loop.gguf", root.path().join("data/models/loop.gguf")).unwrap();
    let model = catalog.find("loop").await.unwrap();
    assert_eq!(model.status, Status::Unreadable, "{model:?}");
    let refused = model.check_loadable().unwrap_err();
    assert_eq!(refused.code, Code::Io);
    assert!(!refused.hint.unwrap().contains("delete"));
}

#[tokio::test]
async fn hub_files_have_ids_of_repository_and_quantization() {
    let root = tempfile::tempdir().unwrap();
    let hub = root.path().join("hub");
    let catalog = catalog(root.path());
    let (one, two) = ("a1".repeat(20), "b2".repeat(20));
    let blob = "c".repeat(64);
    hub_file(&hub, "org/repo", &two, "m-Q4_K_M.gguf", &blob, &gguf("llama"));
    hub_file(&hub, "org/repo", &two, "x-Q8_0.gguf", "x", &gguf("llama"));
    hub_file(&hub, "org/repo", &two, "y-Q8_0.gguf", "y", &gguf("llama"));
    // An older revision: one file is the same blob, the other is not.
    hub_file(&hub, "org/repo", &one, "m-Q4_K_M.gguf", &"d".repeat(64), &gguf("qwen2"));
    hub_file(&hub, "org/repo", &one, "z-F16.gguf", "y2", &gguf("llama"));
    put(&hub.join("models--org--repo/refs/main"), two.as_bytes());
    put(&hub.join("models--org--repo/snapshots").join(&two).join("README.md"), b"");

    let list = catalog.list().await.unwrap();
    let plain: Vec<_> = list.iter().filter(|model| !model.id.contains('~')).map(|model| &*model.id).collect();
    assert_eq!(plain, ["org/repo/x-Q8_0.gguf", "org/repo/y-Q8_0.gguf", "org/repo:F16", "org/repo:Q4_K_M"]);
    assert_eq!(list.len(), 5, "{:?}", ids(&list));
    let model = list
        .iter()
        .find(|model| model.id.starts_with("org/repo:Q4_K_M") && model.sha256.as_deref() == Some(&*blob))
        .unwrap();
    assert_eq!(model.source, "hf:org/repo");
    assert_eq!(model.revision.as_deref(), Some(&*two));
    assert_eq!(model.id, "org/repo:Q4_K_M", "the snapshot of main keeps the plain id");
    for copied in ["org/Repo:f16", "hf.co/org/repo:F16", "hf:org/repo:F16", "http://hub.invalid/org/repo:F16"]
    {
        assert_eq!(catalog.find(copied).await.unwrap().id, "org/repo:F16", "{copied}");
    }
    assert_eq!(catalog.find("org/repo:q8_0").await.unwrap_err().code, Code::ModelNotFound);
}

#[tokio::test]
async fn a_file_reached_twice_is_listed_once_and_a_shared_name_is_ambiguous() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    put(&models.join("a/m.gguf"), &gguf("llama"));
    put(&models.join("b/m.gguf"), &gguf("llama"));
    symlink(models.join("a/m.gguf"), models.join("other.gguf")).unwrap();
    fs::hard_link(models.join("b/m.gguf"), models.join("b/n.gguf")).unwrap();
    let mut config = config(root.path());
    config.models_dirs.push(models.join("a"));
    let catalog = Catalog::new(&config).unwrap();

    let list = catalog.list().await.unwrap();
    assert_eq!(list.len(), 2, "{:?}", ids(&list));
    assert_eq!(ids(&list), ["b/m", "m"], "the folder tells them apart");
    assert_eq!(catalog.find("b/m").await.unwrap().path, models.join("b/m.gguf"));
    assert_eq!(catalog.find("m").await.unwrap().path, models.join("a/m.gguf"), "an id goes before a name");

    // A link to a file is the same model.
    let imported = catalog.import(&models.join("b/m.gguf"), false).await.unwrap();
    assert_eq!(imported.id, "b/m");
    assert_eq!(catalog.list().await.unwrap().len(), 2, "the import and its target are one model");
}

#[tokio::test]
async fn a_model_keeps_its_id_whatever_else_comes() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let at = |path: &str| models.join(path);
    let path_of = async |catalog: &Catalog, id: &str| catalog.find(id).await.unwrap().path;
    put(&at("m/Q/model.gguf"), &gguf("llama"));
    let hive = catalog(root.path());
    assert_eq!(path_of(&hive, "model").await, at("m/Q/model.gguf"));

    // Files that sort before it, one of them in a folder of the same name.
    put(&at("a/Q/model.gguf"), &gguf("qwen2"));
    put(&at("b/model.gguf"), &gguf("qwen2"));
    let first = hive.list().await.unwrap();
    let [in_folder, plain, suffixed] = ids(&first)[..] else { panic!("{:?}", ids(&first)) };
    assert!(suffixed.starts_with("model~") && suffixed.len() == "model~".len() + 8, "{suffixed}");
    assert_eq!((in_folder, plain), ("b/model", "model"));
    assert_eq!(path_of(&hive, "model").await, at("m/Q/model.gguf"));
    assert_eq!(path_of(&hive, suffixed).await, at("a/Q/model.gguf"));
    drop(hive);
    let hive = catalog(root.path());
    assert_eq!(ids(&hive.list().await.unwrap()), ids(&first), "a restart changes no id");

    // Other contents at the same place are the same model.
    put(&at("m/Q/model.gguf"), &gguf("gemma"));
    let replaced = hive.find("model").await.unwrap();
    assert_eq!((replaced.path, replaced.architecture.as_deref()), (at("m/Q/model.gguf"), Some("gemma")));

    // A file that was away has its id again, unless another took it.
    fs::rename(at("m"), root.path().join("unplugged")).unwrap();
    assert_eq!(ids(&hive.list().await.unwrap()), [in_folder, suffixed], "they keep theirs");
    drop(hive);
    let hive = catalog(root.path());
    fs::rename(root.path().join("unplugged"), at("m")).unwrap();
    assert_eq!(path_of(&hive, "model").await, at("m/Q/model.gguf"));
    fs::rename(at("m/Q/model.gguf"), at("c.gguf")).unwrap();
    assert_eq!(path_of(&hive, "c").await, at("c.gguf"), "a renamed file is another model");
    put(&at("d/model.gguf"), &gguf("llama"));
    assert_eq!(path_of(&hive, "model").await, at("d/model.gguf"));
    put(&at("m/Q/model.gguf"), &gguf("llama"));
    assert_eq!(path_of(&hive, "Q/model").await, at("m/Q/model.gguf"));
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_frees_its_id() {
    let root = tempfile::tempdir().unwrap();
    let (stored, models) = (root.path().join("data/models/m.gguf"), root.path().join("models"));
    let catalog = catalog(root.path());
    put(&stored, &gguf("llama"));
    put(&models.join("one/m.gguf"), &gguf("llama"));
    assert_eq!(ids(&catalog.list().await.unwrap()), ["m", "one/m"]);
    fs::remove_file(&stored).unwrap();
    symlink(models.join("one/m.gguf"), &stored).unwrap();
    put(&models.join("two/m.gguf"), &gguf("llama"));
    let list = catalog.list().await.unwrap();
    assert_eq!(ids(&list), ["m", "one/m"]);
    assert_eq!(list[0].path, models.join("two/m.gguf"));
}

#[tokio::test]
async fn an_id_of_a_folder_that_is_listed_no_more_is_free_without_a_look_there() {
    let root = tempfile::tempdir().unwrap();
    let (folder, models) = (root.path().join("folder"), root.path().join("models"));
    let (settings, mut with_folder) = (config(root.path()), config(root.path()));
    with_folder.models_dirs.push(folder.clone());
    put(&folder.join("m.gguf"), &gguf("llama"));
    let listed = async |config| ids(&Catalog::new(config).unwrap().list().await.unwrap()).join(" ");
    assert_eq!(listed(&with_folder).await, "m");
    // Like a disk that does not answer, a link to itself does not tell what is there.
    fs::rename(&folder, root.path().join("away")).unwrap();
    symlink(&folder, &folder).unwrap();
    put(&models.join("m.gguf"), &gguf("llama"));
    assert_eq!(listed(&with_folder).await, "models/m", "the file may be there");
    put(&models.join("new/m.gguf"), &gguf("llama"));
    assert_eq!(listed(&settings).await, "m models/m");
}

#[tokio::test]
async fn while_ids_are_given_the_path_is_known_that_a_disk_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let config = config(root.path());
    put(&root.path().join("models/m.gguf"), &gguf("llama"));
    let catalog = Catalog::new(&config).unwrap();
    catalog.list().await.unwrap();
    assert_eq!(catalog.places.library.folders.looked_at(), config.model_ids_file());

    // A file of a newer version is not written.
    fs::write(config.model_ids_file(), r#"{"version":2}"#).unwrap();
    let catalog = Catalog::new(&config).unwrap();
    let served = root.path().join("elsewhere.gguf");
    catalog.keep_served_ids(move || vec![("served".into(), served.clone())]);
    catalog.list().await.unwrap();
    assert_eq!(catalog.places.library.folders.looked_at(), root.path().join("elsewhere.gguf"));
}

#[tokio::test]
async fn links_to_a_file_that_is_gone_are_models_of_their_own() {
    let root = tempfile::tempdir().unwrap();
    let catalog = catalog(root.path());
    for name in ["one.gguf", "two.gguf"] {
        symlink("/nowhere/m.gguf", root.path().join("data/models").join(name)).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(ids(&catalog.list().await.unwrap()), ["one", "two"]);
    }
}

#[tokio::test]
async fn the_id_of_a_worker_is_not_given_to_another_file() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("models/a/model.gguf"), root.path().join("models/b/model.gguf"));
    put(&second, &gguf("llama"));
    let serve = |catalog: &Catalog| {
        let second = second.clone();
        catalog.keep_served_ids(move || vec![("model".to_owned(), second.clone())]);
    };
    let hive = catalog(root.path());
    serve(&hive);
    assert_eq!(hive.find("model").await.unwrap().path, second);
    fs::remove_file(&second).unwrap();
    put(&first, &gguf("llama"));
    assert_eq!(ids(&hive.list().await.unwrap()), ["a/model"], "a worker serves the file that is gone");

    // Even where nothing is remembered, the workers' own records tell.
    put(&second, &gguf("llama"));
    fs::remove_file(root.path().join("data/model-ids.json")).unwrap();
    let hive = catalog(root.path());
    serve(&hive);
    assert_eq!(ids(&hive.list().await.unwrap()), ["a/model", "model"]);
    assert_eq!(hive.find("model").await.unwrap().path, second);
}

#[tokio::test]
async fn a_damaged_file_of_ids_is_set_aside_and_a_newer_one_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("data/model-ids.json");
    put(&root.path().join("models/m.gguf"), &gguf("llama"));
    let listed_ids = async || ids(&catalog(root.path()).list().await.unwrap()).join(" ");
    put(&file, b"{");
    assert_eq!(listed_ids().await, "m");
    assert_eq!(fs::read(root.path().join("data/model-ids.json.damaged")).unwrap(), b"{");

    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        json["ids"]["m"],
        *root.path().canonicalize().unwrap().join("models/m.gguf").to_string_lossy()
    );
    json["more"] = "kept".into();
    put(&file, json.to_string().as_bytes());
    put(&root.path().join("models/n.gguf"), &gguf("llama"));
    assert_eq!(listed_ids().await, "m n");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["more"], json["ids"].as_object().unwrap().len()), (&"kept".into(), 2));

    put(&file, br#"{"version":2,"ids":[]}"#);
    assert_eq!(listed_ids().await, "m n");
    assert_eq!(fs::read(&file).unwrap(), br#"{"version":2,"ids":[]}"#);
}

#[tokio::test]
async fn names_of_any_script_and_names_that_are_not_text_are_models() {
    use std::os::unix::ffi::OsStringExt;

    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let odd = |name: &[u8]| models.join(std::ffi::OsString::from_vec(name.to_vec()));
    put(&models.join("模型.gguf"), &gguf("llama"));
    put(&odd(b"mod\xe8le.gguf"), &gguf("llama"));
    put(&odd(b"mod\xe9le.gguf"), &gguf("llama"));
    let hive = catalog(root.path());
    let list = hive.list().await.unwrap();
    let ids = ids(&list);
    assert!(ids[0] == "mod-le" && ids[1].starts_with("mod-le~") && ids[2] == "模型", "{ids:?}");
    let json = serde_json::to_value(&list).unwrap();
    assert!(json[0]["path"].as_str().unwrap().ends_with("/models/mod\u{fffd}le.gguf"), "{json}");
    assert_eq!(json[0]["source"].as_str().unwrap().rsplit('/').next(), Some("mod%E8le.gguf"));
    assert_eq!(hive.find("mod-le").await.unwrap().path, odd(b"mod\xe8le.gguf"));
    // The store's link has its source, and each keeps its id after a restart.
    assert_eq!(hive.import(&odd(b"mod\xe8le.gguf"), false).await.unwrap().id, "mod-le");
    assert_eq!(hive.import(&odd(b"mod\xe9le.gguf"), false).await.unwrap_err().code, Code::ModelExists);
    assert_eq!(
        hive.import(&models.join("模型.gguf"), false).await.unwrap().path.file_name().unwrap(),
        "模型.gguf"
    );
    let again = catalog(root.path()).list().await.unwrap();
    assert_eq!(self::ids(&again), ids);
    assert_eq!(hive.delete(&again[0], false).await.unwrap(), 0);
}

#[tokio::test]
async fn a_failed_lookup_names_similar_ids_and_the_next_step() {
    let root = tempfile::tempdir().unwrap();
    let catalog = catalog(root.path());
    let failure = catalog.find("tiny").await.unwrap_err();
    assert_eq!(failure.code, Code::ModelNotFound);
    assert!(failure.hint.unwrap().contains("no models yet"));
    for name in ["tiny-llama", "tiny-qwen", "tiny-phi", "tiny-gemma", "zzz"] {
        put(&root.path().join("models").join(name).with_extension("gguf"), &gguf("llama"));
    }
    let failure = catalog.find("tiny-lama").await.unwrap_err();
    assert!(
        failure.message.starts_with("model 'tiny-lama' not found; the nearest: tiny-llama, "),
        "{failure}"
    );
    assert_eq!(failure.message.matches("tiny-").count(), 4, "{failure}");

    let list = catalog.list().await.unwrap();
    let twins: Vec<Model> =
        ["x:1", "x:2"].map(|id| Model { id: id.into(), name: "x".into(), ..list[0].clone() }).into();
    let twins: Vec<_> = twins.iter().collect();
    let failure = find::position(&twins, "x").unwrap_err().into_failure(&twins);
    assert_eq!(failure.code, Code::ModelAmbiguous);
    assert!(failure.message.contains("x:1, x:2"), "{failure}");
}

#[tokio::test]
async fn only_files_of_the_hive_are_deleted_without_force() {
    let root = tempfile::tempdir().unwrap();
    let models = root.path().join("models");
    let catalog = catalog(root.path());
    let size = gguf("llama").len() as u64;
    put(&models.join("mine.gguf"), &gguf("llama"));
    put(&root.path().join("data/models/stray.gguf"), &gguf("llama"));

    for id in ["mine", "stray"] {
        let model = catalog.find(id).await.unwrap();
        let failure = catalog.delete(&model, false).await.unwrap_err();
        assert_eq!(failure.code, Code::NotOwned);
        assert!(failure.message.contains(&*model.path.to_string_lossy()), "{failure}");
        assert!(failure.hint.unwrap().contains("force"));
        assert!(model.path.exists());
    }
    let imported = catalog.import(&models.join("mine.gguf"), false).await.unwrap();
    assert_eq!(catalog.delete(&imported, false).await.unwrap(), 0, "a link frees nothing");
    assert!(models.join("mine.gguf").exists());
    assert_eq!(
        fs::read_dir(root.path().join("data/models")).unwrap().count(),
        1,
        "its record is deleted as well"
    );

    let mine = catalog.find("mine").await.unwrap();
    assert_eq!(catalog.delete(&mine, true).await.unwrap(), size);
    assert!(!models.join("mine.gguf").exists());
    assert_eq!(catalog.delete(&mine, true).await.unwrap_err().code, Code::ModelNotFound);
}

#[tokio::test]
async fn a_hub_model_is_deleted_with_its_blob_unless_another_snapshot_links_to_it() {
    let root = tempfile::tempdir().unwrap();
    let hub = root.path().join("hub");
    let catalog = catalog(root.path());
    let size = gguf("llama").len() as u64;
    let blob = "e".repeat(64);
    let first = hub_file(&hub, "org/repo", "rev1", "m-Q8_0.gguf", &blob, &gguf("llama"));
    let second = hub_file(&hub, "org/repo", "rev2", "m-Q8_0.gguf", &blob, &gguf("llama"));
    let blob = hub.join("models--org--repo/blobs").join(&blob);

    let model = catalog.find("org/repo:Q8_0").await.unwrap();
    assert_eq!(model.path, second, "main is rev2");
    assert_eq!(catalog.delete(&model, false).await.unwrap_err().code, Code::NotOwned);
    assert_eq!(catalog.delete(&model, true).await.unwrap(), 0);
    assert!(!second.parent().unwrap().exists() && first.exists() && blob.exists());

    let model = catalog.find("org/repo:Q8_0").await.unwrap();
    assert_eq!(catalog.delete(&model, true).await.unwrap(), size);
    assert!(!hub.join("models--org--repo").exists(), "nothing is left of the repository");
    assert!(hub.exists());
}

#[tokio::test]
async fn an_import_is_idempotent_and_replaces_only_files_of_the_hive() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = root.path().join("elsewhere");
    let catalog = catalog(root.path());
    put(&elsewhere.join("m.gguf"), &gguf("llama"));
    put(&elsewhere.join("other/m.gguf"), &gguf("qwen2"));
    put(&elsewhere.join("bad.gguf"), b"GGUFnonsense");
    put(&elsewhere.join("s-00001-of-00002.gguf"), &gguf("llama"));

    let model = catalog.import(&elsewhere.join("m.gguf"), false).await.unwrap();
    assert_eq!(model.source, format!("file:{}", elsewhere.canonicalize().unwrap().join("m.gguf").display()));
    assert_eq!(catalog.import(&elsewhere.join("m.gguf"), false).await.unwrap(), model);
    assert_eq!(catalog.import(&model.path, false).await.unwrap(), model, "the store's own path");

    let other = elsewhere.join("other/m.gguf");
    assert_eq!(catalog.import(&other, false).await.unwrap_err().code, Code::ModelExists);
    let model = catalog.import(&other, true).await.unwrap();
    assert_eq!(model.architecture.as_deref(), Some("qwen2"));
    fs::remove_file(&other).unwrap();
    let model = catalog.find("m").await.unwrap();
    assert_eq!(model.status, Status::Incomplete);
    assert_eq!(catalog.delete(&model, false).await.unwrap(), 0, "a link to nothing is still the hive's own");

    for (name, code) in [
        ("bad.gguf", Code::ModelCorrupt),
        ("gone.gguf", Code::SourceNotFound),
        ("s-00001-of-00002.gguf", Code::SourceNotFound),
        ("other", Code::SourceNotFound),
    ] {
        let failure = catalog.import(&elsewhere.join(name), false).await.unwrap_err();
        assert_eq!(failure.code, code, "{name}: {failure}");
    }
    put(&elsewhere.join("s-00002-of-00002.gguf"), &gguf("llama"));
    let split = catalog.import(&elsewhere.join("s-00002-of-00002.gguf"), false).await.unwrap();
    assert_eq!((split.id.as_str(), split.status), ("s", Status::Available));
    assert_eq!(catalog.delete(&split, false).await.unwrap(), 0);
    assert_eq!(fs::read_dir(root.path().join("data/models")).unwrap().count(), 0);

    // A file of the user's own in the store is not replaced, even by force.
    put(&root.path().join("data/models/m.gguf"), &gguf("llama"));
    let failure = catalog.import(&elsewhere.join("m.gguf"), true).await.unwrap_err();
    assert_eq!(failure.code, Code::ModelExists);
}

#[tokio::test]
async fn an_import_replaces_no_further_file_that_is_not_its_own() {
    let root = tempfile::tempdir().unwrap();
    let (elsewhere, store) = (root.path().join("elsewhere"), root.path().join("data/models"));
    let catalog = catalog(root.path());
    put(&elsewhere.join("m-Q8_0.gguf"), &gguf("llama"));
    put(&elsewhere.join("mmproj-m.gguf"), &gguf("clip"));
    put(&elsewhere.join("s-00001-of-00002.gguf"), &gguf("llama"));
    put(&elsewhere.join("s-00002-of-00002.gguf"), &gguf("llama"));
    let journal = b"rbee-partial 2 00000000 {}\n";
    for (model, name, contents, code) in [
        ("m-Q8_0.gguf", "mmproj-m-Q8_0.gguf", &gguf("qwen2vl")[..], Code::ModelExists),
        ("s-00001-of-00002.gguf", "s-00002-of-00002.gguf", &gguf("qwen2"), Code::ModelExists),
        ("m-Q8_0.gguf", "mmproj-m-Q8_0.gguf.partial", b"of a newer version", Code::NotOwned),
    ] {
        let file = store.join(name);
        put(&file, contents);
        if code == Code::NotOwned {
            put(&store.join(format!("{name}.journal")), journal);
        }
        let before = fs::read_dir(&store).unwrap().count();
        for force in [false, true] {
            let failure = catalog.import(&elsewhere.join(model), force).await.unwrap_err();
            assert_eq!(failure.code, code, "{name}: {failure}");
            assert!(failure.message.contains(name), "{failure}");
            assert_eq!(fs::read(&file).unwrap(), contents, "{name}");
            assert_eq!(fs::read_dir(&store).unwrap().count(), before, "{name}: nothing was written");
        }
        fs::remove_file(&file).unwrap();
    }
    fs::remove_file(store.join("mmproj-m-Q8_0.gguf.partial.journal")).unwrap();

    // What it had put there itself gives way to another import, also where only a part of that was done.
    catalog.import(&elsewhere.join("m-Q8_0.gguf"), false).await.unwrap();
    fs::remove_file(store.join("m-Q8_0.gguf")).unwrap();
    let other = root.path().join("other");
    put(&other.join("m-Q8_0.gguf"), &gguf("llama"));
    put(&other.join("mmproj-m.gguf"), &gguf("clip"));
    catalog.import(&other.join("m-Q8_0.gguf"), false).await.unwrap();
    let link = store.join("mmproj-m-Q8_0.gguf");
    assert_eq!(fs::read_link(&link).unwrap(), other.canonicalize().unwrap().join("mmproj-m.gguf"));
    // A file of the user's own in the place of the link does not.
    fs::remove_file(&link).unwrap();
    put(&link, b"mine");
    let failure = catalog.import(&elsewhere.join("m-Q8_0.gguf"), true).await.unwrap_err();
    assert_eq!((failure.code, &*fs::read(&link).unwrap()), (Code::ModelExists, &b"mine"[..]));
    let model = catalog.find("m-Q8_0").await.unwrap();
    assert_eq!(model.projector, None);
    catalog.delete(&model, false).await.unwrap();
    assert_eq!(fs::read(&link).unwrap(), b"mine");
}

#[tokio::test]
async fn a_hive_that_others_can_reach_imports_only_from_the_model_folders() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("models/in.gguf"), root.path().join("out.gguf"));
    put(&inside, &gguf("llama"));
    put(&outside, &gguf("llama"));
    symlink(&outside, root.path().join("models/escape.gguf")).unwrap();
    let mut config = config(root.path());
    config.bind = "0.0.0.0".parse().unwrap();
    let catalog = Catalog::new(&config).unwrap();

    catalog.import(&inside, false).await.unwrap();
    let dots = root.path().join("models/../out.gguf");
    let escape = root.path().join("models/escape.gguf");
    for path in [outside, dots, escape, root.path().join("models/absent.gguf"), "/etc/absent.gguf".into()] {
        let failure = catalog.import(&path, false).await.unwrap_err();
        assert_eq!(failure.code, Code::SourceRefused, "{failure}");
    }
}

#[tokio::test]
async fn an_unreadable_folder_is_reported_and_the_rest_is_listed() {
    let root = tempfile::tempdir().unwrap();
    put(&root.path().join("models/m.gguf"), &gguf("llama"));
    let mut config = config(root.path());
    config.models_dirs.insert(0, root.path().join("missing"));
    let catalog = Catalog::new(&config).unwrap();
    let (sender, mut entries) = tokio::sync::mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".into(), "model_list", sender);
    let list = with_narration_context(context, catalog.list()).await.unwrap();
    assert_eq!(ids(&list), ["m"]);
    let Some(Entry::Narration(narration)) = entries.recv().await else { panic!("nothing was narrated") };
    assert_eq!(narration.level, Level::Warn);
    assert!(narration.message.contains(&*config.models_dirs[0].to_string_lossy()), "{}", narration.message);
    assert_eq!(catalog.missing_folders().await.unwrap(), &config.models_dirs[..1]);
}

#[tokio::test]
async fn what_a_killed_hive_left_is_removed_before_the_first_listing_or_download() {
    for lists in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let leftover = root.path().join("data/models/gone.gguf.tmp");
        put(&leftover, b"x");
        let own = root.path().join("models/own.gguf");
        put(&own, &gguf("llama"));
        let catalog = catalog(root.path());
        assert!(leftover.exists(), "a hive starts without a look at its models");
        if lists {
            catalog.list().await.unwrap();
        } else {
            let source = Source::File(FileSource { path: own });
            let plan = DownloadRequest { dry_run: true, ..DownloadRequest::default() };
            catalog.download(&source, &plan, &CancellationToken::new()).await.unwrap();
        }
        assert!(!leftover.exists());
        let tidied = catalog.tidy().await.unwrap();
        assert!(tidied.contains("gone.gguf.tmp"), "{tidied}");
        put(&leftover, b"of a download under way");
        catalog.list().await.unwrap();
        assert_eq!(catalog.tidy().await.unwrap(), tidied);
        assert!(leftover.exists(), "it tidies once");
    }
}

#[tokio::test]
async fn a_listing_ends_where_a_disk_does_not_answer() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("models/m.gguf");
    put(&file, &gguf("llama"));
    let mut config = config(root.path());
    config.timers.disk = Duration::from_millis(20).into();
    let catalog = Catalog::new(&config).unwrap();
    // On a busy machine a healthy disk may be that slow.
    let until_listed = async || while catalog.list().await.is_err() {};
    until_listed().await;

    let (held, is_held) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let library = Arc::clone(&catalog.places.library);
    let disk = std::thread::spawn(move || {
        let hung = library.ids.hold();
        held.send(()).unwrap();
        // Until the test releases it.
        let _ = released.recv();
        drop(hung);
    });
    is_held.await.unwrap();
    for failed in futures::future::join_all((0..2 * MOST_SCANS).map(|_| catalog.list())).await {
        let failure = failed.unwrap_err();
        assert_eq!(failure.code, Code::Timeout);
        assert!(failure.message.contains(&*root.path().to_string_lossy()), "{failure}");
    }
    assert_eq!(catalog.scans.available_permits(), 0, "no more threads wait for that disk");
    assert_eq!(catalog.missing_folders().await.unwrap_err().code, Code::Timeout);
    assert_eq!(ids(&catalog.known()), ["m"]);
    let known = |name| catalog.find_known(name, |_| None).unwrap();
    assert_eq!((known("M:latest"), known("n")), (Some(("m".to_owned(), None)), None));
    catalog.on_pool(|_| ()).await.unwrap();
    drop(release);
    disk.join().unwrap();
    until_listed().await;
}

#[tokio::test]
async fn a_folder_is_imported_where_it_holds_one_model() {
    let root = tempfile::tempdir().unwrap();
    let catalog = catalog(root.path());
    let folder = root.path().join("elsewhere");
    put(&folder.join("deep/x-00001-of-00002.gguf"), &gguf("llama"));
    put(&folder.join("deep/x-00002-of-00002.gguf"), &gguf("llama"));
    let model = catalog.import(&folder, false).await.unwrap();
    assert_eq!((model.id.as_str(), model.status), ("x", Status::Available));
    put(&folder.join("y.gguf"), &gguf("llama"));
    let failure = catalog.import(&folder, false).await.unwrap_err();
    assert_eq!(failure.code, Code::ModelAmbiguous);
    assert!(failure.message.contains("y.gguf") && failure.message.contains("deep/x-00001-of-00002.gguf"));
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(catalog.import(&empty, false).await.unwrap_err().code, Code::SourceNotFound);
}
