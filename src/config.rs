//! The settings of a hive: one validated struct, from defaults, the file, the environment and flags.
//! Later ones override earlier ones.
//!
//! Every timer and limit is a setting, so that a test takes milliseconds for what takes minutes in
//! service. The command line (`cli::serve`) has flags for the settings that people change often; the
//! file has all of them.

mod validation;
mod read;
mod unknown;
mod schema;
mod effective;
mod reload;
mod settings;
mod bind;
mod workers;
mod memory;
mod gateway;
mod models;
mod engine_options;
mod sampling;
mod size;
mod device;
mod engines;
mod capability;
mod engine_builds;
mod downloads;
mod fleet;
mod jobs;
mod residency;
mod timers;
mod tokens;
mod faults;
mod file;
mod names;
mod source;
mod keep_alive;
mod duration;

pub use bind::Bind;
pub use capability::{Capabilities, Capability};
pub use device::Device;
pub use downloads::{Downloads, Hub, Ollama};
pub use duration::{BoundedDuration, PositiveDuration, SettingDuration};
pub use effective::Setting;
pub use engine_builds::EngineBuilds;
pub use engine_options::{EngineOptions, RopeScaling};
pub use engines::{DeviceKind, EngineSettings, FlashAttention, KvType, LlamaServer, PLACEHOLDERS};
pub use faults::Faults;
pub use file::{ConfigFile, Reloaded};
pub use fleet::Fleet;
pub use gateway::{Gateway, MAX_BODY_LIMIT};
pub use jobs::Jobs;
pub use keep_alive::KeepAlive;
pub use memory::Memory;
pub(crate) use models::alias_taken_twice;
pub use models::{CATCH_ALL, ModelSettings, served_id};
pub use residency::Residency;
pub use sampling::Sampling;
pub use schema::schema;
pub use settings::{Config, DEFAULT_PORT};
pub use source::{Given, Source};
pub use timers::Timers;
pub use tokens::{Exposure, MANAGER, NamedToken, Role, Tokens, check_name};
pub use workers::{RestartPolicy, Sandboxing, Workers};
