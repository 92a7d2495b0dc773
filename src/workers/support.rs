//! Which engines can run a model: told by their programs, by the built-in engine of a header, and learned by trying.
//!
//! What nobody knows is never a "no": an engine is said to be unable to run a model only where its program lacks the
//! name of what the model needs, or where it said so itself when it was tried. A load that succeeded proves the
//! contrary of both.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::causes::{self, Unknown};
use super::engines::told::{ProgramFiles, Told};
use super::engines::{BUILTIN, Engine};
use super::gpus;
use super::tried::{Subject, TrialOf, Tried};
use crate::config::DeviceKind;
use crate::engine::load;
use crate::engine_store::{EngineId, llama_cpp};
use crate::models::gguf::TensorType;
use crate::models::{EngineAdvice, EngineSupport, Needs};

/// What is known of the engines of one hive.
#[derive(Debug)]
pub(super) struct Support {
    /// The programs of the engines, as they were when they were last looked at. Never locked while the disk is used.
    programs: Mutex<HashMap<PathBuf, Program>>,
    /// Held while programs are read. Locked only on the blocking pool.
    reading: Mutex<()>,
    tried: Tried,
    /// The engine to install on this machine. Until somebody has asked what can be had
    /// ([`recommend`](Self::recommend)), the one for its first GPU.
    recommended: Mutex<Option<EngineId>>,
}

#[derive(Clone, Debug)]
struct Program {
    files: ProgramFiles,
    /// `None` where it tells nothing.
    told: Option<Arc<Told>>,
}

impl Support {
    /// What earlier runs learned is in `file`. Blocks.
    pub(super) fn open(file: PathBuf) -> Self {
        Self {
            programs: Mutex::default(),
            reading: Mutex::default(),
            tried: Tried::open(file),
            recommended: Mutex::default(),
        }
    }

    /// Looks at the programs of these engines, and reads those that have changed. Blocks.
    pub(super) fn look(&self, engines: &[Arc<Engine>]) {
        let _reading = self.reading.lock();
        if self.recommended.lock().is_none() {
            let usual = usual();
            self.recommended.lock().get_or_insert(usual);
        }
        for engine in engines.iter().filter(|engine| engine.name != BUILTIN) {
            let Some(files) = ProgramFiles::now(&engine.program) else { continue };
            let is_known =
                self.programs.lock().get(&engine.program).is_some_and(|known| known.files == files);
            if !is_known {
                // What the settings describe may be any program, and large: its texts are not llama.cpp's.
                let is_of_llama_cpp = engine.takes_options;
                let told = is_of_llama_cpp.then(|| Told::by(&engine.program)).flatten().map(Arc::new);
                self.programs.lock().insert(engine.program.clone(), Program { files, told });
            }
        }
    }

    /// Tells which engine is to be installed here.
    pub(super) fn recommend(&self, id: EngineId) {
        *self.recommended.lock() = Some(id);
    }

    /// Why an engine cannot run a model with these needs; `None` where it may be able to. Waits for nothing.
    pub(super) fn obstacle(&self, engine: &Engine, needs: &Needs) -> Option<String> {
        if engine.name == BUILTIN {
            let of_architecture = || load::obstacle_of_architecture(needs.architecture.as_deref()?);
            return needs.of_builtin.clone().or_else(of_architecture);
        }
        let Program { files, told } = self.programs.lock().get(&engine.program)?.clone();
        let of = trial_of(engine, files);
        Subject::all(needs).find_map(|subject| match self.tried.last(&of, &subject) {
            Some(trial) if trial.known => None,
            Some(trial) => {
                let day = trial.at.strftime("%Y-%m-%d");
                Some(format!("it did not know {subject} when it was tried ({day}); \"force\" tries it again"))
            }
            None if told.as_ref().is_some_and(|told| !may_know(told, &subject)) => {
                Some(format!("its program does not know {subject}"))
            }
            None => None,
        })
    }

