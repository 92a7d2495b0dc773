//! NVIDIA GPUs that this machine does not have: a shared library with the interface of NVIDIA's own,
//! which the hive loads in its place, and a file with what it tells.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Daemon;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/nvml.c");

/// The GPUs of a hive. What they are can be told anew while it runs.
pub(crate) struct Gpus {
    dir: PathBuf,
}

impl Gpus {
    /// Builds the library into `dir`. `told` is as at the head of `nvml.c`.
    #[expect(clippy::disallowed_methods, reason = "a test builds its stand-in from outside")]
    pub(crate) fn new(dir: &Path, told: &str) -> Self {
        let gpus = Self { dir: dir.to_owned() };
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-o"])
            .arg(dir.join("libnvidia-ml.so.1"))
            .arg(SOURCE)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        gpus.tell(told);
        gpus
    }

    /// What they are from now on.
    pub(crate) fn tell(&self, told: &str) {
        let draft = self.dir.join("gpus.draft");
        std::fs::write(&draft, told).expect("a file");
        std::fs::rename(draft, self.told()).expect("a file");
    }

    /// A hive that has them, and an engine that computes on them: the hive's own, which in truth
    /// computes on the processor. Its workers end with the hive, also where a test fails midway.
    pub(crate) async fn hive(&self) -> Daemon {
        let config = self.dir.join("hive.toml");
        let program = super::executable();
        let settings = format!(
            "[engines.stand-in]\n\
             command = [{program:?}, \"worker\", \"--model\", \"{{model}}\", \"--model-id\", \"{{model_id}}\", \"--port\", \"{{port}}\", \"--lifeline\"]\n\
             devices = [\"cuda\"]\n\
             secret_env = \"RBEE_WORKER_SECRET\"\n"
        );
        std::fs::write(&config, settings).expect("a file");
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let (told, dir) = (text(&self.told()), text(&self.dir));
        let environment = [("FAKE_NVML", told.as_str()), ("LD_LIBRARY_PATH", &dir)];
        Daemon::start_with(&self.dir, &["--config", &text(&config)], &environment).await
    }

    fn told(&self) -> PathBuf {
        self.dir.join("gpus")
    }
}
