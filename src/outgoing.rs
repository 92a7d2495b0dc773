//! The hive's HTTP clients, the proxies that they use, and why a server could not be asked.
//!
//! Invariants: no client follows a redirect or sends a `Referer`, so that a secret reaches only the server
//! that it is for; requests to this machine never go through a proxy.

mod unreached;
mod proxy;

use std::sync::Once;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};

pub(crate) use proxy::{Proxies, ProxyServer, in_words as proxies_in_words};
pub(crate) use unreached::Unreached;

use crate::error::{Failure, Result};

/// Sets the TLS cryptography of the whole process. Every client is built after this.
pub(crate) fn install_tls() {
    static INSTALLED: Once = Once::new();
    // Fails if another part of the process has set it before, which is as good.
    INSTALLED.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// The settings that all clients share. A whole request has no deadline: answers may stream for hours, and
/// each caller sets its own limits.
///
/// `connect` is the most time that connecting may take. Only where `is_proxied`, servers are asked through
/// the proxies of the environment, by the rules of [`Proxies`].
pub(crate) fn builder(connect: Duration, is_proxied: bool) -> ClientBuilder {
    install_tls();
    let builder = Client::builder();
    let builder = if is_proxied { builder } else { builder.no_proxy() };
    builder
        .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect)
        .tcp_nodelay(true)
}

/// How long the gateway keeps an idle connection to a worker.
const IDLE: Duration = Duration::from_secs(1);

/// The client for this machine's workers, over plain HTTP on loopback.
///
/// It keeps idle connections for a moment, because a connection for each request costs as much as the request. The
/// moment is much shorter than the least after which an engine closes an idle connection by itself (5 s). A
/// connection whose worker has died is noticed when it is taken, and a request that is lost all the same is repeated.
///
/// # Errors
/// If the client cannot be built, which is a defect.
pub(crate) fn for_workers(connect: Duration) -> Result<Client> {
    builder(connect, false)
        .pool_max_idle_per_host(32)
        .pool_idle_timeout(IDLE)
        // Otherwise the system's certificates are loaded, which fails on a machine that has none.
        .tls_certs_only([])
        .build()
        .map_err(|error| Failure::internal("could not build the HTTP client for workers").detail(error))
}
