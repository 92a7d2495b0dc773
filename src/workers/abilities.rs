//! What a model can do on the engines that serve it, or that would.
//!
//! A model can do something if its file has what that takes, and the engine does it. What is not known is not
//! missing: of a file that could not be read, and of an engine that is not found, nothing is refused.

use std::path::PathBuf;
use std::sync::Arc;

use super::engines::{BUILTIN, Engine};
use crate::config::{Capabilities, Capability, ModelSettings};
use crate::error::{Code, Failure, Result};
use crate::models::{Model, Task, TemplateTraits, Traits};

/// What is served, or would be.
#[derive(Clone, Debug)]
pub struct Served {
    /// The id under which it is served.
    pub id: String,
    /// The file of the model.
    pub path: PathBuf,
    /// What the file tells.
    pub traits: Traits,
    /// Its projector.
    pub projector: Option<PathBuf>,
    /// What the chat template of the settings knows, where they name one.
    pub chosen_template: Option<TemplateTraits>,
}

/// What a model can do.
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    /// `None` where its file is not known.
    served: Option<Served>,
    /// The engines that serve it, else those one of which would.
    engines: Vec<Arc<Engine>>,
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// The model is for something else.
    Task(Task),
    Projector,
    /// The model's chat template does not know it; there may be none.
    Template {
        is_there: bool,
    },
    Engine,
}

impl Served {
    /// What the settings make of a model; `None` where its file is not known.
    #[must_use]
    pub fn of(
        id: String,
        model: &Model,
        settings: &ModelSettings,
        chosen_template: Option<TemplateTraits>,
    ) -> Option<Self> {
        let projector = settings.projector.clone().or_else(|| model.projector.clone());
        Some(Self { id, path: model.path.clone(), traits: model.traits?, projector, chosen_template })
    }

    /// What is missing for a capability on an engine.
    fn lack(&self, capability: Capability, engine: &Engine) -> Option<Lack> {
        use Capability::{Chat, Completions, Embeddings, Images, JsonOutput, Reasoning, Rerank, Tools};

        let has_own_means = engine.has_means_of_its_own && engine.capabilities.contains(&capability);
        let task = self.traits.task;
        let is_of_task = match capability {
            Embeddings => task == Task::Embeddings || (task == Task::Text && has_own_means),
            Rerank => task == Task::Reranking || (task == Task::Text && has_own_means),
            Chat | Completions | Images | Tools | JsonOutput | Reasoning => task == Task::Text,
        };
        let template = self.chosen_template.or(self.traits.template);
        let of_template = Some(Lack::Template { is_there: template.is_some() });
        let of_model = match capability {
            _ if !is_of_task => return Some(Lack::Task(task)),
            _ if has_own_means => None,
            Images if engine.projector_of(&self.path, self.projector.as_ref()).is_none() => {
                Some(Lack::Projector)
            }
            Tools if !engine.describes_tools && !template.is_some_and(|template| template.tools) => {
                of_template
            }
            // The built-in engine finds only thoughts in tags.
            Reasoning if engine.name == BUILTIN && !template.is_some_and(|template| template.think_tags) => {
                of_template
            }
            Reasoning if !template.is_some_and(|template| template.reasoning) => of_template,
            _ => None,
        };
        let takes_projector = capability != Images || has_own_means || engine.takes("projector");
        let does_it = engine.capabilities.contains(&capability) && takes_projector;
        of_model.or((!does_it).then_some(Lack::Engine))
    }

    /// The refusal of what is missing.
    fn refusal(&self, capability: Capability, lack: Lack, engine: &Engine) -> Failure {
        let (id, lacking) = (&self.id, capability.lacking());
        let what = |task| match task {
            Task::Text => "a model for text",
            Task::Embeddings => "a model for embeddings",
            Task::Reranking => "a model for reranking",
        };
        let other = format!("GET /v1/models tells which models have the capability {capability}");
        let (message, hint) = match lack {
            Lack::Task(task) => (format!("the model '{id}' {lacking}: it is {}", what(task)), other),
            Lack::Projector => (
                format!("the model '{id}' {lacking}: it has no projector"),
                format!("download it with its projector, or name that in [models.\"{id}\"] projector; {other}"),
            ),
            Lack::Template { is_there } => {
                let why = if is_there { "its chat template does not know them" } else { "it has no chat template" };
                let why = if capability == Capability::Reasoning { "its chat template knows no thoughts" } else { why };
                (
                    format!("the model '{id}' {lacking}: {why}"),
                    format!("name another model, or set chat_template in [models.\"{id}\"]; {other}"),
                )
            }
            Lack::Engine if engine.name == BUILTIN => (
                format!("the built-in engine {lacking}, and it serves '{id}'"),
                "llama-server does: install it and restart the hive, or load the model with it if it is installed"
                    .to_owned(),
            ),
            Lack::Engine => (
                format!("the engine '{0}' {lacking}, and it serves '{id}'", engine.name),
                format!(
                    "load the model with another engine; if '{0}' can do it, name {capability} in [engines.{0}] \
                     capabilities",
                    engine.name
                ),
            ),
        };
        Failure::new(Code::CapabilityMissing, message).hint(hint)
    }
}

