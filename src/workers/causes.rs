//! The common causes of an engine's end, found in the last lines of its log.
//!
//! Engines write why they end, but rarely what to do about it. The phrases here are those of
//! llama.cpp, vLLM, CUDA's runtime and the dynamic linker.

use std::borrow::Cow;

use super::exit::Exit;

/// Phrases of logs, in lower case, and the next step for each.
type Causes = &'static [(&'static [&'static str], &'static str)];

/// Those with which an engine tells of what is not its fault: memory, the model, the machine.
const OF_OTHERS: Causes = &[
    (
        &[
            "out of memory",
            "cudamalloc failed",
            "failed to allocate",
            "unable to allocate",
            "cannot allocate memory",
            "bad_alloc",
            "no available memory for the cache blocks",
        ],
        "memory ran out: try a shorter context_length, fewer slots, a smaller quantization or another device, or \
         unload another model",
    ),
    (
        &[
            "unknown model architecture",
            "are not supported for now",
            "unknown pre-tokenizer",
            "has invalid ggml type",
        ],
        "this version of the engine does not know the model's architecture: update the engine, or use another model",
    ),
    (
        &[
            "invalid magic",
            "failed to read magic",
            "corrupted or incomplete",
            "not within the file bounds",
            "failed to read key-value pairs",
            "failed to read tensor",
            "wrong number of tensors",
            "missing tensor",
            "check_tensor_dims",
            "unexpectedly reached end of file",
        ],
        "the engine found the file damaged: ModelGet shows what the hive knows of it; download it again with \
         ModelDownload and \"force\": true",
    ),
    (
        &["failed to load multimodal model", "failed to load clip model"],
        "the multimodal projector does not fit the model: check [llama_server] mmproj",
    ),
    (&["no space left on device"], "a disk is full: see the log for its name, or run df"),
    (
        &["permission denied"],
        "the engine may not use a file or a device that its log names: check its permissions",
    ),
];

/// Those of an engine that is not as it should be.
const OF_ENGINE: Causes = &[
    (
        &["error while loading shared libraries", "symbol lookup error", "library not loaded"],
        "a library that the engine needs is missing or has another version: reinstall the engine, or set \
         LD_LIBRARY_PATH to the folder of its libraries",
    ),
    (
        &["invalid argument:", "unrecognized arguments", "unknown argument", "unknown value for --"],
        "this version of the engine does not know an option that it was given: update it, or remove the option from \
         the settings",
    ),
    (
        &[
            "no kernel image is available",
            "cuda driver version is insufficient",
            "no cuda gpus are available",
            "no cuda-capable device",
        ],
        "the engine and the GPU's driver do not fit each other: update the driver, or use an engine that is built for \
         this GPU",
    ),
    (
        &["its dynamic linker, or the interpreter"],
        "the engine was built for another kind of system: use one that is built on this machine (WorkerInstall with \
         \"from\": \"source\" builds llama-server)",
    ),
    (
        &["no such file or directory", "no module named"],
        "a file or module that the engine needs is missing: its log names it",
    ),
];

/// Libraries that engines need and that come from elsewhere, and where that is.
const LIBRARIES: &[(&str, &str)] = &[
    ("libgomp", "the package libgomp1 (libgomp on Fedora)"),
    ("libstdc++", "the package libstdc++6 (libstdc++ on Fedora)"),
    ("libcurl", "the package libcurl4 (libcurl on Fedora)"),
    ("libssl", "the package libssl3 (openssl-libs on Fedora)"),
    ("libcrypto", "the package libssl3 (openssl-libs on Fedora)"),
    ("libvulkan", "the package libvulkan1 (vulkan-loader on Fedora)"),
    ("libcuda.so", "NVIDIA's driver"),
    ("libnvidia", "NVIDIA's driver"),
    ("libcudart", "CUDA's libraries, of the version that the engine was built with"),
    ("libcublas", "CUDA's libraries, of the version that the engine was built with"),
    ("libnccl", "the package libnccl2"),
    ("libamdhip64", "ROCm, of the version that the engine was built with"),
    ("libhipblas", "ROCm, of the version that the engine was built with"),
    ("librocblas", "ROCm, of the version that the engine was built with"),
];

/// How to get an engine that fits this machine whatever it has.
const FROM_SOURCE: &str = "WorkerInstall with \"from\": \"source\" builds llama-server";

