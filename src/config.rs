//! The settings of a hive: one validated struct, made from defaults < file < environment < flags.
//!
//! Every timer and limit is a setting, so that tests run in milliseconds what takes minutes in
//! service. The command line (`cli::serve`) knows the few settings that people change often; the
//! file knows them all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcetera::{BaseStrategy, choose_base_strategy};
use serde::Deserialize;

use crate::error::{Code, Failure, Result};
use crate::workers::devices::Kind;
use crate::workers::engines::PLACEHOLDERS;

/// The port that a hive serves on unless it is told otherwise.
pub const DEFAULT_PORT: u16 = 7835;

/// The settings of one hive. `Config::default()` serves on `localhost:7835`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The TCP port; 0 takes a free one.
    pub port: u16,
    /// The address to bind. Anything but loopback needs a token.
    pub bind: IpAddr,
    /// Where state, logs and imported models live.
    pub data_dir: PathBuf,
    /// Folders of the user's own that are scanned for GGUF files.
    #[serde(rename = "models_dirs")]
    pub models_dirs: Vec<PathBuf>,
    /// The Hugging Face cache (`…/hub`) whose GGUF files are listed and used in place. Unset means
    /// the one that huggingface_hub would use; an empty path means one of the hive's own.
    pub hub_cache: Option<PathBuf>,
    /// The names that this hive answers to; the first is the one it reports.
    pub hive_ids: Vec<String>,
    /// The queen to announce this hive to.
    pub queen_url: Option<String>,
    /// The address under which the queen reaches this hive.
    pub public_url: Option<String>,
    /// The file that holds the bearer token, readable by its owner alone.
    pub token_file: Option<PathBuf>,
    /// Origins of web pages, besides the hive's own, that may call (`https://host:port`).
    pub allow_origins: Vec<String>,
    /// Host names, besides loopback's, under which the hive may be called.
    pub allow_hosts: Vec<String>,
    /// The executable that serves as built-in worker. Unset means the running one.
    pub worker_program: Option<PathBuf>,
    /// Jobs: how many at once, how long they are kept.
    pub jobs: Jobs,
    /// Downloads.
    pub downloads: Downloads,
    /// The Hugging Face Hub.
    pub hub: Hub,
    /// Ollama's library.
    pub ollama: Ollama,
    /// The worker processes.
    pub workers: Workers,
    /// llama.cpp's server as an engine.
    pub llama_server: LlamaServer,
    /// Further engines that speak OpenAI's API, by their names.
    pub engines: BTreeMap<String, EngineSettings>,
    /// How long things may take.
    pub timers: Timers,
    /// Faults that tests inject into operations. Not a setting of the file.
    #[serde(skip)]
    pub faults: Faults,
}

/// Limits of jobs.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Downloads that run at once.
    pub concurrent_downloads: usize,
    /// Loads and spawns that run at once.
    pub concurrent_loads: usize,
    /// Other acts that run at once.
    pub concurrent_acts: usize,
    /// Reads that run at once.
    pub concurrent_reads: usize,
    /// Jobs of one class that may wait; one more is refused.
    pub queue: usize,
    /// Ended acts that are kept, the newest.
    pub keep_acts: usize,
    /// How long ended acts are kept.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_acts_for: Duration,
    /// Bytes of ended acts' logs held in memory; the rest is read back from the journal.
    pub acts_memory_bytes: usize,
    /// How long ended reads are kept.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_reads_for: Duration,
    /// Bytes of ended reads' logs that are kept.
    pub reads_memory_bytes: usize,
    /// Events of one job that are kept before progress is elided.
    pub log_events: usize,
    /// Bytes of one job's events that are kept before progress is elided.
    pub log_bytes: usize,
    /// Events of the hive that a reader of `/v1/events` can resume over.
    pub event_ring: usize,
}

