//! Other programs that tests run.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// A command for a program that gets no input, and that ends with the test.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = rbee_hive::spawn::command(program);
    command.kill_on_drop(true);
    command
}

/// A command that starts another one: `outer`, with the program and the arguments of `inner` after its own,
/// and with the environment of `inner`.
pub(crate) fn wrapped(mut outer: Command, inner: &Command) -> Command {
    let inner = inner.as_std();
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// The Python that an environment variable names, which must have the package, else `python3`; `None`, with a
/// message, where that has no such package.
pub(crate) async fn python_with(package: &str, variable: &str) -> Option<String> {
    let named = std::env::var(variable).ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let has_it = command(&python).args(["-c", &format!("import {package}")]).output().await;
    if has_it.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(named.is_none(), "{variable} must have {package}: pip install {package}");
    skipped(&format!("{python} has no package {package}"));
    None
}

/// Says what was not tested, and why. Not by `eprintln!`, whose text is shown only if the test fails.
pub(crate) fn skipped(why: &str) {
    // Nobody reads it where there is no standard error.
    writeln!(std::io::stderr(), "skipped: {why}").ok();
}

/// The real llama-server that the environment names, if it does.
pub(crate) fn llama_server() -> Option<String> {
    let named = std::env::var("RBEE_TEST_LLAMA_SERVER").ok().filter(|program| !program.is_empty());
    if named.is_none() {
        skipped("RBEE_TEST_LLAMA_SERVER names no llama-server; .ci/llama-server builds one");
    }
    named
}

/// The real nats-server: the one that the environment names, that of `.ci/clients nats`, or that on `PATH`; `None`,
/// with a message, where there is none.
pub(crate) fn nats_server() -> Option<PathBuf> {
    let named = std::env::var_os("RBEE_TEST_NATS_SERVER").map(PathBuf::from);
    let built = super::executable()
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("clients/nats/nats-server"));
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|file| file.is_file())
    });
    let found = named.or(built.filter(|file| file.is_file())).or(on_path);
    if found.is_none() {
        assert!(
            std::env::var_os("RBEE_HIVE_REQUIRE_NATS").is_none(),
            "nats-server is required: .ci/clients nats"
        );
        skipped("there is no nats-server; .ci/clients nats builds one");
    }
    found
}

/// A program that runs it, small and without libraries of its own: what a stand-in of a release has.
pub(crate) fn llama_server_script() -> Option<Vec<u8>> {
    llama_server().map(|program| format!("#!/bin/sh\nexec '{program}' \"$@\"\n").into_bytes())
}
