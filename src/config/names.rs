//! The names of settings, dotted (`jobs.keep_acts`, `models."org/m:Q4".slots`), and where they stand in the file.

/// The name of the setting `key` of the table of that name; the file's own settings are in the table "".
///
/// A key is quoted where TOML wants that (<https://toml.io/en/v1.0.0#keys>).
pub(super) fn dotted(table: &str, key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let key = if is_bare { key.to_owned() } else { format!("{key:?}") };
    if table.is_empty() { key } else { format!("{table}.{key}") }
}

/// The line of the file, from 1, in which the byte stands.
pub(super) fn line_of(file: &str, byte: usize) -> usize {
    1 + file.as_bytes().iter().take(byte).filter(|byte| **byte == b'\n').count()
}
