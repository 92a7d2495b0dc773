//! Builds of a small project that has llama.cpp's layout and its target, by the cmake of this machine. They are
//! skipped with a message where it has none, or no C++ compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;

use super::*;
use crate::engines::machine::{Machine, Tools};
use crate::narration::{Entry, Level, Narration, NarrationContext, with_narration_context};
use crate::paths;
use crate::workers::{Exit, WITH_LIFELINE};

/// A cmake project whose target takes two steps and a compiler. The first step notes that it ran; the second one
/// needs the file `go`, and while there is `wait` instead, it notes its process id and waits.
const PROJECT: &str = r#"
cmake_minimum_required(VERSION 3.10)
project("llama.cpp" CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_custom_command(OUTPUT first COMMAND sh -c "echo ran >> ROOM/first && touch first" VERBATIM)
add_custom_command(OUTPUT second DEPENDS first VERBATIM
    COMMAND sh -c "if test -e ROOM/wait; then echo $$ > ROOM/writing; mv ROOM/writing ROOM/pid; exec sleep 1000; fi; test -e ROOM/go && touch second")
add_executable(llama-server main.cpp first second)
"#;
/// It warns, in words that clients take for a failure.
const PROGRAM_TEXT: &str = "#pragma message(\"error: failed: not really\")\nint main() { return 0; }\n";

async fn build(request: &BuildRequest, stop: &CancellationToken) -> Result<Built> {
    let sources = fetch(request, stop).await?;
    super::build(request, &sources, &request.cache.with_file_name("draft"), stop).await
}

/// A folder with an archive of the project, a cache and a place for the program.
struct Room(tempfile::TempDir);

impl Room {
    /// `None` where the machine lacks what it takes.
    fn new() -> Option<Self> {
        if ["cmake", "c++", "tar"].iter().any(|tool| paths::on_path(tool).is_none()) {
            eprintln!("skipped: cmake, a C++ compiler or tar is not here");
            return None;
        }
        let room = Self(tempfile::tempdir().unwrap());
        room.put("go", "");
        room.pack("llama.cpp-b1", PROGRAM_TEXT);
        Some(room)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Packs the project, in this folder of the archive.
    fn pack(&self, folder: &str, program: &str) {
        let top = self.path("pack");
        fs::create_dir_all(top.join(folder)).unwrap();
        let project = PROJECT.replace("ROOM", &self.0.path().display().to_string());
        fs::write(top.join(folder).join("CMakeLists.txt"), project).unwrap();
        fs::write(top.join(folder).join("main.cpp"), program).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test runs it outside any job")]
        let mut tar = std::process::Command::new("tar");
        let root = folder.split('/').next().unwrap();
        let packed = tar.arg("-czf").arg(self.path("sources.tar.gz")).arg("-C").arg(&top).arg(root).status();
        assert!(packed.unwrap().success());
        fs::remove_dir_all(top).unwrap();
    }

    fn request(&self) -> BuildRequest {
        BuildRequest {
            kind: DeviceKind::Cpu,
            compute_capabilities: Vec::new(),
            sources: Sources::Archive { path: self.path("sources.tar.gz"), version: "b1".to_owned() },
            tools: Tools {
                cmake: paths::on_path("cmake"),
                ninja: paths::on_path("ninja"),
                cxx: paths::on_path("c++"),
                ..Tools::default()
            },
            python: PathBuf::from("no-python"),
            cmake_options: vec!["-DCMAKE_CXX_FLAGS_RELEASE=-O0".to_owned()],
            cache: self.path("cache"),
        }
    }

    /// Builds, and returns what was narrated too.
    async fn build(&self, request: &BuildRequest) -> (Result<Built>, Vec<Narration>) {
        self.build_until(request, &CancellationToken::new()).await
    }

    async fn build_until(
        &self,
        request: &BuildRequest,
        stop: &CancellationToken,
    ) -> (Result<Built>, Vec<Narration>) {
        let (sender, mut entries) = mpsc::unbounded_channel();
        let context = NarrationContext::new("job-1".into(), "worker_install", sender);
        let built = with_narration_context(context, build(request, stop)).await;
        let mut narrations = Vec::new();
        while let Some(Entry::Narration(narration)) = entries.recv().await {
            narrations.push(narration);
        }
        (built, narrations)
    }

    /// The folder of the only build in the cache.
    fn folder(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("cache")).unwrap().map(|entry| entry.unwrap().path());
        let folders: Vec<_> = entries.filter(|path| !path.ends_with("packages")).collect();
        assert_eq!(folders.len(), 1, "{folders:?}");
        folders[0].clone()
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether that process runs: one that has ended and that nobody has reaped does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn an_archive_is_built_with_progress_and_no_word_of_failure() {
    let Some(room) = Room::new() else { return };
    let (built, narrations) = room.build(&room.request()).await;
    let built = built.unwrap();
    assert_eq!((&*built.version, &built.program), ("b1", &room.path("draft/llama-server")));
    assert_eq!(built.archive_sha256.unwrap().len(), 64);
    #[expect(clippy::disallowed_methods, reason = "a test runs it outside any job")]
    let status = std::process::Command::new(&built.program).status();
    assert!(status.unwrap().success(), "it runs");
    assert!(
        room.read("draft/build.log").contains("error: failed: not really"),
        "the log has lines as they are"
    );

    let all: Vec<_> = narrations.iter().map(|narration| narration.message.to_lowercase()).collect();
    assert!(all.iter().any(|line| line.contains("not really")), "{all:?}");
    assert!(!all.iter().any(|line| line.contains("error:") || line.contains("failed:")), "{all:?}");
    let last = narrations.iter().rev().find_map(|narration| narration.progress.as_ref()).expect("progress");
    assert_eq!(Some(last.done), last.total);
    assert!(all.iter().any(|line| line.starts_with("built llama-server b1 in ")), "{all:?}");

    // It may have been stopped while it was to prove itself: then nothing is compiled anew.
    fs::remove_dir_all(room.path("draft")).unwrap();
    room.build(&room.request()).await.0.unwrap();
    assert!(room.path("draft/llama-server").exists());
    assert_eq!(room.read("first"), "ran\n", "the step that was done is not repeated");
    clean(&room.path("cache"), DeviceKind::Cpu).await.unwrap();
    let left: Vec<_> = fs::read_dir(room.path("cache")).unwrap().collect();
    assert!(left.is_empty(), "what the build left is gone: {left:?}");
}

#[tokio::test]
async fn a_compile_error_is_told_and_the_build_goes_on_once_it_is_mended() {
    let Some(room) = Room::new() else { return };
    room.pack("llama.cpp-b1", "int main() { return nothing; }\n");
    let (built, _) = room.build(&room.request()).await;
    let failure = built.unwrap_err();
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::EngineBuildFailed, Some("compile")));
    assert!(failure.causes[0].contains("error: ") && failure.causes[0].contains("nothing"), "{failure:?}");
    assert!(failure.log_tail.iter().any(|line| line.contains("nothing")), "{failure:?}");
    assert!(failure.hint.unwrap().contains("build.log") && failure.exit_code.is_some());
    assert!(!room.path("draft").exists() && room.folder().join("out").exists());

    // The folder is that of the same sources, in which somebody mends the file.
    fs::write(room.folder().join("source/main.cpp"), PROGRAM_TEXT).unwrap();
    let (built, narrations) = room.build(&room.request()).await;
    built.unwrap();
    assert!(narrations.iter().any(|narration| narration.message.starts_with("Going on with")));
    assert_eq!(room.read("first"), "ran\n", "the step that was done is not repeated");
}

#[tokio::test]
async fn a_cancelled_build_leaves_no_process_and_goes_on_where_it_was() {
    let Some(room) = Room::new() else { return };
    room.put("wait", "");
    let (request, stop) = (room.request(), CancellationToken::new());
    let cancel = async {
        until(|| room.path("pid").exists()).await;
        stop.cancel();
    };
    let ((built, _), ()) = tokio::join!(room.build_until(&request, &stop), cancel);
    assert_eq!(built.unwrap_err().code, Code::Cancelled);
    // It is in a group of its own, which ninja has ended: this may take the system a moment more.
    let pid = room.read("pid");
    until(|| !runs(&pid)).await;
    assert!(room.folder().join("unfinished").exists());
    room.remove("wait");
    room.build(&request).await.0.unwrap();
    assert_eq!(room.read("first"), "ran\n");

    // A future that is dropped ends its processes too.
    clean(&request.cache, request.kind).await.unwrap();
    room.put("wait", "");
    room.remove("pid");
    tokio::select! {
        _ = room.build(&request) => panic!("it waits"),
        () = until(|| room.path("pid").exists()) => {}
    }
    let pid = room.read("pid");
    until(|| !runs(&pid)).await;
}

#[tokio::test]
async fn what_a_kill_broke_is_built_anew() {
    let Some(room) = Room::new() else { return };
    room.remove("go");
    let request = room.request();
    assert_eq!(room.build(&request).await.0.unwrap_err().code, Code::EngineBuildFailed);
    let broken = room.folder().join("out/CMakeCache.txt");
    fs::write(&broken, "broken").unwrap();
    room.put("go", "");
    let failure = room.build(&request).await.0.unwrap_err();
    assert_eq!(failure.stage.as_deref(), Some("configure"), "a build that nobody killed is left as it is");
    fs::write(&broken, "broken").unwrap();
    fs::write(room.folder().join("unfinished"), "").unwrap();
    let (built, narrations) = room.build(&request).await;
    built.unwrap();
    assert!(narrations.iter().any(|narration| narration.message.contains("building anew")));
}

#[tokio::test]
async fn pip_fetches_a_distribution_once() {
    let Some(room) = Room::new() else { return };
    room.pack("some_sources-0.3.36/vendor/llama.cpp", PROGRAM_TEXT);
    let room_path = room.0.path().display();
    room.put(
        "python",
        &format!(
            "#!/bin/sh\necho \"$*\" >> {room_path}/asked\necho Downloading it\ncp {room_path}/sources.tar.gz \
             some_sources-0.3.36.tar.gz\n"
        ),
    );
    disk::set_mode(&room.path("python"), 0o755).unwrap();
    let package = Sources::Package("some-sources==0.3.36".to_owned());
    let request = BuildRequest { sources: package, python: room.path("python"), ..room.request() };
    let (built, narrations) = room.build(&request).await;
    assert_eq!(built.as_ref().map(|built| &*built.version).unwrap(), "0.3.36");
    let sha256 = built.unwrap().archive_sha256.unwrap();
    assert!(narrations.iter().any(|narration| narration.message.contains(&sha256)), "the hash is told");
    room.build(&request).await.0.unwrap();
    let asked = room.read("asked");
    assert_eq!(asked.lines().count(), 1, "{asked}");
    assert!(
        asked.starts_with("-m pip download ") && asked.contains("--no-binary some-sources --dest . "),
        "{asked}"
    );

    let latest = Sources::Package("some-sources".to_owned());
    let (built, _) = room.build(&BuildRequest { sources: latest, ..request.clone() }).await;
    assert_eq!(built.unwrap().version, "0.3.36", "the version is that of the file");
    room.put("python", "#!/bin/sh\necho 'ERROR: No matching distribution found for some-sources'\nexit 1\n");
    let other = Sources::Package("some-sources==9".to_owned());
    let failure = room.build(&BuildRequest { sources: other, ..request }).await.0.unwrap_err();
    assert_eq!((failure.code, failure.stage.as_deref()), (Code::SourceNotFound, Some("sources")));
    assert!(failure.hint.unwrap().contains("source_package"));
}

#[test]
fn a_build_is_made_portable_unless_the_settings_say_what_it_is_for() {
    let Some(room) = Room::new() else { return };
    let mut request = room.request();
    assert!(make_portable(&mut request));
    assert_eq!(request.cmake_options.last().unwrap(), "-DGGML_NATIVE=OFF");
    assert!(!make_portable(&mut request), "nothing is left to change");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let room = tempfile::tempdir().unwrap();
    let request = BuildRequest {
        kind: DeviceKind::Cuda,
        compute_capabilities: Vec::new(),
        sources: Sources::Package("x".to_owned()),
        tools: Tools { cxx: Some(PathBuf::from("c++")), ..Tools::default() },
        python: PathBuf::from("no-python"),
        cmake_options: Vec::new(),
        cache: room.path().join("cache"),
    };
    let failure = build(&request, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.message, "building llama-server for cuda needs cmake, nvcc, which is not here");
    assert!(failure.hint.unwrap().contains("apt install cmake"));
    assert!(!request.cache.exists());
}

#[tokio::test]
async fn a_program_ends_with_the_hive_that_started_it() {
    let mut command = spawn::command("sh");
    command.args(["-c", WITH_LIFELINE, "sh", "sleep", "1000"]).process_group(0).stdin(Stdio::piped());
    let mut program = command.spawn().unwrap();
    let group = Pid::from_raw(program.id().unwrap().cast_signed()).unwrap();
    drop(program.stdin.take());
    let ended = program.wait().await.unwrap();
    assert_eq!(Exit::from(ended).signal().as_deref(), Some("SIGTERM"));
    // What ended it is in its group, and waits to kill what is left.
    kill_process_group(group, Signal::KILL).unwrap();
}

/// llama.cpp itself. It takes minutes of all processors, so it runs only where `RBEE_HIVE_SOURCE_BUILD`
/// names a folder that gets the program and keeps it; `.ci/llama-server` sets it. It compiles in the fastest way: the
/// program is to be right, not fast.
#[tokio::test(flavor = "multi_thread")]
async fn llama_cpp_is_built_from_its_sources() {
    let Some(folder) = std::env::var_os("RBEE_HIVE_SOURCE_BUILD").map(PathBuf::from) else {
        eprintln!("skipped: RBEE_HIVE_SOURCE_BUILD names no folder, .ci/llama-server does");
        return;
    };
    if folder.join(PROGRAM).exists() {
        eprintln!("skipped: {} is built already", folder.display());
        return;
    }
    let variable = |name: &str| std::env::var(name).ok();
    let machine = Machine::here(Path::new("python3")).await.unwrap();
    // Not for this processor alone: the folder may be kept for other machines.
    let options = [
        "CMAKE_C_FLAGS_RELEASE=-O2 -DNDEBUG",
        "CMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
        "GGML_OPENMP=OFF",
        "GGML_NATIVE=OFF",
    ];
    // What cmake reads besides, if anything.
    let file =
        variable("RBEE_HIVE_SOURCE_CMAKE").map(|file| format!("CMAKE_PROJECT_llama.cpp_INCLUDE={file}"));
    let options = options.map(str::to_owned).into_iter().chain(file);
    let package = variable("RBEE_HIVE_SOURCE_PACKAGE").unwrap_or_else(|| "llama-cpp-python".to_owned());
    let request = BuildRequest {
        kind: DeviceKind::Cpu,
        compute_capabilities: Vec::new(),
        sources: Sources::Package(package),
        python: machine.tools.python.clone().expect("a Python with pip"),
        tools: machine.tools,
        cmake_options: options.map(|option| format!("-D{option}")).collect(),
        cache: folder.join("cache"),
    };
    let (sender, mut entries) = mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".into(), "worker_install", sender);
    let told = async {
        while let Some(entry) = entries.recv().await {
            let Entry::Narration(Narration { level, message, .. }) = entry else { continue };
            let lower = message.to_lowercase();
            assert!(!lower.contains("error:") && !lower.contains("failed:"), "{message}");
            if level > Level::Debug {
                eprintln!("{message}");
            }
        }
    };
    let (built, ()) = tokio::join!(
        async {
            let (context, stop) = (context, CancellationToken::new());
            with_narration_context(context, build(&request, &stop)).await
        },
        told
    );
    let built = match built {
        Err(failure) if failure.stage.as_deref() == Some("sources") => {
            eprintln!("skipped: {failure}\n{}", failure.log_tail.join("\n"));
            return;
        }
        built => built.unwrap_or_else(|failure| panic!("{failure}\n{}", failure.log_tail.join("\n"))),
    };
    if let Some(sha256) = variable("RBEE_HIVE_SOURCE_SHA256") {
        assert_eq!(built.archive_sha256, Some(sha256));
    }
    let mut command = spawn::command(&built.program);
    let version = command.arg("--version").output().await.unwrap();
    assert!(version.status.success(), "{version:?}");
    let said = [version.stdout, version.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains(&built.version), "it tells the version of its sources");
    clean(&request.cache, request.kind).await.unwrap();
    fs::rename(&built.program, folder.join(PROGRAM)).unwrap();
    fs::remove_dir_all(folder.join("draft")).unwrap();
}