/// How downloads go. How many run at once is a limit of [`Jobs`].
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Downloads {
    /// Hosts (`name` or `name:port`) that may be reached over plain HTTP and on private
    /// addresses.
    pub allow_hosts: Vec<String>,
    /// Connections that fetch one file together, at most.
    pub connections: usize,
    /// Bytes that are checksummed and recorded together. A kill loses less than twice that on each
    /// connection.
    pub chunk_bytes: u32,
    /// Bytes a second that all downloads together may take; 0 is no limit.
    pub bytes_per_second: u64,
    /// Bytes a second that a connection must deliver, on average over `timers.stall`, not to count
    /// as stalled.
    pub min_bytes_per_second: u64,
    /// Failures in a row, without progress between them, after which a download gives up.
    pub retries: u32,
}

/// The Hugging Face Hub. What is unset is what huggingface_hub's own environment variables say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hub {
    /// The address of the Hub or of a mirror. Unset means `HF_ENDPOINT`, else
    /// `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The file with the access token. Unset means `HF_TOKEN`, else the file that `hf auth login`
    /// writes; an empty path means no token.
    pub token_file: Option<PathBuf>,
    /// Whether to use only what the cache has. Unset means `HF_HUB_OFFLINE`.
    pub offline: Option<bool>,
}

/// Ollama's library.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ollama {
    /// The address of the registry.
    pub endpoint: String,
}

impl Default for Ollama {
    fn default() -> Self {
        Self { endpoint: "https://registry.ollama.ai".to_owned() }
    }
}

/// How worker processes are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Whether a worker that crashed is started again.
    pub restart: RestartPolicy,
    /// The wait before the first restart; it doubles with each further one.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub restart_first: Duration,
    /// The longest wait before a restart.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub restart_longest: Duration,
    /// After so long in health a worker's crashes are forgotten.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub restart_reset: Duration,
    /// Leave workers running when the hive is stopped, for its next start to take over.
    pub keep_on_shutdown: bool,
    /// End workers with the daemon however that ends, `kill -9` included, instead of leaving them for
    /// the next start to take over. Only engines that know how (the built-in one) can be ended so.
    pub lifeline: bool,
    /// Threads that a worker on the processor computes with. Unset means one for each physical core
    /// but one, which is left to the rest of the machine: threads wait for one another at every step,
    /// and on two busy cores one thread was measured to be five times as fast as two.
    pub threads: Option<std::num::NonZeroUsize>,
}

/// llama.cpp's server: whether and how it is used. These are all the options that reach its command
/// line.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlamaServer {
    /// Whether it is looked for at all.
    pub enabled: bool,
    /// Its executable. Unset means `llama-server` on `PATH`.
    pub program: Option<PathBuf>,
    /// Layers to put on a GPU. Unset means all of them.
    pub gpu_layers: Option<u32>,
    /// Whether flash attention is used. Unset means what it chooses itself.
    pub flash_attention: Option<FlashAttention>,
    /// The type of the elements of the cache. Unset means F16.
    pub kv_type: Option<KvType>,
    /// A multimodal projector for the models that it serves.
    pub mmproj: Option<PathBuf>,
    /// Serve embeddings.
    pub embeddings: bool,
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
            embeddings: false,
        }
    }
}

/// Whether llama.cpp's server uses flash attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// Always.
    On,
    /// Never.
    Off,
    /// Where it is known to work.
    Auto,
}

impl FlashAttention {
    /// As it is written on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        }
    }
}

