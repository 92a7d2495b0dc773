//! The terminal at standard input: its settings, and a line that it does not show.

use std::io::{self, BufRead};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings of the terminal at standard input, as they were.
pub(super) struct Settings(Option<Termios>);

impl Settings {
    pub(super) fn now() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }

    /// Gives the terminal these settings again.
    pub(super) fn restore(&self) {
        if let Some(settings) = &self.0 {
            // A terminal that was closed needs none.
            tcsetattr(io::stdin(), OptionalActions::Now, settings).ok();
        }
    }
}

/// Reads a line that the terminal does not show, without its end. `ask` asks for it, once nothing is shown any more: what is
/// pasted at once is neither shown nor lost.
///
/// # Errors
/// The terminal cannot hide what is typed, or be read.
pub(super) fn hidden_line(ask: impl FnOnce()) -> io::Result<String> {
    struct Restored(Settings);
    impl Drop for Restored {
        fn drop(&mut self) {
            self.0.restore();
        }
    }
    let shown = Restored(Settings::now());
    let mut hidden = tcgetattr(io::stdin())?;
    hidden.local_modes.remove(LocalModes::ECHO);
    // The end of the line is shown: what follows stands on the next one.
    hidden.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
    ask();
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    drop(shown);
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
