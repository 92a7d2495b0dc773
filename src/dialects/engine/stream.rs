//! The stream of an engine, as pieces.

use serde_json::Value;

use super::read::{Calls, pieces};
use crate::dialects::answer::Piece;

/// The longest line, in bytes. A longer one is no chunk of an answer.
const LONGEST_LINE: usize = 16 << 20;

/// Reads server-sent events however they are cut. Comments and what is no chunk are skipped; errors and `[DONE]`
/// are for the gateway, which sees the bytes before.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The beginning of a line that has not ended yet.
    line: Vec<u8>,
    calls: Calls,
}

impl Reader {
    /// The pieces of the next bytes.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut found = Vec::new();
        for segment in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = segment.strip_suffix(b"\n") else {
                self.keep(segment);
                continue;
            };
            if self.line.is_empty() {
                found.extend(of_line(end, &mut self.calls));
                continue;
            }
            self.keep(end);
            found.extend(of_line(&std::mem::take(&mut self.line), &mut self.calls));
        }
        found
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }
}

fn of_line(line: &[u8], calls: &mut Calls) -> Vec<Piece> {
    let data = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Value>(data).ok());
    data.map(|chunk| pieces(&chunk, calls)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let (mut reader, megabyte) = (Reader::default(), vec![b' '; 1 << 20]);
        for _ in 0..=LONGEST_LINE >> 20 {
            assert!(reader.read(&megabyte).is_empty());
        }
        assert_eq!(reader.line.len(), LONGEST_LINE);
    }
}
