//! The user's token of the Hub.

use super::Catalog;
use crate::error::Result;
use crate::models::sources::login::{self, LoggedIn, LoggedOut};

impl Catalog {
    /// Checks a token of the Hub, and keeps it for downloads.
    ///
    /// # Errors
    /// Those of [`login::log_in`].
    pub(crate) async fn log_in(&self, token: &str) -> Result<LoggedIn> {
        login::log_in(token, &self.places).await
    }

    /// Removes the token of the Hub that is kept.
    ///
    /// # Errors
    /// Those of [`login::log_out`].
    pub(crate) async fn log_out(&self) -> Result<LoggedOut> {
        login::log_out(&self.places).await
    }
}
