//! `ModelDownload`: brings a model here: into the cache of the Hugging Face Hub if it is of the Hub,
//! else into the hive's own store.

use std::borrow::Cow;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{Cx, Operation};
use crate::error::Result;
use crate::models::{Downloaded, Request, Source};
use crate::{n, text};

/// Brings a model here.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelDownload {
    /// Where it is: `org/repo`, `org/repo:Q4_K_M`, `org/repo/path/x.gguf`, `ollama:name:tag`,
    /// `https://…/x.gguf` or `file:/path`.
    model: String,
    /// The branch, tag or commit, for a model of the Hub.
    #[serde(default = "main")]
    revision: String,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// Replace a model of the same name that the hive put there.
    #[serde(default)]
    force: bool,
}

fn main() -> String {
    "main".to_owned()
}

/// The source without what may be a secret in a URL: a user, a password, a query that signs it.
fn without_secrets(model: &str) -> Cow<'_, str> {
    match Url::parse(model) {
        Ok(mut url) if matches!(url.scheme(), "http" | "https") => {
            url.set_query(None);
            url.set_fragment(None);
            // Refused only for URLs that cannot have them.
            let _ = (url.set_username(""), url.set_password(None));
            Cow::Owned(url.into())
        }
        _ => Cow::Borrowed(model),
    }
}

impl Operation for ModelDownload {
    type Output = Downloaded;

    async fn run(self, cx: Cx) -> Result<Self::Output> {
        let shown = text::excerpt(&without_secrets(&self.model));
        n!("model_download", "📥 Downloading '{shown}' to hive '{}'", cx.hive_id);
        let source = Source::parse(&self.model)?;
        let request = Request { revision: self.revision, dry_run: self.dry_run, force: self.force };
        let downloaded = cx.app.catalog.download(&source, &request, &cx.stop).await?;
        if let Downloaded::Model(model) = &downloaded {
            cx.app.model_changed("added", model);
            n!("model_download", "'{}' is in the catalog: {}", model.id, text::bytes(model.size_bytes));
        }
        Ok(downloaded)
    }
}
