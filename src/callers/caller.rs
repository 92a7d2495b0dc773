//! One caller: the holder of a token.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::limits::{Limited, Permit, TokenUse, Used};
use crate::config::{NamedToken, Role};
use crate::error::{Code, Failure, Result};
use crate::secret_hash::SecretHash;
use crate::time::{Instant, in_words, monotonic};

/// The longest sleep until a token expires. The clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The holder of a token, as it was when the request was let in.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    token: NamedToken,
    state: Arc<State>,
}

/// What goes on over changes of other tokens.
#[derive(Debug, Default)]
struct State {
    used: Arc<Used>,
    revoked: CancellationToken,
}

impl Caller {
    pub(super) fn new(name: &str, token: NamedToken) -> Self {
        Self(Arc::new(Inner { name: name.into(), token, state: Arc::default() }))
    }

    /// Somebody who may do everything.
    #[cfg(test)]
    pub(crate) fn manager_of_a_test() -> Self {
        let sha256 = SecretHash::of(b"the-secret-of-a-test");
        Self::new("tester", NamedToken::new(sha256, Role::Manage))
    }

    /// The holder of the token as it is from now on: the same one, whose limits go on, if nothing that lets it in has
    /// changed.
    pub(super) fn with(&self, token: NamedToken) -> Self {
        let before = &self.0.token;
        let is_same = before.sha256 == token.sha256
            && before.role == token.role
            && before.expires_at == token.expires_at;
        let state = if is_same { Arc::clone(&self.0.state) } else { Arc::default() };
        Self(Arc::new(Inner { name: Arc::clone(&self.0.name), token, state }))
    }

    /// Whether both are the same holder, with the same secret, role and expiry.
    pub(super) fn goes_on_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.state, &other.0.state)
    }

    pub(super) fn revoke(&self) {
        self.0.state.revoked.cancel();
    }

    pub(super) fn sha256(&self) -> &SecretHash {
        &self.0.token.sha256
    }

    /// The name of the token.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// What the token's holder may do.
    pub(crate) fn role(&self) -> Role {
        self.0.token.role
    }

    /// Whether the token lets nothing in any more.
    pub(crate) fn is_over(&self) -> bool {
        self.0.state.revoked.is_cancelled() || self.0.token.expires_at.is_some_and(Instant::is_past)
    }

    /// Waits until the token lets nothing in any more.
    pub(crate) async fn over(self) {
        loop {
            let left = self.0.token.expires_at.map(|at| at.since_ms(Instant::now()));
            let sleep = left.map_or(LONGEST_SLEEP, |ms| Duration::from_millis(ms).min(LONGEST_SLEEP));
            tokio::select! {
                () = self.0.state.revoked.cancelled() => return,
                () = tokio::time::sleep(sleep) => {}
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Refuses what needs a role that the token does not have. `what` says what that is.
    ///
    /// # Errors
    /// [`Code::Forbidden`], naming the token, its role and the one that is needed.
    pub(crate) fn require(&self, needed: Role, what: &str) -> Result<()> {
        let Inner { name, token, .. } = &*self.0;
        if token.role >= needed {
            return Ok(());
        }
        tracing::warn!(target: "audit", caller = &**name, %needed, act = what, "refused an act for want of a role");
        let message =
            format!("the token '{name}' has the role `{}`, and {what} needs `{needed}`", token.role);
        Err(Failure::new(Code::Forbidden, message).hint(format!(
            "use a token with the role `{needed}`; whoever manages the hive makes one with TokenCreate"
        )))
    }

    /// Whether the token is for some models alone.
    pub(crate) fn is_for_some_models(&self) -> bool {
        self.0.token.models.is_some()
    }

    /// Whether the token may use a model that has these names.
    pub(crate) fn may_use<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        let Some(patterns) = &self.0.token.models else { return true };
        names.any(|name| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
        })
    }

    /// The refusal of a model that the token may not use.
    pub(crate) fn model_refused(&self, model: &str) -> Failure {
        let message = format!("the token '{}' may not use the model '{model}'", self.0.name);
        Failure::new(Code::Forbidden, message)
            .hint("GET /v1/models lists the models that it may use; whoever manages the hive sets them")
    }

    /// The name by which hives of a fleet tell each other of the token, if it has limits: who reads it learns nothing of
    /// its secret.
    pub(super) fn shared_name(&self) -> Option<String> {
        let NamedToken { sha256, requests_per_minute, concurrent, .. } = &self.0.token;
        (requests_per_minute.is_some() || concurrent.is_some())
            .then(|| sha256.derived("the limits of a token"))
    }

    /// What was used of the limits here.
    pub(super) fn used(&self) -> TokenUse {
        self.0.state.used.told()
    }

    /// Counts what another hive tells that it has used; `None` where it cannot be heard any more.
    pub(super) fn hear(&self, hive: &str, used: Option<TokenUse>) {
        let limits = &self.0.state.used;
        match used {
            Some(used) => limits.hear(hive, used, self.0.token.requests_per_minute, monotonic()),
            None => limits.silent(hive),
        }
    }

    /// Counts a request against the limit of a minute.
    ///
    /// # Errors
    /// If the minute has had as many as it may.
    pub(crate) fn count(&self) -> Result<(), Limited> {
        let per_minute = self.0.token.requests_per_minute;
        self.0.state.used.count(per_minute, monotonic()).map_err(|wait| {
            let most = per_minute.map_or(0, std::num::NonZeroU32::get);
            let message = format!("the token '{}' has had its {most} request(s) a minute", self.0.name);
            let retry_after = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let hint = format!("ask again in {}", in_words(Duration::from_secs(retry_after)));
            Limited { failure: Failure::new(Code::TooManyRequests, message).hint(hint), retry_after }
        })
    }

    /// Begins a request to a model, and counts it.
    ///
    /// # Errors
    /// If as many are being answered as may be, or the minute has had as many as it may.
    pub(crate) fn begin(&self) -> Result<Permit, Limited> {
        let most = self.0.token.concurrent;
        let Some(permit) = self.0.state.used.begin(most) else {
            let most = most.map_or(0, std::num::NonZeroU32::get);
            let message = format!("{most} request(s) of the token '{}' are being answered", self.0.name);
            let failure = Failure::new(Code::TooManyRequests, message)
                .hint("that is as many as may be at once: ask again when one has ended");
            return Err(Limited { failure, retry_after: 1 });
        };
        self.count()?;
        Ok(permit)
    }
}
