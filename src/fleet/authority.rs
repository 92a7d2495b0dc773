//! The keys that a fleet's NATS knows its hives by, and what they sign: JWTs of the form that nats-server reads.
//!
//! The operator signs the two accounts, the fleet's account signs its users: each hive is one. Who holds these keys can
//! let anybody in, so they are kept on the machine of `fleet up` alone.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Code, Failure, Result};
use crate::text::{self, hex};
use crate::time::Instant;

/// The version of the claims.
const VERSION: u32 = 2;
/// What stands for "no limit" in claims.
const NO_LIMIT: i64 = -1;

/// The three keys.
pub(super) struct Authority {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    /// In seconds since the Unix epoch. What the operator says of itself has this time, so that it is always the same:
    /// a nats-server that runs takes no other operator.
    made_at: i64,
}

/// The secrets of an [`Authority`], as they are kept in a file.
#[derive(Deserialize, Serialize)]
pub(super) struct Seeds {
    operator: String,
    system: String,
    account: String,
    made_at: i64,
}

/// What nats-server needs to know of an [`Authority`].
pub(super) struct Trusted {
    pub(super) operator: String,
    pub(super) system_key: String,
    pub(super) system: String,
    pub(super) account_key: String,
    pub(super) account: String,
}

impl Authority {
    /// New keys.
    pub(super) fn new() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            made_at: now(),
        }
    }

    /// The keys of these seeds.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if they are damaged.
    pub(super) fn of(seeds: &Seeds) -> Result<Self> {
        Ok(Self {
            operator: pair(&seeds.operator)?,
            system: pair(&seeds.system)?,
            account: pair(&seeds.account)?,
            made_at: seeds.made_at,
        })
    }

    /// The secrets.
    ///
    /// # Errors
    /// If a key has none, which is a defect.
    pub(super) fn seeds(&self) -> Result<Seeds> {
        Ok(Seeds {
            operator: seed(&self.operator)?,
            system: seed(&self.system)?,
            account: seed(&self.account)?,
            made_at: self.made_at,
        })
    }

    /// What nats-server trusts: the operator and the accounts, of which the fleet's has streams. A user is out that
    /// `expelled` names, with the time in seconds since the Unix epoch at or before which its JWT was signed.
    ///
    /// # Errors
    /// If a key cannot sign, which is a defect.
    pub(super) fn trusted(&self, fleet: &str, expelled: &BTreeMap<String, i64>) -> Result<Trusted> {
        let limits = json!({
            "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT, "imports": NO_LIMIT, "exports": NO_LIMIT,
            "wildcards": true, "conn": NO_LIMIT, "leaf": NO_LIMIT,
        });
        let mut with_streams = limits.clone();
        for name in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_streams[name] = NO_LIMIT.into();
        }
        let account = json!({
            "limits": with_streams, "revocations": expelled, "type": "account", "version": VERSION,
        });
        let system = json!({ "limits": limits, "type": "account", "version": VERSION });
        let (system_key, account_key) = (self.system.public_key(), self.account.public_key());
        let operator = json!({ "system_account": system_key, "type": "operator", "version": VERSION });
        Ok(Trusted {
            operator: signed(&self.operator, &self.operator.public_key(), fleet, self.made_at, operator)?,
            system: signed(&self.operator, &system_key, "system", self.made_at, system)?,
            account: signed(&self.operator, &account_key, fleet, now(), account)?,
            system_key,
            account_key,
        })
    }

    /// The JWT that lets the holder of a key in, as the user of that name.
    ///
    /// # Errors
    /// [`Code::InvalidField`] if the key is no public key of a user.
    pub(super) fn user(&self, name: &str, key: &str) -> Result<String> {
        check_user_key(key)?;
        let user = json!({
            "pub": {}, "sub": {}, "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT, "type": "user",
            "version": VERSION,
        });
        signed(&self.account, key, name, now(), user)
    }
}

/// Refuses what is not the public key of a user.
///
/// # Errors
/// [`Code::InvalidField`]
fn check_user_key(key: &str) -> Result<()> {
    match KeyPair::from_public_key(key) {
        Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(()),
        _ => Err(Failure::new(Code::InvalidField, "key: not the public nkey of a user")
            .hint("join by `rbee-hive fleet join`, which makes one")),
    }
}

/// A user's own key, which never leaves its machine.
pub(super) struct UserKey(KeyPair);

impl UserKey {
    /// A new key.
    pub(super) fn new() -> Self {
        Self(KeyPair::new_user())
    }

    /// What others know it by.
    pub(super) fn public(&self) -> String {
        self.0.public_key()
    }

