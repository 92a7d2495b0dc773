//! The clocks of a daemon, which a test turns back and on while it runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The clocks of the daemons that are started with [`Clock::environment`]. Debug builds alone have them.
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Clocks that go as the machine's, until they are turned. Their file is in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let clock = Self { file: dir.join("clock") };
        clock.turn(0, Duration::ZERO);
        clock
    }

    /// For `Daemon::start_with`.
    pub(crate) fn environment(&self) -> (&str, &str) {
        ("RBEE_HIVE_TEST_CLOCK", self.file.to_str().expect("UTF-8"))
    }

    /// Sets the wall clock so many seconds ahead of the machine's, or behind it, and the monotonic one ahead.
    pub(crate) fn turn(&self, wall_seconds: i64, monotonic: Duration) {
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, format!("{} {}", wall_seconds * 1000, monotonic.as_millis()))
            .and_then(|()| std::fs::rename(&draft, &self.file))
            .expect("the clocks are turned");
    }
}
