//! What a transfer has to say, for every job that waits for it.
//!
//! A transfer belongs to no job: it goes on as long as one waits for it. So it does not narrate; it
//! sends notes, which each job that follows it narrates in its own stream.

use tokio::sync::broadcast;

use crate::narration::{self, Level, Progress};

/// Notes that a job may be behind before it misses some.
const QUEUE: usize = 1024;

/// One thing that a transfer said.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    level: Level,
    action: &'static str,
    message: String,
    progress: Option<Progress>,
}

/// Where a transfer says what it does.
#[derive(Clone, Debug)]
pub(crate) struct Reporter(broadcast::Sender<Note>);

impl Default for Reporter {
    fn default() -> Self {
        Self(broadcast::Sender::new(QUEUE))
    }
}

impl Reporter {
    pub(crate) fn say(&self, level: Level, action: &'static str, message: String) {
        self.send(Note { level, action, message, progress: None });
    }

    pub(crate) fn progress(&self, progress: Progress, message: String) {
        let action = "model_download_progress";
        self.send(Note { level: Level::Info, action, message, progress: Some(progress) });
    }

    /// What is said from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Note> {
        self.0.subscribe()
    }

    fn send(&self, note: Note) {
        // Nobody listens while the last job is leaving.
        let _ = self.0.send(note);
    }
}

impl Note {
    /// Narrates it in the job of the caller.
    pub(crate) fn narrate(self) {
        narration::narrate(self.level, self.action, self.message, self.progress);
    }
}
