//! How far an engine has loaded its model, read from its log.
//!
//! Some engines report their progress in their health route. Others write it to their log: llama.cpp
//! writes one dot per percent on one line, and engines in Python draw a bar (`Loading … shards: 50 %`)
//! repeatedly over the same line. Neither ends the line before the load has ended, so unfinished lines
//! are read too.

use crate::narration::Progress;

/// The bytes of a line that are read for a bar.
const MAX_LINE: usize = 400;

/// The progress that a log reports.
#[derive(Debug, Default)]
pub(super) struct LogProgress {
    line: Vec<u8>,
    percent: Option<u8>,
}

impl LogProgress {
    /// Reads the next bytes of the log.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.read_line();
                self.line.clear();
            } else if self.line.len() < MAX_LINE {
                self.line.push(*byte);
            }
        }
        // A bar that is drawn over the same line has no end yet.
        self.read_line();
    }

    /// The last progress that the log reported.
    pub(super) fn progress(&self) -> Option<Progress> {
        let done = self.percent?.into();
        Some(Progress { done, total: Some(100), unit: "percent".to_owned(), ..Progress::default() })
    }

    fn read_line(&mut self) {
        if let Some(percent) = dots(&self.line).or_else(|| bar(&self.line)) {
            self.percent = Some(percent);
        }
    }
}

/// The percentage of a line that has only dots, one per percent.
fn dots(line: &[u8]) -> Option<u8> {
    let count = line.len();
    ((1..=100).contains(&count) && line.iter().all(|byte| *byte == b'.')).then(|| u8::try_from(count).ok())?
}

/// The number before the first `%`, in a line with `load` before it.
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

    /// The progress after each of the pieces.
    fn progress_after(pieces: &[&str]) -> Vec<Option<u64>> {
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
    fn each_dot_is_one_percent() {
        assert_eq!(
            progress_after(&[
                "load_tensors: CPU buffer size = 9 MiB\n",
                "...",
                ".......",
                "\n",
                "done. ok\n"
            ]),
            [None, Some(3), Some(10), Some(10), Some(10)]
        );
        assert_eq!(progress_after(&["1.5 GiB...\n"]), [None], "a sentence is not a row of dots");
    }

    #[test]
    fn bars_are_read_while_they_are_drawn() {
        assert_eq!(
            progress_after(&[
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
