//! The models in the form of Ollama's registry, which is that of the OCI distribution specification
//! (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md>): `ollama pull --insecure HIVE/NAME:TAG`.

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{Extensions, HeaderMap, HeaderName, Method};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::telling;
use crate::app::{App, AppState};
use crate::error::{Code, Failure};
use crate::http::caller::holder;
use crate::http::file;
use crate::http::path::Parameter;
use crate::http::problem::{Problem, shorten};
use crate::models::{MANIFEST, RegistryModel, of_tag};
use crate::text::hex;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Tells that there is a registry here.
#[utoipa::path(
    get,
    path = "/v2",
    operation_id = "registry_version",
    tag = "Sharing",
    responses((status = 200, description = "There is one."))
)]
pub(crate) async fn version() -> Response {
    [(API_VERSION, "registry/2.0")].into_response()
}

/// Gives the manifest of a model.
///
/// One of a store of Ollama's is as Ollama wrote it; for others that are one file of known SHA-256 it is made.
#[utoipa::path(
    get,
    path = "/v2/{namespace}/{name}/manifests/{tag}",
    operation_id = "registry_manifest",
    tag = "Sharing",
    params(
        ("namespace" = String, Path, description = "`library`, or whose model it is."),
        ("name" = String, Path, description = "The name of the model."),
        ("tag" = String, Path, description = "Its tag; `latest` also means the only one."),
    ),
    responses((
        status = 200, description = "The manifest.", body = Object,
        content_type = "application/vnd.docker.distribution.manifest.v2+json",
    )),
    extensions(("x-errors" = json!([Code::ModelNotFound, Code::Timeout])))
)]
pub(crate) async fn manifest(
    State(app): State<AppState>,
    Parameter((namespace, name, tag)): Parameter<(String, String, String)>,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let models = models(&app, &extensions, &namespace, &name).await?;
    let found = of_tag(models, &tag).ok_or_else(|| {
        let name = format!("{namespace}/{name}:{tag}");
        Failure::new(Code::ModelNotFound, format!("model '{}' not found", shorten(&name))).hint(
            "GET /api/tags lists the names; what can be pulled is one file whose SHA-256 is known: a download, or a \
             model of Ollama's own store",
        )
    })?;
    let digest = format!("sha256:{}", hex(&Sha256::digest(&*found.manifest)));
    let response = ([(CONTENT_TYPE, MANIFEST)], found.manifest.to_string()).into_response();
    Ok(telling(response, [(CONTENT_DIGEST, digest)]))
}

/// Gives a file of a model, or a range of it.
#[utoipa::path(
    get,
    path = "/v2/{namespace}/{name}/blobs/{digest}",
    operation_id = "registry_blob",
    tag = "Sharing",
    params(
        ("namespace" = String, Path, description = "`library`, or whose model it is."),
        ("name" = String, Path, description = "The name of the model."),
        ("digest" = String, Path, description = "`sha256:` and 64 digits, as the manifest has it."),
        ("range" = Option<String>, Header, description = "`bytes=FROM-TO`, both counted from 0: one range of the file."),
    ),
    responses(
        (status = 200, description = "The file.", content(("application/octet-stream"))),
        (status = 206, description = "The range.", content(("application/octet-stream"))),
        (status = 304, description = "It is the version that `If-None-Match` names."),
        (status = 412, description = "It is not the version that `If-Match` names."),
        (status = 416, description = "The file ends before the range."),
    ),
    extensions(("x-errors" = json!([Code::SourceNotFound, Code::Timeout, Code::Io])))
)]
pub(crate) async fn blob(
    State(app): State<AppState>,
    Parameter((namespace, name, digest)): Parameter<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let models = models(&app, &extensions, &namespace, &name).await?;
    let sha256 = digest.strip_prefix("sha256:").unwrap_or_default();
    let named: Vec<_> = models.iter().filter(|model| model.names(sha256)).collect();
    if let Some(config) = named.iter().find_map(|model| model.config_of(sha256)) {
        let about =
            [(CONTENT_TYPE, "application/octet-stream".to_owned()), (LOCATION, format!("./{digest}"))];
        return Ok((about, config.to_owned()).into_response());
    }
    let found = if named.is_empty() { None } else { app.catalog.blob(sha256).await? };
    let shared = found.ok_or_else(|| {
        let message = format!(
            "no model {} of this hive has {}",
            shorten(&format!("{namespace}/{name}")),
            shorten(&digest)
        );
        Failure::new(Code::SourceNotFound, message).hint("its manifest has the digests of its files")
    })?;
    // Ollama's program (0.17) takes the address of a file from `Location`, also where it is the one that it asked.
    let about = [(LOCATION, format!("./{digest}")), (CONTENT_DIGEST, digest)];
    Ok(telling(file::answer(shared, &method, &headers), about))
}

/// The models of that name that the caller may use.
async fn models(
    app: &App,
    extensions: &Extensions,
    namespace: &str,
    name: &str,
) -> Result<Vec<RegistryModel>, Problem> {
    let mut models = app.catalog.registry_models(namespace, name).await?;
    if let Some(caller) = holder(extensions).filter(|caller| caller.is_for_some_models()) {
        models.retain(|model| model.id.as_deref().is_some_and(|id| app.may_use(Some(caller), id)));
    }
    Ok(models)
}