/// What to do about the end of an engine's process, which wrote these lines last. `is_restricted` says whether the
/// kernel held it to what the hive thinks that it needs.
pub(super) fn next_step(
    exit: Option<Exit>,
    tail: &[String],
    saw_oom_kill: bool,
    is_restricted: bool,
) -> Cow<'static, str> {
    let is_told = exit.is_some_and(|exit| exit.killed() || exit.lacks_instructions());
    let may_be_the_sandbox = is_restricted && !is_told && (is_refused(tail) || !blames_others(tail));
    match or_the_sandbox(may_be_the_sandbox) {
        "" => of_engine(exit, tail, saw_oom_kill),
        further => of_engine(exit, tail, saw_oom_kill) + further,
    }
}

/// The end of a hint where the sandbox of the worker may be the cause; else nothing.
pub(super) const fn or_the_sandbox(may_be: bool) -> &'static str {
    if may_be {
        "; if it runs by hand, the sandbox of workers may keep from it what it needs: [workers] sandbox = \"off\" \
         turns that off"
    } else {
        ""
    }
}

/// Whether the system refused the engine something.
fn is_refused(tail: &[String]) -> bool {
    tail.iter().any(|line| {
        let line = line.to_lowercase();
        line.contains("permission denied") || line.contains("operation not permitted")
    })
}

fn of_engine(exit: Option<Exit>, tail: &[String], saw_oom_kill: bool) -> Cow<'static, str> {
    match exit {
        Some(exit) if exit.killed() && saw_oom_kill => {
            "the kernel's out-of-memory killer killed a process while the worker ran: try a smaller model or \
             quantization, a shorter context, or unload another model"
        }
        Some(exit) if exit.killed() => {
            "the system likely killed it because memory ran out: try a smaller model or quantization, a shorter \
             context, or unload another model"
        }
        Some(exit) if exit.lacks_instructions() => {
            return format!(
                "the engine was built for another processor: this one lacks instructions that it needs. Use an older \
                 version, or one that is built on this machine ({FROM_SOURCE})"
            )
            .into();
        }
        exit => match hint(tail) {
            Some(hint) => return hint,
            None if exit.is_some_and(Exit::faulted) => {
                "this is a defect of the engine: please report it with the log"
            }
            None => "the last lines of its log say more",
        },
    }
    .into()
}

/// The next step for the last of these log lines that has a known phrase.
fn hint(tail: &[String]) -> Option<Cow<'static, str>> {
    tail.iter().rev().find_map(|line| {
        missing_library(line).map(Cow::Owned).or_else(|| {
            let line = line.to_lowercase();
            hint_of(OF_OTHERS, &line).or_else(|| hint_of(OF_ENGINE, &line)).map(Cow::Borrowed)
        })
    })
}

/// The last of these log lines that tells why the engine itself is not as it should be.
pub(super) fn told(tail: &[String]) -> Option<&String> {
    tail.iter()
        .rev()
        .find(|line| missing_library(line).is_some() || hint_of(OF_ENGINE, &line.to_lowercase()).is_some())
}

/// Whether the last of these log lines that has a known phrase tells of what is not the engine's fault.
pub(super) fn blames_others(tail: &[String]) -> bool {
    let blamed = tail.iter().rev().find_map(|line| {
        let line = line.to_lowercase();
        hint_of(OF_OTHERS, &line).map(|_| true).or_else(|| hint_of(OF_ENGINE, &line).map(|_| false))
    });
    blamed.unwrap_or(false)
}

fn hint_of(causes: Causes, line: &str) -> Option<&'static str> {
    let has_one =
        |(phrases, _): &&(&[&str], &'static str)| phrases.iter().any(|phrase| line.contains(phrase));
    causes.iter().find(has_one).map(|(_, hint)| *hint)
}

/// The next step where the dynamic linker names what it did not find:
/// `llama-server: error while loading shared libraries: libgomp.so.1: cannot open shared object file: …`, or
/// ``/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by llama-server)``.
fn missing_library(line: &str) -> Option<String> {
    if let Some((_, version)) = line.split_once("version `")
        && let Some((version, _)) = version.split_once("' not found")
    {
        return Some(format!(
            "the engine was built for a newer system, which has {version}: use an older version of the engine, or one \
             that is built on this machine ({FROM_SOURCE})"
        ));
    }
    let (_, library) = line.split_once("error while loading shared libraries: ")?;
    let (library, why) = library.split_once(": cannot open shared object file")?;
    if why.contains("Permission denied") {
        return None;
    }
    let source = LIBRARIES.iter().find(|(name, _)| library.starts_with(name)).map(|(_, source)| *source);
    Some(match source {
        Some(source) => format!("the engine needs {library}, which is missing here: install {source}"),
        None => format!(
            "the engine needs {library}, which is missing here: install the package that has it, or reinstall the \
             engine"
        ),
    })
}

/// What an engine did not know of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    Architecture,
    PreTokenizer,
    /// By its number in the file.
    TensorType(u32),
}