/// The type of the elements of a cache of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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
    /// As it is written on the command line.
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

    /// Bits of an element, its share of the block's scale included, rounded up.
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
    /// A setting that it could not be run with, and what is wrong with it.
    fn problem(&self) -> Option<(&'static str, String)> {
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// The program and its arguments, a word each; no shell looks at them. `{model}`, `{model_id}`,
    /// `{port}`, `{device}` (`cuda:0`), `{device_index}`, `{context}`, `{slots}` and `{threads}` stand
    /// for values; a word whose value is not set is left out, and with it the flag before it.
    pub command: Vec<String>,
    /// The kinds of devices that it computes on.
    pub devices: Vec<Kind>,
    /// What it is, for people.
    #[serde(default)]
    pub about: String,
    /// Further variables of its environment, with the same placeholders.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The variable in which it looks for the key that it asks its clients for.
    #[serde(default = "default_secret_env")]
    pub secret_env: String,
    /// Answers 200 once it is ready.
    #[serde(default = "default_health_route")]
    pub health_route: String,
    /// Answers chat completions as OpenAI's API does.
    #[serde(default = "default_chat_route")]
    pub chat_route: String,
    /// Answers with what it has counted, in Prometheus's format. Unset means that it is not asked.
    #[serde(default)]
    pub metrics_route: Option<String>,
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
    /// What is wrong with it, if anything.
    fn problem(&self, name: &str) -> Option<String> {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(sound) {
            return Some("its name may have letters, digits, '-', '_' and '.'".to_owned());
        }
        if Kind::of(name).is_some() || ["auto", "builtin", "llama-server"].contains(&name) {
            return Some("its name is taken".to_owned());
        }
        if self.devices.is_empty() {
            return Some("devices must name at least one kind of device".to_owned());
        }
        if self.command.first().is_none_or(|program| program.is_empty() || program.contains(['{', '\0'])) {
            return Some("its command must begin with a program".to_owned());
        }
        let routes = [("health_route", &self.health_route), ("chat_route", &self.chat_route)];
        for (field, route) in
            routes.into_iter().chain(self.metrics_route.iter().map(|route| ("metrics_route", route)))
        {
            let sound = route.bytes().all(|byte| byte.is_ascii_graphic() && !b"#?".contains(&byte));
            if !route.starts_with('/') || !sound {
                return Some(format!("{field} '{route}' is not a path, such as /health"));
            }
        }
        let variables = self.env.keys().map(|name| ("env", name)).chain([("secret_env", &self.secret_env)]);
        for (field, name) in variables {
            if name.is_empty() || name.contains(['=', '\0', ' ']) {
                return Some(format!("{field} has '{name}', which is no name of a variable"));
            }
        }
        for needed in ["{model}", "{port}"] {
            if !self.command.iter().skip(1).any(|word| word.contains(needed)) {
                return Some(format!("its command must say where {needed} goes"));
            }
        }
        let words = self.command.iter().chain(self.env.values());
        let unknown = words.flat_map(|word| placeholders(word)).find(|name| !PLACEHOLDERS.contains(name))?;
        let known: Vec<_> = PLACEHOLDERS.iter().map(|name| format!("{{{name}}}")).collect();
        Some(format!("nothing is known as {{{unknown}}}; there are {}", known.join(", ")))
    }
}

/// The names in braces of a word. JSON is none.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

/// Whether crashed workers are started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// A crashed worker stays crashed.
    #[default]
    Never,
    /// A worker that ended without being asked to is started again.
    OnFailure,
}

impl Workers {
    /// A setting that nothing can keep to, and what is wrong with it.
    fn problem(&self) -> Option<(&'static str, String)> {
        const MOST: Duration = Duration::from_secs(24 * 3600);
        let waits = [("restart_first", self.restart_first), ("restart_longest", self.restart_longest)];
        // A worker that crashes at once would be started again and again, as fast as it can.
        if let Some((name, _)) = waits.iter().find(|(_, wait)| wait.is_zero()) {
            return Some((
                name,
                "cannot be 0s: a worker that crashes at once would take the whole machine".to_owned(),
            ));
        }
        if let Some((name, wait)) = waits.iter().find(|(_, wait)| *wait > MOST) {
            return Some((name, format!("cannot be {wait:?}, more than a day")));
        }
        if self.restart_longest < self.restart_first {
            let (longest, first) = (self.restart_longest, self.restart_first);
            return Some((
                "restart_longest",
                format!("of {longest:?} is less than restart_first of {first:?}"),
            ));
        }
        // More threads than that are a mistake: each takes a stack, and waits for all others.
        self.threads
            .filter(|threads| threads.get() > 1024)
            .map(|threads| ("threads", format!("cannot be {threads}: 1 to 1024 may be asked for")))
    }

