//! The token of the Hub that a user gives the hive: whose it is, and the file that it is kept in.
//!
//! The file is that of `hf auth login`, so that all tools of the machine use one token. What the Hub does not accept is
//! not kept. A token is in no error and in no narration.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

use super::api::HubApi;
use crate::error::{Code, Failure, Result};
use crate::models::sources::places::Places;
use crate::models::sources::registry::RegistryError;
use crate::models::transfer::remote::Credentials;
use crate::{disk, files, n, spawn};

/// The longest token, in bytes; those of the Hub are far shorter.
const LONGEST: usize = 4096;

/// What came of a token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoggedIn {
    /// The account that it belongs to, as the Hub tells.
    account: Option<String>,
    /// Whether the Hub was asked, and accepts it.
    checked: bool,
    /// The file that it is kept in.
    #[schema(value_type = String)]
    file: PathBuf,
    /// Whether downloads use it: no other one counts more.
    in_effect: bool,
}

/// What came of forgetting a token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoggedOut {
    /// Whether there was one.
    removed: bool,
    /// The file that it was kept in.
    #[schema(value_type = String)]
    file: PathBuf,
}

/// Checks a token and keeps it.
///
/// # Errors
/// [`Code::InvalidField`] for what is no token; [`Code::SourceUnauthorized`] where the Hub does not accept it;
/// [`Code::InvalidRequest`] where no file is to hold one; those of the file system.
pub(crate) async fn log_in(token: &str, places: &Places) -> Result<LoggedIn> {
    let hub = &places.hub;
    let token = token.trim();
    let is_word =
        !token.is_empty() && token.len() <= LONGEST && token.bytes().all(|byte| byte.is_ascii_graphic());
    let credentials = Credentials::bearer(&hub.url, token).filter(|_| is_word).ok_or_else(|| {
        Failure::new(Code::InvalidField, "token: it is not one word of visible ASCII characters")
            .hint("copy the whole token, as the Hub's page of your settings shows it once")
    })?;
    let file = hub.token_file()?.to_owned();
    let (account, checked) = check(credentials, places).await?;
    let (target, text) = (file.clone(), token.to_owned());
    spawn::blocking(move || keep(&target, &text)).await??;
    let whose = account.as_ref().map_or_else(String::new, |account| format!(" of '{account}'"));
    n!("hub_login", "Kept the token{whose} in {}", file.display());
    let in_effect = !hub.is_given();
    if !in_effect {
        n!(warn: "hub_login", "{OTHER}: take it out of the hive's environment to use the one that was kept");
    }
    Ok(LoggedIn { account, checked, file, in_effect })
}

/// What counts more than the file.
const OTHER: &str = "The variable HF_TOKEN is set for the hive and counts more than this file";

/// The account of a token, and whether the Hub was asked.
async fn check(credentials: Credentials, places: &Places) -> Result<(Option<String>, bool)> {
    let host = places.hub.url.host_str().unwrap_or_default();
    if places.hub.is_offline {
        n!(warn: "hub_login", "The settings forbid the network: the token was not checked");
        return Ok((None, false));
    }
    n!("hub_login", "Asking {host} whose token it is");
    match HubApi::whoami(places, credentials).await {
        Ok(Some(account)) => {
            n!("hub_login", "It is a token of '{account}'");
            Ok((Some(account), true))
        }
        Ok(None) => {
            n!(warn: "hub_login", "{host} does not tell whose token it is: it was not checked");
            Ok((None, false))
        }
        Err(RegistryError::Unavailable(failure)) => {
            n!(warn: "hub_login", "The token was not checked: {}", failure.message);
            Ok((None, false))
        }
        Err(RegistryError::Refused(failure)) => Err(failure),
    }
}

fn keep(file: &Path, token: &str) -> Result<()> {
    let failed = |error| Failure::io("write the token to", file, &error);
    if let Some(folder) = file.parent() {
        disk::create_private_dir(folder).map_err(failed)?;
    }
    // A link stays one: the file that it leads to is replaced.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    files::put_durable(&target, token.as_bytes()).map_err(failed)
}

/// Removes the token that is kept. Repeating this changes nothing.
///
/// # Errors
/// [`Code::InvalidRequest`] where no file is to hold one; those of the file system.
pub(crate) async fn log_out(places: &Places) -> Result<LoggedOut> {
    let file = places.hub.token_file()?.to_owned();
    let target = file.clone();
    let removed = spawn::blocking(move || match disk::remove_file(&target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io("remove the token", &target, &error)),
    });
    let removed = removed.await??;
    match removed {
        true => n!("hub_logout", "Removed the token from {}", file.display()),
        false => n!("hub_logout", "There was no token in {}", file.display()),
    }
    if places.hub.is_given() {
        n!(warn: "hub_logout", "{OTHER}: it is still used");
    }
    Ok(LoggedOut { removed, file })
}
