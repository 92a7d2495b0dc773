//! The web page, from files embedded in this executable.
//!
//! The page is a client of the public API like any other; this module does not know what it does.
//!
//! Invariants:
//! - Only the files of [`FILES`] are served. A test compares them with the folder `ui/`.
//! - The style sheets are inside the page, because a browser does not paint it without them. The other files
//!   have addresses with the build's hash ([`BUILD`]), under which they never change: a browser fetches each
//!   once, and no page mixes files of two builds.
//! - No address in the page begins with a slash: it works below a path of a proxy.
//! - The page's policy lets it load its own files and talk to its own hive. It allows no inline script,
//!   only the one inline style of that hash, and no parsing of markup (Trusted Types) but in one place, of
//!   what `/v1/markdown` has made safe: the text of a model or a log stays text.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::kept::Kept;
use super::problem::{self, Problem};
use crate::error::Code;
use crate::text::hex;

/// For what never changes (RFC 8246).
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// One file of the page.
struct File {
    /// Its path within `ui/`.
    path: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal)+) => {
        &[$(File { path: $path, text: include_str!(concat!("../../ui/", $path)) }),+]
    };
}

/// The page's files, as they were when the executable was built.
static FILES: &[File] = files! {
    "index.html"
    "icon.svg"
    "base.css"
    "parts.css"
    "views.css"
    "client.js"
    "main.js"
    "start.js"
    "lib/api.js"
    "lib/caller.js"
    "lib/catalog.js"
    "lib/code.js"
    "lib/completion.js"
    "lib/conversations.js"
    "lib/dom.js"
    "lib/elsewhere.js"
    "lib/engines.js"
    "lib/events.js"
    "lib/fleet.js"
    "lib/format.js"
    "lib/hive.js"
    "lib/jobs.js"
    "lib/live.js"
    "lib/markdown.js"
    "lib/model-settings.js"
    "lib/other-settings.js"
    "lib/place.js"
    "lib/places.js"
    "lib/plan.js"
    "lib/sha256.js"
    "lib/sight.js"
    "lib/sources.js"
    "lib/storage.js"
    "lib/usage.js"
    "lib/view.js"
    "parts/chat-settings.js"
    "parts/choices.js"
    "parts/delete-dialog.js"
    "parts/diagnosis-dialog.js"
    "parts/dialog.js"
    "parts/download-dialog.js"
    "parts/downloads.js"
    "parts/engines.js"
    "parts/fields.js"
    "parts/fleet-dialogs.js"
    "parts/graph.js"
    "parts/job-strip.js"
    "parts/load-dialog.js"
    "parts/load-plan.js"
    "parts/log-controls.js"
    "parts/message.js"
    "parts/other-workers.js"
    "parts/parts.js"
    "parts/places.js"
    "parts/residency.js"
    "parts/result.js"
    "parts/settings-dialog.js"
    "parts/spawn-dialog.js"
    "parts/toasts.js"
    "parts/token-dialog.js"
    "parts/token.js"
    "parts/transfer.js"
    "parts/virtual-list.js"
    "parts/where-field.js"
    "views/callers.js"
    "views/chat.js"
    "views/fleet.js"
    "views/job.js"
    "views/jobs.js"
    "views/models.js"
    "views/overview.js"
    "views/workers.js"
};

/// The index of the page in [`FILES`].
const PAGE: usize = 0;

/// The placeholder of the style sheets in `index.html`.
const SHEETS: &str = "<!-- style sheets -->";

/// The hash of this build's files.
static BUILD: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in FILES {
        hash.update(file.path);
        hash.update(file.text);
    }
    hex(&hash.finalize()[..8])
});

/// The style sheets, as they are in the page.
static STYLES: LazyLock<String> =
    LazyLock::new(|| FILES.iter().filter(|file| file.path.ends_with(".css")).map(|file| file.text).collect());

/// Each of [`FILES`] as it is served.
static SERVED: LazyLock<Vec<Kept>> = LazyLock::new(|| {
    let served = |(at, file): (usize, &'static File)| {
        let text = if at == PAGE { Cow::Owned(page()) } else { Cow::Borrowed(file.text) };
        Kept::new(content_type(file.path), text)
    };
    FILES.iter().enumerate().map(served).collect()
});

/// W3C Content Security Policy Level 3, and Trusted Types.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let styles = STANDARD.encode(Sha256::digest(&*STYLES));
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'sha256-{styles}'; img-src 'self'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for \
         'script'; trusted-types rbee-markdown"
    );
    HeaderValue::try_from(policy).expect("Base64 is visible ASCII")
});

/// The page, with its style sheets in it and with the addresses of this build's files.
fn page() -> String {
    let page = FILES[PAGE].text.replace("\"ui/", &format!("\"ui/{}/", *BUILD));
    page.replace(SHEETS, &format!("<style>{}</style>", *STYLES))
}

