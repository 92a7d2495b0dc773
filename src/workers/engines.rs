//! Descriptions of engines, the programs that serve models. A description tells how the engine is
//! started, asked and chosen; no other code depends on the name of an engine.

pub(super) mod choice;
pub(super) mod discover;
pub(super) mod llama_server;
pub(super) mod told;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::device::Device;
use super::route::Route;
use crate::config::{Capabilities, DeviceKind, EngineOptions};
use crate::engine_store::{Installed, Measured};
use crate::models::{Traits, is_projector_of};
use crate::narration::Level;

/// The name of the built-in engine.
pub const BUILTIN: &str = "builtin";

/// The description of one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Its name on the wire.
    pub name: String,
    /// A description for people.
    pub about: String,
    /// Its version, where it reports one.
    pub version: Option<String>,
    /// The build that it is, where the hive installed it.
    pub build: Option<Box<Installed>>,
    /// What it can do with models that can.
    pub capabilities: Capabilities,
    /// Whether what it can do counts even where a model's file lacks what that takes: a projector, a template.
    pub(super) has_means_of_its_own: bool,
    /// Whether it tells the model of tools where the chat template does not.
    pub(super) describes_tools: bool,
    /// The kinds of devices that it computes on, the preferred one first.
    pub devices: Vec<DeviceKind>,
    /// The devices of this machine that it can use.
    pub(super) usable: Vec<Device>,
    /// The names that it gives to devices itself, where they differ from the hive's.
    pub(super) own_names: Vec<(Device, String)>,
    /// Its executable.
    pub program: PathBuf,
    /// Where the settings name the executable.
    pub(super) setting: String,
    /// Its arguments, with [placeholders](crate::config::PLACEHOLDERS) for values. An argument whose
    /// value is not set is left out, together with the flag before it. No shell reads them, and none is
    /// a secret.
    pub arguments: Vec<String>,
    /// Further environment variables, with placeholders.
    pub environment: BTreeMap<String, String>,
    /// The environment variable that gives it its secret.
    pub secret_variable: String,
    /// The path that answers 200 once it is ready and 503 while it loads.
    pub health_route: String,
    /// The paths under which it answers what has another one than usual.
    pub(super) paths: BTreeMap<Route, String>,
    /// The path that answers its counters in Prometheus's format, where its health route does not.
    pub(super) metrics_route: Option<String>,
    /// The level at which its log is narrated while it starts.
    pub log_level: Level,
    /// Where its port comes from.
    pub(super) port: PortSource,
    /// How it stores a model in memory.
    pub(super) storage: ModelStorage,
    /// Layers to put on a GPU; unset means all of them.
    pub(super) gpu_layers: Option<u32>,
    /// Whether the settings of a model may change its options.
    pub(super) takes_options: bool,
    /// Whether its requests have llama.cpp's fields besides OpenAI's.
    pub(super) has_llama_cpp_fields: bool,
    /// Its threads on the processor; unset leaves them to the hive.
    pub(super) threads: Option<u32>,
    /// A projector for the models that it belongs to.
    pub(super) projector: Option<PathBuf>,
    /// Why its workers get more than the files, ports and devices that they need; `None` where they do not, as far as
    /// the kernel can hold them to it.
    pub(super) unrestricted: Option<String>,
    /// Whether it uses `ChatML` for a model without a chat template.
    pub(super) falls_back_to_chatml: bool,
}

/// Where the port of an engine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortSource {
    /// The engine takes a free port and reports it.
    Reported,
    /// The hive assigns a port that was free a moment before.
    Assigned,
}

/// How an engine stores a model in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelStorage {
    /// As the built-in engine: weights in a form of its own, about as large as in the file, and a KV cache in half
    /// precision.
    BuiltIn,
    /// Weights are stored as in the file.
    AsInFile {
        /// Bits of an element of the KV cache.
        cache_bits: u64,
    },
}

