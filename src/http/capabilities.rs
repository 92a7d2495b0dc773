//! `GET /v1/capabilities`: the devices and engines of this machine. The queen asks at `/capabilities`, which
//! is the same.

use axum::Json;
use axum::extract::State;
use axum::http::{Extensions, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::holder;
use super::problem::Problem;
use crate::app::AppState;
use crate::callers::Caller;
use crate::config::{Capabilities, DeviceKind, Role};
use crate::engine_store::{Installed, Provenance};
use crate::error::{Code, Failure, Result};
use crate::ops::TABLE;
use crate::queen::Queen;
use crate::spawn;
use crate::workers::devices::{self, DeviceDescription};

/// The answer; existing clients read `devices`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HiveCapabilities)]
struct Found<'a> {
    #[schema(value_type = Vec<DeviceDescription>)]
    devices: &'a [DeviceDescription],
    engines: Vec<EngineCard<'a>>,
    /// The operations that this hive offers, so that a client need not try them.
    operations: Vec<&'static str>,
    /// Whose token the request was sent with; null where the hive asks for no token.
    caller: Option<CallerCard<'a>>,
    hive_id: &'a str,
    version: &'static str,
}

/// The caller, so that a client need not try what it may do.
#[derive(Debug, Serialize, ToSchema)]
struct CallerCard<'a> {
    name: &'a str,
    role: Role,
    /// The operations that it may submit.
    operations: Vec<&'static str>,
}

impl<'a> CallerCard<'a> {
    fn of(caller: &'a Caller) -> Self {
        let role = caller.role();
        let operations = TABLE.iter().filter(|row| row.role <= role).map(|row| row.name).collect();
        Self { name: caller.name(), role, operations }
    }
}

/// An engine that this hive can start.
#[derive(Debug, Serialize, ToSchema)]
struct EngineCard<'a> {
    name: &'a str,
    about: &'a str,
    /// The kinds of devices that it computes on, preferred ones first.
    #[schema(value_type = Vec<DeviceKind>)]
    devices: &'a [DeviceKind],
    /// Its version, if it tells one.
    version: Option<&'a str>,
    /// The build that it is, where the hive installed it.
    build: Option<BuildCard<'a>>,
    /// What it can do with models that can.
    #[schema(value_type = Vec<crate::config::Capability>)]
    capabilities: &'a Capabilities,
}

/// A build of an engine.
#[derive(Debug, Serialize, ToSchema)]
struct BuildCard<'a> {
    version: &'a str,
    from: Provenance,
    /// The version that can be gone back to.
    previous: Option<&'a str>,
}

impl<'a> BuildCard<'a> {
    fn of(installed: &'a Installed) -> Self {
        Self {
            version: &installed.current.version,
            from: installed.current.from,
            previous: installed.previous.as_ref().map(|build| build.version.as_str()),
        }
    }
}

/// Shows the devices and engines of this machine.
#[utoipa::path(
    get,
    path = "/v1/capabilities",
    operation_id = "get_capabilities",
    tag = "Hive",
    params(("queen_url" = Option<String>, Query,
        description = "Makes the hive announce itself again, if it is the queen of its settings.")),
    responses((status = 200, description = "What this machine has.", body = Found<'static>))
)]
pub(crate) async fn get(
    State(app): State<AppState>,
    extensions: Extensions,
    uri: Uri,
) -> Result<Response, Problem> {
    announce_if_asked(&uri, app.queen.as_ref())?;
    // The first call asks the system, which may block.
    let devices = spawn::blocking(devices::detect).await?;
    let engines = app.workers.engines().await;
    let engines = engines
        .iter()
        .map(|engine| EngineCard {
            name: &engine.name,
            about: &engine.about,
            devices: &engine.devices,
            version: engine.version.as_deref(),
            build: engine.build.as_deref().map(BuildCard::of),
            capabilities: &engine.capabilities,
        })
        .collect();
    let operations = TABLE.iter().map(|row| row.name).collect();
    let (hive_id, version) = (app.hive_id(), env!("CARGO_PKG_VERSION"));
    let caller = holder(&extensions).map(CallerCard::of);
    let found = Found { devices, engines, operations, caller, hive_id, version };
    Ok(Json(found).into_response())
}

/// Announces this hive to the queen if `?queen_url=` is the configured URL. Every other URL is ignored: a
/// request cannot make the hive call anybody.
///
/// # Errors
/// [`Code::InvalidRequest`] if the query cannot be parsed.
fn announce_if_asked(uri: &Uri, queen: Option<&Queen>) -> Result<()> {
    /// Other parameters are ignored.
    #[derive(serde::Deserialize)]
    struct Query {
        queen_url: Option<String>,
    }

    let query = axum::extract::Query::<Query>::try_from_uri(uri).map_err(|error| {
        Failure::new(Code::InvalidRequest, "the query could not be understood")
            .hint("write it as ?queen_url=URL, percent-encoded")
            .detail(error)
    })?;
    if let (Some(url), Some(queen)) = (&query.queen_url, queen) {
        if queen.is(url) {
            queen.announce();
        } else {
            tracing::warn!("a request named another queen than the configured one; ignored");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::address::Address;
    use crate::config::{Config, Timers};
    use crate::http::testing::{Served, soon};

    #[tokio::test]
    async fn only_the_configured_queen_is_called_back() {
        let (sender, mut called) = mpsc::unbounded_channel();
        let ready = |name: &'static str| {
            let sender = sender.clone();
            post(move || async move { sender.send(name).unwrap() })
        };
        let router = |name| Router::new().route("/v1/hive/ready", ready(name));
        let own = Served::start(router("own"), Timers::default()).await;
        let other = Served::start(router("other"), Timers::default()).await;
        let config = Config { queen_url: Some(format!("http://{}", own.address)), ..Config::default() };
        let address = Address::Tcp("127.0.0.1:7835".parse().unwrap());
        let queen = Queen::of(&config, &address, CancellationToken::new()).unwrap();

        let ask = |url: String| {
            let uri: Uri = format!("/capabilities?queen_url={url}").parse().unwrap();
            announce_if_asked(&uri, queen.as_ref()).unwrap();
        };
        ask(format!("http://{}", other.address));
        ask(format!("http://{}@{}", own.address, other.address));
        ask(String::new());
        ask(format!("http%3A%2F%2F{}%2F", own.address));
        assert_eq!(soon(called.recv()).await, Some("own"));
        assert!(called.try_recv().is_err());
        announce_if_asked(&"/capabilities".parse().unwrap(), None).unwrap();
        assert!(announce_if_asked(&"/capabilities?queen_url=a&queen_url=b".parse().unwrap(), None).is_err());
        own.stop().await;
        other.stop().await;
    }
}