    /// The file of credentials of this user (`.creds`): its JWT and its seed.
    ///
    /// # Errors
    /// If the key has no seed, which is a defect.
    pub(super) fn credentials(&self, jwt: &str) -> Result<String> {
        let seed = seed(&self.0)?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             The seed below is a secret: who has it is this hive to its fleet.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

fn seed(pair: &KeyPair) -> Result<String> {
    pair.seed().map_err(|error| Failure::internal("a key has no seed").detail(error))
}

fn pair(seed: &str) -> Result<KeyPair> {
    KeyPair::from_seed(seed.trim()).map_err(|error| {
        Failure::new(Code::ConfigInvalid, "a key of the fleet is damaged")
            .hint("put the folder `fleet` of the data folder back from a backup, or make the fleet anew")
            .detail(error)
    })
}

/// In seconds since the Unix epoch.
fn now() -> i64 {
    Instant::now().0 / 1000
}

/// A JWT about `subject`, signed by `issuer` at that time, in seconds since the Unix epoch.
fn signed(issuer: &KeyPair, subject: &str, name: &str, at: i64, nats: Value) -> Result<String> {
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), at.into());
    claims.insert("iss".to_owned(), issuer.public_key().into());
    claims.insert("name".to_owned(), name.into());
    claims.insert("sub".to_owned(), subject.into());
    claims.insert("nats".to_owned(), nats);
    let id = hex(&Sha256::digest(text::json(&claims)));
    claims.insert("jti".to_owned(), id.into());
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let signed = format!("{header}.{}", part(&Value::Object(claims)));
    let signature = issuer
        .sign(signed.as_bytes())
        .map_err(|error| Failure::internal("a key of the fleet does not sign").detail(error))?;
    Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The claims of a JWT whose signature is that of its issuer.
    fn claims(jwt: &str) -> Value {
        let parts: Vec<_> = jwt.split('.').collect();
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        let header: Value = serde_json::from_slice(&decoded(parts[0])).unwrap();
        assert_eq!(header, json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
        let claims: Value = serde_json::from_slice(&decoded(parts[1])).unwrap();
        let issuer = KeyPair::from_public_key(claims["iss"].as_str().unwrap()).unwrap();
        issuer.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &decoded(parts[2])).unwrap();
        claims
    }

    #[test]
    fn who_signs_whom() {
        let authority = Authority::new();
        let key = UserKey::new();
        let expelled = BTreeMap::from([("UAAA".to_owned(), 7)]);
        let trusted = authority.trusted("home", &expelled).unwrap();
        let operator = claims(&trusted.operator);
        let account = claims(&trusted.account);
        let user = claims(&authority.user("gpu-1", &key.public()).unwrap());
        assert_eq!(operator["iss"], operator["sub"]);
        assert_eq!(operator["nats"]["system_account"], trusted.system_key);
        assert_eq!((&account["iss"], &account["sub"]), (&operator["sub"], &json!(trusted.account_key)));
        assert_eq!(account["nats"]["revocations"], json!({ "UAAA": 7 }));
        assert_eq!(account["nats"]["limits"]["disk_storage"], -1);
        assert_eq!((&user["iss"], &user["sub"]), (&account["sub"], &json!(key.public())));
        assert_eq!((&user["name"], &user["nats"]["type"]), (&json!("gpu-1"), &json!("user")));
        let system = claims(&trusted.system);
        assert_eq!(system["nats"]["limits"]["disk_storage"], Value::Null);
    }

    #[test]
    fn keys_are_read_back_from_their_seeds() {
        let authority = Authority::new();
        let again = Authority::of(&authority.seeds().unwrap()).unwrap();
        assert_eq!(authority.account.public_key(), again.account.public_key());
        // A nats-server that runs takes no other operator: what the operator says of itself has always the same time.
        let earlier = Authority::of(&Seeds { made_at: 7, ..authority.seeds().unwrap() }).unwrap();
        let trusted = earlier.trusted("home", &BTreeMap::new()).unwrap();
        assert_eq!(
            (&claims(&trusted.operator)["iat"], &claims(&trusted.system)["iat"]),
            (&json!(7), &json!(7))
        );
        assert_eq!(earlier.trusted("home", &BTreeMap::new()).unwrap().operator, trusted.operator);
        let damaged = Seeds { operator: "SO".to_owned(), ..authority.seeds().unwrap() };
        assert_eq!(Authority::of(&damaged).err().unwrap().code, Code::ConfigInvalid);
    }

    #[test]
    fn only_the_key_of_a_user_gets_a_jwt() {
        let authority = Authority::new();
        for key in ["", "UAAA", &authority.account.public_key(), &authority.operator.public_key()] {
            assert_eq!(authority.user("x", key).unwrap_err().code, Code::InvalidField, "{key}");
        }
    }
}
