//! `POST /v1/markdown`: the page lets the hive turn the Markdown of an answer into HTML, again and
//! again while the answer grows.

use axum::Json;
use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::body::json_bytes;
use super::problem::Problem;
use crate::app::AppState;
use crate::error::{Code, Failure};
use crate::{markdown, spawn};

/// The largest request, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// How many texts are rendered at the same time: it is work for the processor, which is there for models.
static TURNS: Semaphore = Semaphore::const_new(2);

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MarkdownText)]
struct Markdown {
    text: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MarkdownRendered)]
pub(super) struct Rendered {
    html: String,
}

/// Turns Markdown, as models write it, into HTML that is safe to show.
///
/// Markup in the text stays text. Code is coloured by classes, LaTeX becomes MathML.
#[utoipa::path(
    post,
    path = "/v1/markdown",
    operation_id = "render_markdown",
    tag = "Page",
    request_body = Markdown,
    responses((status = 200, description = "The HTML.", body = Rendered))
)]
pub(super) async fn render(State(app): State<AppState>, request: Request) -> Result<Json<Rendered>, Problem> {
    let body = json_bytes(request, BODY_LIMIT, *app.config.timers.request_head).await?;
    let Markdown { text } = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(Code::InvalidField, format!("the body is not Markdown to render: {error}"))
            .hint(r#"send {"text":"Some *Markdown*"}"#)
    })?;
    let _turn =
        TURNS.acquire().await.map_err(|error| Failure::internal("no turn to render").detail(error))?;
    let html = spawn::blocking(move || markdown::html(&text)).await?;
    Ok(Json(Rendered { html }))
}
