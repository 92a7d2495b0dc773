//! llama.cpp's server as an engine (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server>).
//!
//! Its `/health` and `/v1/models` ignore its key and it answers any origin, so only the hive talks to
//! it. What goes onto its command line is this list and nothing else; the key travels by
//! environment.

use std::path::PathBuf;

use super::{Engine, Keeps, Port};
use crate::config::LlamaServer;
use crate::narration::Level;
use crate::workers::devices::{Device, Kind};

/// The name of the engine.
pub(in crate::workers) const NAME: &str = "llama-server";

/// The engine at `program`, with the settings that it is to be run with and what it said of itself.
pub(super) fn describe(program: PathBuf, settings: &LlamaServer, version: &str, devices: &str) -> Engine {
    let gpus = gpus(devices);
    let mut arguments: Vec<String> = [
        "--host=127.0.0.1",
        "--port={port}",
        "--model={model}",
        "--alias={model_id}",
        "--ctx-size={context_of_all_slots}",
        "--parallel={slots}",
        "--threads={threads}",
        "--device={own_device}",
        "--n-gpu-layers={gpu_layers}",
    ]
    .map(|argument| match argument.split_once('=') {
        // It takes a flag and its value as two words.
        Some((flag, value)) => vec![flag.to_owned(), value.to_owned()],
        None => vec![argument.to_owned()],
    })
    .concat();
    let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    if let Some(attention) = settings.flash_attention {
        flag("--flash-attn", attention.name().to_owned());
    }
    if let Some(kind) = settings.kv_type {
        flag("--cache-type-k", kind.name().to_owned());
        flag("--cache-type-v", kind.name().to_owned());
    }
    if let Some(projector) = &settings.mmproj {
        flag("--mmproj", projector.display().to_string());
    }
    if settings.embeddings {
        arguments.push("--embeddings".to_owned());
    }
    let mut capabilities = vec!["chat".to_owned(), "completions".to_owned()];
    capabilities.extend(settings.embeddings.then(|| "embeddings".to_owned()));
    capabilities.extend(settings.mmproj.is_some().then(|| "images".to_owned()));
    let mut devices: Vec<Kind> = Vec::new();
    for (device, _) in &gpus {
        if let Device::Exact { kind, .. } = device
            && !devices.contains(kind)
        {
            devices.push(*kind);
        }
    }
    devices.push(Kind::Cpu);
    let mut usable: Vec<Device> = gpus.iter().map(|(device, _)| *device).collect();
    usable.push(Device::CPU);
    Engine {
        name: NAME.to_owned(),
        about: "llama.cpp's server".to_owned(),
        version: version_of(version),
        capabilities,
        devices,
        usable,
        own_names: gpus,
        program,
        arguments,
        environment: [("LLAMA_ARG_NO_WEBUI".to_owned(), "1".to_owned())].into(),
        secret_variable: "LLAMA_API_KEY".to_owned(),
        health_route: "/health".to_owned(),
        chat_route: "/v1/chat/completions".to_owned(),
        log_level: Level::Debug,
        port: Port::Probed,
        keeps: Keeps::AsStored { cache_bits: settings.kv_type.map_or(16, |kind| kind.bits()) },
        gpu_layers: settings.gpu_layers,
    }
}

/// `version: 4567 (0a1b2c3)` among what it says.
fn version_of(said: &str) -> Option<String> {
    said.lines().find_map(|line| line.strip_prefix("version: ")).map(|version| version.trim().to_owned())
}

/// The devices of its list, by the hive's names and by its own: `  CUDA0: NVIDIA H200 (…)`.
fn gpus(list: &str) -> Vec<(Device, String)> {
    list.lines()
        .filter_map(|line| {
            let (own, _) = line.trim().split_once(": ")?;
            let digits = own.find(|c: char| c.is_ascii_digit())?;
            let kind = match &own[..digits] {
                "CUDA" => Kind::Cuda,
                "ROCm" | "HIP" => Kind::Rocm,
                "Vulkan" => Kind::Vulkan,
                "Metal" | "MTL" => Kind::Metal,
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
    fn what_it_says_of_itself_is_understood() {
        let list = "ggml_cuda_init: found 1 CUDA devices:\nAvailable devices:\n  CUDA0: NVIDIA H200 (143771 MiB, \
                    143000 MiB free)\n  Vulkan1: AMD (8 MiB, 8 MiB free)\n  BLAS: OpenBLAS (0 MiB)\n";
        let version = "version: 4567 (0a1b2c3)\nbuilt with cc\n";
        let settings = LlamaServer {
            flash_attention: Some(FlashAttention::On),
            kv_type: Some(KvType::Q8_0),
            embeddings: true,
            ..LlamaServer::default()
        };
        let engine = describe("llama-server".into(), &settings, version, list);
        assert_eq!(engine.version.as_deref(), Some("4567 (0a1b2c3)"));
        assert_eq!(engine.devices, [Kind::Cuda, Kind::Vulkan, Kind::Cpu]);
        let usable: Vec<_> = engine.usable.iter().map(ToString::to_string).collect();
        assert_eq!(usable, ["cuda:0", "vulkan:1", "cpu"]);
        let values = [("port", Some("7".into())), ("model", Some("/m.gguf".into())), ("slots", None)];
        let words = engine.arguments(&values);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = words.join(" ");
        assert!(line.starts_with("--host 127.0.0.1 --port 7 --model /m.gguf"), "{line}");
        assert!(
            line.ends_with("--flash-attn on --cache-type-k q8_0 --cache-type-v q8_0 --embeddings"),
            "{line}"
        );
        assert!(!line.contains("--parallel"), "no flag without its value: {line}");
    }
}