impl Abilities {
    /// Those of what is served on one of these engines.
    pub(super) fn new(served: Option<Served>, engines: Vec<Arc<Engine>>) -> Self {
        Self { served, engines }
    }

    /// What it can do; `None` where that is not known.
    #[must_use]
    pub fn list(&self) -> Option<Capabilities> {
        let served = self.served.as_ref().filter(|_| !self.engines.is_empty())?;
        let can = |capability: &Capability| self.lack(served, *capability).is_none();
        Some(Capability::ALL.iter().copied().filter(can).collect())
    }

    /// Refuses what needs something that it cannot do.
    ///
    /// # Errors
    /// [`Code::CapabilityMissing`], naming what is missing, the model or the engine, and the next step.
    pub fn check(&self, needs: &[Capability]) -> Result<()> {
        let Some(served) = &self.served else { return Ok(()) };
        let missing = needs.iter().find_map(|&capability| Some((capability, self.lack(served, capability)?)));
        match missing {
            None => Ok(()),
            Some((capability, (lack, engine))) => Err(served.refusal(capability, lack, engine)),
        }
    }

    /// Whether it is known that it cannot do something.
    #[must_use]
    pub fn lacks(&self, capability: Capability) -> bool {
        self.served.as_ref().is_some_and(|served| self.lack(served, capability).is_some())
    }

    /// What is missing for it on every engine: the last of them tells.
    fn lack(&self, served: &Served, capability: Capability) -> Option<(Lack, &Engine)> {
        let mut lacks = None;
        for engine in &self.engines {
            lacks = Some((served.lack(capability, engine)?, &**engine));
        }
        lacks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceKind, LlamaServer};
    use crate::workers::engines::llama_server;

    const TEXT: Traits = Traits { task: Task::Text, states_pooling: false, template: None };
    const TALKS: Traits = with_template(false, false);

    const fn with_template(tools: bool, reasoning: bool) -> Traits {
        Traits { template: Some(TemplateTraits { tools, reasoning, think_tags: reasoning }), ..TEXT }
    }

    fn served(traits: Traits, projector: Option<&str>) -> Served {
        Served {
            id: "x".to_owned(),
            path: "/m/x.gguf".into(),
            traits,
            projector: projector.map(PathBuf::from),
            chosen_template: None,
        }
    }

    /// An engine of the settings.
    fn described(capabilities: &[Capability], says_so: bool) -> Engine {
        Engine {
            name: "other".to_owned(),
            arguments: vec!["{projector}".to_owned()],
            devices: vec![DeviceKind::Cpu],
            capabilities: capabilities.iter().copied().collect(),
            has_means_of_its_own: says_so,
            describes_tools: false,
            ..Engine::builtin("p".into())
        }
    }

    fn server() -> Engine {
        llama_server::describe("p".into(), &LlamaServer::default(), "version: 1", "")
    }

    fn abilities(served: Served, engine: Engine) -> Abilities {
        Abilities::new(Some(served), vec![Arc::new(engine)])
    }

    #[test]
    fn a_model_can_what_its_file_and_its_engine_can() {
        let embeddings = Traits { task: Task::Embeddings, ..with_template(true, true) };
        let reranking = Traits { task: Task::Reranking, ..TEXT };
        let usual = || described(&crate::config::EngineSettings::USUAL, false);
        let all = || described(Capability::ALL, true);
        for (traits, projector, engine, can) in [
            (TEXT, None, server(), "chat completions json_output"),
            (TALKS, None, server(), "chat completions json_output"),
            (TALKS, Some("/m/p.gguf"), server(), "chat completions images json_output"),
            (with_template(true, false), None, server(), "chat completions tools json_output"),
            (
                with_template(true, true),
                Some("/m/p.gguf"),
                server(),
                "chat completions images tools json_output reasoning",
            ),
            (embeddings, None, server(), "embeddings"),
            (reranking, None, server(), "rerank"),
            (
                with_template(true, true),
                None,
                Engine::builtin("p".into()),
                "chat completions tools json_output reasoning",
            ),
            (TALKS, Some("/m/p.gguf"), Engine::builtin("p".into()), "chat completions tools json_output"),
            (embeddings, None, Engine::builtin("p".into()), "embeddings"),
            (reranking, None, Engine::builtin("p".into()), ""),
            (
                with_template(true, true),
                Some("/m/p.gguf"),
                usual(),
                "chat completions images tools json_output",
            ),
            (TALKS, None, usual(), "chat completions json_output"),
            (embeddings, None, usual(), ""),
            // It may have a template and a projector of its own.
            (TEXT, None, all(), "chat completions embeddings rerank images tools json_output reasoning"),
            (embeddings, None, all(), "embeddings"),
            (reranking, None, all(), "rerank"),
        ] {
            let what = format!("{traits:?} {projector:?} {}", engine.name);
            let list = abilities(served(traits, projector), engine).list().unwrap();
            let names: Vec<_> = list.iter().map(|capability| capability.name()).collect();
            assert_eq!(names.join(" "), can, "{what}");
        }
    }

