//! The Hugging Face Hub as this hive uses it: its address, the access token, and whether it may be
//! asked.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::config;
use crate::error::{Code, Failure, Result};
use crate::models::transfer::remote::{Credentials, Trust};
use crate::{files, n};

const DEFAULT_URL: &str = "https://huggingface.co";

/// The Hub's settings.
#[derive(Debug)]
pub(crate) struct HubEndpoint {
    pub(crate) url: Url,
    token: Token,
    /// The file that a token is kept in, whether or not it counts.
    kept: Option<PathBuf>,
    /// Whether the Hub must not be asked.
    pub(crate) is_offline: bool,
}

/// Where the access token comes from. A file is read each time: users log in while the hive runs.
enum Token {
    Given(String),
    Files(Vec<PathBuf>),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::Files(files) => f.debug_tuple("Files").field(files).finish(),
        }
    }
}

impl HubEndpoint {
    /// The Hub of the settings and, for what they leave unset, of the process environment.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] where the address is not a URL.
    pub(crate) fn new(config: &config::Hub, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let config::Hub { endpoint, token_file, offline } = config;
        let text = |name: &str| variable(name)?.into_string().ok().filter(|text| !text.trim().is_empty());
        let url = endpoint.clone().or_else(|| text("HF_ENDPOINT")).unwrap_or_else(|| DEFAULT_URL.into());
        let url = Url::parse(url.trim()).ok().filter(Url::has_host).ok_or_else(|| {
            Failure::new(Code::ConfigInvalid, "the address of the Hugging Face Hub is not a URL")
                .hint("check HF_ENDPOINT: it must be like https://huggingface.co")
        })?;
        let kept = token_file.clone().or_else(|| token_files(&variable).pop());
        let token = match token_file {
            Some(file) => Token::Files(vec![file.clone()]),
            None => match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
                Some(token) => Token::Given(token),
                None => Token::Files(token_files(&variable)),
            },
        };
        let is_set = |text: &str| matches!(&*text.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE");
        let is_offline =
            offline.unwrap_or_else(|| text("HF_HUB_OFFLINE").is_some_and(|text| is_set(text.trim())));
        Ok(Self { url, token, kept, is_offline })
    }

    /// The token for the Hub, where there is one.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let token = match &self.token {
            Token::Given(token) => token.clone(),
            Token::Files(files) => files.iter().find_map(|file| files::read_text(file).ok())?,
        };
        let token: String = token.split_whitespace().collect();
        if token.is_empty() {
            return None;
        }
        let credentials = Credentials::bearer(&self.url, &token);
        if credentials.is_none() {
            n!(warn: "hub_token", "The access token of the Hub has invalid characters: it is not used");
        }
        credentials
    }

    /// The file that a token of this user is kept in.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`] where the settings say that no token is used, or there is no home for the file.
    pub(crate) fn token_file(&self) -> Result<&Path> {
        let refused = |message| Failure::new(Code::InvalidRequest, message);
        match self.kept.as_deref() {
            Some(path) if path.as_os_str().is_empty() => {
                Err(refused("the settings say that no token of the Hub is used")
                    .hint("take `token_file` out of [hub] in the settings, or set it to the path of a file"))
            }
            Some(path) => Ok(path),
            None => Err(refused("there is no folder for a token: this user has no home")
                .hint("set `token_file` of [hub] in the settings, or HF_HOME, to where it may be")),
        }
    }

    /// Whether the token of the environment counts, whatever the file has.
    pub(crate) const fn is_given(&self) -> bool {
        matches!(self.token, Token::Given(_))
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Endpoint(self.url.clone())
    }
}

/// Where `hf auth login` puts the token.
fn token_files(variable: &impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_TOKEN_PATH")
        .or_else(|| Some(set("HF_HOME")?.join("token")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/token")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface/token")))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hub(config: &config::Hub, environment: &[(&str, &str)]) -> Result<HubEndpoint> {
        HubEndpoint::new(config, |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn settings_take_precedence_over_the_environment_and_that_over_defaults() {
        let plain = hub(&config::Hub::default(), &[]).unwrap();
        assert_eq!(plain.url.as_str(), "https://huggingface.co/");
        assert!(!plain.is_offline && plain.credentials().is_none());

        let environment =
            [("HF_ENDPOINT", "https://mirror.example/hub/"), ("HF_HUB_OFFLINE", "1"), ("HF_TOKEN", "hf_x\n")];
        let from_environment = hub(&config::Hub::default(), &environment).unwrap();
        assert_eq!(from_environment.url.as_str(), "https://mirror.example/hub/");
        assert!(from_environment.is_offline && from_environment.credentials().is_some());

        let settings = config::Hub {
            endpoint: Some("http://127.0.0.1:1".into()),
            token_file: Some(PathBuf::new()),
            offline: Some(false),
        };
        let set = hub(&settings, &environment).unwrap();
        assert_eq!(set.url.as_str(), "http://127.0.0.1:1/");
        assert!(!set.is_offline && set.credentials().is_none());

        let failure = hub(&config::Hub::default(), &[("HF_ENDPOINT", "nonsense")]).unwrap_err();
        assert_eq!(failure.code, Code::ConfigInvalid);
    }

    #[test]
    fn a_token_is_kept_in_the_file_of_the_settings_or_of_hf_auth_login() {
        let environment = [("HF_TOKEN", "hf_x"), ("HOME", "/home/x")];
        let given = hub(&config::Hub::default(), &environment).unwrap();
        assert!(given.is_given());
        assert_eq!(given.token_file().unwrap(), Path::new("/home/x/.cache/huggingface/token"));
        let of_settings = |file: &str| {
            let settings = config::Hub { token_file: Some(file.into()), ..config::Hub::default() };
            hub(&settings, &environment).unwrap()
        };
        assert_eq!(of_settings("/etc/token").token_file().unwrap(), Path::new("/etc/token"));
        assert!(!of_settings("/etc/token").is_given());
        for none in [of_settings(""), hub(&config::Hub::default(), &[]).unwrap()] {
            assert_eq!(none.token_file().unwrap_err().code, Code::InvalidRequest);
        }
    }

    #[test]
    fn the_token_file_of_hf_auth_login_is_read_each_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let hub = hub(&config::Hub::default(), &[("HF_HOME", path), ("HOME", "/nowhere")]).unwrap();
        assert!(hub.credentials().is_none());
        fs::write(home.path().join("token"), "hf_secret\n").unwrap();
        let header = hub.credentials().unwrap().for_url(&hub.url).unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer hf_secret");
        assert!(!format!("{hub:?}").contains("hf_secret"));
        assert_eq!(hub.token_file().unwrap(), home.path().join("token"));
    }
}
