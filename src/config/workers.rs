//! The settings of workers (`[workers]`).

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::duration::BoundedDuration;

/// How worker processes are run and restarted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Whether a crashed worker is restarted.
    pub restart: RestartPolicy,
    /// The wait before the first restart; it doubles with each further one.
    pub restart_first: BoundedDuration,
    /// The longest wait before a restart.
    pub restart_longest: BoundedDuration,
    /// A worker that runs for this long before it crashes counts as its first crash.
    pub restart_reset: BoundedDuration,
    /// Whether workers are left running when the hive stops, so that its next start adopts them.
    pub keep_on_shutdown: bool,
    /// Whether workers end with the daemon even when it is killed (`kill -9`), instead of being adopted
    /// by its next start. Only engines that support it, such as the built-in one, end that way.
    pub lifeline: bool,
    /// Whether workers and their children can gain no privileges, such as by a set-user-id program.
    pub no_new_privileges: bool,
    /// Whether workers get only the files, ports and devices that they need.
    pub sandbox: Sandboxing,
    /// Threads of a worker on the processor. Unset means one for each physical core but one, which is
    /// left to the rest of the machine: threads wait for one another at every step, and on two busy
    /// cores one thread was measured to be five times as fast as two.
    #[schema(value_type = Option<usize>, minimum = 1, maximum = 1024)]
    pub threads: Option<NonZeroUsize>,
}

/// Whether crashed workers are restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// A crashed worker stays crashed.
    #[default]
    Never,
    /// A worker that ended without being asked to is restarted.
    OnFailure,
}

/// Whether workers get only the files, ports and devices that they need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sandboxing {
    /// As far as the kernel can hold them to it.
    #[default]
    Auto,
    /// Workers may do what the hive's user may.
    Off,
}

impl Workers {
    /// Whether workers are to be restricted. Without privileges of its own, a process may restrict itself only if it can
    /// gain none.
    #[must_use]
    pub fn restricts(&self) -> bool {
        self.sandbox == Sandboxing::Auto && self.no_new_privileges
    }

    /// The first setting that cannot work, and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        const MOST: Duration = Duration::from_secs(24 * 3600);
        let waits = [("restart_first", self.restart_first), ("restart_longest", self.restart_longest)];
        if let Some((name, _)) = waits.iter().find(|(_, wait)| wait.is_zero()) {
            return Some((
                name,
                "cannot be 0s: a worker that crashes at once would be restarted without a pause".to_owned(),
            ));
        }
        if let Some((name, wait)) = waits.iter().find(|(_, wait)| **wait > MOST) {
            return Some((name, format!("cannot be {wait:?}, more than a day")));
        }
        if self.restart_longest < self.restart_first {
            let (longest, first) = (self.restart_longest, self.restart_first);
            return Some((
                "restart_longest",
                format!("of {longest:?} is less than restart_first of {first:?}"),
            ));
        }
        // More threads are a mistake: each takes a stack, and waits for all others.
        self.threads
            .filter(|threads| threads.get() > 1024)
            .map(|threads| ("threads", format!("cannot be {threads}: 1 to 1024 may be asked for")))
    }

    /// The threads of a worker on the processor.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(
            || {
                let all = std::thread::available_parallelism().map_or(1, usize::from);
                // Threads that share a physical core slow each other down.
                let cores = sysinfo::System::physical_core_count().unwrap_or(all).min(all);
                cores.saturating_sub(1).max(1)
            },
            usize::from,
        )
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::default(),
            restart_first: Duration::from_secs(1).into(),
            restart_longest: Duration::from_secs(60).into(),
            restart_reset: Duration::from_secs(600).into(),
            keep_on_shutdown: false,
            lifeline: false,
            no_new_privileges: true,
            sandbox: Sandboxing::default(),
            threads: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::error::Code;

    #[test]
    fn impossible_settings_of_workers_are_refused_by_name() {
        for (wrong, named) in [
            ("[workers]\nrestart_first = \"0s\"", "[workers] restart_first cannot be 0s"),
            ("[workers]\nrestart_longest = \"0s\"", "[workers] restart_longest cannot be 0s"),
            ("[workers]\nrestart_longest = \"48h\"", "[workers] restart_longest cannot be"),
            (
                "[workers]\nrestart_first = \"5m\"",
                "[workers] restart_longest of 60s is less than restart_first",
            ),
            ("[workers]\nthreads = 5000", "[workers] threads cannot be 5000"),
        ] {
            let failure = toml::from_str::<Config>(wrong).unwrap().validate().unwrap_err();
            assert!(failure.message.starts_with(named), "{wrong}: {}", failure.message);
            assert_eq!((failure.code, failure.hint.is_some()), (Code::ConfigInvalid, true), "{wrong}");
        }
        for (wrong, named) in
            [("[workers]\nthreads = 0", "threads"), ("[workers]\nrestart = \"sometimes\"", "restart")]
        {
            let error = toml::from_str::<Config>(wrong).unwrap_err().to_string();
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }
}
