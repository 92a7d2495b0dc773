//! llama.cpp's server as an engine (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server>).
//!
//! Its `/health` and `/v1/models` need no key and it answers any origin, so only the hive may connect
//! to it. Its command line has the arguments below and no others; its key is passed in the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Engine, ModelStorage, PortSource};
use crate::config::{Capability, DeviceKind, LlamaServer};
use crate::models::{Task, Traits};
use crate::narration::Level;
use crate::workers::device::Device;

/// The name of the engine.
pub(in crate::workers) const NAME: &str = "llama-server";
/// The setting that names its executable.
pub(super) const SETTING: &str = "[llama_server] program";

/// Set by variables rather than flags, because a version that does not know a flag ends with an error.
/// It serves no page, and does not change the settings to fit into memory: the hive decides that.
const ENVIRONMENT: [(&str, &str); 3] =
    [("LLAMA_ARG_NO_WEBUI", "1"), ("LLAMA_ARG_UI", "0"), ("LLAMA_ARG_FIT", "off")];

/// The most tokens of a text that is computed at once where the settings do not say: the memory for it grows with
/// them.
const LARGEST_BATCH: u64 = 8192;

/// Describes the engine at `program`, from its settings and the output of its `--version` and
/// `--list-devices`.
pub(in crate::workers) fn describe(
    program: PathBuf,
    settings: &LlamaServer,
    version: &str,
    devices: &str,
) -> Engine {
    let gpus = gpus(devices);
    let mut arguments = Vec::new();
    // A flag and its value are two words.
    let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    for (name, value) in [
        ("--host", "127.0.0.1"),
        ("--port", "{port}"),
        ("--model", "{model}"),
        ("--alias", "{model_id}"),
        ("--ctx-size", "{context_of_all_slots}"),
        ("--parallel", "{slots}"),
        ("--threads", "{threads}"),
        ("--chat-template-file", "{chat_template}"),
    ] {
        flag(name, value.to_owned());
    }
    // A build without GPUs warns about these.
    if !gpus.is_empty() {
        flag("--device", "{own_device}".to_owned());
        flag("--n-gpu-layers", "{gpu_layers}".to_owned());
        // Only where a model is split over several GPUs.
        flag("--tensor-split", "{tensor_split}".to_owned());
    }
    if let Some(attention) = settings.flash_attention {
        flag("--flash-attn", attention.name().to_owned());
    }
    if let Some(kind) = settings.kv_type {
        flag("--cache-type-k", kind.name().to_owned());
        flag("--cache-type-v", kind.name().to_owned());
    }
    flag("--mmproj", "{projector}".to_owned());
    arguments.push("--metrics".to_owned());
    let mut devices: Vec<DeviceKind> = Vec::new();
    for (device, _) in &gpus {
        if let Device::Exact { kind, .. } = device
            && !devices.contains(kind)
        {
            devices.push(*kind);
        }
    }
    devices.push(DeviceKind::Cpu);
    let mut usable: Vec<Device> = gpus.iter().map(|(device, _)| *device).collect();
    usable.push(Device::CPU);
    Engine {
        name: NAME.to_owned(),
        about: "llama.cpp's server".to_owned(),
        version: version_of(version),
        build: None,
        capabilities: Capability::ALL.iter().copied().collect(),
        has_means_of_its_own: false,
        describes_tools: false,
        devices,
        usable,
        own_names: gpus,
        program,
        setting: SETTING.to_owned(),
        arguments,
        environment: ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        secret_variable: "LLAMA_API_KEY".to_owned(),
        health_route: "/health".to_owned(),
        paths: BTreeMap::new(),
        metrics_route: Some("/metrics".to_owned()),
        log_level: Level::Debug,
        port: PortSource::Assigned,
        storage: ModelStorage::AsInFile { cache_bits: settings.kv_type.map_or(16, |kind| kind.bits()) },
        gpu_layers: settings.gpu_layers,
        takes_options: true,
        has_llama_cpp_fields: true,
        threads: None,
        projector: settings.mmproj.clone(),
        unrestricted: None,
        falls_back_to_chatml: true,
    }
}

/// Makes the engine serve a model for embeddings or for reranking. It computes each text at once, so its batch is as
/// large as the context, within [`LARGEST_BATCH`], unless the settings say how large it is.
pub(super) fn serve_task(engine: &mut Engine, traits: Traits, context: u64) {
    match traits.task {
        Task::Text => return,
        Task::Embeddings => engine.arguments.push("--embeddings".to_owned()),
        Task::Reranking => engine.arguments.push("--reranking".to_owned()),
    }
    if traits.task == Task::Embeddings && !traits.states_pooling {
        engine.set_flag("--pooling", "mean".to_owned());
    }
    // The physical batch counts; llama.cpp ends with an error where the other one is larger.
    let [batch, ubatch] = ["--batch-size", "--ubatch-size"];
    let set = engine.flag_value(ubatch).or_else(|| engine.flag_value(batch)).map(str::to_owned);
    let size = set.unwrap_or_else(|| context.min(LARGEST_BATCH).to_string());
    engine.set_flag(batch, size.clone());
    engine.set_flag(ubatch, size);
}

/// The version in its output: `version: 4567 (0a1b2c3)`.
fn version_of(output: &str) -> Option<String> {
    output.lines().find_map(|line| line.strip_prefix("version: ")).map(|version| version.trim().to_owned())
}

