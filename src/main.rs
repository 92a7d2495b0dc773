//! The binary: parses the command line and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use rbee_hive::cli::Cli;

/// The system's own gives large buffers back at once and fetches them anew, page by page: a fifth of
/// the processor time of a fast download.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("could not start the runtime: {error}"), None, 71),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure.message, failure.hint.as_deref(), failure.code.exit_status()),
    }
}

/// The last words of a process that failed: what, and what to do.
#[expect(clippy::print_stderr, reason = "the end of a command line program")]
fn complain(message: &str, hint: Option<&str>, status: u8) -> ExitCode {
    eprintln!("rbee-hive: {message}");
    if let Some(hint) = hint {
        eprintln!("  hint: {hint}");
    }
    ExitCode::from(status)
}
