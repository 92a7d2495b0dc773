//! A conversation in the terminal: lines with a history, commands that begin with `/`, and Ctrl-C, which stops an
//! answer and not the program.

mod typed;
mod history;

use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};

use super::conversation::{Conversation, Received};
use super::screen::{self, Screen};
use crate::cli::end::{End, Ended};
use crate::cli::session::{Interrupt, Interrupts, Session};
use crate::cli::terminal::Settings;
use crate::cli::words;
use crate::error::{Code, Failure};
use crate::spawn;
use history::History;
use typed::{HELP, Typed, Typing};

type Lines = Editor<(), MemHistory>;

/// Talks until the user ends it.
pub(super) async fn talk(session: &Session, mut conversation: Conversation, is_verbose: bool) -> Ended {
    let terminal = Settings::now();
    let history = History::of_user();
    let mut lines = editor(&history)?;
    let mut typing = Typing::default();
    let mut interrupts = Interrupts::listen();
    session.say(&format!("This is '{}'. /help tells what you can do; Ctrl-D ends it", conversation.model));
    loop {
        let prompt = if typing.is_open() { "... " } else { ">>> " };
        let reading = spawn::blocking(move || {
            let read = lines.readline(prompt);
            (lines, read)
        });
        let (read_by, read) = tokio::select! {
            biased;
            read = reading => read?,
            () = ended(&mut interrupts) => {
                // The thread that reads the line ends with the process.
                terminal.restore();
                return Err(End::INTERRUPTED);
            }
        };
        lines = read_by;
        let line = match read {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                if !typing.is_open() {
                    session.say("Ctrl-D or /bye ends the conversation");
                }
                typing = Typing::default();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(unreadable(&error)),
        };
        if history.add(&line) {
            // Where the memory has no room, the line is not offered again.
            lines.add_history_entry(line.as_str()).ok();
        }
        match typing.take(&line) {
            Typed::Nothing => {}
            Typed::Bye => return Ok(()),
            Typed::Help => screen::tell(HELP),
            Typed::Clear => {
                conversation.clear();
                session.say("The model has forgotten what was said");
            }
            Typed::System(None) => {
                let told = conversation.system.as_deref().unwrap_or("nothing");
                screen::tell(&format!("The model is told: {told}\n"));
            }
            Typed::System(text) => {
                conversation.system = text;
                session.say("The model is told this from the next question on");
            }
            Typed::Unknown(command) => screen::tell(&format!("{command} is no command; /help lists them\n")),
            Typed::Message(text) => {
                let mut screen = Screen::new(session.quiet);
                match conversation.ask(session, &text, &mut screen, &mut interrupts).await {
                    Ok(Received::Answer(answer)) => {
                        if let Some(why) = answer.cut_off() {
                            session.say(&words::yellow(why));
                        }
                        if is_verbose {
                            screen::tell(&answer.costs());
                        }
                    }
                    Ok(Received::Stopped(Interrupt::Key)) => session.say("Stopped"),
                    Ok(Received::Stopped(Interrupt::Ended)) => return Err(End::INTERRUPTED),
                    Err(end @ End::Said(_)) => return Err(end),
                    Err(end) => end.report(),
                }
            }
        }
    }
}

/// SIGTERM: Ctrl-C is a key while a line is typed.
async fn ended(interrupts: &mut Interrupts) {
    while interrupts.next().await != Interrupt::Ended {}
}

fn editor(history: &History) -> Ended<Lines> {
    let config = Config::builder().max_history_size(history::MOST).map(|config| config.build());
    let mut editor = config
        .and_then(|config| Lines::with_history(config, MemHistory::new()))
        .map_err(|error| unreadable(&error))?;
    for line in history.lines() {
        editor.add_history_entry(line).ok();
    }
    Ok(editor)
}

fn unreadable(error: &ReadlineError) -> End {
    let failure = Failure::new(Code::Io, format!("could not read from the terminal: {error}"));
    failure.hint("give the prompt as arguments or on standard input").into()
}
