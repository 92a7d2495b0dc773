//! The binary: parses the command line and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use rbee_hive::cli::{self, Cli};

/// The system's allocator returns large buffers at once and gets them again page by page, which costs a
/// fifth of the processor time of a fast download.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut builder = match cli.is_plain() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    match cli::run_to_end(&mut builder, cli.run()) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => report(&failure.message, failure.hint.as_deref(), failure.code.exit_status()),
        Err(error) => report(&format!("could not start the runtime: {error}"), None, 71),
    }
}

/// Prints what failed and what to do next.
#[expect(clippy::print_stderr, reason = "the end of a command line program")]
fn report(message: &str, hint: Option<&str>, status: u8) -> ExitCode {
    eprintln!("rbee-hive: {message}");
    if let Some(hint) = hint {
        eprintln!("  hint: {hint}");
    }
    ExitCode::from(status)
}
