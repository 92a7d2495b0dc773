//! The other hives, as this one asks them directly over HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, Identity, Method, RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::lookup_host;

use super::certificates::{hive_of_name, name_of};
use super::door::Papers;
use super::members::{Member, Members, Presence};
use super::names::HiveName;
use super::record::Secret;
use crate::error::{Code, Failure, Result};
use crate::origin::without_brackets;
use crate::outgoing;

/// The header by which a hive says which one it is.
pub(crate) const HIVE_HEADER: &str = "rbee-hive";
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer that is no stream may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: far shorter than the other side keeps it.
const IDLE: Duration = Duration::from_secs(10);

/// Asks other hives. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    own: HiveName,
    client: Client,
    members: Arc<Mutex<Members>>,
}

/// Another hive, to be asked directly.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) hive: HiveName,
    /// Knows its certificate and where it is.
    pub(crate) client: Client,
    /// The beginning of its URLs, without a slash at the end.
    pub(crate) url: String,
    own: HiveName,
    secret: Option<Secret>,
}

impl Peers {
    /// # Errors
    /// [`Code::ConfigInvalid`] if the certificates cannot be used.
    pub(super) fn new(own: HiveName, papers: Option<&Papers>, members: Arc<Mutex<Members>>) -> Result<Self> {
        let unusable = |error: reqwest::Error| {
            Failure::new(Code::ConfigInvalid, "the certificate of this hive cannot be used to ask others")
                .hint("check ca, certificate and key in [fleet]")
                .cause(&error)
        };
        let mut roots = Vec::new();
        let mut client = outgoing::builder(CONNECT, false)
            .pool_max_idle_per_host(64)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(Duration::from_secs(15))
            .dns_resolver(Directory(Arc::clone(&members)));
        if let Some(Papers { ca, certificate, key }) = papers {
            let identity = Identity::from_pem(format!("{certificate}\n{key}").as_bytes());
            client = client.identity(identity.map_err(unusable)?);
            roots = Certificate::from_pem_bundle(ca.as_bytes()).map_err(unusable)?;
        }
        let client = client.tls_certs_only(roots).build().map_err(unusable)?;
        Ok(Self { own, client, members })
    }

    /// Whether the hive of that name can be asked: [`Self::get`] gives it then.
    pub(super) fn can_ask(&self, hive: &HiveName) -> bool {
        let members = self.members.lock();
        let member = members.get(hive).filter(|member| member.presence == Presence::Reachable);
        member.is_some_and(|member| direct(member).is_some())
    }

    /// The hive of that name.
    ///
    /// # Errors
    /// [`Code::HiveUnreachable`] if it gives no signs of life, or nobody can reach it directly.
    pub(super) fn get(&self, hive: &HiveName) -> Result<Peer> {
        let refused = |why: String| {
            Err(Failure::new(Code::HiveUnreachable, why).hint("`rbee-hive fleet status` shows the hives"))
        };
        let members = self.members.lock();
        let Some(member) = members.get(hive).filter(|member| member.presence == Presence::Reachable) else {
            return refused(format!("hive '{hive}' cannot be reached"));
        };
        let Some(url) = direct(member) else {
            return refused(format!(
                "hive '{hive}' cannot be reached directly: it has no certificate for that"
            ));
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let url = match url.scheme() {
            "https" => format!("https://{}:{port}", name_of(hive.as_str())),
            _ => url.as_str().trim_end_matches('/').to_owned(),
        };
        let (client, own, secret) = (self.client.clone(), self.own.clone(), member.secret.clone());
        Ok(Peer { hive: hive.clone(), client, url, own, secret })
    }
}

/// The address at which a hive can be asked.
fn direct(member: &Member) -> Option<Url> {
    Url::parse(member.record.direct.as_deref()?).ok()
}

impl Peer {
    /// A request to it. `path` begins with a slash.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.header(HIVE_HEADER, self.own.as_str());
        match &self.secret {
            Some(secret) => request.bearer_auth(&secret.0),
            None => request,
        }
    }
}

impl Peer {
    /// Whether it answers at all.
    pub(crate) async fn answers(&self) -> bool {
        self.request(Method::HEAD, "/").timeout(ANSWER).send().await.is_ok()
    }

    /// Asks it something that it answers with JSON.
    ///
    /// # Errors
    /// What it answers; [`Code::HiveUnreachable`].
    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T> {
        let unreachable = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Code::HiveUnreachable, format!("hive '{}' did not answer", self.hive))
                .hint("`rbee-hive fleet status` shows the hives")
                .cause(error)
        };
        let request = self.request(Method::POST, path).timeout(ANSWER).json(question);
        let answer = request.send().await.map_err(|error| unreachable(&error.without_url()))?;
        let is_success = answer.status().is_success();
        let body = answer.bytes().await.map_err(|error| unreachable(&error.without_url()))?;
        if is_success {
            return serde_json::from_slice(&body).map_err(|error| unreachable(&error));
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|error| unreachable(&error)))
    }
}

/// Knows where the hives are whose names are in certificates.
struct Directory(Arc<Mutex<Members>>);

impl Resolve for Directory {
    fn resolve(&self, name: Name) -> Resolving {
        let direct = hive_of_name(name.as_str())
            .and_then(|hive| HiveName::new(hive).ok())
            .and_then(|hive| self.0.lock().get(&hive)?.record.direct.clone());
        Box::pin(async move {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "no hive of the fleet has that name");
            let url = direct.and_then(|direct| Url::parse(&direct).ok()).ok_or_else(unknown)?;
            let host = without_brackets(url.host_str().ok_or_else(unknown)?).to_owned();
            let port = url.port_or_known_default().unwrap_or_default();
            let found: Vec<SocketAddr> = lookup_host((host.as_str(), port)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
