//! The settings of engines: llama.cpp's server (`[llama_server]`), and the further engines that a
//! user describes (`[engines.NAME]`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::capability::{Capabilities, Capability};

/// A kind of device, named after the interface through which engines use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// Apple's GPUs.
    Metal,
    /// AMD's GPUs.
    Rocm,
    /// GPUs through Vulkan.
    Vulkan,
}

impl DeviceKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Cpu, Self::Cuda, Self::Metal, Self::Rocm, Self::Vulkan];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
        }
    }

    /// The kind of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names that may stand in braces in an engine's command line and variables: `{model}`.
pub const PLACEHOLDERS: &[&str] = &[
    "model",
    "model_id",
    "projector",
    "report",
    "port",
    "device",
    "device_index",
    "own_device",
    "gpu_layers",
    "tensor_split",
    "context",
    "context_length",
    "context_of_all_slots",
    "chat_template",
    "slots",
    "threads",
];

/// llama.cpp's server: whether and how it is used. Its command line is made of these options and no
/// others.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LlamaServer {
    /// Whether the hive looks for it at all.
    pub enabled: bool,
    /// Its executable. Unset means `llama-server` on `PATH`.
    #[schema(value_type = Option<String>)]
    pub program: Option<PathBuf>,
    /// Layers to put on a GPU. Unset means all of them.
    pub gpu_layers: Option<u32>,
    /// Whether it uses flash attention. Unset leaves the choice to it.
    pub flash_attention: Option<FlashAttention>,
    /// The type of the elements of its KV cache. Unset means F16.
    pub kv_type: Option<KvType>,
    /// A multimodal projector for those models that it belongs to by its name and that have none beside them.
    #[schema(value_type = Option<String>)]
    pub mmproj: Option<PathBuf>,
    /// Has no effect: the hive knows of each model whether it is for embeddings. Read so that files that have it
    /// stay valid.
    pub embeddings: Option<bool>,
}

impl Default for LlamaServer {
    fn default() -> Self {
        Self {
            enabled: true,
            program: None,
            gpu_layers: None,
            flash_attention: None,
            kv_type: None,
            mmproj: None,
            embeddings: None,
        }
    }
}

/// Whether llama.cpp's server uses flash attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// Always.
    On,
    /// Never.
    Off,
    /// Where llama.cpp knows that it works.
    Auto,
}

impl FlashAttention {
    /// The value on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        }
    }
}

/// The type of the elements of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants are ggml's names; there is no more to say")]
pub enum KvType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
}

impl KvType {
    /// The value on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Bits of an element, with its share of the block's scale, rounded up.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Q8_0 => 9,
            Self::Q5_1 | Self::Q5_0 => 6,
            Self::Q4_1 | Self::Q4_0 => 5,
        }
    }
}

impl LlamaServer {
    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.enabled {
            return None;
        }
        if self.program.as_ref().is_some_and(|program| program.as_os_str().is_empty()) {
            return Some(("program", "is empty; enabled = false turns the engine off".to_owned()));
        }
        if let Some(projector) = self.mmproj.as_ref().filter(|projector| !projector.is_file()) {
            return Some(("mmproj", format!("names {}, which is no file", projector.display())));
        }
        let quantized = self.kv_type.filter(|kind| kind.bits() < 16);
        if let (Some(kind), Some(FlashAttention::Off)) = (quantized, self.flash_attention) {
            let kind = kind.name();
            return Some((
                "kv_type",
                format!("\"{kind}\" needs flash attention, and flash_attention is \"off\""),
            ));
        }
        self.gpu_layers
            .filter(|layers| *layers > 9999)
            .map(|layers| ("gpu_layers", format!("cannot be {layers}: no model has more than 9999")))
    }
}

