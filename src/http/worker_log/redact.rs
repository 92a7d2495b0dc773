//! Removes a secret from a stream of bytes, however the stream is cut into chunks.

/// The replacement of the secret.
const REPLACEMENT: &[u8] = b"[secret]";

/// Replaces a secret in the chunks that pass through it. Holds back bytes that may be the beginning of the
/// secret until the next chunk decides.
pub(super) struct Redactor {
    secret: Vec<u8>,
    held: Vec<u8>,
}

impl Redactor {
    /// A redactor of that secret; an empty secret is never found.
    pub(super) fn new(secret: &str) -> Self {
        Self { secret: secret.as_bytes().to_vec(), held: Vec::new() }
    }

    /// The bytes held back before and the chunk, without the secret.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Vec<u8> {
        if self.secret.is_empty() {
            return chunk.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some(at) = self.find(rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(REPLACEMENT);
            rest = &rest[at + self.secret.len()..];
        }
        let longest = rest.len().min(self.secret.len() - 1);
        let begun = (1..=longest).rev().find(|&length| rest.ends_with(&self.secret[..length])).unwrap_or(0);
        let (safe, held) = rest.split_at(rest.len() - begun);
        out.extend_from_slice(safe);
        self.held = held.to_vec();
        out
    }

    /// The bytes held back, at the end of the stream.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        text.windows(self.secret.len()).position(|window| window == self.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_wherever_the_chunks_are_cut() {
        let text = b"aab aabc aabaabc aa";
        for size in 1..text.len() {
            let mut redactor = Redactor::new("aabc");
            let mut out: Vec<u8> = text.chunks(size).flat_map(|chunk| redactor.pass(chunk)).collect();
            out.extend(redactor.finish());
            assert_eq!(String::from_utf8(out).unwrap(), "aab [secret] aab[secret] aa", "chunks of {size}");
        }
    }

    #[test]
    fn bytes_that_cannot_begin_the_secret_are_not_held_back() {
        let mut redactor = Redactor::new("abc");
        assert_eq!(redactor.pass(b"ready\n"), b"ready\n");
    }
}
