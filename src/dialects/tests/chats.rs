//! The same chat in every dialect is the same inner form, and so the same request to an engine.

use proptest::prelude::*;

use super::encode;
use super::strategies::chat;
use crate::dialects::chat::Role;
use crate::dialects::{anthropic, engine, ollama, openai, responses};

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
        // There a result has the name of its tool, by which its call is found.
        let mut named = chat;
        for message in named.messages.iter_mut().filter(|message| message.role == Role::Tool) {
            message.name = Some("tool_0".to_owned());
        }
        if let Some(body) = encode::ollama(&named) {
            prop_assert_eq!(&ollama::chat(&body).unwrap().work, &ollama::Work::Chat(Box::new(named)));
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
