//! The binary: parses the command line and chooses the exit code.

fn main() {}
