//! The notes that a transfer sends to every job that waits for it.
//!
//! A transfer belongs to no job, so it does not narrate: each job narrates the notes in its own stream.

use tokio::sync::broadcast;

use crate::narration::{self, Level, Progress};

/// How many notes a job may be behind before it misses some.
const QUEUE: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) struct Note {
    level: Level,
    action: &'static str,
    message: String,
    progress: Option<Progress>,
}

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

    /// The notes from this moment on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Note> {
        self.0.subscribe()
    }

    fn send(&self, note: Note) {
        // No job listens while the last one is leaving.
        let _ = self.0.send(note);
    }
}

impl Note {
    /// Narrates it in the job of the caller.
    pub(crate) fn narrate(self) {
        narration::narrate(self.level, self.action, self.message, self.progress);
    }
}