/// What the engine did not know of the model, if that is why it ended: llama.cpp's and vLLM's phrases.
pub(super) fn unknown(tail: &[String]) -> Option<Unknown> {
    tail.iter().rev().find_map(|line| {
        let line = line.to_lowercase();
        if line.contains("unknown model architecture") || line.contains("are not supported for now") {
            return Some(Unknown::Architecture);
        }
        if line.contains("unknown pre-tokenizer") {
            return Some(Unknown::PreTokenizer);
        }
        let (_, rest) = line.split_once("has invalid ggml type ")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().map(Unknown::TensorType)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_an_engine_did_not_know_is_recognised() {
        for (line, unknown_thing) in [
            (
                "llama_model_load: error loading model: unknown model architecture: 'mamba9'",
                Unknown::Architecture,
            ),
            ("ValueError: Model architectures ['X'] are not supported for now.", Unknown::Architecture),
            ("error loading model vocabulary: unknown pre-tokenizer type: 'x'", Unknown::PreTokenizer),
            (
                "gguf_init_from_file_impl: tensor 'output.weight' has invalid ggml type 144. should be in [0, 41)",
                Unknown::TensorType(144),
            ),
        ] {
            let tail = [line.to_owned(), "exiting due to model loading error".to_owned()];
            assert_eq!(unknown(&tail), Some(unknown_thing), "{line}");
            assert!(hint(&tail).unwrap().contains("update the engine"), "{line}");
        }
        assert_eq!(unknown(&["out of memory".to_owned()]), None);
    }

    #[test]
    fn the_phrases_of_engines_lead_to_a_next_step() {
        for (line, step) in [
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB: cudaMalloc failed: out of memory",
                "memory",
            ),
            ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB", "memory"),
            ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
            ("error loading model architecture: unknown model architecture: 'mamba9'", "update the engine"),
            (
                "gguf_init_from_file_impl: invalid magic characters: 'RIFF', expected 'GGUF'",
                "download it again",
            ),
            (
                "tensor 'a' data is not within the file bounds, model is corrupted or incomplete",
                "download it again",
            ),
            (
                "error loading model: check_tensor_dims: tensor 'blk.0.attn_q.weight' not found",
                "download it again",
            ),
            ("srv load_model: failed to load multimodal model, 'm.gguf'", "mmproj"),
            ("x: error while loading shared libraries: libfoo.so.1: invalid ELF header", "reinstall"),
            (
                "x: error while loading shared libraries: libgomp.so.1: cannot open shared object file: No such file",
                "libgomp.so.1, which is missing here: install the package libgomp1",
            ),
            (
                "x: error while loading shared libraries: libodd.so.7: cannot open shared object file: No such file",
                "needs libodd.so.7",
            ),
            (
                "libc.so.6: version `GLIBC_2.38' not found (required by x)",
                "newer system, which has GLIBC_2.38",
            ),
            ("error: invalid argument: --flash-attn", "remove the option"),
            ("api_server.py: error: unrecognized arguments: --x", "remove the option"),
            ("CUDA error: no kernel image is available for execution on the device", "driver"),
            ("bind: Permission denied", "permissions"),
        ] {
            let hint = hint(&["ready to go".to_owned(), line.to_owned()]).unwrap_or_else(|| panic!("{line}"));
            assert!(hint.contains(step), "{line}: {hint}");
        }
        assert_eq!(hint(&["all is well".to_owned()]), None);
        let ill = Exit::from(std::process::ExitStatus::from_raw(4));
        assert!(next_step(Some(ill), &[], false, true).contains("another processor"));
        let both = ["Permission denied".to_owned(), "out of memory".to_owned()];
        assert!(hint(&both).unwrap().starts_with("memory"), "the last line counts");
    }

    #[test]
    fn the_sandbox_is_named_where_it_may_be_the_cause_and_nowhere_else() {
        let step = |line: &str, is_restricted| {
            next_step(None, &["ready to go".to_owned(), line.to_owned()], false, is_restricted)
        };
        for line in [
            "sh: 2: exec: /home/me/llama-server: Permission denied",
            "llama-server: error while loading shared libraries: libx.so: cannot open shared object file: Permission \
             denied",
            "CUDA error: no CUDA-capable device is detected",
            "Segmentation fault",
        ] {
            assert!(step(line, true).ends_with("[workers] sandbox = \"off\" turns that off"), "{line}");
            assert!(!step(line, false).contains("sandbox"), "{line}");
        }
        for line in ["cudaMalloc failed: out of memory", "unknown model architecture: 'x'"] {
            assert!(!step(line, true).contains("sandbox"), "{line}");
        }
    }
}
