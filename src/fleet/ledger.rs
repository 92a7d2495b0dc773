//! Who was invited to a fleet and who was let in: pure decisions over the list that `DATA_DIR/fleet/ledger.json` keeps.
//!
//! Invariants:
//! - An invitation lets one hive in, once, until it expires. Of its secret only the hash is known.
//! - A name belongs to one data folder: another one gets it once the first is expelled.
//! - Who was let in stays in the list. Who was expelled, or has joined anew, is never let in again by an earlier key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Code, Failure, Result};
use crate::files::versioned;
use crate::secret_hash::SecretHash;
use crate::text::excerpt;
use crate::time::Instant;

/// How long it is remembered that an invitation was used or has expired, in milliseconds: a day.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// How many invitations may be open.
const MOST_OPEN: usize = 1000;

/// The list.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Ledger {
    #[serde(default = "versioned::first_version")]
    pub(super) version: u64,
    #[serde(default)]
    pub(super) users: Vec<User>,
    #[serde(default)]
    invitations: Vec<Invitation>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A hive that was let in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct User {
    pub(super) hive: String,
    /// The id of its data folder.
    pub(super) folder: String,
    /// Its public nkey.
    pub(super) key: String,
    pub(super) since: Instant,
    #[serde(default)]
    pub(super) expelled_at: Option<Instant>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Invitation {
    sha256: SecretHash,
    expires_at: Instant,
    #[serde(default)]
    used_by: Option<String>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: versioned::VERSION, users: Vec::new(), invitations: Vec::new(), more: Map::new() }
    }
}

impl Ledger {
    /// Adds an invitation.
    ///
    /// # Errors
    /// [`Code::InvalidField`] if another one has the secret, or too many are open.
    pub(super) fn invite(&mut self, sha256: SecretHash, expires_at: Instant, now: Instant) -> Result<()> {
        self.invitations.retain(|invitation| invitation.expires_at.0.saturating_add(REMEMBERED_MS) > now.0);
        if self.invitations.iter().any(|invitation| invitation.sha256 == sha256) {
            return Err(Failure::new(Code::InvalidField, "sha256: another invitation has that secret")
                .hint("make a new secret of 128 random bits or more"));
        }
        if self.invitations.len() >= MOST_OPEN {
            return Err(Failure::new(Code::InvalidField, format!("{MOST_OPEN} invitations are remembered"))
                .hint("wait until some have expired: they are remembered for a day more"));
        }
        self.invitations.push(Invitation { sha256, expires_at, used_by: None });
        Ok(())
    }

    /// Lets the hive in that has the secret of an invitation, which is used then.
    ///
    /// # Errors
    /// [`Code::InvitationRefused`]; [`Code::HiveNameTaken`], which leaves the invitation open.
    pub(super) fn admit(&mut self, sha256: &SecretHash, user: User) -> Result<()> {
        let refused = |what: String, hint: &str| Err(Failure::new(Code::InvitationRefused, what).hint(hint));
        let again =
            "run `rbee-hive fleet invite` on the machine of the fleet, and use the line that it prints";
        // All are compared, in constant time each: how long it takes tells nothing.
        let mut found = None;
        for (i, invitation) in self.invitations.iter().enumerate() {
            if bool::from(invitation.sha256.matches(sha256)) {
                found = Some(i);
            }
        }
        let Some(found) = found else {
            return refused("the fleet knows no such invitation".to_owned(), again);
        };
        let invitation = &mut self.invitations[found];
        if let Some(hive) = &invitation.used_by {
            return refused(format!("the invitation was used by hive '{hive}': each is for one"), again);
        }
        if invitation.expires_at <= user.since {
            return refused(format!("the invitation expired at {}", invitation.expires_at), again);
        }
        let now = user.since;
        for other in self.users.iter_mut().filter(|other| other.expelled_at.is_none()) {
            if other.hive != user.hive {
                continue;
            }
            if other.folder != user.folder {
                let message = format!("another hive was let in as '{}'", user.hive);
                return Err(Failure::new(Code::HiveNameTaken, message).hint(format!(
                    "give this hive another name with --hive-id, or run `rbee-hive fleet expel {}` on the machine of \
                     the fleet first",
                    user.hive
                )));
            }
            // It joins anew: its earlier key is of no more use.
            other.expelled_at = Some(now);
        }
        invitation.used_by = Some(user.hive.clone());
        self.users.push(user);
        Ok(())
    }

