//! What a job tells, on standard error: on a terminal its progress is one bar, elsewhere all is plain lines.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::end::Ended;
use crate::cli::{show, words};
use crate::client::Followed;
use crate::jobs::event::{Body, Event};
use crate::narration::{Level, Progress};
use crate::text;
use crate::time::{Pace, in_words};

/// How often progress is told where there is no bar.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Shows what a job tells.
pub(in crate::cli) struct Narrator {
    form: Form,
    bar: Option<ProgressBar>,
    pace: Pace,
}

enum Form {
    /// Nothing.
    Silent,
    /// Lines, and a bar where there is a terminal.
    People,
    /// Each event as a line of JSON on standard output.
    Json {
        /// The name of the job's operation.
        operation: String,
    },
}

impl Narrator {
    fn new(form: Form) -> Self {
        Self { form, bar: None, pace: Pace::default() }
    }

    pub(in crate::cli) fn silent() -> Self {
        Self::new(Form::Silent)
    }

    pub(in crate::cli) fn for_people() -> Self {
        Self::new(Form::People)
    }

    /// Every event as `{"event","data"}`, one a line, on standard output.
    pub(in crate::cli) fn json(operation: &str) -> Self {
        Self::new(Form::Json { operation: operation.to_owned() })
    }

    /// Says something of this process, above the bar.
    pub(in crate::cli) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write(line)),
            None => write(line),
        }
    }

    /// Shows what came of a job.
    pub(in crate::cli) fn show(&mut self, followed: &Followed) -> Ended {
        match &self.form {
            Form::Silent => return Ok(()),
            Form::Json { operation } => {
                return match followed {
                    Followed::Event(event) => show::line(&event.to_line(operation)),
                    Followed::Elision(elision) => show::line(&format!(
                        r#"{{"event":"elision","data":{}}}"#,
                        serde_json::to_string(elision).unwrap_or_default()
                    )),
                    Followed::Lost(failure) => {
                        self.say(&format!("{failure}; connecting again"));
                        Ok(())
                    }
                };
            }
            Form::People => {}
        }
        match followed {
            Followed::Event(event) => self.event(event),
            Followed::Elision(elision) => {
                self.say(&format!("({} earlier lines of progress are not kept)", elision.count));
            }
            Followed::Lost(failure) => self.say(&words::yellow(&format!("{failure}; connecting again"))),
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        let Body::Narration { level, message, progress, .. } = &event.body else {
            self.clear();
            return;
        };
        match (level, progress) {
            (Level::Debug, _) => {}
            (Level::Info, Some(progress)) if words::is_terminal() => self.progress(progress, message),
            // A job that runs for an hour must not fill a log.
            (Level::Info, Some(_)) => {
                if self.pace.is_due(PROGRESS_EVERY) {
                    self.say(message);
                }
            }
            (Level::Info, None) => self.say(message),
            (Level::Warn, _) => self.say(&words::yellow(message)),
            (Level::Error, _) => self.say(&words::red(message)),
        }
    }

    fn progress(&mut self, progress: &Progress, message: &str) {
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr();
            ProgressBar::with_draw_target(None, target)
        });
        let known = "{bar:24} {percent:>3} % {msg}";
        let style =
            ProgressStyle::with_template(if progress.total.is_some() { known } else { "{spinner} {msg}" });
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸ "));
        }
        if let Some(total) = progress.total {
            bar.set_length(total);
        }
        bar.set_message(told(progress).unwrap_or_else(|| message.to_owned()));
        bar.set_position(progress.done);
        bar.tick();
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Narrator {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How much is done, how fast, and how long the rest takes, of what is counted in bytes; other units are in the
/// narration's own words.
fn told(progress: &Progress) -> Option<String> {
    if progress.unit != "bytes" {
        return None;
    }
    let mut parts = vec![match progress.total {
        Some(total) => format!("{} of {}", text::bytes(progress.done), text::bytes(total)),
        None => text::bytes(progress.done),
    }];
    parts.extend(progress.rate_per_second.map(|rate| format!("{}/s", text::bytes(rate))));
    parts.extend(progress.eta_seconds.map(|left| format!("{} left", in_words(Duration::from_secs(left)))));
    Some(parts.join(", "))
}

fn write(line: &str) {
    // Where nobody reads standard error, the verb goes on.
    let _written = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_how_much_how_fast_and_how_long() {
        let progress = Progress {
            done: 1 << 20,
            total: Some(4 << 20),
            unit: "bytes".into(),
            rate_per_second: Some(1 << 20),
            eta_seconds: Some(3),
            ..Progress::default()
        };
        assert_eq!(told(&progress).unwrap(), "1.0 MiB of 4.0 MiB, 1.0 MiB/s, 3 s left");
        assert_eq!(told(&Progress { unit: "layers".into(), ..progress }), None);
    }
}
