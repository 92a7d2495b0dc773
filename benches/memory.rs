//! The memory of a process.

/// Bytes of resident memory of a process: its id, or `self`; `None` where the system does not tell. `kind` is `Rss` for
/// all of it, `Anonymous` without pages of files, such as those of the executable. Exact, unlike `statm` and `status`,
/// whose counters lag.
pub(crate) fn resident_bytes(process: &str, kind: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}
