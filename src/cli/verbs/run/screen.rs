//! Where an answer appears as it comes: its text on standard output; what it waits for on standard error.
//!
//! A terminal gets no control characters of the model's: they could move its cursor or set its title. Thoughts are
//! shown dimmed in a terminal, and nowhere else: what reads a pipe wants the answer.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::end::Ended;
use crate::cli::{show, words};

/// How often the sign of a wait moves.
const TICK: Duration = Duration::from_millis(120);

/// Shows one answer.
pub(super) struct Screen {
    form: Form,
    wait: Option<ProgressBar>,
    last_wait: String,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing.
    Silent,
    /// The answer alone.
    Quiet,
    /// What it waits for too.
    Full,
}

/// What was written last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    Thoughts,
    /// Text, and whether it ended a line.
    Text(bool),
}

impl Screen {
    pub(super) fn new(is_quiet: bool) -> Self {
        Self::of(if is_quiet { Form::Quiet } else { Form::Full })
    }

    pub(super) fn silent() -> Self {
        Self::of(Form::Silent)
    }

    fn of(form: Form) -> Self {
        Self { form, wait: None, last_wait: String::new(), stage: Stage::Nothing }
    }

    /// What the answer waits for: in a terminal one line, which goes once the answer begins.
    pub(super) fn waits(&mut self, text: &str) {
        if self.form != Form::Full || self.stage != Stage::Nothing {
            return;
        }
        if words::is_terminal() {
            let bar = self.wait.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.set_style(ProgressStyle::default_spinner());
                bar.enable_steady_tick(TICK);
                bar
            });
            bar.set_message(text.to_owned());
        } else if text != "waiting" && text != self.last_wait {
            tell(&format!("{text}\n"));
            text.clone_into(&mut self.last_wait);
        }
    }

    /// A piece of what the model thinks.
    pub(super) fn thinks(&mut self, text: &str) -> Ended {
        if self.form == Form::Silent || !words::out_is_terminal() || text.is_empty() {
            return Ok(());
        }
        self.clear();
        let [dimmed, _] = words::dimmed();
        if self.stage != Stage::Thoughts {
            show::print(&format!("{dimmed}Thinking…\n"))?;
        }
        self.stage = Stage::Thoughts;
        show::print(&without_controls(text))
    }

    /// A piece of its answer.
    pub(super) fn says(&mut self, text: &str) -> Ended {
        if self.form == Form::Silent || text.is_empty() {
            return Ok(());
        }
        self.clear();
        self.end_thoughts()?;
        self.stage = Stage::Text(text.ends_with('\n'));
        if words::out_is_terminal() { show::print(&without_controls(text)) } else { show::print(text) }
    }

    /// The end of the answer, which may have been cut off: what follows stands on a line of its own.
    pub(super) fn ends(&mut self) -> Ended {
        self.clear();
        self.end_thoughts()?;
        let is_open = self.stage == Stage::Text(false);
        self.stage = Stage::Nothing;
        if is_open { show::print("\n") } else { Ok(()) }
    }

    fn end_thoughts(&mut self) -> Ended {
        if self.stage != Stage::Thoughts {
            return Ok(());
        }
        self.stage = Stage::Nothing;
        let [_, plain] = words::dimmed();
        show::print(&format!("\n…done thinking.{plain}\n\n"))
    }

    fn clear(&mut self) {
        if let Some(bar) = self.wait.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Writes to standard error.
pub(super) fn tell(text: &str) {
    // Where nobody reads standard error, the verb goes on.
    let _written = io::stderr().lock().write_all(text.as_bytes());
}

fn without_controls(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(is_control) { text.replace(is_control, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters_of_the_model() {
        assert_eq!(without_controls("a\tb\nc"), "a\tb\nc");
        assert_eq!(
            without_controls("\x1b]0;title\x07\u{9b}2J\r"),
            "\u{fffd}]0;title\u{fffd}\u{fffd}2J\u{fffd}"
        );
    }
}
