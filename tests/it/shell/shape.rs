//! What a command shows, without what differs from one run to the next.

/// Units that stand behind a number, and change with it.
const UNITS: [&str; 18] = [
    "bytes", "KiB", "MiB", "GiB", "K", "M", "B", "ms", "s", "second", "seconds", "minute", "minutes", "hour",
    "hours", "day", "days", "MiB/s",
];

/// A line with `#` for each word that has a digit and its unit, and with one space between words. Of a path, only that
/// it is one.
fn shape(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', ')', '.', ';', ':']);
        if word.starts_with('/') {
            words.push("/");
        } else if word.contains(|c: char| c.is_ascii_digit()) {
            words.push("#");
        } else if !(words.last() == Some(&"#") && UNITS.contains(&bare)) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// Whether the lines are those that were said, where `…` alone stands for any number of lines, and at the end of a line
/// for the rest of it.
pub(super) fn are_alike(said: &[String], shown: &[&str]) -> bool {
    let Some((first, rest)) = said.split_first() else { return shown.is_empty() };
    if first.trim() == "…" {
        return (0..=shown.len()).any(|skipped| are_alike(rest, &shown[skipped..]));
    }
    let Some((line, others)) = shown.split_first() else { return false };
    let is_alike = match first.trim_end().strip_suffix('…') {
        Some(start) => line.starts_with(start) || shape(line).starts_with(shape(start).trim_end_matches('#')),
        None => shape(first) == shape(line),
    };
    is_alike && are_alike(rest, others)
}

#[test]
fn lines_are_alike_up_to_numbers_and_ellipses() {
    let alike = |said: &str, shown: &str| {
        let said: Vec<_> = said.lines().map(str::to_owned).collect();
        are_alike(&said, &shown.lines().collect::<Vec<_>>())
    };
    assert!(alike("tiny  1.4 MiB  2 minutes ago", "tiny     770 KiB  1 second ago"));
    assert!(alike("file  /home/me/a.gguf", "file  /tmp/b.gguf"));
    assert!(alike("one\n…\nfour", "one\ntwo\nthree\nfour") && alike("hint: …", "hint: load it"));
    assert!(!alike("tiny  ready", "tiny  loading") && !alike("one", "one\ntwo") && !alike("one\ntwo", "one"));
    assert!(!alike("one\n…\nfour", "one\ntwo"));
}
