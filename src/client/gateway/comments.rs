//! The comments of a stream of Server-Sent Events (WHATWG HTML, section 9.2.6), which its parser skips.

use tokio::sync::mpsc::UnboundedSender;

/// The longest comment that is given out, in bytes.
const LONGEST: usize = 4096;

/// Looks at the bytes of a stream, and gives out its comments.
#[derive(Debug)]
pub(super) struct Comments {
    line: Line,
    out: UnboundedSender<String>,
}

/// What is known of the line that the last byte belongs to.
#[derive(Debug)]
enum Line {
    /// It has no bytes yet.
    Empty,
    /// A comment, without its colon.
    Comment(Vec<u8>),
    /// Something else.
    Other,
}

impl Comments {
    pub(super) const fn new(out: UnboundedSender<String>) -> Self {
        Self { line: Line::Empty, out }
    }

    /// The next bytes of the stream.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match (&mut self.line, byte) {
                (line, b'\n' | b'\r') => {
                    if let Line::Comment(text) = std::mem::replace(line, Line::Empty) {
                        let text = String::from_utf8_lossy(&text);
                        // Nobody reads them any more where the answer was dropped.
                        self.out.send(text.trim().to_owned()).ok();
                    }
                }
                (line @ Line::Empty, b':') => *line = Line::Comment(Vec::new()),
                (line @ Line::Empty, _) => *line = Line::Other,
                (Line::Comment(text), byte) if text.len() < LONGEST => text.push(byte),
                (Line::Comment(_) | Line::Other, _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn comments_are_found_however_the_bytes_are_parted() {
        let stream = b": one\n\ndata: x : no\n\n:two\r\n\r\ndata: y\n\n:\n: unended";
        for size in 1..stream.len() {
            let (sender, mut comments) = mpsc::unbounded_channel();
            let mut found = Comments::new(sender);
            stream.chunks(size).for_each(|bytes| found.pass(bytes));
            let mut all = Vec::new();
            while let Ok(comment) = comments.try_recv() {
                all.push(comment);
            }
            assert_eq!(all, ["one", "two", ""], "{size}");
        }
    }
}
