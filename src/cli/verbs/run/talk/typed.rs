//! What the user types: messages, of one line or several, and commands.

pub(super) const HELP: &str = "\
/system TEXT   tell the model TEXT before all else; alone, show what it is told
/clear         forget what was said
/bye           end the conversation (Ctrl-D)
/help          show this
\"\"\"            begin a message of several lines, and end it
Ctrl-C         stop the answer
";

/// What begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A message to the model.
    Message(String),
    /// Nothing yet.
    Nothing,
    /// What the model is to be told; `None` to show it.
    System(Option<String>),
    Clear,
    Help,
    Bye,
    /// It begins as a command does, and is none.
    Unknown(String),
}

/// The message of several lines that is being typed.
#[derive(Debug, Default)]
pub(super) struct Typing(Option<String>);

impl Typing {
    /// Whether more lines belong to the message.
    pub(super) const fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Takes a line.
    pub(super) fn take(&mut self, line: &str) -> Typed {
        if let Some(mut text) = self.0.take() {
            if let Some(last) = line.trim_end().strip_suffix(QUOTES) {
                text += last;
                return message(&text);
            }
            text += line;
            text.push('\n');
            self.0 = Some(text);
            return Typed::Nothing;
        }
        let line = line.trim();
        if let Some(rest) = line.strip_prefix(QUOTES) {
            return match rest.strip_suffix(QUOTES) {
                Some(whole) => message(whole),
                None => {
                    let rest = if rest.is_empty() { String::new() } else { format!("{rest}\n") };
                    self.0 = Some(rest);
                    Typed::Nothing
                }
            };
        }
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match first {
            "/bye" | "/exit" | "/quit" => Typed::Bye,
            "/help" | "/?" => Typed::Help,
            "/clear" => Typed::Clear,
            "/system" => Typed::System(Some(rest.trim().to_owned()).filter(|text| !text.is_empty())),
            // A path is no command.
            command if command.starts_with('/') && !command[1..].contains('/') => {
                Typed::Unknown(command.to_owned())
            }
            _ => message(line),
        }
    }
}

fn message(text: &str) -> Typed {
    match text.trim() {
        "" => Typed::Nothing,
        text => Typed::Message(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_a_command() {
        for (line, typed) in [
            ("Hello?", Typed::Message("Hello?".to_owned())),
            ("  ", Typed::Nothing),
            ("/bye", Typed::Bye),
            ("/?", Typed::Help),
            ("/clear ", Typed::Clear),
            ("/system  Be brief. ", Typed::System(Some("Be brief.".to_owned()))),
            ("/system", Typed::System(None)),
            ("/nonsense now", Typed::Unknown("/nonsense".to_owned())),
            ("/etc/passwd is what?", Typed::Message("/etc/passwd is what?".to_owned())),
            ("\"\"\"one\"\"\"", Typed::Message("one".to_owned())),
        ] {
            assert_eq!(Typing::default().take(line), typed, "{line}");
        }
    }

    #[test]
    fn a_message_of_several_lines_ends_with_its_quotes() {
        let mut typing = Typing::default();
        for line in ["\"\"\"First", "  /bye", ""] {
            assert_eq!(typing.take(line), Typed::Nothing);
            assert!(typing.is_open());
        }
        assert_eq!(typing.take("last\"\"\" "), Typed::Message("First\n  /bye\n\nlast".to_owned()));
        assert!(!typing.is_open());
    }
}
