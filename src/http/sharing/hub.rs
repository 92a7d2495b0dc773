//! The Hugging Face cache in the form of the Hub (<https://huggingface.co/docs/hub/api>), for programs whose endpoint
//! is `/hub` of this hive (`HF_ENDPOINT`): of each repository the files that are here.

mod forms;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Extensions, HeaderMap, HeaderName, Method};
use axum::response::{IntoResponse, Response};

use super::telling;
use crate::app::{App, AppState};
use crate::callers::Caller;
use crate::error::{self, Code, Failure};
use crate::http::caller::holder;
use crate::http::file;
use crate::http::path::Parameter;
use crate::http::problem::{Problem, shorten};
use crate::models::{MANIFEST, Missing, SharedRepository, of_tag};
use forms::{References, Repository, TreeEntry};

/// The branch that is meant where none is named.
const MAIN: &str = "main";

const REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// Tells of a repository at the branch `main`: its commit, and the files of it that are here.
#[utoipa::path(
    get,
    path = "/hub/api/models/{org}/{repo}",
    operation_id = "hub_repository",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
    ),
    responses((status = 200, description = "The repository.", body = Repository)),
    extensions(("x-errors" = json!([Code::RepositoryNotFound, Code::RevisionNotFound, Code::Timeout])))
)]
pub(crate) async fn repository(
    State(app): State<AppState>,
    Parameter((org, repo)): Parameter<(String, String)>,
    extensions: Extensions,
) -> Result<Json<Repository>, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, MAIN)?;
    Ok(Json(asked.repository().await?.into()))
}

/// Tells of a repository at a branch, a tag or a commit.
#[utoipa::path(
    get,
    path = "/hub/api/models/{org}/{repo}/revision/{revision}",
    operation_id = "hub_repository_at",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
        ("revision" = String, Path, description = "A branch, a tag or a commit."),
    ),
    responses((status = 200, description = "The repository.", body = Repository)),
    extensions(("x-errors" = json!([Code::RepositoryNotFound, Code::RevisionNotFound, Code::Timeout])))
)]
pub(crate) async fn repository_at(
    State(app): State<AppState>,
    Parameter((org, repo, revision)): Parameter<(String, String, String)>,
    extensions: Extensions,
) -> Result<Json<Repository>, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, &revision)?;
    Ok(Json(asked.repository().await?.into()))
}

/// Lists the files and folders of a repository that are here.
#[utoipa::path(
    get,
    path = "/hub/api/models/{org}/{repo}/tree/{revision}",
    operation_id = "hub_tree",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
        ("revision" = String, Path, description = "A branch, a tag or a commit."),
        ("recursive" = Option<bool>, Query, description = "Also what is in its folders."),
    ),
    responses((status = 200, description = "Files and folders, by path.", body = Vec<TreeEntry>)),
    extensions(("x-errors" = json!([Code::RepositoryNotFound, Code::RevisionNotFound, Code::Timeout])))
)]
pub(crate) async fn tree(
    State(app): State<AppState>,
    Parameter((org, repo, revision)): Parameter<(String, String, String)>,
    RawQuery(query): RawQuery,
    extensions: Extensions,
) -> Result<Json<Vec<TreeEntry>>, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, &revision)?;
    let repository = asked.repository().await?;
    Ok(Json(forms::tree(&repository, "", is_recursive(query.as_deref()))))
}

/// Lists the files and folders of a folder of a repository that are here.
#[utoipa::path(
    get,
    path = "/hub/api/models/{org}/{repo}/tree/{revision}/{folder}",
    operation_id = "hub_tree_of_folder",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
        ("revision" = String, Path, description = "A branch, a tag or a commit."),
        ("folder" = String, Path, description = "The path of the folder, which may have slashes."),
        ("recursive" = Option<bool>, Query, description = "Also what is in its folders."),
    ),
    responses((status = 200, description = "Files and folders, by path.", body = Vec<TreeEntry>)),
    extensions(("x-errors" = json!(
        [Code::RepositoryNotFound, Code::RevisionNotFound, Code::SourceNotFound, Code::Timeout]
    )))
)]
pub(crate) async fn tree_of_folder(
    State(app): State<AppState>,
    Parameter((org, repo, revision, folder)): Parameter<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    extensions: Extensions,
) -> Result<Json<Vec<TreeEntry>>, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, &revision)?;
    let repository = asked.repository().await?;
    let entries = forms::tree(&repository, &folder, is_recursive(query.as_deref()));
    if entries.is_empty() { Err(asked.refuse(Missing::File, &folder)) } else { Ok(Json(entries)) }
}

/// Lists the branches and tags of a repository of which something is here.
#[utoipa::path(
    get,
    path = "/hub/api/models/{org}/{repo}/refs",
    operation_id = "hub_references",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
    ),
    responses((status = 200, description = "The names, with their commits.", body = References)),
    extensions(("x-errors" = json!([Code::RepositoryNotFound, Code::Timeout])))
)]
pub(crate) async fn references(
    State(app): State<AppState>,
    Parameter((org, repo)): Parameter<(String, String)>,
    extensions: Extensions,
) -> Result<Json<References>, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, MAIN)?;
    let found = app.catalog.hub_references(&asked.repo).await;
    Ok(Json(asked.answer(found, "")?.into()))
}