/// The GPUs of its list (`  CUDA0: NVIDIA H200 (…)`), as devices and with its own names.
pub(super) fn gpus(list: &str) -> Vec<(Device, String)> {
    list.lines()
        .filter_map(|line| {
            let (own, _) = line.trim().split_once(": ")?;
            let digits = own.find(|c: char| c.is_ascii_digit())?;
            let kind = match &own[..digits] {
                "CUDA" => DeviceKind::Cuda,
                "ROCm" | "HIP" => DeviceKind::Rocm,
                "Vulkan" => DeviceKind::Vulkan,
                "Metal" | "MTL" => DeviceKind::Metal,
                _ => return None,
            };
            Some((Device::Exact { kind, index: own[digits..].parse().ok()? }, own.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FlashAttention, KvType};

    #[test]
    fn a_model_for_embeddings_or_reranking_gets_the_flags_for_that() {
        use crate::config::EngineOptions;

        let engine = describe("llama-server".into(), &LlamaServer::default(), "version: 1", "");
        let line = |engine: &Engine, task, states_pooling, context| {
            let traits = Traits { task, states_pooling, template: None };
            engine.for_model(traits, context).arguments.join(" ")
        };
        let text = line(&engine, Task::Text, false, 512);
        assert_eq!(text, engine.arguments.join(" "));
        for (task, states_pooling, context, flags) in [
            (Task::Embeddings, true, 512, "--embeddings --batch-size 512 --ubatch-size 512"),
            (Task::Embeddings, false, 512, "--embeddings --pooling mean --batch-size 512 --ubatch-size 512"),
            (Task::Reranking, true, 100_000, "--reranking --batch-size 8192 --ubatch-size 8192"),
            (Task::Reranking, false, 64, "--reranking --batch-size 64 --ubatch-size 64"),
        ] {
            assert_eq!(line(&engine, task, states_pooling, context), format!("{text} {flags}"));
        }
        let set =
            EngineOptions { batch_size: Some(2048), ubatch_size: Some(256), ..EngineOptions::default() };
        let set = line(&engine.with_options(&set), Task::Embeddings, true, 512);
        assert!(set.ends_with("--batch-size 256 --ubatch-size 256 --embeddings"), "{set}");
        let other = Engine::builtin("p".into());
        assert_eq!(line(&other, Task::Embeddings, false, 512), other.arguments.join(" "));
    }

    #[test]
    fn its_version_and_devices_are_parsed_and_its_flags_built() {
        let list = "ggml_cuda_init: found 1 CUDA devices:\nAvailable devices:\n  CUDA0: NVIDIA H200 (143771 MiB, \
                    143000 MiB free)\n  Vulkan1: AMD (8 MiB, 8 MiB free)\n  BLAS: OpenBLAS (0 MiB)\n";
        let version = "version: 4567 (0a1b2c3)\nbuilt with cc\n";
        let settings = LlamaServer {
            flash_attention: Some(FlashAttention::On),
            kv_type: Some(KvType::Q8_0),
            ..LlamaServer::default()
        };
        let engine = describe("llama-server".into(), &settings, version, list);
        assert_eq!(engine.version.as_deref(), Some("4567 (0a1b2c3)"));
        let newer = "version: 0.5.0-dev (build 1, commit 0c1e570)\nbuilt with GNU 12.2.0 for Linux x86_64\n";
        assert_eq!(version_of(newer).as_deref(), Some("0.5.0-dev (build 1, commit 0c1e570)"));
        assert_eq!(engine.devices, [DeviceKind::Cuda, DeviceKind::Vulkan, DeviceKind::Cpu]);
        let usable: Vec<_> = engine.usable.iter().map(ToString::to_string).collect();
        assert_eq!(usable, ["cuda:0", "vulkan:1", "cpu"]);
        let values = [
            ("port", Some("7".into())),
            ("model", Some("/m.gguf".into())),
            ("slots", None),
            ("projector", None),
        ];
        let words = engine.arguments(&values);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        assert!(line.starts_with("--host 127.0.0.1 --port 7 --model /m.gguf"), "{line}");
        assert!(
            line.ends_with("--flash-attn on --cache-type-k q8_0 --cache-type-v q8_0 --metrics"),
            "{line}"
        );
        assert!(!line.contains("--parallel"), "no flag without its value: {line}");
        assert!(!line.contains("--mmproj"), "no projector for a model that has none: {line}");
        let values = [("projector", Some("/p.gguf".into()))];
        assert!(engine.arguments(&values).join(" ".as_ref()).to_string_lossy().contains("--mmproj /p.gguf"));
        let values = [
            ("own_device", Some("CUDA0".into())),
            ("gpu_layers", Some("999".into())),
            ("tensor_split", None),
        ];
        let line = engine.arguments(&values).join(" ".as_ref()).to_string_lossy().into_owned();
        assert!(line.contains("--device CUDA0 --n-gpu-layers 999 --flash-attn"), "{line}");
        let options = crate::config::EngineOptions {
            flash_attention: Some(FlashAttention::Off),
            kv_type: Some(KvType::F32),
            gpu_layers: Some(3),
            threads: Some(2),
            rope_scale: Some(4.0),
            ..Default::default()
        };
        let changed = engine.with_options(&options);
        let line = changed.arguments.join(" ");
        assert!(
            line.ends_with(
                "--flash-attn off --cache-type-k f32 --cache-type-v f32 --mmproj {projector} --metrics --rope-scale 4"
            ),
            "{line}"
        );
        assert_eq!((changed.gpu_layers, changed.threads), (Some(3), Some(2)));
        assert_eq!(changed.storage, ModelStorage::AsInFile { cache_bits: 32 });
        let without = describe("llama-server".into(), &settings, version, "Available devices:\n  (none)\n");
        assert_eq!(without.usable, [Device::CPU]);
        assert!(!without.arguments.iter().any(|word| word.contains("gpu") || word.contains("device")));
    }
}