    #[test]
    fn the_template_of_the_settings_counts_more_than_the_files() {
        let mut served = served(TALKS, None);
        served.chosen_template = Some(TemplateTraits { tools: true, reasoning: false, think_tags: false });
        assert!(abilities(served.clone(), server()).list().unwrap().contains(&Capability::Tools));
        // Thoughts that are marked otherwise than the built-in engine finds.
        served.chosen_template = Some(TemplateTraits { tools: true, reasoning: true, think_tags: false });
        let thinks = |engine| !abilities(served.clone(), engine).lacks(Capability::Reasoning);
        assert!(thinks(server()) && !thinks(Engine::builtin("p".into())));
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_the_next_step() {
        use Capability::{Chat, Embeddings, Images, Reasoning, Rerank, Tools};

        let embeddings = Traits { task: Task::Embeddings, ..TEXT };
        let reranking = Traits { task: Task::Reranking, ..TEXT };
        for (traits, projector, engine, need, message, hint) in [
            (
                embeddings,
                None,
                server(),
                Chat,
                "the model 'x' does not support chat: it is a model for embeddings",
                "/v1/models",
            ),
            (
                TALKS,
                None,
                server(),
                Embeddings,
                "the model 'x' does not support embeddings: it is a model for text",
                "capability embeddings",
            ),
            (
                TALKS,
                None,
                server(),
                Rerank,
                "the model 'x' does not support reranking: it is a model for text",
                "capability rerank",
            ),
            (
                TALKS,
                None,
                server(),
                Images,
                "the model 'x' does not support images: it has no projector",
                "projector",
            ),
            (
                TALKS,
                None,
                server(),
                Tools,
                "the model 'x' does not support tools: its chat template does not know them",
                "chat_template",
            ),
            (
                TEXT,
                None,
                server(),
                Tools,
                "the model 'x' does not support tools: it has no chat template",
                "chat_template",
            ),
            (
                TALKS,
                None,
                server(),
                Reasoning,
                "the model 'x' does not support thinking: its chat template knows no thoughts",
                "chat_template",
            ),
            (
                reranking,
                None,
                Engine::builtin("p".into()),
                Rerank,
                "the built-in engine does not support reranking, and it serves 'x'",
                "llama-server does: install it",
            ),
            (
                TALKS,
                Some("/m/p.gguf"),
                Engine::builtin("p".into()),
                Images,
                "the built-in engine does not support images, and it serves 'x'",
                "llama-server",
            ),
            (
                with_template(true, false),
                None,
                described(&[Chat], true),
                Tools,
                "the engine 'other' does not support tools, and it serves 'x'",
                "name tools in [engines.other] capabilities",
            ),
        ] {
            let failure = abilities(served(traits, projector), engine).check(&[need]).unwrap_err();
            assert_eq!((failure.code, &*failure.message), (Code::CapabilityMissing, message));
            assert!(failure.hint.as_ref().is_some_and(|text| text.contains(hint)), "{failure:?}");
        }
        abilities(served(TALKS, None), server()).check(&[Chat, Capability::JsonOutput]).unwrap();
    }

    #[test]
    fn what_is_not_known_is_not_missing() {
        let unknown = Abilities::new(None, vec![Arc::new(Engine::builtin("p".into()))]);
        unknown.check(Capability::ALL).unwrap();
        let no_engine = Abilities::new(Some(served(TALKS, None)), Vec::new());
        no_engine.check(Capability::ALL).unwrap();
        assert_eq!((unknown.list(), no_engine.list()), (None, None));
        // One of the engines that may serve it does it.
        let engines = [server(), described(&[], true)].map(Arc::new).into();
        Abilities::new(Some(served(TALKS, None)), engines).check(&[Capability::Chat]).unwrap();
    }

    #[test]
    fn an_engine_that_cannot_be_told_of_a_projector_takes_no_images() {
        let engine = Engine { arguments: Vec::new(), ..described(&[Capability::Images], false) };
        assert!(abilities(served(TALKS, Some("/m/p.gguf")), engine).lacks(Capability::Images));
        let engine = described(&[Capability::Images], false);
        assert!(!abilities(served(TALKS, Some("/m/p.gguf")), engine).lacks(Capability::Images));
    }
}