/// The page.
pub(crate) fn index(headers: &HeaderMap) -> Response {
    respond(PAGE, false, headers)
}

/// A file of the web page.
#[utoipa::path(
    get,
    path = "/ui/{path}",
    operation_id = "page_file",
    tag = "Page",
    params(("path" = String, Path, description = "The path of the file, with or without the hash of the build.")),
    responses((status = 200, description = "The file.", content(
        ("text/javascript"), ("text/css"), ("text/html"), ("image/svg+xml"))), (status = 304, description = "It has not changed.")),
    extensions(("x-errors" = json!([Code::RouteNotFound])))
)]
pub(crate) async fn file(
    method: Method,
    uri: Uri,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of_build = path.strip_prefix(&**BUILD).and_then(|path| path.strip_prefix('/'));
    let path = of_build.unwrap_or(&path);
    match FILES.iter().position(|file| file.path == path) {
        Some(at) => Ok(respond(at, of_build.is_some(), &headers)),
        None => Err(problem::route_not_found(method, uri).await),
    }
}

/// The file, or `304` if the browser's copy is current.
fn respond(at: usize, is_of_build: bool, headers: &HeaderMap) -> Response {
    let mut response = SERVED[at].answer(headers);
    let own = response.headers_mut();
    if is_of_build {
        own.insert(CACHE_CONTROL, FOREVER);
    }
    // No Cross-Origin-Opener-Policy: with one, a browser starts another process for the page, which delays
    // its first paint by 30 ms. The page needs none: it has no frames and accepts no messages.
    own.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// The media type by the file's extension. [`FILES`] has no other extensions.
fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Files of `ui/` that are not part of the page.
    const NOT_SERVED: [&str; 2] = ["tsconfig.json", "lib/types.js"];

    #[test]
    fn every_file_of_the_folder_is_served_with_its_type() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/ui");
        let there: BTreeSet<String> = walkdir::WalkDir::new(root)
            .into_iter()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned())
            .filter(|path| !NOT_SERVED.contains(&path.as_str()))
            .collect();
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(there, served);
        assert_eq!(FILES[PAGE].path, "index.html");
        for file in FILES {
            assert_ne!(content_type(file.path), "application/octet-stream", "{}", file.path);
        }
    }

    /// A module that is not preloaded costs a round trip; a preload of a missing one is an error.
    #[test]
    fn the_page_preloads_every_module() {
        let text = |path| FILES.iter().find(|file| file.path == path).unwrap().text;
        let preloaded: BTreeSet<_> = text("start.js")
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
            .collect();
        let modules = FILES.iter().map(|file| file.path).filter(|path| path.ends_with(".js"));
        assert_eq!(preloaded, modules.filter(|path| *path != "start.js").collect());
        for reference in FILES[PAGE].text.split("\"ui/").skip(1) {
            let path = reference.split('"').next().unwrap();
            assert!(FILES.iter().any(|file| file.path == path), "index.html names {path}");
        }
    }

    #[test]
    fn lines_fit_in_the_width_of_the_repository() {
        for file in FILES {
            for (at, line) in file.text.lines().enumerate() {
                assert!(line.chars().count() <= 110, "{}:{} is too wide", file.path, at + 1);
            }
        }
    }

    #[test]
    fn the_page_has_its_styles_and_the_addresses_of_its_build() {
        let page = SERVED[PAGE].text();
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
        assert_eq!(style, *STYLES, "the policy has the hash of these");
        assert!(!style.contains("</"), "nothing ends the element early");
        assert_eq!(page.matches("<style").count(), 1);
        let own = page.matches("\"ui/").count();
        assert!(own > 0 && own == page.matches(&format!("\"ui/{}/", *BUILD)).count());
        // A proxy may show it below a path of its own.
        assert!(!page.contains("=\"/"), "the page's addresses count from where it is");
    }

    #[test]
    fn the_page_has_no_inline_script_and_no_foreign_files() {
        for file in FILES.iter().filter(|file| file.path != "icon.svg") {
            for forbidden in
                ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "src=\"http", "@import"]
            {
                // The one place that takes markup, from the hive's own route.
                let allowed = usize::from(file.path == "lib/markdown.js" && forbidden == "innerHTML");
                assert_eq!(file.text.matches(forbidden).count(), allowed, "{} has {forbidden}", file.path);
            }
        }
        let policies = FILES.iter().map(|file| file.text.matches("createPolicy(").count());
        assert_eq!(policies.sum::<usize>(), 1, "the policy of Trusted Types has one user");
        let index = FILES[PAGE].text;
        assert!(!index.contains("style=") && !index.contains("onclick") && !index.contains("<style"));
        assert_eq!(index.matches("<script").count(), 1);
    }
}
