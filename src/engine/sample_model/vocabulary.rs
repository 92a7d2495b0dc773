//! The vocabularies of sample models: byte-level BPE as in Llama 3, or SentencePiece as in Llama 2
//! with ChatML's special tokens.

use std::collections::HashMap;

use super::settings::SampleTokenizer;

/// The template of Llama 3's instruct models, without its tools.
const LLAMA3_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim \
    + '<|eot_id|>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
const CHATML_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// `tokenizer.ggml.token_type`, after `enum llama_token_type`.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

/// A vocabulary with the arrays of a GGUF file.
#[derive(Debug)]
pub(super) struct SampleVocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<i32>,
    /// One per token; SentencePiece only.
    pub(super) scores: Vec<f32>,
    /// In order of rank; BPE only.
    pub(super) merges: Vec<String>,
    pub(super) bos: u32,
    pub(super) eos: u32,
    pub(super) end_of_turn: u32,
    pub(super) template: &'static str,
    /// The tokens of the sentence in order, all different.
    pub(super) sentence: Vec<u32>,
    ids: HashMap<String, u32>,
}

impl SampleVocabulary {
    /// A vocabulary with a token for each piece of `sentence`, and with at least `min_tokens` tokens.
    pub(super) fn new(tokenizer: SampleTokenizer, sentence: &str, min_tokens: usize) -> Self {
        let mut vocabulary = Self {
            tokens: Vec::new(),
            types: Vec::new(),
            scores: Vec::new(),
            merges: Vec::new(),
            bos: 0,
            eos: 0,
            end_of_turn: 0,
            template: "",
            sentence: Vec::new(),
            ids: HashMap::new(),
        };
        let spell: fn(&str) -> String = match tokenizer {
            SampleTokenizer::Bpe => {
                vocabulary.fill_bpe();
                byte_level
            }
            SampleTokenizer::SentencePiece => {
                vocabulary.fill_sentence_piece();
                |piece| piece.replace(' ', "\u{2581}")
            }
        };
        for piece in pieces(sentence) {
            let id = vocabulary.token(spell(&piece), token_type::NORMAL);
            vocabulary.sentence.push(id);
        }
        while vocabulary.tokens.len() < min_tokens || !vocabulary.tokens.len().is_multiple_of(32) {
            let name = format!("<|reserved_{}|>", vocabulary.tokens.len());
            vocabulary.token(name, token_type::UNUSED);
        }
        vocabulary
    }

    /// The id of a token, which is added if the vocabulary does not have it.
    fn token(&mut self, token: String, kind: i32) -> u32 {
        if let Some(&id) = self.ids.get(&token) {
            return id;
        }
        let id = self.tokens.len() as u32;
        // SentencePiece merges the pair with the highest score first: a lower id wins.
        self.scores.push(if kind == token_type::NORMAL { -(id as f32) } else { 0.0 });
        self.types.push(kind);
        self.tokens.push(token.clone());
        self.ids.insert(token, id);
        id
    }

    /// Adds a merge and the token that it yields.
    fn merge(&mut self, left: &str, right: &str) {
        let merged = format!("{left}{right}");
        if !self.ids.contains_key(&merged) {
            self.token(merged, token_type::NORMAL);
            self.merges.push(format!("{left} {right}"));
        }
    }

    fn fill_bpe(&mut self) {
        for byte in 0..=255 {
            self.token(byte_char(byte).to_string(), token_type::NORMAL);
        }
        let (space, newline) = (byte_level(" "), byte_level("\n"));
        self.merge(&newline, &newline);
        for word in
            ["the", "and", "ing", "you", "hello", "world", "model", "what", "is", "in", "to", "of", "a"]
        {
            let mut start = word[..1].to_owned();
            for next in word[1..].chars() {
                self.merge(&start, &next.to_string());
                start.push(next);
            }
            self.merge(&space, word);
        }
        for left in "etaoinshr".chars() {
            for right in "etaoinshr".chars() {
                self.merge(&left.to_string(), &right.to_string());
            }
        }
        self.bos = self.token("<|begin_of_text|>".to_owned(), token_type::CONTROL);
        self.eos = self.token("<|end_of_text|>".to_owned(), token_type::CONTROL);
        for special in ["<|start_header_id|>", "<|end_header_id|>"] {
            self.token(special.to_owned(), token_type::CONTROL);
        }
        self.end_of_turn = self.token("<|eot_id|>".to_owned(), token_type::CONTROL);
        self.template = LLAMA3_TEMPLATE;
    }

