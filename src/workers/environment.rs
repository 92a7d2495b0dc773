//! Which variables of the hive's environment a worker does not get.
//!
//! Engines read many variables (`PATH`, `CUDA_VISIBLE_DEVICES`, `OMP_NUM_THREADS`, those of Python and of
//! drivers), and new ones with each version, so a worker gets what the hive has, less what looks like a
//! secret: by its name, or as a URL with a password, and less what a service manager says to the hive alone. This keeps keys of clouds and services out of the logs,
//! crash reports and children of engines. It is no wall: a worker runs as the hive's user. What an engine
//! needs of all this, its `env` setting gives it.

use std::ffi::{OsStr, OsString};

use tokio::process::Command;

use crate::{disk, secrets};

/// Has CUDA count GPUs as NVML does, whose numbers are the hive's: else it counts the fastest first.
pub(super) const CUDA_ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");

/// Names the folder for temporary files.
pub(super) const TEMPORARY: &str = "TMPDIR";

/// Beginnings of names whose variables belong to other programs that hold accounts. llama-server reads its
/// settings from those that begin with `LLAMA_`, and the hive's are not its own.
const BEGINNINGS: &[&str] =
    &["AWS_", "AZURE_", "GOOGLE_", "GCP_", "CLOUDSDK_", "SSH_", "GPG_", "VAULT_", "LLAMA_"];
/// What a service manager tells the hive, and nobody else (`sd_notify(3)`, `sd_listen_fds(3)`).
const OF_THE_SERVICE: &[&str] =
    &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Keeps from a process of an engine what it does not get of the hive's environment. Returns the names.
pub(crate) fn keep_secrets(command: &mut Command) -> Vec<OsString> {
    let kept: Vec<_> = std::env::vars_os()
        .filter(|(name, value)| !is_passed_on(name, value))
        .map(|(name, _)| name)
        .collect();
    for name in &kept {
        command.env_remove(name);
    }
    kept
}

/// Whether a worker gets this variable of the hive.
fn is_passed_on(name: &OsStr, value: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    // A fault that a test gives the hive is not the worker's.
    name != disk::FAULT_VARIABLE
        && !OF_THE_SERVICE.contains(&name.as_str())
        && !BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        && !secrets::is_named_by(&name)
        && !secrets::is_url_with_password(&value.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_kept_back_and_nothing_else() {
        let passed = |name: &str, value: &str| is_passed_on(OsStr::new(name), OsStr::new(value));
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "RBEE_HIVE_TOKEN_FILE",
            "OPENAI_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_PROFILE",
            "AZURE_CLIENT_ID",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GITHUB_PAT",
            "PGPASSWORD",
            "db_password",
            "SSH_AUTH_SOCK",
            "KUBECONFIG",
            "LLAMA_ARG_CTX_SIZE",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
        ] {
            assert!(!passed(name, "x"), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "LD_LIBRARY_PATH",
            "CUDA_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
            "TOKENIZERS_PARALLELISM",
            "VLLM_MAX_TOKENS",
            "HF_HOME",
            "PYTHONPATH",
            "RUST_LOG",
        ] {
            assert!(passed(name, "x"), "{name}");
        }
        assert!(passed("HTTPS_PROXY", "http://proxy:3128") && passed("X", "a@b:c"));
        assert!(passed("X", "https://host/path@2:3"), "what follows the host is no user");
        assert!(!passed("HTTPS_PROXY", "http://me:word@proxy:3128"));
        assert!(!passed("DATABASE_URL", "postgres://me:word@db/x"));
    }
}
