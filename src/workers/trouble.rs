//! Engines that the hive installed and that have got into trouble since: which, and the way back.
//!
//! A build that has proved itself may still fail with what people do with it. Failed starts and crashes are counted,
//! each in a row, where the engine seems to be at fault: not its model, not the want of memory, and nobody who stopped
//! it. While the version before is kept, the third one names the way back to that.

use std::collections::HashMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::causes;
use super::engines::Engine;
use super::exit::Exit;
use super::start_error::{StartError, StartErrorKind};
use crate::error::Code;

/// So many failures in a row are no accident.
const MANY: u32 = 3;

/// The failures in a row of each engine, by its program.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashMap<PathBuf, Row>>);

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    failed_starts: u32,
    crashes: u32,
}

impl Troubles {
    /// A worker of the engine did not start.
    pub(super) fn start_failed(&self, engine: &Engine, error: &StartError) {
        let is_its_fault = error.kind == StartErrorKind::Temporary
            && matches!(error.failure.code, Code::WorkerFailed | Code::Timeout)
            && error.failure.signal.as_deref() != Some("SIGKILL")
            && !causes::blames_others(&error.failure.log_tail);
        if is_its_fault {
            self.change(engine, |row| row.failed_starts += 1);
        }
    }

    /// A worker of the engine is ready.
    pub(super) fn started(&self, engine: &Engine) {
        self.change(engine, |row| row.failed_starts = 0);
    }

    /// A worker of the engine that had served crashed.
    pub(super) fn crashed(&self, engine: &Engine, exit: Option<Exit>) {
        if !exit.is_some_and(Exit::killed) {
            self.change(engine, |row| row.crashes += 1);
        }
    }

    /// A worker of the engine that had served ended as it was asked to.
    pub(super) fn ended_well(&self, engine: &Engine) {
        self.change(engine, |row| row.crashes = 0);
    }

    /// What is wrong with an engine, and the way back, where there is one.
    pub(super) fn way_back(&self, engine: &Engine) -> Option<String> {
        let installed = engine.build.as_ref()?;
        let before = &installed.previous.as_ref()?.version;
        let Row { failed_starts, crashes } = self.0.lock().get(&engine.program).copied()?;
        let what = match (failed_starts, crashes) {
            (MANY.., _) => format!("{failed_starts} starts in a row have failed"),
            (_, MANY..) => format!("{crashes} workers in a row have crashed"),
            _ => return None,
        };
        let install =
            serde_json::json!({ "WorkerInstall": { "worker_id": installed.id, "version": before } });
        let (id, version) = (installed.id, &installed.current.version);
        Some(format!("{what} since {id} {version} was installed: {install} goes back to the version before"))
    }

    fn change(&self, engine: &Engine, change: impl FnOnce(&mut Row)) {
        if engine.build.is_some() {
            change(self.0.lock().entry(engine.program.clone()).or_default());
        }
    }
}
