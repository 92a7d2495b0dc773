//! How far an engine has come with loading its model, as its log says it.
//!
//! Engines that count in their health route are asked there. Others count in their log: llama.cpp
//! writes a dot a percent on one line, and those in Python draw a bar (`Loading … shards: 50 %`)
//! again and again over the same line. Looked for in the bytes, because neither ends its line until
//! it is done.

use crate::narration::Progress;

/// A line longer than this, in bytes, is no bar.
const MAX_LINE: usize = 400;

/// The progress that a log tells.
#[derive(Debug, Default)]
pub(super) struct LogProgress {
    line: Vec<u8>,
    percent: Option<u8>,
}

impl LogProgress {
    /// Takes the next bytes of the log.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.look();
                self.line.clear();
            } else if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
        }
        // What is drawn over the same line has no end yet.
        self.look();
    }

    /// How far it has come, where the log has told.
    pub(super) fn progress(&self) -> Option<Progress> {
        let done = self.percent?.into();
        Some(Progress { done, total: Some(100), unit: "percent".to_owned(), ..Progress::default() })
    }

    fn look(&mut self) {
        if let Some(percent) = dots(&self.line).or_else(|| bar(&self.line)) {
            self.percent = Some(percent);
        }
    }
}

/// A line of dots alone, one a percent.
fn dots(line: &[u8]) -> Option<u8> {
    let count = line.len();
    ((1..=100).contains(&count) && line.iter().all(|byte| *byte == b'.')).then(|| u8::try_from(count).ok())?
}

/// The number before the first `%` of a line that speaks of loading.
fn bar(line: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(line).ok()?;
    let (before, _) = text.split_once('%')?;
    let digits = before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?;
    let percent = digits.parse().ok().filter(|percent| *percent <= 100)?;
    before.to_lowercase().contains("load").then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after each of the pieces.
    fn told(pieces: &[&str]) -> Vec<Option<u64>> {
        let mut log = LogProgress::default();
        pieces
            .iter()
            .map(|piece| {
                log.push(piece.as_bytes());
                log.progress().map(|progress| progress.done)
            })
            .collect()
    }

    #[test]
    fn dots_count_percents() {
        assert_eq!(
            told(&["load_tensors: CPU buffer size = 9 MiB\n", "...", ".......", "\n", "done. ok\n"]),
            [None, Some(3), Some(10), Some(10), Some(10)]
        );
        assert_eq!(told(&["1.5 GiB...\n"]), [None], "a sentence is no row of dots");
    }

    #[test]
    fn bars_are_read_while_they_are_drawn() {
        assert_eq!(
            told(&[
                "Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]\r",
                "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:02,  1.2it/s]",
                "\rLoading safetensors checkpoint shards: 100% Completed | 4/4\n",
                "GPU KV cache usage: 3.5%, memory 12%\n",
                "Loading at 1000 % of the speed\n",
            ]),
            [Some(0), Some(25), Some(100), Some(100), Some(100)]
        );
    }
}
