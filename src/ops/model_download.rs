//! `ModelDownload`: fetches a model, into the hub cache if it is of the Hugging Face Hub, otherwise into
//! the store.

use std::borrow::Cow;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::fleet::Offer;
use crate::jobs::{JobClass, OperationKind};
use crate::models::{DownloadRequest, Downloaded};
use crate::{files, n, text};

/// Fetches a model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelDownload {
    /// The source: `org/repo`, `org/repo:Q4_K_M`, `org/repo/path/x.gguf`, `ollama:name:tag`,
    /// `https://…/x.gguf` or `file:/path`. The serialised request is recorded with its job, so it has
    /// no URL's signature.
    #[serde(serialize_with = "serialise_recorded")]
    model: String,
    /// The branch, tag or commit of a model of the Hub.
    #[serde(default = "main")]
    revision: String,
    /// Answer with the plan, and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// Replace a model of the same name that the hive put there.
    #[serde(default)]
    force: bool,
}

fn main() -> String {
    "main".to_owned()
}

/// Replaces what may be a secret in a URL: a user, a value of the query.
const HIDDEN: &str = "(hidden)";
/// The longest value of a query that cannot be a signature (`true`, `main`), in characters.
const MOST_SHOWN_CHARS: usize = 8;

/// Everybody who may list jobs can read a recorded URL. So it keeps the names of its query's
/// parameters, and only those values that cannot be a signature.
fn serialise_recorded<S: serde::Serializer>(model: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&with_query_hidden(model))
}

fn with_query_hidden(model: &str) -> Cow<'_, str> {
    let Some(mut url) = as_url(model) else { return Cow::Borrowed(model) };
    let has_user = !url.username().is_empty() || url.password().is_some();
    if url.query().is_none() && !has_user {
        return Cow::Borrowed(model);
    }
    if has_user {
        // Fails only for URLs that cannot have a user.
        let _ = (url.set_username(HIDDEN), url.set_password(None));
    }
    let Some(query) = url.query() else { return Cow::Owned(url.into()) };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if may_be_shown(name, value) => pair.to_owned(),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        // A name without a value may be a token too.
        None if may_be_shown("", pair) => pair.to_owned(),
        None => HIDDEN.to_owned(),
    };
    let hidden: Vec<_> = query.split('&').map(hide).collect();
    url.set_query(Some(&hidden.join("&")));
    Cow::Owned(url.into())
}

fn may_be_shown(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_secret = ["auth", "cred", "key", "pass", "pw", "secret", "sig", "token"]
        .iter()
        .any(|word| name.contains(word));
    !is_secret && value.chars().count() <= MOST_SHOWN_CHARS
}

/// The URL of a server, of any scheme: a URL that the hive cannot fetch is shown and recorded too.
fn as_url(model: &str) -> Option<Url> {
    Url::parse(model.trim()).ok().filter(Url::has_host)
}

/// The source without what may be a secret in a URL: a user, a password, the query.
fn without_secrets(model: &str) -> Cow<'_, str> {
    let Some(mut url) = as_url(model) else { return Cow::Borrowed(model) };
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for URLs that cannot have a user.
    let _ = (url.set_username(""), url.set_password(None));
    Cow::Owned(url.into())
}

impl Operation for ModelDownload {
    const NAME: &'static str = "ModelDownload";
    const VERB: &'static str = "pull";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Downloads;
    const DEADLINE: Deadline = Deadline::None;

    type Output = Downloaded;

    async fn offer(&self, app: &AppState) -> Result<Offer> {
        app.catalog.source(&self.model)?;
        let dir = app.config.store_dir();
        let free_bytes =
            files::free_bytes(&dir).map_err(|error| Failure::io("look at the disk of", &dir, &error))?;
        let words = format!("{} of its disk are free", text::bytes(free_bytes));
        Ok(Offer { rank: Offer::AT_ONCE, free_bytes, words, begins: None })
    }

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let shown = text::excerpt(&without_secrets(&self.model));
        n!("model_download", "📥 Downloading '{shown}' to hive '{}'", cx.hive_id);
        if as_url(&self.model).is_some_and(|url| url.query().is_some_and(|query| query.contains(HIDDEN))) {
            return Err(Failure::new(
                Code::InvalidField,
                format!("model: {HIDDEN} replaces a part of the URL that was not recorded with its job"),
            )
            .hint("give the whole URL again, as the server that signs it shows it now"));
        }
        let source = cx.app.catalog.source(&self.model)?;
        // The plan says which engines can run the model.
        cx.app.workers.engines().await;
        let request = DownloadRequest { revision: self.revision, dry_run: self.dry_run, force: self.force };
        let mut downloaded = cx.app.catalog.download(&source, &request, &cx.stop).await?;
        if let Downloaded::Model(model) = &mut downloaded {
            cx.app.describe(model);
            cx.app.publish_model_change("added", model);
            if let Some((plain, _)) = model.id.rsplit_once('~').filter(|_| model.source.starts_with("hf:")) {
                n!(
                    warn: "model_download",
                    "Another revision of this file has the id '{plain}' and keeps it: this one is '{}'. Delete the \
                     other with ModelDelete if it is not needed any more",
                    model.id
                );
            }
            n!("model_download", "'{}' is in the catalog: {}", model.id, text::bytes(model.size_bytes));
        }
        Ok(downloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_url_has_no_signature() {
        for (given, kept) in [
            ("org/repo:Q4_K_M", "org/repo:Q4_K_M"),
            ("https://h/x.gguf", "https://h/x.gguf"),
            ("https://h/x.gguf?download=true#sha256=ab", "https://h/x.gguf?download=true#sha256=ab"),
            (
                "https://h/x.gguf?X-Amz-Date=20261125T000000Z&X-Amz-Signature=1f&v=2",
                "https://h/x.gguf?X-Amz-Date=(hidden)&X-Amz-Signature=(hidden)&v=2",
            ),
            ("https://h/x.gguf?sv=1&SIG=abc%2F", "https://h/x.gguf?sv=1&SIG=(hidden)"),
            ("https://h/x.gguf?0123456789abcdef", "https://h/x.gguf?(hidden)"),
            (" https://h/x.gguf?token=a ", "https://h/x.gguf?token=(hidden)"),
            ("https://user:password@h/x.gguf", "https://(hidden)@h/x.gguf"),
            ("s3://bucket/x.gguf?X-Amz-Signature=1f", "s3://bucket/x.gguf?X-Amz-Signature=(hidden)"),
        ] {
            assert_eq!(with_query_hidden(given), kept, "{given}");
            assert_eq!(with_query_hidden(kept), kept, "hiding twice changes nothing");
        }
        let request: ModelDownload = serde_json::from_str(r#"{"model":"https://h/x.gguf?sig=a"}"#).unwrap();
        let recorded = serde_json::to_string(&request).unwrap();
        assert!(recorded.contains("sig=(hidden)"), "{recorded}");
    }
}
