//! Lines of text from other programs: a child's output, a worker's log.

use std::time::{Duration, Instant};

use super::emit::narrate;
use super::entry::Level;

/// A line longer than this, in bytes, is cut.
const MAX_LINE_BYTES: usize = 4096;
/// The most lines a second that are narrated from one source.
const LINES_PER_SECOND: u32 = 50;

/// Splits bytes into lines, in bounded memory: a line is cut after 4 KiB, and bytes that are not UTF-8
/// are replaced.
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    overlong: bool,
}

impl LineSplitter {
    /// Adds the next bytes and passes every line that they complete to `line`.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for segment in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match segment.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (segment, false),
            };
            let room = MAX_LINE_BYTES - self.partial.len();
            self.overlong |= text.len() > room;
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.flush(&mut line);
            }
        }
    }

    /// Passes on a last line that has no line end.
    pub fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.flush(&mut line);
        }
    }

    fn flush(&mut self, line: &mut impl FnMut(&str)) {
        let mut text = String::from_utf8_lossy(&self.partial).into_owned();
        if self.overlong {
            text.push('…');
        }
        line(text.trim_end_matches('\r'));
        self.partial.clear();
        self.overlong = false;
    }
}

/// Narrates lines from one source, at most 50 a second, and narrates how many it left out.
#[derive(Debug)]
pub struct LineNarrator {
    level: Level,
    action: &'static str,
    prefix: String,
    window_start: Instant,
    in_window: u32,
    left_out: u64,
}

impl LineNarrator {
    /// A narrator that puts `prefix` before each line.
    #[must_use]
    pub fn new(level: Level, action: &'static str, prefix: impl Into<String>) -> Self {
        Self { level, action, prefix: prefix.into(), window_start: Instant::now(), in_window: 0, left_out: 0 }
    }

    /// Narrates one line, or counts it as left out.
    pub fn line(&mut self, text: &str) {
        if self.window_start.elapsed() >= Duration::from_secs(1) {
            self.report();
            self.window_start = Instant::now();
            self.in_window = 0;
        }
        if self.in_window == LINES_PER_SECOND {
            self.left_out += 1;
            return;
        }
        self.in_window += 1;
        narrate(self.level, self.action, format!("{}{text}", self.prefix), None);
    }

    /// Narrates how many lines were left out since the last report, if any.
    pub fn report(&mut self) {
        if self.left_out > 0 {
            let message = format!("{}… {} line(s) left out", self.prefix, self.left_out);
            // Where most readers do not see the lines, they do not miss them either.
            let level = if self.level == Level::Debug { Level::Debug } else { Level::Warn };
            narrate(level, self.action, message, None);
            self.left_out = 0;
        }
    }
}

impl Drop for LineNarrator {
    fn drop(&mut self) {
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narration::{Entry, NarrationContext, with_narration_context};

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_joined_across_chunks() {
        assert_eq!(split(&[b"a", b"b\r\nc\n", b"\n", b"d"]), ["ab", "c", "", "d"]);
        assert_eq!(split(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_over_4_kib_is_cut() {
        let lines = split(&[&vec![b'x'; 100_000], b"\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), MAX_LINE_BYTES + '…'.len_utf8());
        assert_eq!(lines[1], "next");
    }

    #[tokio::test]
    async fn lines_above_the_limit_are_counted() {
        let (sender, mut entries) = tokio::sync::mpsc::unbounded_channel();
        with_narration_context(NarrationContext::new("job-1".into(), "test", sender), async {
            let mut narrator = LineNarrator::new(Level::Info, "flood", "log: ");
            for i in 0..1000 {
                narrator.line(&i.to_string());
            }
        })
        .await;
        let mut messages = Vec::new();
        while let Some(Entry::Narration(narration)) = entries.recv().await {
            messages.push(narration.message);
        }
        let narrated = messages.iter().filter(|m| !m.contains("left out")).count();
        let left_out: usize = messages
            .iter()
            .filter(|m| m.contains("left out"))
            .map(|m| m.split(' ').find_map(|word| word.parse::<usize>().ok()).unwrap())
            .sum();
        assert_eq!(narrated + left_out, 1000);
        assert!(narrated < 1000);
    }
}