    /// Threads that a worker on the processor computes with.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(
            || {
                let all = std::thread::available_parallelism().map_or(1, usize::from);
                // Threads that share a core get in each other's way.
                let cores = sysinfo::System::physical_core_count().unwrap_or(all).min(all);
                cores.saturating_sub(1).max(1)
            },
            usize::from,
        )
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::default(),
            restart_first: Duration::from_secs(1),
            restart_longest: Duration::from_secs(60),
            restart_reset: Duration::from_secs(600),
            keep_on_shutdown: false,
            lifeline: false,
            threads: None,
        }
    }
}

/// How long things may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// The deadline of a read.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub read_deadline: Duration,
    /// The deadline of an act that is neither a download nor a load.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub act_deadline: Duration,
    /// How long a worker may go without progress before it is ready.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub readiness: Duration,
    /// How long a worker may take to stop before it is killed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub stop_grace: Duration,
    /// How long a cancelled operation may take to tidy up before it is dropped.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub cancel_grace: Duration,
    /// After so much silence a job narrates what it is waiting for.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub silence: Duration,
    /// After so much silence a typed stream carries a comment.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep_alive: Duration,
    /// How long a reader may leave its socket full before its connection is closed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub write_stall: Duration,
    /// How long a client may take to send a request's head.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub request_head: Duration,
    /// How long open connections may take to finish at shutdown.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub drain: Duration,
    /// How long connecting to a source of models may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect: Duration,
    /// After so long without a byte, counted from the connect on, a connection is stalled and
    /// replaced.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub stall: Duration,
    /// The wait before a download's first retry; it doubles with each further one, to 30 s.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry: Duration,
    /// The longest wait that a server can ask a download for (`Retry-After`).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub retry_after: Duration,
    /// The least time between two progress narrations of one operation.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub progress: Duration,
    /// How often telemetry is sampled.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub telemetry: Duration,
    /// The wait before the second announcement to the queen; it doubles with each further one.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub announce: Duration,
    /// How long a session cookie lasts.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub session: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            data_dir: default_data_dir(),
            models_dirs: Vec::new(),
            hub_cache: None,
            hive_ids: vec!["localhost".to_owned()],
            queen_url: None,
            public_url: None,
            token_file: None,
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            worker_program: None,
            jobs: Jobs::default(),
            downloads: Downloads::default(),
            hub: Hub::default(),
            ollama: Ollama::default(),
            workers: Workers::default(),
            llama_server: LlamaServer::default(),
            engines: BTreeMap::new(),
            timers: Timers::default(),
            faults: Faults::default(),
        }
    }
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            concurrent_downloads: 2,
            concurrent_loads: 2,
            concurrent_acts: 8,
            concurrent_reads: 64,
            queue: 256,
            keep_acts: 1000,
            keep_acts_for: Duration::from_secs(7 * 24 * 3600),
            acts_memory_bytes: 64 << 20,
            keep_reads_for: Duration::from_secs(600),
            reads_memory_bytes: 32 << 20,
            log_events: 10_000,
            log_bytes: 8 << 20,
            event_ring: 10_000,
        }
    }
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            allow_hosts: Vec::new(),
            connections: 8,
            chunk_bytes: 1 << 20,
            bytes_per_second: 0,
            min_bytes_per_second: 100,
            retries: 6,
        }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            read_deadline: Duration::from_secs(60),
            act_deadline: Duration::from_secs(300),
            readiness: Duration::from_secs(120),
            stop_grace: Duration::from_secs(10),
            cancel_grace: Duration::from_secs(15),
            silence: Duration::from_secs(15),
            keep_alive: Duration::from_secs(15),
            write_stall: Duration::from_secs(60),
            request_head: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            retry_after: Duration::from_secs(120),
            progress: Duration::from_millis(500),
            telemetry: Duration::from_secs(1),
            announce: Duration::from_secs(2),
            session: Duration::from_secs(12 * 3600),
        }
    }
}

