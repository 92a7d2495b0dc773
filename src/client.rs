//! The hive's HTTP clients. Invariants: no client follows a redirect or sends a `Referer`, so that
//! a secret goes to the server it was meant for and to no other; none goes through a proxy unless
//! it leaves this machine.

use std::sync::Once;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};

use crate::error::{Failure, Result};

/// Chooses the cryptography of TLS for the whole process. Every client is built after this.
fn install_tls() {
    static INSTALLED: Once = Once::new();
    // Another part of the process may have chosen before: its choice serves as well.
    INSTALLED.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// What all clients have in common. There is no deadline for a whole request: answers may stream
/// for hours, and each caller knows its own bounds.
///
/// `connect` bounds how long making a connection may take.
pub(crate) fn builder(connect: Duration) -> ClientBuilder {
    install_tls();
    Client::builder()
        .user_agent(concat!("rbee-hive/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect)
        .tcp_nodelay(true)
}

/// The client that talks to this machine's own workers, over plain HTTP on loopback.
///
/// It keeps no idle connections: connecting over loopback costs microseconds, while a connection
/// kept past its worker's death would fail the next request.
///
/// # Errors
/// Where the client cannot be built: a defect.
pub(crate) fn for_workers(connect: Duration) -> Result<Client> {
    builder(connect)
        .no_proxy()
        .pool_max_idle_per_host(0)
        // Without this the system's certificates are loaded, which fails on a machine that has none.
        .tls_certs_only([])
        .build()
        .map_err(|error| Failure::internal("could not build the HTTP client for workers").detail(error))
}
