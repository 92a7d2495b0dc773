//! Operations of other rbee daemons that clients may send to a hive by mistake. Each is refused, with
//! what to do instead.

use crate::error::{Code, Failure};

/// One operation, or family of operations, that no hive offers.
#[derive(Debug)]
pub struct Refused {
    /// The name in `CamelCase`; for a family, the prefix of its names.
    pub name: &'static str,
    /// The same in `snake_case`.
    pub wire_name: &'static str,
    /// Whether every operation with that prefix is refused.
    pub is_family: bool,
    /// Why no hive offers it.
    pub reason: RefusalReason,
    /// What to do instead.
    pub instead: &'static str,
}

/// Why no hive offers an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The queen offers it.
    OfTheQueen,
    /// No hive has it.
    NotOffered,
}

impl RefusalReason {
    /// The code of the refusal.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::OfTheQueen => Code::QueenOperation,
            Self::NotOffered => Code::NotOffered,
        }
    }
}

/// Every refused row.
pub static REFUSED: &[Refused] = &[
    queen("Infer", "infer", "send the prompt to POST /v1/chat/completions"),
    queen("Status", "status", "ask the queen, or use GET /v1/capabilities and HiveCheck for this machine"),
    queen("QueenCheck", "queen_check", "send it to the queen; HiveCheck checks this hive"),
    family(queen("RhaiScript", "rhai_script", "scripts live with the queen: send it there")),
    family(absent("Image", "image", "this hive serves language models only: see POST /v1/chat/completions")),
];

const fn queen(name: &'static str, wire_name: &'static str, instead: &'static str) -> Refused {
    Refused { name, wire_name, is_family: false, reason: RefusalReason::OfTheQueen, instead }
}

const fn absent(name: &'static str, wire_name: &'static str, instead: &'static str) -> Refused {
    Refused { name, wire_name, is_family: false, reason: RefusalReason::NotOffered, instead }
}

const fn family(row: Refused) -> Refused {
    Refused { is_family: true, ..row }
}

impl Refused {
    /// Whether this row refuses `name`, in either spelling.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        if name == self.name || name == self.wire_name {
            return true;
        }
        let next = |prefix| name.strip_prefix(prefix).and_then(|rest: &str| rest.chars().next());
        self.is_family
            && (next(self.name).is_some_and(|c| c.is_ascii_uppercase())
                || next(self.wire_name).is_some_and(|c| c == '_'))
    }

    pub(super) fn failure(&self, name: &str) -> Failure {
        let name = crate::text::excerpt(name);
        let message = match self.reason {
            RefusalReason::OfTheQueen => format!("{name} is an operation of the queen, not of a hive"),
            RefusalReason::NotOffered => format!("{name} is not offered by this hive"),
        };
        Failure::new(self.reason.code(), message).hint(self.instead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_cover_their_members_and_nothing_else() {
        let covered = |name: &str| REFUSED.iter().any(|refused| refused.covers(name));
        for name in ["RhaiScriptSave", "rhai_script_list", "ImageGeneration", "image_transform", "Infer"] {
            assert!(covered(name), "{name}");
        }
        for name in ["Imagery", "inference", "ModelList", "RhaiScripted"] {
            assert!(!covered(name), "{name}");
        }
    }
}
