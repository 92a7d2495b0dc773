//! Deleting a model, giving it a further name, and what the hive does not offer.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use serde_json::json;

use super::asked::{Answered, asker, model, read};
use super::shape::{CopyRequest, NameRequest};
use crate::app::AppState;
use crate::config::CATCH_ALL;
use crate::error::{Code, Failure, Result};
use crate::fields::Fields;
use crate::http::ignored::telling;
use crate::http::operation::run;
use crate::http::problem::Problem;
use crate::ops::Asker;

/// Deletes a model, after it is unloaded where it is idle. Of an alias, the alias alone goes.
#[utoipa::path(
    delete,
    path = "/api/delete",
    operation_id = "ollama_delete",
    tag = "Ollama",
    request_body = NameRequest,
    responses((status = 200, description = "It is deleted.")),
    extensions(("x-errors" = json!([Code::ModelNotFound, Code::ModelAmbiguous, Code::InvalidId, Code::ModelInUse, Code::NotOwned])))
)]
pub(crate) async fn delete(State(app): State<AppState>, request: Request) -> Answered {
    let asker = asker(&request);
    let body = read(&app, request).await?;
    let fields = Fields::new("", &body)?;
    let name = model(&fields)?;
    match app.catalog.find(name).await {
        Ok(model) => delete_model(&app, &asker, &model.id).await?,
        Err(failure) => forget_alias(&app, &asker, name).await?.ok_or(failure)?,
    }
    Ok(telling(StatusCode::OK, &fields.others(&["model", "name"])))
}

async fn delete_model(app: &AppState, asker: &Asker, id: &str) -> Result<()> {
    let deletion = json!({ "ModelDelete": { "id": id } });
    match run(app, asker, &deletion).await {
        Err(failure) if failure.code == Code::ModelInUse && !app.workers.of_model(id).is_empty() => {
            run(app, asker, &json!({ "ModelUnload": { "id": id } })).await?;
            run(app, asker, &deletion).await
        }
        ended => ended,
    }
}

/// Takes an alias back. `None` where the name is none.
async fn forget_alias(app: &AppState, asker: &Asker, name: &str) -> Result<Option<()>> {
    let aliases = app.settings.aliases();
    let plain = name.strip_suffix(":latest").unwrap_or(name);
    let Some((alias, (id, variant))) = aliases.into_iter().find(|(alias, _)| alias == name || alias == plain)
    else {
        return Ok(None);
    };
    let served_id = crate::config::served_id(&id, variant.as_deref());
    let _turn = app.naming.take(&served_id).await;
    let mut left = app.settings.of(&id, variant.as_deref()).aliases.clone();
    left.retain(|other| *other != alias);
    set_aliases(app, asker, &served_id, &left).await.map(Some)
}

/// Makes a name an alias of a model. Nothing is copied.
#[utoipa::path(
    post,
    path = "/api/copy",
    operation_id = "ollama_copy",
    tag = "Ollama",
    request_body = CopyRequest,
    responses((status = 200, description = "It is an alias now.")),
    extensions(("x-errors" = json!([Code::ModelNotFound, Code::ModelAmbiguous, Code::InvalidId])))
)]
pub(crate) async fn copy(State(app): State<AppState>, request: Request) -> Answered {
    let asker = asker(&request);
    let body = read(&app, request).await?;
    let fields = Fields::new("", &body)?;
    let named = |field: &'static str| {
        let name = fields.string(field)?.filter(|name| !name.is_empty());
        name.ok_or_else(|| fields.error(field, "must be a name"))
    };
    let (source, destination) = (named("source")?, named("destination")?);
    let alias = destination.strip_suffix(":latest").unwrap_or(destination);
    if alias == CATCH_ALL {
        let problem = "must be a name, and `*` stands for every name; set it with ModelSettingsSet";
        return Err(fields.error("destination", problem).into());
    }
    let served_id = app.find_target(source).await?.served_id();
    let _turn = app.naming.take(&served_id).await;
    let mut aliases = app.find_target(&served_id).await?.settings.aliases.clone();
    if !aliases.iter().any(|known| known == alias) {
        aliases.push(alias.to_owned());
        set_aliases(&app, &asker, &served_id, &aliases).await?;
    }
    Ok(telling(StatusCode::OK, &fields.others(&["source", "destination"])))
}

async fn set_aliases(app: &AppState, asker: &Asker, id: &str, aliases: &[String]) -> Result<()> {
    run(app, asker, &json!({ "ModelSettingsSet": { "id": id, "settings": { "aliases": aliases } } })).await
}

/// The paths of [`not_offered`].
pub(crate) const NOT_OFFERED: [&str; 5] =
    ["/api/create", "/api/push", "/api/me", "/api/signout", "/api/blobs/{digest}"];

/// The routes of Ollama that make and publish models, and those of accounts, for which its own program asks before it
/// publishes one.
pub(crate) async fn not_offered(uri: Uri) -> Problem {
    let hint = match uri.path() {
        "/api/push" => "the hive publishes no models",
        "/api/me" | "/api/signout" => "the hive has no account at ollama.com, and publishes no models",
        _ => {
            "download a model with /api/pull, import a file of this machine with ModelDownload (file:/path/x.gguf), \
             and give it a system prompt, parameters and further names with ModelSettingsSet"
        }
    };
    Failure::new(Code::NotOffered, format!("this hive does not offer {}", uri.path())).hint(hint).into()
}
