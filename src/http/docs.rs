//! `/docs`: a page that shows the description of the API and tries its routes, Swagger UI. Its assets are those of a
//! crate, compressed in this executable: it works offline.
//!
//! Invariants:
//! - No address in the page begins with a slash: it works below a path of a proxy.
//! - The page's policy lets it load its own files and talk to its own hive. It allows no inline script. Swagger UI
//!   makes elements with styles of their own, and pictures in its style sheet.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::Response;
use flate2::read::GzDecoder;
use utoipa_swagger_ui::Config;

use super::kept::Kept;
use super::problem::{self, Problem};
use crate::error::{Code, Failure};

/// The page.
static PAGE: LazyLock<Kept> =
    LazyLock::new(|| Kept::new("text/html; charset=utf-8", include_str!("docs/page.html")));

/// The script that starts it.
static START: LazyLock<Kept> =
    LazyLock::new(|| Kept::new("text/javascript; charset=utf-8", include_str!("docs/start.js")));

/// The assets of the crate that the page has, with their media types.
const ASSETS: [(&str, &str); 2] = [
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
];

/// W3C Content Security Policy Level 3.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A page that shows this description.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    tag = "Page",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 304, description = "It has not changed."),
    )
)]
pub(super) async fn page(headers: HeaderMap) -> Response {
    with_policy(PAGE.answer(&headers))
}

/// A file of that page.
#[utoipa::path(
    get,
    path = "/docs/{path}",
    operation_id = "docs_file",
    tag = "Page",
    params(("path" = String, Path, description = "The name of the file.")),
    responses(
        (status = 200, description = "The file.", content((String = "text/javascript"), (String = "text/css"))),
        (status = 304, description = "It has not changed."),
    ),
    extensions(("x-errors" = json!([Code::RouteNotFound])))
)]
pub(super) async fn file(
    method: Method,
    uri: Uri,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // Where the page was opened as `/docs/`, the addresses in it have one `docs/` more.
    let name = path.strip_prefix("docs/").unwrap_or(&path);
    if name == "start.js" {
        return Ok(with_policy(START.answer(&headers)));
    }
    match ASSETS.iter().find(|(asset, _)| *asset == name) {
        Some((name, kind)) => Ok(with_policy(asset(name, kind, &headers)?)),
        None => Err(problem::route_not_found(method, uri).await),
    }
}

/// An asset, as it is compressed here for those who take that.
fn asset(name: &str, kind: &'static str, headers: &HeaderMap) -> Result<Response, Failure> {
    let missing = || Failure::internal(format!("the executable has no {name}"));
    let file =
        utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok().flatten().ok_or_else(missing)?;
    let takes_gzip = headers.get_all(ACCEPT_ENCODING).iter().any(|value| {
        let mut codings = value.to_str().unwrap_or_default().split(',');
        codings.any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
    });
    let mut response = if takes_gzip || !file.gzpipped {
        Kept::of_bytes(kind, file.bytes).answer(headers)
    } else {
        let mut text = Vec::new();
        GzDecoder::new(&*file.bytes)
            .read_to_end(&mut text)
            .map_err(|error| Failure::internal(format!("{name} cannot be unpacked")).detail(error))?;
        Kept::of_bytes(kind, text.into()).answer(headers)
    };
    let own = response.headers_mut();
    if takes_gzip && file.gzpipped {
        own.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    own.append(VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
}

fn with_policy(mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    response
}
