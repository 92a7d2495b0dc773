//! The binary: parses the command line, and runs the command on a runtime that fits it.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use rbee_hive::cli::{self, Cli};

/// The system's allocator returns large buffers at once and gets them again page by page, which costs a
/// fifth of the processor time of a fast download.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit status of a process that the system gives too little (`EX_OSERR` of `sysexits.h`).
const OS_ERROR: u8 = 71;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut builder = match cli.is_plain() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    match cli::run_to_end(&mut builder, cli.run()) {
        Ok(status) => status,
        Err(error) => no_runtime(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the end of a command line program")]
fn no_runtime(error: &std::io::Error) -> ExitCode {
    eprintln!("rbee-hive: could not start the runtime: {error}");
    ExitCode::from(OS_ERROR)
}
