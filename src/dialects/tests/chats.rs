//! The same chat in every dialect is the same inner form, and so the same request to an engine.

use proptest::prelude::*;

use super::encode;
use super::strategies::chat;
use crate::dialects::{anthropic, engine, openai, responses};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chat_means_the_same_in_every_dialect(chat in chat()) {
        prop_assert_eq!(&openai::read(&encode::openai(&chat)).unwrap(), &chat);
        let response = responses::read(&encode::responses(&chat), &[], &|_| None).unwrap();
        prop_assert_eq!(&response.chat, &chat);
        if let Some(body) = encode::anthropic(&chat) {
            prop_assert_eq!(&anthropic::read(&body).unwrap(), &chat);
        }
    }

    #[test]
    fn what_an_engine_is_asked_says_all_of_a_chat(chat in chat()) {
        let mut read = openai::read(&engine::request(&chat)).unwrap();
        // A schema needs a name there.
        if let crate::dialects::chat::Output::Schema { name, .. } = &mut read.output {
            *name = None;
        }
        prop_assert_eq!(read, chat);
    }
}
