//! The memory of a process.

/// Bytes of resident anonymous memory of a process: its id, or `self`; `None` where the system does not tell. Exact,
/// unlike `statm`, whose counters lag; without pages of the executable.
pub(crate) fn resident_bytes(process: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}
