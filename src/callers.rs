//! Who may call, where the hive asks for a token: the holders of the named tokens of `tokens.toml`, and of the token of
//! `--token-file`, who is the manager.
//!
//! A request that was let in with a token has a [`Caller`], which says what its holder may do, and counts it against
//! the holder's limits. Where no token is asked for, a request has none, and may do everything.
//!
//! Invariants:
//! - The hive keeps hashes of secrets and never a secret. Operations get the hash from the caller too, so that no
//!   journal, stream or log has a secret.
//! - A change is on the disk before it counts. What is not valid, lets everybody on the network in or leaves nobody who
//!   can manage the hive changes nothing ([`Tokens::check`]).
//! - Every change reads the file first, so that what a person wrote into it is not lost.
//! - A token that is revoked, has expired or has another secret or role than before lets nothing in any more, and ends
//!   the streams that follow the hive ([`Caller::over`]). The limits of a token go on over changes of others.

mod file_token;
mod view;
mod caller;
mod limits;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::config::{Config, Exposure, MANAGER, NamedToken, Role, Tokens, check_name};
use crate::error::{Code, Failure, Result};
use crate::files;
use crate::secret_hash::SecretHash;

pub(crate) use caller::Caller;
pub(crate) use limits::{Limited, Permit, TokenUse};
pub(crate) use view::TokenView;

/// The callers of one hive. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Callers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    exposure: Exposure,
    /// Held while the file changes. Locked only on the blocking pool, at the start and at a reload.
    turn: Mutex<()>,
    /// Who is let in. Locked only to copy it in or out.
    let_in: RwLock<Arc<LetIn>>,
}

/// Who is let in.
#[derive(Debug, Default)]
struct LetIn {
    tokens: Tokens,
    callers: Vec<Caller>,
}

impl Callers {
    /// Reads `tokens.toml` and the token file.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if one of the files is not valid.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let secret = config.token_file.as_deref().map(file_token::read).transpose()?;
        let manager = secret.map(|sha256| Caller::new(MANAGER, NamedToken::new(sha256, Role::Manage)));
        let before = LetIn { tokens: Tokens::default(), callers: manager.into_iter().collect() };
        let this = Self(Arc::new(Inner {
            file: config.tokens_file(),
            exposure: config.exposure(),
            turn: Mutex::default(),
            let_in: RwLock::new(Arc::new(before)),
        }));
        this.reload()?;
        Ok(this)
    }

    /// Whether a token is asked for. A token that has expired counts too: it must not open the hive to everybody.
    pub(crate) fn ask_for_a_token(&self) -> bool {
        !self.let_in().callers.is_empty()
    }

    /// The holder of the token with this secret. Compares with every token, in constant time.
    pub(crate) fn holder_of(&self, secret: &[u8]) -> Option<Caller> {
        let let_in = self.let_in();
        let given = SecretHash::of(secret);
        let mut found = 0;
        for (at, caller) in (1_u32..).zip(&let_in.callers) {
            found.conditional_assign(&at, caller.sha256().matches(&given));
        }
        if bool::from(found.ct_eq(&0)) {
            return None;
        }
        let_in.callers.get(found as usize - 1).filter(|caller| !caller.is_over()).cloned()
    }

    /// What was used of the limits of tokens here, for the other hives of the fleet.
    pub(crate) fn used(&self) -> BTreeMap<String, TokenUse> {
        let let_in = self.let_in();
        let used = let_in.callers.iter().filter_map(|caller| Some((caller.shared_name()?, caller.used())));
        used.filter(|(_, used)| *used != TokenUse::default()).collect()
    }

    /// Counts what another hive of the fleet tells that it has used; `None` where it cannot be heard any more.
    pub(crate) fn hear(&self, hive: &str, used: Option<&BTreeMap<String, TokenUse>>) {
        for caller in &self.let_in().callers {
            if let Some(name) = caller.shared_name() {
                caller.hear(hive, used.map(|used| used.get(&name).copied().unwrap_or_default()));
            }
        }
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], and nothing changes.
    pub(crate) fn reload(&self) -> Result<()> {
        let _turn = self.0.turn.lock();
        let tokens = Tokens::read(&self.0.file)?;
        tokens.check(&self.0.exposure)?;
        self.take(tokens);
        Ok(())
    }

    /// The named tokens, as they count.
    pub(crate) fn tokens(&self) -> Tokens {
        self.let_in().tokens.clone()
    }

    /// Adds a token. Blocks.
    ///
    /// # Errors
    /// [`Code::InvalidField`] for its name, [`Code::TokenExists`] for a name or a secret that another one has,
    /// [`Code::TokenRefused`] if it would leave nobody who can manage the hive; what the file system says.
    pub(crate) fn create(&self, name: &str, token: NamedToken) -> Result<()> {
        check_name(name)?;
        self.change(|tokens| {
            let exists =
                |message: String, hint: &str| Err(Failure::new(Code::TokenExists, message).hint(hint));
            if tokens.tokens.contains_key(name) {
                return exists(
                    format!("there is a token '{name}' already"),
                    "choose another name, or revoke that one first",
                );
            }
            if self.let_in().callers.iter().any(|caller| *caller.sha256() == token.sha256) {
                return exists("another token has this secret already".to_owned(), "make a new secret");
            }
            tokens.tokens.insert(name.to_owned(), token);
            Ok(())
        })
    }

    /// Takes a token back. Blocks.
    ///
    /// # Errors
    /// [`Code::TokenNotFound`], [`Code::TokenRefused`] if nobody could manage the hive then, or everybody on the
    /// network could; what the file system says.
    pub(crate) fn revoke(&self, name: &str) -> Result<()> {
        self.change(|tokens| {
            if tokens.tokens.remove(name).is_some() {
                return Ok(());
            }
            let message = format!("there is no token '{}'", crate::text::excerpt(name));
            Err(Failure::new(Code::TokenNotFound, message).hint("TokenList lists the tokens"))
        })
    }

    /// Changes the file, then what counts.
    fn change(&self, change: impl FnOnce(&mut Tokens) -> Result<()>) -> Result<()> {
        let _turn = self.0.turn.lock();
        let mut tokens = Tokens::read(&self.0.file)?;
        change(&mut tokens)?;
        tokens.check(&self.0.exposure).map_err(|failure| Failure { code: Code::TokenRefused, ..failure })?;
        let text = tokens.to_text()?;
        files::put_durable(&self.0.file, text.as_bytes())
            .map_err(|error| Failure::io("write", &self.0.file, &error))?;
        self.take(tokens);
        Ok(())
    }

    /// From now on these tokens count.
    fn take(&self, tokens: Tokens) {
        let before = self.let_in();
        let manager = before.callers.iter().filter(|caller| &**caller.name() == MANAGER).cloned();
        let named = tokens.tokens.iter().map(|(name, token)| {
            let earlier = before.callers.iter().find(|caller| **caller.name() == **name);
            earlier.map_or_else(|| Caller::new(name, token.clone()), |earlier| earlier.with(token.clone()))
        });
        let callers: Vec<Caller> = manager.chain(named).collect();
        let gone = |caller: &&Caller| !callers.iter().any(|kept| kept.goes_on_as(caller));
        let gone: Vec<Caller> = before.callers.iter().filter(gone).cloned().collect();
        *self.0.let_in.write() = Arc::new(LetIn { tokens, callers });
        gone.iter().for_each(Caller::revoke);
    }

    fn let_in(&self) -> Arc<LetIn> {
        Arc::clone(&self.0.let_in.read())
    }
}

#[cfg(test)]
mod tests;