    fn fill_sentence_piece(&mut self) {
        self.token("<unk>".to_owned(), token_type::UNKNOWN);
        self.bos = self.token("<s>".to_owned(), token_type::CONTROL);
        self.eos = self.token("</s>".to_owned(), token_type::CONTROL);
        for byte in 0..=255 {
            self.token(format!("<0x{byte:02X}>"), token_type::BYTE);
        }
        self.token("<|im_start|>".to_owned(), token_type::CONTROL);
        self.end_of_turn = self.token("<|im_end|>".to_owned(), token_type::CONTROL);
        // Every piece of three characters is a piece of two and a letter, so merging can reach it.
        const COMMON: &str = "etaoinshrdlu";
        let singles = "\u{2581}etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,!?'\"-:;()\n";
        for single in singles.chars() {
            self.token(single.to_string(), token_type::NORMAL);
        }
        for left in format!("\u{2581}{COMMON}").chars() {
            for right in COMMON.chars() {
                self.token(format!("{left}{right}"), token_type::NORMAL);
            }
        }
        for right in COMMON.chars() {
            self.token(format!("\u{2581}th{right}"), token_type::NORMAL);
        }
        self.template = CHATML_TEMPLATE;
    }
}

/// Splits a sentence into words, each with the space before it. A word that occurred before is joined
/// with the words after it, so that all pieces are different and each has one successor.
fn pieces(sentence: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut piece = String::new();
    let mut characters = sentence.chars().peekable();
    while let Some(character) = characters.next() {
        piece.push(character);
        let word_ends =
            !character.is_whitespace() && characters.peek().is_none_or(|next| next.is_whitespace());
        if word_ends && !pieces.contains(&piece) {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    // The rest, a repeated word or space, is joined with the pieces before it.
    while !piece.is_empty() {
        piece.insert_str(0, &pieces.pop().unwrap_or_default());
        if pieces.is_empty() || !pieces.contains(&piece) {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    pieces
}

/// The visible character of a byte in byte-level BPE (GPT-2's `bytes_to_unicode`): printable Latin-1
/// stands for itself, the other bytes follow from U+0100 on.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return byte.into();
    }
    let rank = (0..byte).filter(|&lower| !printable(lower)).count() as u32;
    char::from_u32(0x100 + rank).expect("there are no surrogates below U+0200")
}

fn byte_level(text: &str) -> String {
    text.bytes().map(byte_char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_different_and_make_up_the_sentence() {
        for sentence in
            ["", " ", "one", "a a", "a a a a a", "to be or not to be", " x\n\n y  y ", "ß ß\u{2003}é"]
        {
            let pieces = pieces(sentence);
            assert_eq!(pieces.concat(), sentence);
            let unique: std::collections::HashSet<_> = pieces.iter().collect();
            assert_eq!(unique.len(), pieces.len(), "{pieces:?}");
        }
        assert_eq!(pieces("to be or not to be"), ["to", " be", " or", " not", " to be"]);
    }

    #[test]
    fn every_byte_has_its_own_visible_character() {
        assert_eq!(byte_level(" \n"), "ĠĊ");
        assert_eq!(byte_level("é"), "Ã©");
        let all: std::collections::HashSet<_> = (0..=255).map(byte_char).collect();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn merges_name_tokens_that_exist() {
        let vocabulary = SampleVocabulary::new(SampleTokenizer::Bpe, "", 0);
        for merge in &vocabulary.merges {
            let (left, right) = merge.split_once(' ').unwrap();
            for token in [left, right, &format!("{left}{right}")] {
                assert!(vocabulary.ids.contains_key(token), "{merge}");
            }
        }
    }
}
