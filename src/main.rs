//! The binary: parses the command line and chooses the exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use rbee_hive::cli::Cli;

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
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&format!("could not start the runtime: {error}"), None, 71),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure.message, failure.hint.as_deref(), failure.code.exit_status()),
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
