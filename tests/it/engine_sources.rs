//! An engine from sources that pip fetches, with stand-ins of pip, cmake and the compiler, which every machine can run.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::builds::working_build;
use crate::support::{Daemon, command, folder, nowhere};

/// Puts a script there.
fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a program");
}

/// The stand-ins, and a source distribution of version 1.5.
async fn write_tools(room: &Path) {
    let (bin, sources) = (room.join("bin"), room.join("some_sources-1.5/vendor/llama.cpp"));
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::create_dir_all(&sources).expect("a folder");
    std::fs::write(sources.join("CMakeLists.txt"), "").expect("a file");
    let mut tar = command("tar");
    tar.arg("-czf").arg(room.join("some_sources-1.5.tar.gz")).arg("-C").arg(room).arg("some_sources-1.5");
    assert!(tar.status().await.expect("tar").success());
    std::fs::write(room.join("llama-server"), working_build("1.5")).expect("a file");
    std::fs::set_permissions(room.join("llama-server"), std::fs::Permissions::from_mode(0o755))
        .expect("a mode");
    let knows = "case ${1-} in --version) echo 'version: 1.5 (x)'; exit ;; --list-devices) exit ;; esac";
    script(&room.join("for-this-processor"), &format!("{knows}\nkill -ILL $$"));
    let room = room.display();
    script(&bin.join("c++"), "exit 1");
    script(&bin.join("python3"), &format!("[ \"$1\" = -c ] || cp '{room}/some_sources-1.5.tar.gz' ."));
    // Where the processor lies, only a program that is not made for it runs.
    let build = format!(
        "program=llama-server; [ ! -e '{room}/lies' ] || [ -e \"$2/portable\" ] || program=for-this-processor\n\
         mkdir -p \"$2/bin\" && cp \"{room}/$program\" \"$2/bin/llama-server\" && echo built >> '{room}/built'"
    );
    let configure = "mkdir -p \"$4\"; case $* in *GGML_NATIVE=OFF*) touch \"$4/portable\" ;; esac";
    script(&bin.join("cmake"), &format!("case $1 in --build) {build} ;; *) {configure} ;; esac"));
}

/// A hive that finds the stand-ins, and no releases.
async fn hive_with_tools(room: &Path) -> Daemon {
    write_tools(room).await;
    let settings = room.join("hive.toml");
    let releases = format!("{}/releases", nowhere());
    let text = format!("[engine_builds]\nreleases = {releases:?}\nsource_package = \"some-sources\"\n");
    std::fs::write(&settings, text).expect("settings");
    let bin = room.join("bin");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let arguments = ["--config", settings.to_str().expect("UTF-8")];
    Daemon::start_with(room, &arguments, &[("PATH", path.as_str())]).await
}

fn install(from: &str) -> Value {
    json!({ "WorkerInstall": { "worker_id": "llama-server-cpu", "from": from } })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_built_where_no_release_can_be_asked_for_and_not_built_twice() {
    let dir = folder();
    let hive = hive_with_tools(dir.path()).await;

    // Nobody builds for long who has not asked for that.
    let failure = hive.fail(&install("auto")).await;
    let hint = failure["hint"].as_str().expect("a hint");
    assert!(hint.contains(r#""from":"source""#) && hint.contains("builds it on this machine"), "{failure}");
    let offers = hive.succeed(&json!({ "WorkerCatalogList": {} })).await;
    let offers = offers["workers"].as_array().expect("offers");
    let cpu = offers.iter().find(|offer| offer["id"] == "llama-server-cpu").expect("an offer");
    assert!(
        cpu["problem"].as_str().is_some_and(|problem| problem.contains("builds it on this machine")),
        "{cpu}"
    );

    let installed = hive.succeed(&install("source")).await;
    assert_eq!((&installed["version"], &installed["from"]), (&json!("1.5"), &json!("source")), "{installed}");
    let again = hive.succeed(&install("source")).await;
    assert_eq!((&again["path"], &again["previous"]), (&installed["path"], &Value::Null), "{again}");
    assert_eq!(std::fs::read_to_string(dir.path().join("built")).expect("it was built"), "built\n");
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_of_an_instruction_of_this_processor_is_built_again_without_it() {
    let dir = folder();
    std::fs::write(dir.path().join("lies"), "").expect("a file");
    let hive = hive_with_tools(dir.path()).await;
    let installed = hive.succeed(&install("source")).await;
    assert_eq!((&installed["version"], &installed["from"]), (&json!("1.5"), &json!("source")), "{installed}");
    assert_eq!(std::fs::read_to_string(dir.path().join("built")).expect("it was built"), "built\nbuilt\n");
    hive.stop().await;
}
