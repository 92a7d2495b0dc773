//! What a file is transferred for, and so under which names and in which words its transfer is narrated.

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A model, or a companion of one.
    Model,
    /// An engine: its archive, or its sources.
    Engine,
}

/// Declares [`Step`] and the action of each step, by what the file is for.
macro_rules! steps {
    ($($step:ident = $name:literal,)+) => {
        /// A step of a transfer that is narrated.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Step {
            $($step,)+
        }

        impl Purpose {
            /// The action under which a step is narrated.
            pub(crate) const fn action(self, step: Step) -> &'static str {
                match (self, step) {
                    $((Self::Model, Step::$step) => concat!("model_download_", $name),
                    (Self::Engine, Step::$step) => concat!("worker_install_", $name),)+
                }
            }
        }
    };
}

steps! {
    Connect = "connect",
    Damaged = "damaged",
    Engine = "engine",
    Joined = "joined",
    Kept = "kept",
    Left = "left",
    Neighbours = "neighbours",
    Preflight = "preflight",
    Progress = "progress",
    Removed = "removed",
    Restarted = "restarted",
    Resume = "resume",
    Retry = "retry",
    Stalled = "stalled",
    Sync = "sync",
    Unknown = "unknown",
    Verify = "verify",
    Waiting = "waiting",
}

impl Purpose {
    /// What the file is, if it is of use.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Engine => "archive",
        }
    }

    /// What the file's first bytes are to say that it is.
    pub(crate) const fn format(self) -> &'static str {
        match self {
            Self::Model => "a GGUF file",
            Self::Engine => "an archive of the kind that its name tells",
        }
    }

    /// The operation that transfers such files.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::Model => "ModelDownload",
            Self::Engine => "WorkerInstall",
        }
    }
}
