//! What a model asks of the engine that runs it, and which engines can.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::gguf::{Header, TensorInfo, TensorType};

/// The longest name of an architecture or of a way to split words, in bytes.
const LONGEST_NAME: usize = 48;

/// What a model asks of an engine, as its file tells. What the file does not tell is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// `general.architecture`.
    pub(crate) architecture: Option<String>,
    /// The types of its tensors, each once.
    pub(crate) tensor_types: Vec<TensorType>,
    /// `tokenizer.ggml.pre`: how it splits words before it merges tokens.
    pub(crate) pre_tokenizer: Option<String>,
    /// Why the built-in engine cannot run it, as far as its header tells.
    pub(crate) of_builtin: Option<String>,
}

impl Needs {
    pub(crate) fn of(header: &Header, of_builtin: Option<String>) -> Self {
        let pre_tokenizer = header.metadata.str("tokenizer.ggml.pre").and_then(name);
        let architecture = header.architecture().and_then(name);
        let mut needs = Self { architecture, pre_tokenizer, of_builtin, ..Self::default() };
        needs.add(&header.tensors);
        needs
    }

    /// The needs of a model of which only the architecture is known.
    pub(crate) fn of_architecture(architecture: &str) -> Self {
        Self { architecture: name(architecture), ..Self::default() }
    }

    /// Adds what further tensors need.
    pub(crate) fn add(&mut self, tensors: &[TensorInfo]) {
        for tensor in tensors {
            self.add_type(tensor.kind);
        }
    }

    pub(crate) fn add_type(&mut self, kind: TensorType) {
        if !self.tensor_types.contains(&kind) {
            self.tensor_types.push(kind);
        }
    }
}

/// A name that can be looked for; `None` for what no program would call anything.
fn name(text: &str) -> Option<String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (!text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(is_name)).then(|| text.to_owned())
}

/// Which engines can run a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EngineSupport {
    /// The installed engines that may run it, the preferred one first; unset where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engines: Option<Vec<String>>,
    /// Why none of them can, for people; unset where one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engines_detail: Option<String>,
    /// What to do about that; unset where one may run it, or nothing is known that would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_advice: Option<EngineAdvice>,
}

/// How to get an engine that runs a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EngineAdvice {
    /// What `WorkerInstall` would install.
    pub worker_id: String,
    /// What it would bring, for people.
    pub detail: String,
}

impl fmt::Display for EngineAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker_id, detail } = self;
        write!(f, "{detail}: WorkerInstall {{\"worker_id\":\"{worker_id}\"}} installs it")
    }
}

impl EngineSupport {
    /// Why no engine here can run a model, and what to do about it; `None` where one may.
    pub(crate) fn warning(&self) -> Option<String> {
        let detail = self.engines_detail.as_ref()?;
        let advice = self.engine_advice.as_ref().map(|advice| format!("; {advice}"));
        Some(format!("no engine here can run it: {detail}{}", advice.unwrap_or_default()))
    }
}

/// See [`Judge::set`].
type FindObstacle = fn(&Header) -> Option<String>;
/// See [`Judge::set`].
type FindSupport = Box<dyn Fn(&Needs) -> EngineSupport + Send + Sync>;

/// Asks the engines, of which this part of the hive knows nothing, what they say of models.
#[derive(Default)]
pub(crate) struct Judge(OnceLock<(FindObstacle, FindSupport)>);

impl Judge {
    /// Lets headers be examined by the built-in engine, and needs by all engines. Counts for files that are read
    /// from now on, and only the first time.
    pub(crate) fn set(
        &self,
        obstacle: FindObstacle,
        support: impl Fn(&Needs) -> EngineSupport + Send + Sync + 'static,
    ) {
        // Another one would say the same.
        let _first = self.0.set((obstacle, Box::new(support))).is_ok();
    }

    /// What the model of a header needs.
    pub(crate) fn needs(&self, header: &Header) -> Needs {
        Needs::of(header, self.0.get().and_then(|(obstacle, _)| obstacle(header)))
    }

    /// Which engines can run a model with these needs. Waits for nothing.
    pub(crate) fn support(&self, needs: &Needs) -> EngineSupport {
        self.0.get().map(|(_, support)| support(needs)).unwrap_or_default()
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("is_set", &self.0.get().is_some()).finish()
    }
}
