//! Simulated NVIDIA GPUs: a shared library with the interface of NVIDIA's own, which the hive loads
//! instead, and a file with the values that it returns.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Daemon;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/nvml.c");

/// The simulated GPUs of a hive. Their values can change while it runs.
pub(crate) struct Gpus {
    dir: PathBuf,
}

impl Gpus {
    /// Builds the library in `dir`. The head of `nvml.c` describes the format of `values`.
    pub(crate) fn new(dir: &Path, values: &str) -> Self {
        let gpus = Self { dir: dir.to_owned() };
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-o"])
            .arg(dir.join("libnvidia-ml.so.1"))
            .arg(SOURCE)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        gpus.tell(values);
        gpus
    }

    /// Replaces the values.
    pub(crate) fn tell(&self, values: &str) {
        let draft = self.dir.join("gpus.draft");
        std::fs::write(&draft, values).expect("a file");
        std::fs::rename(draft, self.values()).expect("a file");
    }

    /// A hive with these GPUs and an engine for them: the built-in one, which really computes on the
    /// processor. Its workers end with the hive, also where a test fails midway.
    pub(crate) async fn hive(&self) -> Daemon {
        self.hive_with(&[]).await
    }

    /// The same, with more arguments.
    pub(crate) async fn hive_with(&self, more: &[&str]) -> Daemon {
        let config = self.dir.join("hive.toml");
        let program = super::executable();
        let settings = format!(
            "[engines.stand-in]\n\
             command = [{program:?}, \"worker\", \"--model\", \"{{model}}\", \"--model-id\", \"{{model_id}}\", \"--port\", \"{{port}}\", \"--lifeline\"]\n\
             devices = [\"cuda\"]\n\
             secret_env = \"RBEE_WORKER_SECRET\"\n"
        );
        std::fs::write(&config, settings).expect("a file");
        let environment = self.environment();
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let arguments = [&["--config", config.to_str().expect("UTF-8")], more].concat();
        Daemon::start_with(&self.dir, &arguments, &environment).await
    }

    /// What makes a hive see them.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        [("FAKE_NVML", text(&self.values())), ("LD_LIBRARY_PATH", text(&self.dir))]
    }

    fn values(&self) -> PathBuf {
        self.dir.join("gpus")
    }
}
