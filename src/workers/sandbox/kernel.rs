//! The restriction itself: Landlock's rules, on Linux.

use super::allowed::Allowed;

/// A restriction of a thread and of the processes that it starts.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Restriction(landlock::RulesetCreated);

#[cfg(target_os = "linux")]
mod linux {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset, RulesetAttr,
        RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
    };

    use super::{Allowed, Restriction};

    /// The newest version whose rights are used here. A newer one may forbid what a worker needs, so it is taken on
    /// purpose alone.
    const KNOWN: ABI = ABI::V6;

    impl Restriction {
        /// Opens what is allowed. Blocks.
        pub(in super::super) fn prepare(allowed: &Allowed) -> Result<Self, String> {
            ruleset(allowed).map(Self).map_err(|error| error.to_string())
        }

        /// Restricts this thread, which can gain no privileges, for good. Returns what is in force, or why nothing is.
        pub(in super::super) fn enforce(self) -> Result<String, String> {
            let status = self.0.restrict_self().map_err(|error| error.to_string())?;
            match status.landlock {
                LandlockStatus::Available { effective_abi, kernel_abi } => {
                    Ok(in_words(kernel_abi.unwrap_or(effective_abi as i32)))
                }
                LandlockStatus::NotEnabled => {
                    Err("the kernel's Landlock is not enabled (its parameter lsm= lacks landlock)".to_owned())
                }
                LandlockStatus::NotImplemented => {
                    Err("the kernel has no Landlock, which came with Linux 5.13".to_owned())
                }
            }
        }
    }

    /// What a version of Landlock restricts.
    pub(super) fn in_words(version: i32) -> String {
        let what = match version {
            // These let a worker cut any file short that the hive's user may write.
            ..=2 => "files (but for their truncation)",
            3 => "files",
            4 | 5 => "files and TCP",
            _ => "files, TCP and signals",
        };
        format!("{what} restricted (Landlock ABI {version})")
    }

    /// What does not exist is left out.
    fn ruleset(allowed: &Allowed) -> Result<RulesetCreated, RulesetError> {
        let mut handled = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::from_all(KNOWN))?;
        if allowed.port.is_some() {
            handled = handled.handle_access(AccessNet::BindTcp)?;
        }
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        // Whoever may make a device, as root may, reaches every disk.
        let not_of_files = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
        let write = AccessFs::from_all(KNOWN) & !not_of_files;
        let ruleset = handled
            .create()?
            .add_rules(path_beneath_rules(allowed.runs(), read | AccessFs::Execute))?
            .add_rules(path_beneath_rules(allowed.lists(), AccessFs::ReadDir))?
            .add_rules(path_beneath_rules(allowed.reads(), read))?
            .add_rules(path_beneath_rules(
                Allowed::devices(),
                read | AccessFs::WriteFile | AccessFs::IoctlDev,
            ))?
            .add_rules(path_beneath_rules(allowed.writes(), write))?;
        let ports = allowed.port.into_iter().map(|port| Ok(NetPort::new(port, AccessNet::BindTcp)));
        ruleset.add_rules::<_, _, _, RulesetError>(ports)
    }
}

/// Nothing, where the system has no Landlock.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) enum Restriction {}

#[cfg(not(target_os = "linux"))]
impl Restriction {
    pub(super) fn prepare(_allowed: &Allowed) -> Result<Self, String> {
        Err("only Linux can".to_owned())
    }

    pub(super) fn enforce(self) -> Result<String, String> {
        match self {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::linux::in_words;

    #[test]
    fn what_a_version_cannot_restrict_is_not_claimed() {
        for (version, restricted) in [
            (1, "files (but for their truncation) restricted (Landlock ABI 1)"),
            (3, "files restricted (Landlock ABI 3)"),
            (4, "files and TCP restricted (Landlock ABI 4)"),
            (7, "files, TCP and signals restricted (Landlock ABI 7)"),
        ] {
            assert_eq!(in_words(version), restricted);
        }
    }
}