    /// Expels a hive.
    ///
    /// # Errors
    /// [`Code::UnknownHive`], naming those that are in.
    pub(super) fn expel(&mut self, hive: &str, now: Instant) -> Result<()> {
        let mut is_found = false;
        for user in self.users.iter_mut().filter(|user| user.expelled_at.is_none() && user.hive == hive) {
            user.expelled_at = Some(now);
            is_found = true;
        }
        if is_found {
            return Ok(());
        }
        let inside = self.users.iter().filter(|user| user.expelled_at.is_none());
        let inside: Vec<_> = inside.map(|user| user.hive.as_str()).collect();
        let message = format!("no hive was let in as '{}'", excerpt(hive));
        Err(Failure::new(Code::UnknownHive, message).hint(match inside.as_slice() {
            [] => "nobody was let in who is not expelled".to_owned(),
            inside => format!("these are in: {}", inside.join(", ")),
        }))
    }

    /// The keys that are out, each with the second at or before which what was signed for it counts no more.
    pub(super) fn expelled(&self) -> BTreeMap<String, i64> {
        let out = self.users.iter().filter_map(|user| Some((user.key.clone(), user.expelled_at?.0 / 1000)));
        out.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(hive: &str, folder: &str, at: i64) -> User {
        let key = format!("U{hive}{folder}{at}");
        User { hive: hive.into(), folder: folder.into(), key, since: Instant(at), expelled_at: None }
    }

    fn code_of(result: Result<()>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn an_invitation_lets_one_hive_in_once_until_it_expires() {
        let mut ledger = Ledger::default();
        let (one, two) = (SecretHash::of(b"one"), SecretHash::of(b"two"));
        ledger.invite(one, Instant(1000), Instant(0)).unwrap();
        assert_eq!(code_of(ledger.invite(one, Instant(1000), Instant(0))), Code::InvalidField);
        assert_eq!(code_of(ledger.admit(&two, user("a", "f", 1))), Code::InvitationRefused);
        ledger.admit(&one, user("a", "f", 999)).unwrap();
        let again = ledger.admit(&one, user("b", "g", 999)).unwrap_err();
        assert!(again.code == Code::InvitationRefused && again.message.contains("used by hive 'a'"));
        ledger.invite(two, Instant(1000), Instant(0)).unwrap();
        let late = ledger.admit(&two, user("b", "g", 1000)).unwrap_err();
        assert!(late.code == Code::InvitationRefused && late.message.contains("expired"), "{late}");
        assert_eq!(ledger.users.len(), 1);
    }

    #[test]
    fn a_name_belongs_to_one_folder_until_it_is_expelled() {
        let mut ledger = Ledger::default();
        let secrets: Vec<_> = (0..4_u8).map(|i| SecretHash::of(&[i])).collect();
        for secret in &secrets {
            ledger.invite(*secret, Instant(100_000), Instant(0)).unwrap();
        }
        ledger.admit(&secrets[0], user("a", "f", 1000)).unwrap();
        assert_eq!(code_of(ledger.admit(&secrets[1], user("a", "g", 1000))), Code::HiveNameTaken);
        // The invitation is still open.
        ledger.admit(&secrets[1], user("a", "f", 2000)).unwrap();
        assert_eq!(ledger.expelled(), BTreeMap::from([("Uaf1000".to_owned(), 2)]));
        assert_eq!(code_of(ledger.expel("b", Instant(3000))), Code::UnknownHive);
        ledger.expel("a", Instant(3000)).unwrap();
        assert_eq!(code_of(ledger.expel("a", Instant(3000))), Code::UnknownHive);
        assert_eq!(ledger.expelled().len(), 2);
        ledger.admit(&secrets[2], user("a", "g", 4000)).unwrap();
    }

    #[test]
    fn what_a_later_version_adds_is_kept() {
        let text = r#"{"version":1,"users":[],"invitations":[],"notes":["x"]}"#;
        let ledger: Ledger = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&ledger).unwrap(), text);
    }
}