impl Engine {
    /// The built-in engine, run by `program`.
    #[must_use]
    pub fn builtin(program: PathBuf) -> Self {
        use crate::config::Capability::{Chat, Completions, Embeddings, JsonOutput, Reasoning, Tools};

        let arguments = [
            "worker",
            "--model={model}",
            "--port=0",
            "--report={report}",
            "--model-id={model_id}",
            "--context-length={context_length}",
            "--slots={slots}",
            "--chat-template={chat_template}",
            "--lifeline",
        ];
        // The threads wait for one another at every step, so a core that is busy with other work costs
        // them more than it adds.
        let environment = ["RAYON_NUM_THREADS"];
        Self {
            name: BUILTIN.to_owned(),
            about: "the hive's own inference of GGUF models, on the processor".to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            build: None,
            capabilities: [Chat, Completions, Embeddings, Tools, JsonOutput, Reasoning].into(),
            has_means_of_its_own: false,
            describes_tools: true,
            devices: vec![DeviceKind::Cpu],
            usable: vec![Device::CPU],
            own_names: Vec::new(),
            program,
            setting: "worker_program".to_owned(),
            arguments: arguments.map(str::to_owned).into(),
            environment: environment.map(|name| (name.to_owned(), "{threads}".to_owned())).into(),
            secret_variable: "RBEE_WORKER_SECRET".to_owned(),
            health_route: "/health".to_owned(),
            paths: BTreeMap::new(),
            metrics_route: None,
            log_level: Level::Info,
            port: PortSource::Reported,
            storage: ModelStorage::BuiltIn,
            gpu_layers: None,
            takes_options: false,
            has_llama_cpp_fields: true,
            threads: None,
            projector: None,
            unrestricted: None,
            falls_back_to_chatml: true,
        }
    }

    /// Whether its context is the one that the hive plans.
    pub(super) fn has_context(&self) -> bool {
        ["context", "context_length", "context_of_all_slots"].iter().any(|name| self.takes(name))
    }

    /// The path under which it answers such a question; `None` where it does not.
    pub(super) fn path(&self, route: Route) -> Option<String> {
        let is_of_llama_cpp = matches!(route, Route::ApplyTemplate | Route::Tokenize);
        if is_of_llama_cpp && !self.has_llama_cpp_fields {
            return None;
        }
        Some(self.paths.get(&route).cloned().unwrap_or_else(|| route.usual_path().to_owned()))
    }

    /// Whether its command line or environment has a place for the value.
    pub(super) fn takes(&self, placeholder: &str) -> bool {
        let placeholder = format!("{{{placeholder}}}");
        self.arguments.iter().chain(self.environment.values()).any(|word| word.contains(&placeholder))
    }

    /// The engine with these options in the place of its own, where it takes options.
    pub(super) fn with_options(&self, options: &EngineOptions) -> Self {
        let mut changed = self.clone();
        if !self.takes_options {
            return changed;
        }
        for (flag, value) in options.flags() {
            changed.set_flag(flag, value);
        }
        changed.gpu_layers = options.gpu_layers.or(self.gpu_layers);
        changed.threads = options.threads;
        if let Some(kind) = options.kv_type {
            changed.storage = ModelStorage::AsInFile { cache_bits: kind.bits() };
        }
        changed
    }

    /// The engine as it is started for a model with these traits and so many tokens of context of each slot.
    pub(super) fn for_model(&self, traits: Traits, context: u64) -> Self {
        let mut changed = self.clone();
        if self.takes_options {
            llama_server::serve_task(&mut changed, traits, context);
        }
        changed
    }

