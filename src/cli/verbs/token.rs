//! `rbee-hive token …`: who may call the hive, by tokens of their own.
//!
//! The secret of a token is made here, shown once, and kept nowhere: the hive gets its hash.

use std::num::NonZeroU32;

use serde_json::{Value, json};

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;
use crate::cli::show::{column, fields, number_of, table, text_of};
use crate::cli::words::{of_field, with_days};
use crate::client::Token;
use crate::config::Role;
use crate::secret_hash::SecretHash;
use crate::text::hex;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    verb: Option<TokenVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum TokenVerb {
    /// Make a token and print its secret, once
    Create(Create),
    /// List the tokens (the default)
    #[command(visible_alias = "ls")]
    List,
    /// Revoke tokens: they let nobody in any more
    #[command(visible_alias = "rm")]
    Revoke {
        /// The names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Whose token it is, such as alice
    name: String,
    /// What its holder may do
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// After how long it expires, such as 30d or 12h [default: never]
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    /// The most requests to models and submissions of jobs in a minute [default: no limit]
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<NonZeroU32>,
    /// The most requests to models that are answered at once [default: no limit]
    #[arg(long, value_name = "N")]
    concurrent: Option<NonZeroU32>,
    /// A model that it may use: an id, an alias, or the beginning of one with * behind it; may be repeated [default:
    /// every model]
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
}

impl Verb for Args {
    async fn run(self, session: &Session) -> Ended {
        match self.verb.unwrap_or(TokenVerb::List) {
            TokenVerb::Create(create) => create.run(session).await,
            TokenVerb::List => {
                let tokens = session.run("TokenList", json!({})).await?;
                session.show(&tokens, of_tokens)
            }
            TokenVerb::Revoke { names } => {
                super::each(&names, async |name| {
                    let revoked = session.run("TokenRevoke", json!({ "name": name })).await?;
                    session.show(&revoked, |_| format!("revoked {name}\n"))
                })
                .await
            }
        }
    }
}

impl Create {
    async fn run(self, session: &Session) -> Ended {
        let secret = hex(&rand::random::<[u8; 32]>());
        // The first token makes the hive ask for one at once, also those who follow the job that made it.
        let session = session.or_with(Token::new(&secret))?;
        let request = json!({
            "name": self.name, "sha256": SecretHash::of(secret.as_bytes()), "role": self.role,
            "expires_in": self.expires.map(with_days), "requests_per_minute": self.requests_per_minute,
            "concurrent": self.concurrent, "models": Some(self.models).filter(|models| !models.is_empty()),
        });
        let mut token = session.run("TokenCreate", request).await?;
        token["secret"] = secret.into();
        session.show(&token, |token| {
            format!(
                "{}\nThis is the only time that the secret is shown: the hive keeps its hash alone.\n",
                fields(token)
            )
        })
    }
}

fn of_tokens(tokens: &Value) -> String {
    let limits = |token: &Value| {
        let of =
            |name: &str, unit: &str| of_field(name, &token[name]).map(|number| format!("{number}{unit}"));
        let all = [of("requests_per_minute", "/min"), of("concurrent", " at once")];
        let all: Vec<_> = all.into_iter().flatten().collect();
        if all.is_empty() { "-".to_owned() } else { all.join(", ") }
    };
    let models = |token: &Value| of_field("models", &token["models"]).unwrap_or_else(|| "all".to_owned());
    let expires =
        |token: &Value| of_field("expires_at", &token["expires_at"]).unwrap_or_else(|| "never".to_owned());
    table(
        tokens.as_array().map_or(&[], Vec::as_slice),
        &[
            text_of("NAME", "name"),
            text_of("ROLE", "role"),
            column("EXPIRES", expires),
            column("LIMITS", limits),
            column("MODELS", models),
            number_of("USES", "uses"),
            text_of("LAST USED", "last_used_at"),
        ],
    )
}
