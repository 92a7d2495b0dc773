//! Turns the bytes of tokens into text, one token at a time.

/// Decodes a sequence token by token. A character whose bytes are spread over several tokens is
/// returned with the last of them.
#[derive(Debug)]
pub struct Decoder {
    /// The bytes of an incomplete character: at most three between calls.
    pending: Vec<u8>,
    /// Whether the next byte may be the space that SentencePiece puts before a text, to be dropped.
    strip_space: bool,
}

impl Decoder {
    pub(super) fn new(strip_space: bool) -> Self {
        Self { pending: Vec::new(), strip_space }
    }

    /// Takes the bytes that `append` adds. Returns the text that is complete, which is often empty.
    pub(super) fn push(&mut self, append: impl FnOnce(&mut Vec<u8>)) -> String {
        append(&mut self.pending);
        if self.strip_space && !self.pending.is_empty() {
            self.strip_space = false;
            if self.pending[0] == b' ' {
                self.pending.remove(0);
            }
        }
        self.take_complete()
    }

    /// Ends the sequence. Returns U+FFFD for an incomplete character, else nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut from = 0;
        loop {
            match std::str::from_utf8(&self.pending[from..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = from + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[from..valid]));
                    match error.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            from = valid + len;
                        }
                        None => {
                            self.pending.drain(..valid);
                            return text;
                        }
                    }
                }
            }
        }
    }
}
