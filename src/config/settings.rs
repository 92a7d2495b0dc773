//! The settings themselves, with their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use etcetera::{BaseStrategy, choose_base_strategy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Bind, ConfigFile, Downloads, EngineBuilds, EngineSettings, Exposure, Faults, Fleet, Gateway, Given, Hub,
    Jobs, LlamaServer, Memory, ModelSettings, Ollama, Residency, Timers, Tokens, Workers,
};
use crate::error::{Code, Failure, Result};
use crate::files;

/// The default port of a hive.
pub const DEFAULT_PORT: u16 = 7835;

/// The settings of one hive. `Config::default()` serves on `localhost:7835`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The TCP port; 0 takes a free one.
    #[schema(maximum = 65535)]
    pub port: u16,
    /// The address to bind. Any address but loopback needs a token.
    pub bind: Bind,
    /// The path of a Unix socket to serve on too, for the hive's own user.
    #[schema(value_type = Option<String>)]
    pub unix_socket: Option<PathBuf>,
    /// The folder for state, logs and imported models.
    #[schema(value_type = String)]
    pub data_dir: PathBuf,
    /// The user's folders that are scanned for GGUF files.
    #[schema(value_type = Vec<String>)]
    pub models_dirs: Vec<PathBuf>,
    /// The Hugging Face cache (`…/hub`) whose GGUF files are listed and used in place. Unset means
    /// the one that huggingface_hub would use; an empty path means one inside `data_dir`.
    #[schema(value_type = Option<String>)]
    pub hub_cache: Option<PathBuf>,
    /// The names that this hive answers to; it reports the first.
    pub hive_ids: Vec<String>,
    /// The queen to announce this hive to.
    pub queen_url: Option<String>,
    /// The address at which the queen reaches this hive.
    pub public_url: Option<String>,
    /// The file that holds the bearer token, readable by its owner alone.
    #[schema(value_type = Option<String>)]
    pub token_file: Option<PathBuf>,
    /// Origins of web pages, besides the hive's own, that may call (`https://host:port`).
    pub allow_origins: Vec<String>,
    /// Host names, besides loopback names, under which clients may call the hive.
    pub allow_hosts: Vec<String>,
    /// The executable of the built-in worker. Unset means the running one.
    #[schema(value_type = Option<String>)]
    pub worker_program: Option<PathBuf>,
    /// Limits of jobs.
    pub jobs: Jobs,
    /// Downloads.
    pub downloads: Downloads,
    /// The Hugging Face Hub.
    pub hub: Hub,
    /// Ollama's library, and what stands in Ollama's place.
    pub ollama: Ollama,
    /// The worker processes.
    pub workers: Workers,
    /// Which models are in memory.
    pub residency: Residency,
    /// The routes that forward requests to workers.
    pub gateway: Gateway,
    /// llama.cpp's server as an engine.
    pub llama_server: LlamaServer,
    /// The engines that the hive installs.
    pub engine_builds: EngineBuilds,
    /// Further engines that speak OpenAI's API, by name.
    pub engines: BTreeMap<String, EngineSettings>,
    /// Single models, by id. What operations have set counts more: see `settings`.
    pub models: BTreeMap<String, ModelSettings>,
    /// The memory that workers may use.
    pub memory: Memory,
    /// The machines that this hive works with.
    pub fleet: Fleet,
    /// Deadlines, intervals and grace periods.
    pub timers: Timers,
    /// The file that the settings were read from, for a reload.
    #[serde(skip)]
    pub file: Option<ConfigFile>,
    /// The settings that flags and the environment gave.
    #[serde(skip)]
    pub given: Given,
    /// Faults that tests inject into operations. The file cannot set them.
    #[serde(skip)]
    pub faults: Faults,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            bind: Bind::default(),
            unix_socket: None,
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
            residency: Residency::default(),
            gateway: Gateway::default(),
            llama_server: LlamaServer::default(),
            engine_builds: EngineBuilds::default(),
            engines: BTreeMap::new(),
            models: BTreeMap::new(),
            memory: Memory::default(),
            fleet: Fleet::default(),
            timers: Timers::default(),
            file: None,
            given: Given::new(),
            faults: Faults::default(),
        }
    }
}