/// Gives a file of a repository, or a range of it.
///
/// Its entity tag is that of the Hub: the SHA-256 of a large file.
#[utoipa::path(
    get,
    path = "/hub/{org}/{repo}/resolve/{revision}/{path}",
    operation_id = "hub_file",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
        ("revision" = String, Path, description = "A branch, a tag or a commit."),
        ("path" = String, Path, description = "The path of the file, which may have slashes."),
        ("range" = Option<String>, Header, description = "`bytes=FROM-TO`, both counted from 0: one range of the file."),
    ),
    responses(
        (status = 200, description = "The file.", content(("application/octet-stream"))),
        (status = 206, description = "The range.", content(("application/octet-stream"))),
        (status = 304, description = "It is the version that `If-None-Match` names."),
        (status = 412, description = "It is not the version that `If-Match` names."),
        (status = 416, description = "The file ends before the range."),
    ),
    extensions(("x-errors" = json!(
        [Code::RepositoryNotFound, Code::RevisionNotFound, Code::SourceNotFound, Code::Timeout, Code::Io]
    )))
)]
pub(crate) async fn file(
    State(app): State<AppState>,
    Parameter((org, repo, revision, path)): Parameter<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, &revision)?;
    let found = app.catalog.hub_file(&asked.repo, asked.revision, &path).await;
    let (commit, shared) = asked.answer(found, &path)?;
    let about = [
        (REPO_COMMIT, commit),
        (LINKED_SIZE, shared.size.to_string()),
        (LINKED_ETAG, format!("\"{}\"", shared.version)),
    ];
    Ok(telling(file::answer(shared, &method, &headers), about))
}

/// Tells which files of a repository a quantization is, as llama.cpp asks for it.
///
/// `latest` means `Q4_K_M`, or the only one that is here.
#[utoipa::path(
    get,
    path = "/hub/v2/{org}/{repo}/manifests/{tag}",
    operation_id = "hub_manifest",
    tag = "Sharing",
    params(
        ("org" = String, Path, description = "Whose repository it is."),
        ("repo" = String, Path, description = "Its name."),
        ("tag" = String, Path, description = "The quantization, or `latest`."),
    ),
    responses((
        status = 200, description = "The manifest.", body = Object,
        content_type = "application/vnd.docker.distribution.manifest.v2+json",
    )),
    extensions(("x-errors" = json!([Code::RepositoryNotFound, Code::Timeout])))
)]
pub(crate) async fn manifest(
    State(app): State<AppState>,
    Parameter((org, repo, tag)): Parameter<(String, String, String)>,
    extensions: Extensions,
) -> Result<Response, Response> {
    let asked = Asked::new(&app, holder(&extensions), &org, &repo, &tag)?;
    let mut models =
        app.catalog.registry_models(&org, &repo).await.map_err(|failure| refused(failure, None))?;
    models.retain(|model| model.is_of_hub);
    let found = of_tag(models, &tag).ok_or_else(|| asked.refuse(Missing::Repository, ""))?;
    Ok(([(CONTENT_TYPE, MANIFEST)], found.manifest.to_string()).into_response())
}

/// A repository at a revision, as it was asked for.
struct Asked<'a> {
    app: &'a App,
    repo: String,
    revision: &'a str,
}

impl<'a> Asked<'a> {
    /// Refuses a caller whose token is for other models: as if there were no such repository.
    fn new(
        app: &'a App,
        caller: Option<&Caller>,
        org: &str,
        repo: &str,
        revision: &'a str,
    ) -> Result<Self, Response> {
        let repo = format!("{org}/{repo}");
        // What all ids of its models begin with.
        let may_have_all = caller.is_none_or(|caller| caller.may_use([&*format!("{repo}:")].into_iter()));
        let asked = Self { app, repo, revision };
        if may_have_all { Ok(asked) } else { Err(asked.refuse(Missing::Repository, "")) }
    }

    async fn repository(&self) -> Result<SharedRepository, Response> {
        let found = self.app.catalog.hub_repository(&self.repo, self.revision).await;
        self.answer(found, "")
    }

    /// What was found, or the refusal that says what is not here.
    fn answer<T>(&self, found: error::Result<Result<T, Missing>>, path: &str) -> Result<T, Response> {
        let found = found.map_err(|failure| refused(failure, None))?;
        found.map_err(|missing| self.refuse(missing, path))
    }

    fn refuse(&self, missing: Missing, path: &str) -> Response {
        let Self { repo, revision, .. } = self;
        let (repo, revision) = (shorten(repo), shorten(revision));
        let (code, word, message) = match missing {
            Missing::Repository => (
                Code::RepositoryNotFound,
                "RepoNotFound",
                format!("this hive has nothing of the repository {repo} that you may read"),
            ),
            Missing::Revision => (
                Code::RevisionNotFound,
                "RevisionNotFound",
                format!("this hive has nothing of {repo} at '{revision}'"),
            ),
            Missing::File => (
                Code::SourceNotFound,
                "EntryNotFound",
                format!("this hive does not have {} of {repo} at '{revision}'", shorten(path)),
            ),
        };
        let hint = "it gives what its Hugging Face cache has: ModelDownload brings a model there";
        refused(Failure::new(code, message).hint(hint), Some(word))
    }
}

/// A refusal, with the word for it of the Hub, by which its clients tell one from another.
fn refused(failure: Failure, word: Option<&'static str>) -> Response {
    let message = failure.message.clone();
    let response = Problem::from(failure).into_response();
    match word {
        Some(word) => telling(response, [(ERROR_CODE, word.to_owned()), (ERROR_MESSAGE, message)]),
        None => response,
    }
}

/// Whether the query asks for what is in folders too. Other parameters are of no use here.
fn is_recursive(query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().any(|(name, value)| {
        name == "recursive" && ["true", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
    })
}
