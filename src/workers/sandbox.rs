//! What a worker may use of the machine, held by the kernel: Landlock, on Linux.
//!
//! A worker reads a model that a stranger made, with code that is not the hive's. It gets the system's programs and
//! libraries, its own program, the files that its command names and the devices; it writes into a folder of its own,
//! into its log, the devices and the caches of their drivers. It listens on the port that the hive assigned and
//! connects to nobody over TCP, and signals nobody else. What the kernel does not know is left out, and a worker that
//! cannot be restricted starts all the same: `HiveCheck` says what is in force, and for which engines it is not.

mod kernel;
mod allowed;

use std::io;

use crate::config::{Sandboxing, Workers};
use crate::spawn;

pub(super) use allowed::Allowed;
use kernel::Restriction;

/// A restriction that was prepared, or why there is none.
#[derive(Debug)]
pub(super) struct Sandbox(Result<Restriction, String>);

impl Sandbox {
    /// Opens what is allowed.
    ///
    /// # Errors
    /// If that panicked.
    pub(super) async fn prepare(allowed: Allowed) -> crate::error::Result<Self> {
        spawn::blocking(move || Self(Restriction::prepare(&allowed))).await
    }

    /// Runs `start`, which starts a process, on a thread of its own that is restricted and can gain no privileges.
    /// Returns also what is in force, or why nothing is.
    pub(super) fn start<T: Send>(
        self,
        start: impl FnOnce() -> io::Result<T> + Send,
    ) -> (Result<String, String>, io::Result<T>) {
        let mut in_force = Err("the thread that was to be restricted did not run".to_owned());
        let started = spawn::without_new_privileges(|| {
            in_force = self.0.and_then(Restriction::enforce);
            start()
        });
        (in_force, started.flatten())
    }
}

/// What is in force for workers of this hive, in words; `unrestricted` are the engines for whose workers it is not, and
/// why. Blocks.
pub(crate) fn in_force(settings: &Workers, unrestricted: &[(String, String)]) -> String {
    if !settings.no_new_privileges {
        return "workers are not restricted: [workers] no_new_privileges is false".to_owned();
    }
    let restricted = match settings.sandbox {
        Sandboxing::Off => Err("[workers] sandbox is \"off\"".to_owned()),
        Sandboxing::Auto => Sandbox(Restriction::prepare(&Allowed::default())).start(|| Ok(())).0,
    };
    let privileges = if cfg!(target_os = "linux") { "no new privileges; " } else { "" };
    let what = match restricted {
        Ok(what) => what,
        Err(why) => return format!("{privileges}files, TCP and signals are not restricted: {why}"),
    };
    let but_for: Vec<_> = unrestricted.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    match but_for.as_slice() {
        [] => format!("{privileges}{what}"),
        but_for => format!("{privileges}{what}, but for the workers of {}", but_for.join(", ")),
    }
}