/// A hook that tests set to run inside every operation, in its narration context, just before the
/// operation itself: it may panic, fail or never return.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<FaultHook>>);

type FaultHook = dyn Fn(&'static str) -> futures::future::BoxFuture<'static, Result<()>> + Send + Sync;

impl Faults {
    /// A hook that is given the operation's name in `snake_case`.
    pub fn new(
        hook: impl Fn(&'static str) -> futures::future::BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// Runs the hook, where there is one.
    pub(crate) async fn strike(&self, operation: &'static str) -> Result<()> {
        match &self.0 {
            Some(hook) => hook(operation).await,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(set)" } else { "Faults(none)" })
    }
}

impl Timers {
    /// A timer that no code can keep to: a wait without an end, or a pause of nothing over and over.
    fn unfit(&self) -> Option<(&'static str, Duration)> {
        const MOST: Duration = Duration::from_secs(366 * 24 * 3600);
        let paces = [
            ("read_deadline", self.read_deadline),
            ("act_deadline", self.act_deadline),
            ("readiness", self.readiness),
            ("silence", self.silence),
            ("keep_alive", self.keep_alive),
            ("write_stall", self.write_stall),
            ("request_head", self.request_head),
            ("connect", self.connect),
            ("stall", self.stall),
            ("telemetry", self.telemetry),
        ];
        // At once is soon enough for these.
        let patience = [
            ("stop_grace", self.stop_grace),
            ("cancel_grace", self.cancel_grace),
            ("drain", self.drain),
            ("progress", self.progress),
            ("announce", self.announce),
            ("session", self.session),
        ];
        let idle = paces.iter().find(|(_, timer)| timer.is_zero());
        idle.or_else(|| paces.iter().chain(&patience).find(|(_, timer)| *timer > MOST)).copied()
    }
}

impl Config {
    /// Reads the settings of a TOML file over the defaults.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the file, the line and the setting.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let code = Code::ConfigInvalid;
            Failure { code, ..Failure::io("read the configuration", path, &error) }
                .hint("check the path given with --config")
        })?;
        toml::from_str(&text).map_err(|error| {
            Failure::new(
                Code::ConfigInvalid,
                format!("the configuration {} is not valid: {}", path.display(), error.to_string().trim()),
            )
            .hint("docs/CONFIGURATION.md lists every setting with its default")
        })
    }

    /// Checks what no type can: relations between settings.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], naming the setting and what it may be.
    pub fn validate(&self) -> Result<()> {
        let invalid =
            |message: String, hint: &str| Err(Failure::new(Code::ConfigInvalid, message).hint(hint));
        if self.hive_ids.is_empty() || self.hive_ids.iter().any(|id| id.trim().is_empty()) {
            return invalid(
                "--hive-id must not be empty".into(),
                "give the hive a name, such as 'localhost'",
            );
        }
        for (name, url) in [("--queen-url", &self.queen_url), ("--public-url", &self.public_url)] {
            let Some(url) = url else { continue };
            let sound = reqwest::Url::parse(url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !sound {
                return invalid(
                    format!("{name} '{url}' is not an http or https URL"),
                    "write it as http://HOST:PORT",
                );
            }
        }
        let endpoints = [
            ("[hub] endpoint", self.hub.endpoint.as_ref()),
            ("[ollama] endpoint", Some(&self.ollama.endpoint)),
        ];
        for (name, url) in endpoints {
            let Some(url) = url else { continue };
            let sound = reqwest::Url::parse(url).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none()
            });
            if !sound {
                return invalid(
                    format!("{name} is not the address of a registry"),
                    "write it as https://HOST, without a user, a query or a fragment",
                );
            }
        }
        if let Some(origin) = self.allow_origins.iter().find(|origin| !is_origin(origin)) {
            return invalid(
                format!("--allow-origin '{origin}' is not an origin"),
                "write it as scheme://host or scheme://host:port, without a path",
            );
        }
        if let Some(host) = self.allow_hosts.iter().find(|host| host.is_empty() || host.contains(['/', '*']))
        {
            return invalid(
                format!("--allow-host '{host}' is not a host name"),
                "write a single host name or address, without a scheme or a wildcard",
            );
        }
        if !self.bind.is_loopback() && self.token_file.is_none() {
            return invalid(
                format!("binding {} would let the network in without a token", self.bind),
                "make a token with `(umask 077; head -c 32 /dev/urandom | base64 > hive.token)` and pass \
                 --token-file hive.token, or bind 127.0.0.1",
            );
        }
        for (name, engine) in &self.engines {
            if let Some(problem) = engine.problem(name) {
                return invalid(
                    format!("[engines.{name}] is not valid: {problem}"),
                    "docs/CONFIGURATION.md has an example of an engine",
                );
            }
        }
        if let Some((name, problem)) = self.workers.problem() {
            return invalid(
                format!("[workers] {name} {problem}"),
                "correct it, or remove the setting for its default",
            );
        }
        if let Some((name, problem)) = self.llama_server.problem() {
            return invalid(
                format!("[llama_server] {name} {problem}"),
                "correct it, or remove the setting for its default",
            );
        }
        if self.jobs.concurrent_downloads == 0
            || self.jobs.concurrent_loads == 0
            || self.jobs.concurrent_acts == 0
            || self.jobs.concurrent_reads == 0
        {
            return invalid(
                "[jobs] concurrent_… must be at least 1".into(),
                "remove the setting for its default",
            );
        }
        if let Some((name, given)) = self.timers.unfit() {
            return invalid(
                format!("[timers] {name} cannot be {given:?}"),
                "give it a time above 0s and within a year, or remove the setting for its default",
            );
        }
        let Downloads { connections, chunk_bytes, .. } = self.downloads;
        if !(1..=64).contains(&connections) || !(4096..=64 << 20).contains(&chunk_bytes) {
            return invalid(
                format!(
                    "[downloads] connections = {connections} or chunk_bytes = {chunk_bytes} is out of bounds"
                ),
                "connections may be 1 to 64, and chunk_bytes 4096 to 67108864",
            );
        }
        Ok(())
    }

    /// Where models that the hive itself puts down live.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }

    /// Where the journals of acts live.
    #[must_use]
    pub fn jobs_dir(&self) -> PathBuf {
        self.data_dir.join("jobs")
    }

    /// Where the hive notes what it put into the Hugging Face cache.
    #[must_use]
    pub fn hub_notes_dir(&self) -> PathBuf {
        self.data_dir.join("hub")
    }

    /// Where logs and reports of workers live.
    #[must_use]
    pub fn workers_dir(&self) -> PathBuf {
        self.data_dir.join("workers")
    }

    /// The executable of the built-in worker.
    ///
    /// # Errors
    /// Where the running executable's own path cannot be told.
    pub fn worker_program(&self) -> Result<PathBuf> {
        match &self.worker_program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe().map_err(|error| {
                Failure::internal(format!("could not tell the path of the running executable: {error}"))
            }),
        }
    }
}

/// `$XDG_DATA_HOME/rbee-hive`, or its like elsewhere; beneath the working folder where there is no
/// home.
fn default_data_dir() -> PathBuf {
    match choose_base_strategy() {
        Ok(strategy) => strategy.data_dir().join("rbee-hive"),
        Err(_) => PathBuf::from("rbee-hive-data"),
    }
}

fn is_origin(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization() == text.trim_end_matches('/')
    })
}