    /// Whether a caller means it by that name: its own, or that of its family, which is `llama-server` for every
    /// engine that the hive installs.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || (self.build.is_some() && name == llama_server::NAME)
    }

    /// The engine as a build of it that is at `program`: the previous one, or one that is not kept any more.
    pub(super) fn of_another_build(&self, program: &Path) -> Self {
        let previous = self.build.as_ref().and_then(|build| build.previous.as_ref());
        let version = previous.filter(|build| build.program == program).map(|build| build.version.clone());
        Self { program: program.to_owned(), version, build: None, ..self.clone() }
    }

    /// How fast it wrote here, and with which model, where that was measured.
    pub(super) fn measured(&self) -> Option<&Measured> {
        self.build.as_ref()?.current.measured.as_ref()
    }

    /// Sets a flag with its value; the two are two words.
    fn set_flag(&mut self, flag: &str, value: String) {
        match self.flag(flag) {
            Some(at) => self.arguments[at + 1] = value,
            None => self.arguments.extend([flag.to_owned(), value]),
        }
    }

    /// The value of a flag among the arguments.
    pub(super) fn flag_value(&self, flag: &str) -> Option<&str> {
        self.arguments.get(self.flag(flag)? + 1).map(String::as_str)
    }

    /// Where a flag stands among the arguments.
    fn flag(&self, flag: &str) -> Option<usize> {
        self.arguments.iter().position(|word| word == flag)
    }

    /// The devices of this machine that it can use.
    #[must_use]
    pub fn usable(&self) -> &[Device] {
        &self.usable
    }

    /// The devices of this machine that it can use, in words, with its own names.
    #[must_use]
    pub(crate) fn devices_in_words(&self) -> String {
        let name = |device: &Device| match self.own_names.iter().find(|(known, _)| known == device) {
            Some((_, own)) => format!("{device} ({own})"),
            None => device.to_string(),
        };
        self.usable.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// The projector that a model gets: the one that is its own, or the one of the settings if that
    /// belongs to it. `None` where the engine takes none.
    pub(super) fn projector_for(&self, model: &Path, own: Option<&PathBuf>) -> Option<PathBuf> {
        self.projector_of(model, own).filter(|_| self.takes("projector")).cloned()
    }

    /// The same, whether the engine takes one or not.
    pub(super) fn projector_of<'a>(&'a self, model: &Path, own: Option<&'a PathBuf>) -> Option<&'a PathBuf> {
        own.or(self.projector.as_ref().filter(|projector| is_projector_of(projector, model)))
    }

    /// Why its workers get more than they need.
    #[must_use]
    pub(crate) fn unrestricted(&self) -> Option<&str> {
        self.unrestricted.as_deref()
    }

    /// The arguments, with values in the place of placeholders.
    #[must_use]
    pub fn arguments(&self, values: &[(&str, Option<OsString>)]) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag_before = false;
        for template in &self.arguments {
            match fill(template, values) {
                Some(word) => words.push(word),
                // `--flag {value}`: the flag is left out with its value.
                None if flag_before => drop(words.pop()),
                None => {}
            }
            flag_before = template.starts_with('-') && !template.contains(['=', '{']);
        }
        words
    }

    /// The further environment variables, with values in the place of placeholders.
    pub(super) fn variables<'a>(
        &'a self,
        values: &'a [(&str, Option<OsString>)],
    ) -> impl Iterator<Item = (&'a str, OsString)> {
        self.environment.iter().filter_map(|(name, template)| Some((name.as_str(), fill(template, values)?)))
    }

    /// The engine's own name of a device.
    pub(super) fn own_name(&self, device: Device) -> Option<&str> {
        if device.is_cpu() && !self.own_names.is_empty() {
            return Some("none");
        }
        self.own_names.iter().find(|(known, _)| *known == device).map(|(_, name)| name.as_str())
    }
}

/// Fills a template that has at most one `{name}`; `None` where the value of that name is not set.
/// Placeholders inside a value are left alone.
fn fill(template: &str, values: &[(&str, Option<OsString>)]) -> Option<OsString> {
    for (name, value) in values {
        let placeholder = format!("{{{name}}}");
        if let Some((before, after)) = template.split_once(&placeholder) {
            let mut filled = OsString::from(before);
            filled.push(value.as_ref()?);
            filled.push(after);
            return Some(filled);
        }
    }
    Some(template.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_once_and_arguments_without_a_value_left_out() {
        let values =
            [("model", Some("/m/{slots}.gguf".into())), ("model_id", Some("-x".into())), ("slots", None)];
        let arguments = Engine::builtin("p".into()).arguments(&values);
        assert!(arguments.contains(&"--model=/m/{slots}.gguf".into()));
        assert!(arguments.contains(&"--model-id=-x".into()));
        assert!(!arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--slots")));
    }

    #[test]
    fn a_projector_goes_to_its_own_model_and_to_engines_that_take_one() {
        let set = Some(PathBuf::from("/p/mmproj-Qwen3-VL.gguf"));
        let arguments = vec!["--mmproj".to_owned(), "{projector}".to_owned()];
        let engine = Engine { arguments, projector: set.clone(), ..Engine::builtin("p".into()) };
        let own = PathBuf::from("/m/mmproj-F16.gguf");
        assert_eq!(engine.projector_for(Path::new("/m/x.gguf"), Some(&own)), Some(own.clone()));
        assert_eq!(engine.projector_for(Path::new("/m/Qwen3-VL-Q8_0.gguf"), None), set);
        assert_eq!(engine.projector_for(Path::new("/m/text.gguf"), None), None);
        assert_eq!(Engine::builtin("p".into()).projector_for(Path::new("/m/x.gguf"), Some(&own)), None);
    }
}