    /// Which of the engines can run a model with these needs. Waits for nothing.
    pub(super) fn of(&self, engines: &[Arc<Engine>], needs: &Needs) -> EngineSupport {
        let (mut able, mut unable) = (Vec::new(), Vec::new());
        for engine in engines {
            match self.obstacle(engine, needs) {
                None => able.push(engine.name.clone()),
                Some(obstacle) => unable.push(format!("{}: {obstacle}", engine.name)),
            }
        }
        let none_can = able.is_empty() && !unable.is_empty();
        EngineSupport {
            engines: Some(able),
            engines_detail: none_can.then(|| unable.join("; ")),
            engine_advice: none_can.then(|| self.advice(engines, needs)).flatten(),
        }
    }

    /// How to get an engine that runs a model which none of these can run.
    fn advice(&self, engines: &[Arc<Engine>], needs: &Needs) -> Option<EngineAdvice> {
        let architecture = needs.architecture.as_deref()?;
        let is_here = engines.iter().any(|engine| engine.takes_options);
        let has_known_types = needs.tensor_types.iter().all(|kind| kind.name().is_some());
        let runs = has_known_types && llama_cpp::runs(architecture);
        let who = match (is_here, runs) {
            (true, _) => "perhaps a newer llama-server runs it",
            (false, true) => "llama-server runs it",
            (false, false) => "perhaps the newest llama-server runs it",
        };
        let since = match (is_here, runs) {
            (true, true) => format!(" ({} does)", llama_cpp::KNOWN_VERSION),
            _ => String::new(),
        };
        let id = self.recommended.lock().unwrap_or(EngineId { kind: DeviceKind::Cpu });
        Some(EngineAdvice { worker_id: id.to_string(), detail: format!("{who}{since}") })
    }

    /// Learns from a start that succeeded, or that failed with these last lines of its log. Blocks.
    pub(super) fn learn(&self, engine: &Engine, needs: &Needs, failed_with: Option<&[String]>) {
        if engine.name == BUILTIN {
            return;
        }
        let Some(files) = ProgramFiles::now(&engine.program) else { return };
        let of = trial_of(engine, files);
        match failed_with {
            None => self.tried.keep(&of, Subject::all(needs), true),
            Some(tail) => {
                let subject = causes::unknown(tail).and_then(|unknown| match unknown {
                    Unknown::Architecture => needs.architecture.clone().map(Subject::Architecture),
                    Unknown::PreTokenizer => needs.pre_tokenizer.clone().map(Subject::PreTokenizer),
                    Unknown::TensorType(id) => Some(Subject::TensorType(id)),
                });
                if let Some(subject) = subject {
                    self.tried.keep(&of, std::iter::once(subject), false);
                }
            }
        }
    }
}

fn trial_of(engine: &Engine, files: ProgramFiles) -> TrialOf {
    TrialOf { engine: engine.name.clone(), version: engine.version.clone(), files }
}

fn may_know(told: &Told, subject: &Subject) -> bool {
    match subject {
        Subject::Architecture(name) => told.may_run(name),
        Subject::TensorType(id) => told.may_compute(TensorType::from_id(*id)),
        // Programs compare these without storing them as texts.
        Subject::PreTokenizer(_) => true,
    }
}

