//! The messages of a chat with one system message, at the beginning: many chat templates refuse or drop every other.
//!
//! Those at the beginning become one. One amid the conversation keeps its place: it becomes a marked part of what
//! the user says there, and the user's messages beside it are joined with it, as templates expect the authors to take
//! turns.

use std::borrow::Cow;

use crate::dialects::chat::{Message, Part, Role};

pub(super) fn arranged(messages: &[Message]) -> Cow<'_, [Message]> {
    if !messages.iter().skip(1).any(|message| message.role == Role::System) {
        return Cow::Borrowed(messages);
    }
    let leading = messages.iter().take_while(|message| message.role == Role::System).count();
    let mut arranged: Vec<Message> = Vec::with_capacity(messages.len());
    let is_system = |at: usize| messages[at].role == Role::System;
    for (at, message) in messages.iter().enumerate() {
        let joins = is_system(at) || (at > 0 && is_system(at - 1));
        let message = if is_system(at) && at >= leading { marked(message) } else { message.clone() };
        match arranged.last_mut() {
            Some(last) if joins && last.role == message.role => join(&mut last.content, message.content),
            _ => arranged.push(message),
        }
    }
    Cow::Owned(arranged)
}

/// A system message as a part of what the user says.
fn marked(message: &Message) -> Message {
    let mut content = message.content.clone();
    match content.first_mut() {
        Some(Part::Text(text)) => text.insert_str(0, "<system>\n"),
        _ => content.insert(0, Part::Text("<system>\n".to_owned())),
    }
    match content.last_mut() {
        Some(Part::Text(text)) => text.push_str("\n</system>"),
        _ => content.push(Part::Text("\n</system>".to_owned())),
    }
    Message { role: Role::User, content, ..Message::default() }
}

/// Adds content. A blank line parts the texts, which stay one text: not every template takes several.
fn join(content: &mut Vec<Part>, more: Vec<Part>) {
    let mut more = more.into_iter().peekable();
    if let (Some(Part::Text(text)), Some(Part::Text(first))) = (content.last_mut(), more.peek()) {
        if !text.is_empty() && !first.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(first);
        more.next();
    }
    content.extend(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrange(messages: &[(Role, &str)]) -> Vec<(Role, String)> {
        let messages: Vec<_> = messages.iter().map(|(role, text)| Message::text(*role, *text)).collect();
        let said = |message: &Message| match message.content.as_slice() {
            [Part::Text(text)] => (message.role, text.clone()),
            other => panic!("{other:?}"),
        };
        arranged(&messages).iter().map(said).collect()
    }

    #[test]
    fn what_the_system_says_first_is_one_message_and_what_it_says_later_keeps_its_place() {
        use Role::{Assistant, System, User};
        let said = |messages: &[(Role, &str)]| -> Vec<(Role, String)> {
            messages.iter().map(|(role, text)| (*role, (*text).to_owned())).collect()
        };
        let usual = [(System, "Be kind."), (User, "Hi"), (User, "Hi?"), (Assistant, "Ho")];
        assert_eq!(arrange(&usual), said(&usual), "nothing to arrange");
        assert_eq!(
            arrange(&[(System, "Be kind."), (System, ""), (System, "Be brief."), (User, "Hi")]),
            said(&[(System, "Be kind.\n\nBe brief."), (User, "Hi")])
        );
        assert_eq!(
            arrange(&[
                (System, "Be kind."),
                (User, "Hi"),
                (Assistant, "Ho"),
                (System, "Be brief."),
                (System, "Be bold."),
                (User, "Well?"),
                (Assistant, "Well."),
                (User, "Bye"),
                (System, "Be quick."),
            ]),
            said(&[
                (System, "Be kind."),
                (User, "Hi"),
                (Assistant, "Ho"),
                (User, "<system>\nBe brief.\n</system>\n\n<system>\nBe bold.\n</system>\n\nWell?"),
                (Assistant, "Well."),
                (User, "Bye\n\n<system>\nBe quick.\n</system>"),
            ])
        );
    }

    #[test]
    fn an_image_keeps_its_place() {
        let image = || Part::Image("data:image/png;base64,AA".to_owned());
        let system = |content| Message { role: Role::System, content, ..Message::default() };
        let shown = Message { content: vec![image()], ..Message::default() };
        let messages = [Message::text(Role::User, "Hi"), system(vec![image()]), shown];
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            arranged(&messages)[0].content,
            [text("Hi\n\n<system>\n"), image(), text("\n</system>"), image()]
        );
    }
}
