//! The same answer says the same in every dialect, whole and as a stream.

use proptest::prelude::*;
use serde_json::json;

use super::decode;
use super::strategies::answer;
use crate::dialects::answer::{Answer, Piece, Usage};
use crate::dialects::anthropic::MessageWriter;
use crate::dialects::chat::{Chat, Thinking};
use crate::dialects::ollama::{Form, OllamaWriter};
use crate::dialects::responses::{ResponsesWriter, read};
use crate::dialects::writer::Writer;

fn stream(mut writer: impl Writer, batches: Vec<Vec<Piece>>) -> String {
    let mut stream = writer.begin().to_vec();
    for batch in batches {
        stream.extend(writer.pieces(batch));
    }
    stream.extend(writer.end());
    String::from_utf8(stream).unwrap()
}

fn responses() -> ResponsesWriter {
    ResponsesWriter::new(&read(&json!({"model": "m", "input": "Hi"}), &[], &|_| None).unwrap(), None)
}

fn anthropic() -> MessageWriter {
    let thinking = Thinking { enabled: Some(true), ..Thinking::default() };
    MessageWriter::new(&Chat { model: "m".to_owned(), thinking, ..Chat::default() })
}

fn ollama() -> OllamaWriter {
    OllamaWriter::new(Form::Chat, "m")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_says_the_same_in_every_dialect((answer, batches) in answer()) {
        prop_assert_eq!(&batches.iter().flatten().cloned().collect::<Answer>(), &answer);
        prop_assert_eq!(&decode::response(&responses().whole(answer.clone())), &answer);
        prop_assert_eq!(&decode::response_events(&stream(responses(), batches.clone())), &answer);
        prop_assert_eq!(&decode::message(&anthropic().whole(answer.clone())), &answer);
        prop_assert_eq!(&decode::message_events(&stream(anthropic(), batches.clone())), &answer);
        let mut told = answer.clone();
        told.usage = told.usage.map(|usage| Usage { cached_tokens: None, ..usage });
        prop_assert_eq!(&decode::ollama(&ollama().whole(answer)), &told);
        prop_assert_eq!(&decode::ollama_lines(&stream(ollama(), batches)), &told);
    }
}