/// An engine that the settings describe.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// The program and its arguments, one word each; no shell reads them. `{model}`, `{model_id}`,
    /// `{port}`, `{device}` (`cuda:0`), `{device_index}`, `{context}`, `{slots}`, `{threads}` and the
    /// like stand for values. A word whose value is not set is left out, together with the flag before it.
    pub command: Vec<String>,
    /// The kinds of devices that it computes on.
    pub devices: Vec<DeviceKind>,
    /// A description for people.
    #[serde(default)]
    pub about: String,
    /// Further environment variables, with the same placeholders.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The environment variable that gives it the key that its clients must send.
    #[serde(default = "default_secret_env")]
    pub secret_env: String,
    /// The path that answers 200 once the engine is ready.
    #[serde(default = "default_health_route")]
    pub health_route: String,
    /// The path that answers chat completions as OpenAI's API does.
    #[serde(default = "default_chat_route")]
    pub chat_route: String,
    /// The path that answers completions as OpenAI's API does. Unset means the one beside `chat_route`.
    #[serde(default)]
    pub completions_route: Option<String>,
    /// The path that answers embeddings as OpenAI's API does. Unset means the one beside `chat_route`.
    #[serde(default)]
    pub embeddings_route: Option<String>,
    /// The path that ranks documents as Jina's API does. Unset means the one beside `chat_route`.
    #[serde(default)]
    pub rerank_route: Option<String>,
    /// The path that answers its counters in Prometheus's format. Unset means that it is not asked.
    #[serde(default)]
    pub metrics_route: Option<String>,
    /// What it can do. What is named here counts more than what the files of models tell: an engine may have a
    /// template or a projector of its own. Unset means chat, completions, tools, JSON output and images, as far as
    /// the model's file has what that takes.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Capability>>)]
    pub capabilities: Option<Capabilities>,
    /// Whether its workers get only the files, ports and devices that they need, as those of other engines do.
    #[serde(default)]
    pub sandbox: bool,
}

fn default_secret_env() -> String {
    "RBEE_WORKER_SECRET".to_owned()
}

fn default_health_route() -> String {
    "/health".to_owned()
}

fn default_chat_route() -> String {
    "/v1/chat/completions".to_owned()
}

impl EngineSettings {
    /// What an engine can do whose settings do not say.
    pub const USUAL: [Capability; 5] = [
        Capability::Chat,
        Capability::Completions,
        Capability::Tools,
        Capability::JsonOutput,
        Capability::Images,
    ];

    /// The path that answers completions.
    #[must_use]
    pub fn completions_route(&self) -> String {
        self.beside_chat(self.completions_route.as_deref(), "completions")
    }

    /// The path that answers embeddings.
    #[must_use]
    pub fn embeddings_route(&self) -> String {
        self.beside_chat(self.embeddings_route.as_deref(), "embeddings")
    }

    /// The path that ranks documents.
    #[must_use]
    pub fn rerank_route(&self) -> String {
        self.beside_chat(self.rerank_route.as_deref(), "rerank")
    }

    fn beside_chat(&self, set: Option<&str>, name: &str) -> String {
        let base = self.chat_route.strip_suffix("/chat/completions").unwrap_or("/v1");
        set.map_or_else(|| format!("{base}/{name}"), str::to_owned)
    }

    /// What is wrong with these settings of the engine `name`, if anything.
    pub(super) fn problem(&self, name: &str) -> Option<String> {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_name_char) {
            return Some("its name may have letters, digits, '-', '_' and '.'".to_owned());
        }
        if DeviceKind::from_name(name).is_some() || ["auto", "builtin", "llama-server"].contains(&name) {
            return Some("its name is taken".to_owned());
        }
        if self.devices.is_empty() {
            return Some("devices must name at least one kind of device".to_owned());
        }
        if self.command.first().is_none_or(|program| program.is_empty() || program.contains(['{', '\0'])) {
            return Some("its command must begin with a program".to_owned());
        }
        let routes = [
            ("health_route", Some(&self.health_route)),
            ("chat_route", Some(&self.chat_route)),
            ("completions_route", self.completions_route.as_ref()),
            ("embeddings_route", self.embeddings_route.as_ref()),
            ("rerank_route", self.rerank_route.as_ref()),
            ("metrics_route", self.metrics_route.as_ref()),
        ];
        for (field, route) in routes.into_iter().filter_map(|(field, route)| Some((field, route?))) {
            let is_path = route.bytes().all(|byte| byte.is_ascii_graphic() && !b"#?".contains(&byte));
            if !route.starts_with('/') || !is_path {
                return Some(format!("{field} '{route}' is not a path, such as /health"));
            }
        }
        let variables = self.env.keys().map(|name| ("env", name)).chain([("secret_env", &self.secret_env)]);
        for (field, name) in variables {
            if name.is_empty() || name.contains(['=', '\0', ' ']) {
                return Some(format!("{field} has '{name}', which cannot be the name of a variable"));
            }
        }
        for needed in ["{model}", "{port}"] {
            if !self.command.iter().skip(1).any(|word| word.contains(needed)) {
                return Some(format!("its command must contain {needed}"));
            }
        }
        let words = self.command.iter().chain(self.env.values());
        let unknown = words.flat_map(|word| placeholders(word)).find(|name| !PLACEHOLDERS.contains(name))?;
        let known: Vec<_> = PLACEHOLDERS.iter().map(|name| format!("{{{name}}}")).collect();
        Some(format!("{{{unknown}}} is not a placeholder; there are {}", known.join(", ")))
    }
}