impl Config {
    /// Whether every caller is somebody of this machine. A token, a further name and a public address show
    /// that others call too, through a proxy on this machine, even if the hive is bound to loopback.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.bind.is_loopback()
            && self.ollama.listen.is_none_or(|address| address.ip().is_loopback())
            && self.token_file.is_none()
            && Tokens::read(&self.tokens_file()).is_ok_and(|named| named.tokens.is_empty())
            && self.allow_hosts.is_empty()
            && self.public_url.is_none()
    }

    /// The settings with absolute paths, so that each means the same everywhere.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a path is empty or the working directory is unknown.
    pub fn with_absolute_paths(mut self) -> Result<Self> {
        let own = [Some(&mut self.data_dir), self.unix_socket.as_mut(), self.token_file.as_mut()];
        let projector = self.llama_server.mmproj.as_mut();
        let of_models = self.models.values_mut().flat_map(ModelSettings::files_mut);
        // An empty path of the cache has a meaning; the validation names the setting where another is empty.
        let given = self.hub_cache.iter_mut().chain(projector).chain(of_models).chain(self.fleet.files_mut());
        let given = given.filter(|path| !path.as_os_str().is_empty());
        for path in own.into_iter().flatten().chain(&mut self.models_dirs).chain(given) {
            *path = std::path::absolute(&*path).map_err(|error| {
                Failure::new(
                    Code::ConfigInvalid,
                    format!("the path '{}' is not valid: {error}", path.display()),
                )
                .hint("write an absolute path")
            })?;
        }
        Ok(self)
    }

    /// The folder of models that the hive owns.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }

    /// The file that remembers which model has which id.
    #[must_use]
    pub fn model_ids_file(&self) -> PathBuf {
        self.data_dir.join("model-ids.json")
    }

    /// The file that remembers how much memory workers took.
    #[must_use]
    pub fn memory_file(&self) -> PathBuf {
        self.data_dir.join("memory.json")
    }

    /// The file that remembers what engines were tried with.
    #[must_use]
    pub fn engine_support_file(&self) -> PathBuf {
        self.data_dir.join("engine-support.json")
    }

    /// The file of the settings of models that operations have set.
    #[must_use]
    pub fn model_settings_file(&self) -> PathBuf {
        self.data_dir.join("model-settings.json")
    }

    /// The file of the named tokens.
    #[must_use]
    pub fn tokens_file(&self) -> PathBuf {
        self.data_dir.join("tokens.toml")
    }

    /// The folder of the usage by caller, model and day.
    #[must_use]
    pub fn usage_dir(&self) -> PathBuf {
        self.data_dir.join("usage")
    }

    /// What the settings require of the named tokens.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        let ollama = self.ollama.listen.filter(|address| !address.ip().is_loopback());
        let beyond = Some(self.bind.to_string()).filter(|_| !self.bind.is_loopback());
        Exposure {
            has_token_file: self.token_file.is_some(),
            beyond_loopback: beyond.or_else(|| ollama.map(|address| address.to_string())),
        }
    }

    /// The folder of the acts' journals.
    #[must_use]
    pub fn jobs_dir(&self) -> PathBuf {
        self.data_dir.join("jobs")
    }

    /// The folder of the records of files that the hive put into the Hugging Face cache.
    #[must_use]
    pub fn hub_notes_dir(&self) -> PathBuf {
        self.data_dir.join("hub")
    }

    /// The folder of the engines that the hive installed.
    #[must_use]
    pub fn engines_dir(&self) -> PathBuf {
        self.data_dir.join("engines")
    }

    /// The folder of the workers' logs and reports.
    #[must_use]
    pub fn workers_dir(&self) -> PathBuf {
        self.data_dir.join("workers")
    }

    /// The executable of the built-in worker.
    ///
    /// # Errors
    /// The path of the running executable is unknown.
    pub fn worker_program(&self) -> Result<PathBuf> {
        match &self.worker_program {
            Some(program) => Ok(program.clone()),
            None => files::own_program(),
        }
    }
}

/// `$XDG_DATA_HOME/rbee-hive` or the platform's equivalent; a folder in the working directory if there
/// is no home directory.
fn default_data_dir() -> PathBuf {
    match choose_base_strategy() {
        Ok(strategy) => strategy.data_dir().join("rbee-hive"),
        Err(_) => PathBuf::from("rbee-hive-data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_become_absolute_and_an_empty_one_of_the_cache_stays() {
        let text = "hub_cache = \"c\"\nmodels_dirs = [\"m\"]\n[llama_server]\nmmproj = \"p.gguf\"\n\
                    [models.x]\nchat_template = \"t.jinja\"";
        let config = toml::from_str::<Config>(text).unwrap().with_absolute_paths().unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.models_dirs, [here.join("m")]);
        assert_eq!(config.hub_cache, Some(here.join("c")));
        assert_eq!(config.llama_server.mmproj, Some(here.join("p.gguf")));
        assert_eq!(config.models["x"].chat_template, Some(here.join("t.jinja")));
        let config = toml::from_str::<Config>("hub_cache = \"\"").unwrap().with_absolute_paths().unwrap();
        assert_eq!(config.hub_cache, Some(PathBuf::new()));
    }
}