/// The engine to install on most machines like this: for its first GPU, if it has one. Blocks.
fn usual() -> EngineId {
    EngineId { kind: gpus::sample().first().and_then(|gpu| gpu.device.kind()).unwrap_or(DeviceKind::Cpu) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(program: PathBuf) -> Arc<Engine> {
        let name = "llama-server".to_owned();
        Arc::new(Engine { name, program, takes_options: true, ..Engine::builtin("p".into()) })
    }

    /// A program that knows these architectures.
    fn write_program(path: &std::path::Path, more: &str) {
        let usual = "llama gpt2 gptneox falcon starcoder refact mpt f16 q4_0 q5_1 q8_0 q6_K";
        let texts: Vec<_> = usual.split(' ').chain(more.split(' ')).collect();
        std::fs::write(path, texts.join("\0") + "\0").unwrap();
    }

    #[test]
    fn what_no_engine_knows_is_told_with_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let builtin = [Arc::new(Engine::builtin("p".into()))];
        let advice = |support: &Support, engines: &[Arc<Engine>], architecture: &str| {
            let of = support.of(engines, &Needs::of_architecture(architecture));
            assert_eq!(of.engines.as_ref().map(Vec::is_empty), Some(of.engines_detail.is_some()), "{of:?}");
            of.engine_advice.map_or_else(String::new, |advice| advice.to_string())
        };
        let support = Support::open(folder.path().join("engine-support.json"));
        assert_eq!(advice(&support, &builtin, "llama"), "");
        assert_eq!(
            advice(&support, &builtin, "gemma3n"),
            "llama-server runs it: WorkerInstall {\"worker_id\":\"llama-server-cpu\"} installs it"
        );
        assert!(advice(&support, &builtin, "mamba9").starts_with("perhaps the newest llama-server runs it:"));
        // An old one is here.
        let program = folder.path().join("llama-server");
        write_program(&program, "gemma2");
        let both = [server(program.clone()), Arc::clone(&builtin[0])];
        support.look(&both);
        assert_eq!(advice(&support, &both, "gemma2"), "");
        let newer = advice(&support, &both, "gemma3n");
        assert!(newer.starts_with("perhaps a newer llama-server runs it (the llama.cpp of "), "{newer}");
        // It is replaced.
        write_program(&program, "gemma2 gemma3n");
        support.look(&both);
        assert_eq!(advice(&support, &both, "gemma3n"), "");
    }

    #[test]
    fn a_trial_counts_more_than_what_a_program_tells() {
        let folder = tempfile::tempdir().unwrap();
        let support = Support::open(folder.path().join("engine-support.json"));
        let program = folder.path().join("llama-server");
        write_program(&program, "gemma3");
        let engine = server(program.clone());
        support.look(std::slice::from_ref(&engine));
        let obstacle = |needs: &Needs| support.obstacle(&engine, needs);
        let (known, unknown) = (Needs::of_architecture("gemma3"), Needs::of_architecture("gemma4"));
        assert_eq!(obstacle(&known), None);
        assert_eq!(obstacle(&unknown).unwrap(), "its program does not know the architecture 'gemma4'");
        let iq2 = Needs { tensor_types: vec![TensorType::Q4_0, TensorType::Iq2Xxs], ..known.clone() };
        assert_eq!(obstacle(&iq2).unwrap(), "its program does not know tensors of the type IQ2_XXS");
        let failed =
            ["llama_model_load: error loading model: unknown model architecture: 'gemma3'".to_owned()];
        support.learn(&engine, &known, Some(&failed));
        assert!(obstacle(&known).unwrap().starts_with("it did not know the architecture 'gemma3' when"));
        support.learn(&engine, &known, Some(&["out of memory".to_owned()]));
        support.learn(&engine, &unknown, None);
        assert_eq!(obstacle(&unknown), None, "it loaded one");
        support.learn(&engine, &known, None);
        assert_eq!(obstacle(&known), None);
        let pre = Needs { pre_tokenizer: Some("new-bpe".to_owned()), ..known };
        support.learn(&engine, &pre, Some(&["error: unknown pre-tokenizer type: 'new-bpe'".to_owned()]));
        assert!(obstacle(&pre).unwrap().contains("the pre-tokenizer 'new-bpe'"));
        // An engine that tells nothing is asked for nothing.
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        support.look(std::slice::from_ref(&engine));
        assert_eq!((obstacle(&iq2), obstacle(&pre)), (None, None), "what was learned is forgotten with it");
    }
}