/// The names in braces of a word. The braces of JSON are not placeholders.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::error::Code;

    const ENGINES: &str = r#"
        [engines.other]
        command = ["other", "--port", "{port}", "--model", "{model}"]
        devices = ["cpu"]
        env = { DEVICE = "{device}", SHAPE = "{\"a\": 1}" }
        [engines.absent]
        command = ["/no/such/program", "{model}", "{port}"]
        devices = ["cpu"]
        "#;

    #[test]
    fn engine_descriptions_that_cannot_work_are_refused() {
        toml::from_str::<Config>(ENGINES).unwrap().validate().unwrap();
        for (wrong, problem) in [
            (ENGINES.replace("engines.other", "engines.cuda"), "its name is taken"),
            (ENGINES.replace("{device}", "{devise}"), "{devise} is not a placeholder"),
            (ENGINES.replace("\"{port}\"", "\"8000\""), "must contain {port}"),
            (ENGINES.replace("devices = [\"cpu\"]", "devices = []"), "at least one kind"),
            (ENGINES.replace("/no/such/program", ""), "begin with a program"),
            (format!("{ENGINES}\nhealth_route = \"health\""), "health_route 'health'"),
            (format!("{ENGINES}\nchat_route = \"/v1 chat\""), "chat_route '/v1 chat'"),
            (format!("{ENGINES}\nrerank_route = \"rerank\""), "rerank_route 'rerank'"),
            (format!("{ENGINES}\nsecret_env = \"A=B\""), "secret_env has 'A=B'"),
        ] {
            let failure = toml::from_str::<Config>(&wrong).unwrap().validate().unwrap_err();
            assert!(failure.message.contains(problem), "{problem}: {}", failure.message);
        }
    }

    #[test]
    fn routes_stand_beside_that_of_chats_and_capabilities_have_the_names_of_the_wire() {
        let engine = |more: &str| {
            let config: Config = toml::from_str(&format!("{ENGINES}\n{more}")).unwrap();
            config.engines["absent"].clone()
        };
        let usual = engine("");
        assert_eq!(usual.completions_route(), "/v1/completions");
        assert_eq!((usual.rerank_route(), usual.capabilities), ("/v1/rerank".to_owned(), None));
        let other = engine(
            "chat_route = \"/api/v3/chat/completions\"\nrerank_route = \"/rank\"\n\
             capabilities = [\"rerank\", \"json_output\"]",
        );
        assert_eq!(other.embeddings_route(), "/api/v3/embeddings");
        assert_eq!(other.rerank_route(), "/rank");
        assert_eq!(other.capabilities, Some([Capability::Rerank, Capability::JsonOutput].into()));
        let wrong = format!("{ENGINES}\ncapabilities = [\"speech\"]");
        let error = toml::from_str::<Config>(&wrong).unwrap_err().to_string();
        assert!(error.contains("`json_output`"), "{error}");
    }

    #[test]
    fn llama_server_settings_that_cannot_work_are_refused_by_name() {
        for (wrong, named) in [
            ("program = \"\"", "[llama_server] program is empty"),
            ("mmproj = \"/no/such.gguf\"", "[llama_server] mmproj names /no/such.gguf, which is no file"),
            ("kv_type = \"q8_0\"\nflash_attention = \"off\"", "[llama_server] kv_type \"q8_0\" needs flash"),
            ("gpu_layers = 100000", "[llama_server] gpu_layers cannot be 100000"),
        ] {
            let settings = format!("[llama_server]\n{wrong}");
            let failure = toml::from_str::<Config>(&settings).unwrap().validate().unwrap_err();
            assert!(failure.message.starts_with(named), "{wrong}: {}", failure.message);
            assert_eq!((failure.code, failure.hint.is_some()), (Code::ConfigInvalid, true), "{wrong}");
        }
        for (wrong, named) in [
            ("kv_type = \"q9\"", "kv_type"),
            ("flash_attention = true", "flash_attention"),
            ("gpu_layers = -1", "gpu_layers"),
            ("extra_args = [\"--log-file\"]", "extra_args"),
        ] {
            let error = toml::from_str::<Config>(&format!("[llama_server]\n{wrong}")).unwrap_err();
            assert!(error.to_string().contains(named), "{wrong}: {error}");
        }
        let off = "[llama_server]\nenabled = false\nmmproj = \"/no/such.gguf\"";
        toml::from_str::<Config>(off).unwrap().validate().unwrap();
    }
}
