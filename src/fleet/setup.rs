//! Making a fleet, joining one and leaving it: what the `fleet` operations do beside the membership itself.
//!
//! On the machine of `fleet up` it runs nats-server and the address where other machines join; at the next start of the
//! hive it does so again. On every other machine it is the folder that joining wrote. What the settings say in `[fleet]
//! nats` counts more.
//!
//! Invariants:
//! - One change at a time: the lock of what runs is held from the first look to the last write. It is an async lock, and
//!   nothing else is locked while it is taken.
//! - Nothing of this runs once the hive stops: everything hangs on one token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::addresses::host_and_port;
use super::authority::UserKey;
use super::certificates;
use super::folder::{Folder, Hosts, State, file, pretty};
use super::gate::{self, Accepted, Gate, Plan, Request};
use super::join_code::JoinCode;
use super::joining;
use super::names::HiveName;
use super::server::{self, Server, Spec, not_bound};
use super::wanted::Wanted;
use crate::config;
use crate::error::{Code, Failure, Result};
use crate::files::versioned;
use crate::secret_hash::SecretHash;
use crate::spawn;
use crate::time::Instant;

/// Making, joining and leaving a fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Setup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder,
    given: config::Fleet,
    hostname: String,
    /// What this machine runs for the others.
    hosting: AsyncMutex<Option<Hosting>>,
    /// Whether it ran anything when that was last seen.
    lets_in: AtomicBool,
    closing: CancellationToken,
}

/// What runs on the machine of `fleet up`.
struct Hosting {
    gate: Arc<Gate>,
    server: Arc<Server>,
    /// Ends the address for joining; unset where it could not be bound.
    joining: Option<CancellationToken>,
}

impl std::fmt::Debug for Hosting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosting").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A fleet that this machine runs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FleetHosted)]
pub(crate) struct Hosted {
    /// The name of the fleet.
    pub(crate) fleet: String,
    /// The name of this hive in it.
    pub(crate) hive: String,
    /// Whether it was made now; false where it was there.
    pub(crate) made: bool,
    /// Where nats-server listens.
    #[schema(value_type = String)]
    pub(crate) listen: SocketAddr,
    /// Where other machines join.
    #[schema(value_type = String)]
    pub(crate) join_listen: SocketAddr,
    /// The host under which they reach this machine.
    pub(crate) advertise: String,
    /// The invitation, where a secret was given for one.
    pub(crate) invitation: Option<Invitation>,
}

/// An invitation for one hive.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FleetInvitation)]
pub(crate) struct Invitation {
    /// The line that joins the other machine, but for the secret: that belongs directly behind it.
    pub(crate) join: String,
    /// Where the other machine can reach this one if it does not know the host in that line.
    pub(crate) other_addresses: Vec<String>,
    /// Until when it can be used.
    pub(crate) expires_at: Instant,
}

/// What a hive was in that has left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FleetLeft)]
pub(crate) struct Left {
    /// The name of the fleet.
    pub(crate) fleet: String,
    /// Whether this machine ran the fleet's server, which is stopped now.
    pub(crate) stopped_server: bool,
    /// Whether what the hive had of the fleet is removed.
    pub(crate) forgotten: bool,
}

/// A hive that is expelled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FleetExpelled)]
pub(crate) struct Expelled {
    /// Its name.
    pub(crate) name: String,
    /// Since when.
    pub(crate) expelled_at: Instant,
}

/// Narrates a step of a job.
pub(crate) type Tell<'a> = &'a (dyn Fn(String) + Send + Sync);

impl Setup {
    /// That of a hive. Reads and starts nothing.
    pub(crate) fn new(data_dir: &Path, given: &config::Fleet, hostname: &str) -> Self {
        Self(Arc::new(Inner {
            folder: Folder::of(data_dir),
            given: given.clone(),
            hostname: hostname.to_owned(),
            hosting: AsyncMutex::default(),
            lets_in: AtomicBool::default(),
            closing: CancellationToken::new(),
        }))
    }

    /// Whether this hive runs what lets machines in and out.
    pub(crate) fn lets_in(&self) -> bool {
        // While that changes, what it was before counts.
        if let Ok(hosting) = self.0.hosting.try_lock() {
            self.0.lets_in.store(hosting.is_some(), Ordering::Relaxed);
        }
        self.0.lets_in.load(Ordering::Relaxed)
    }

    /// Whether this hive was brought into a fleet by an operation, or hosts one.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if its file cannot be used.
    async fn state(&self) -> Result<Option<State>> {
        let folder = self.0.folder.clone();
        spawn::blocking(move || folder.state()).await?
    }

    /// Does again what an earlier run of the hive did: runs nats-server and the address for joining where `fleet up`
    /// was. Gives the settings to join with; `None` where there are none. What cannot be run is logged, and nats-server
    /// is tried again.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if a file cannot be used.
    pub(crate) async fn resume(&self) -> Result<Option<config::Fleet>> {
        let mut hosting = self.0.hosting.lock().await;
        let Some(state) = self.state().await? else { return Ok(None) };
        if let Some(hosts) = state.hosts.clone() {
            if hosts.is_down {
                return Ok(None);
            }
            let (gate, certificate) = self.gate(state.clone(), hosts).await?;
            let (mut running, started) = self.host(gate).await;
            if let Err(failure) = started {
                tracing::error!(code = %failure.code, hint = failure.hint, log = ?failure.log_tail, "{failure}");
            }
            if let Err(failure) = self.open(&mut running, &certificate).await {
                tracing::error!(code = %failure.code, hint = failure.hint, "no machine can join the fleet: {failure}");
            }
            *hosting = Some(running);
        }
        Ok(Some(self.0.folder.settings(&state, &self.0.given)))
    }

    /// Stops what runs here for other machines, until the next start of the hive.
    pub(crate) async fn stop(&self) {
        self.0.closing.cancel();
        let hosting = self.0.hosting.lock().await.take();
        if let Some(hosting) = hosting {
            hosting.server.stop().await;
        }
    }

    fn spec(&self, hosts: &Hosts) -> Spec {
        Spec { folder: self.0.folder.clone(), program: self.0.given.server.clone(), listen: hosts.listen }
    }

    async fn gate(&self, state: State, hosts: Hosts) -> Result<(Gate, certificates::WithKey)> {
        let (folder, spec, hostname) = (self.0.folder.clone(), self.spec(&hosts), self.0.hostname.clone());
        spawn::blocking(move || {
            let gate = Gate::open(folder, state, hosts, spec, &hostname)?;
            let certificate = gate.prepare()?;
            Ok((gate, certificate))
        })
        .await?
    }

    /// Starts nats-server. What is returned tries on, where it did not start.
    async fn host(&self, gate: Gate) -> (Hosting, Result<()>) {
        let (server, started) = Server::start(self.spec(&gate.hosts), self.0.closing.child_token()).await;
        (Hosting { gate: Arc::new(gate), server: Arc::new(server), joining: None }, started)
    }

    /// Listens where other machines join.
    async fn open(&self, hosting: &mut Hosting, certificate: &certificates::WithKey) -> Result<()> {
        let address = hosting.gate.hosts.join_listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| not_bound(address, "join_listen", &error))?;
        let (gate, server) = (Arc::clone(&hosting.gate), Arc::clone(&hosting.server));
        let answer: joining::Answer = Arc::new(move |request: Request| {
            let (gate, server) = (Arc::clone(&gate), Arc::clone(&server));
            async move {
                let (accepted, is_out) = spawn::blocking(move || gate.admit(&request)).await??;
                if is_out {
                    server.reload();
                }
                Ok(accepted)
            }
            .boxed()
        });
        let stop = self.0.closing.child_token();
        joining::serve(listener, certificate, answer, stop.clone())?;
        hosting.joining = Some(stop);
        Ok(())
    }

    /// Refuses what the settings decide.
    fn check_settings(&self) -> Result<()> {
        if self.0.given.nats.is_none() {
            return Ok(());
        }
        Err(Failure::new(Code::InFleet, "the settings of this hive name its fleet: nats in [fleet]")
            .hint("remove that setting and restart the hive, or go on with the fleet that it names"))
    }

    /// Makes a fleet and runs what it needs; where it was made earlier, runs what does not run. Gives the settings to
    /// join with. Where it fails, what was not there is not there.
    ///
    /// # Errors
    /// [`Code::InFleet`]; [`Code::FleetServerFailed`]; [`Code::PortInUse`]; [`Code::InvalidField`]; those of files.
    pub(crate) async fn up(
        &self,
        wanted: Wanted,
        hive: &HiveName,
        data_id: String,
        tell: Tell<'_>,
    ) -> Result<(Hosted, config::Fleet)> {
        self.check_settings()?;
        let mut hosting = self.0.hosting.lock().await;
        let (state, made) = match self.state().await? {
            Some(state) => (state, false),
            None => {
                let (program, version) = server::find(self.0.given.server.as_deref()).await?;
                tell(format!("Using nats-server {version}: {}", program.display()));
                self.make(&wanted, hive, data_id, tell).await?;
                let state = self.state().await?;
                (state.ok_or_else(|| Failure::internal("the fleet's folder is gone"))?, true)
            }
        };
        let Some(hosts) = state.hosts.clone() else {
            return Err(self.in_fleet(&state));
        };
        if !made {
            tell(format!("The fleet '{}' was made here earlier", state.name));
            wanted.differences(&state, &hosts).for_each(tell);
        }
        let run = self.run(&mut hosting, &state, &hosts, tell).await;
        if let Err(failure) = run {
            if made {
                let folder = self.0.folder.clone();
                spawn::blocking(move || folder.remove()).await??;
            }
            return Err(failure);
        }
        let settings = self.0.folder.settings(&state, &self.0.given);
        let Hosts { listen, join_listen, advertise, hive, .. } = hosts;
        let fleet = state.name;
        Ok((Hosted { fleet, hive, made, listen, join_listen, advertise, invitation: None }, settings))
    }

    /// Runs what does not run.
    async fn run(
        &self,
        hosting: &mut Option<Hosting>,
        state: &State,
        hosts: &Hosts,
        tell: Tell<'_>,
    ) -> Result<()> {
        if hosting.is_none() {
            let up = Hosts { is_down: false, ..hosts.clone() };
            let state = State { hosts: Some(up.clone()), ..state.clone() };
            let (gate, certificate) = self.gate(state.clone(), up).await?;
            tell(format!("Starting nats-server on {}", hosts.listen));
            let (mut running, started) = self.host(gate).await;
            let opened = match started {
                Ok(()) => self.open(&mut running, &certificate).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = opened {
                running.server.stop().await;
                return Err(failure);
            }
            *hosting = Some(running);
            if hosts.is_down {
                let folder = self.0.folder.clone();
                spawn::blocking(move || folder.set_state(&state)).await??;
            }
        }
        if let Some(running) = hosting.as_mut().filter(|running| running.joining.is_none()) {
            let gate = Arc::clone(&running.gate);
            let certificate = spawn::blocking(move || gate.prepare()).await??;
            running.server.reload();
            self.open(running, &certificate).await?;
        }
        tell(format!("Other machines can join at {}", hosts.join_listen));
        Ok(())
    }

    /// Makes the folder of a new fleet.
    async fn make(&self, wanted: &Wanted, hive: &HiveName, data_id: String, tell: Tell<'_>) -> Result<()> {
        let hosts = wanted.hosts(hive, &self.0.hostname)?;
        tell(format!("Making keys and certificates for the fleet '{}'", wanted.name));
        let (folder, name) = (self.0.folder.clone(), wanted.name.clone());
        spawn::blocking(move || gate::make(&folder, Plan { name, hosts, data_id })).await?
    }

    /// What runs here, for what only the machine of `fleet up` can do.
    async fn hosting(&self) -> Result<MutexGuard<'_, Option<Hosting>>> {
        let hosting = self.0.hosting.lock().await;
        if hosting.is_some() {
            return Ok(hosting);
        }
        Err(match self.state().await? {
            Some(State { hosts: None, name, .. }) => Failure::new(
                Code::NotInFleet,
                format!("the fleet '{name}' was made by another hive, which alone can do that"),
            )
            .hint("run it on the machine where `rbee-hive fleet up` was run"),
            _ => Failure::new(Code::NotInFleet, "this hive runs no fleet")
                .hint("`rbee-hive fleet up` makes one, and starts one that was stopped"),
        })
    }

    /// Makes an invitation for who has the secret of that hash.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::InvalidField`]; those of files.
    pub(crate) async fn invite(&self, sha256: SecretHash, expires_at: Instant) -> Result<Invitation> {
        let hosting = self.hosting().await?;
        let Some(gate) = hosting.as_ref().map(|hosting| Arc::clone(&hosting.gate)) else {
            return Err(Failure::internal("the fleet is gone"));
        };
        spawn::blocking(move || {
            gate.invite(sha256, expires_at)?;
            let address = host_and_port(&gate.hosts.advertise, gate.hosts.join_listen.port());
            Ok(Invitation {
                join: format!("rbee-hive fleet join {address} {}", gate.code_beginning()?),
                other_addresses: gate.other_addresses(),
                expires_at,
            })
        })
        .await?
    }

    /// Joins the fleet of a machine that invited this hive. Gives the settings to come in with.
    ///
    /// # Errors
    /// [`Code::InFleet`]; [`Code::InvalidField`]; those of [`joining::ask`] and of files.
    pub(crate) async fn join(
        &self,
        address: &str,
        code: &str,
        hive: &HiveName,
        data_id: String,
        tell: Tell<'_>,
    ) -> Result<config::Fleet> {
        self.check_settings()?;
        let _turn = self.0.hosting.lock().await;
        if let Some(state) = self.state().await? {
            return Err(self.in_fleet(&state));
        }
        let (url, code) = (joining::url(address)?, JoinCode::parse(code)?);
        let (user, own) = (UserKey::new(), certificates::request(hive.as_str())?);
        let asks = Request {
            secret: code.secret.clone(),
            hive: hive.to_string(),
            folder: data_id,
            key: user.public(),
            csr: own.pem,
        };
        let shown = joining::shown(&url);
        let host = url.host_str().unwrap_or_default().to_owned();
        tell(format!("Asking the machine at {shown} to let this hive in, as '{hive}'"));
        let Accepted { fleet, nats, port, ca, jwt, certificate } = joining::ask(url, &code, &asks).await?;
        // The address that this machine is known to reach comes first.
        let mut servers = vec![format!("tls://{host}:{port}")];
        servers.extend(nats);
        servers.dedup();
        tell(format!("This hive was let into the fleet '{fleet}'"));
        let state = State {
            version: versioned::VERSION,
            name: fleet,
            nats: servers,
            hosts: None,
            more: serde_json::Map::new(),
        };
        let files = [
            (file::CA, ca),
            (file::CREDENTIALS, user.credentials(&jwt)?),
            (file::CERTIFICATE, certificate),
            (file::KEY, own.key),
            (file::STATE, pretty(&state)),
        ];
        let folder = self.0.folder.clone();
        spawn::blocking(move || folder.make(&files)).await??;
        Ok(self.0.folder.settings(&state, &self.0.given))
    }

    fn in_fleet(&self, state: &State) -> Failure {
        let name = &state.name;
        match &state.hosts {
            Some(_) => Failure::new(Code::InFleet, format!("this machine made the fleet '{name}' and runs its server"))
                .hint("`rbee-hive fleet invite` lets others in; `fleet leave --force --forget` ends that fleet for good"),
            None => Failure::new(Code::InFleet, format!("this hive is in the fleet '{name}' already"))
                .hint("`rbee-hive fleet leave` leaves it"),
        }
    }

    /// Refuses to leave where that would take more with it than this hive.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::InFleet`], saying what it would stop.
    pub(crate) async fn check_leave(&self, is_forced: bool) -> Result<()> {
        self.check_settings()?;
        let Some(state) = self.state().await? else {
            return Err(Failure::new(Code::NotInFleet, "this hive is in no fleet")
                .hint("`rbee-hive fleet join` joins one, `rbee-hive fleet up` makes one"));
        };
        match state.hosts {
            Some(hosts) if !is_forced => Err(Failure::new(
                Code::InFleet,
                format!(
                    "this machine runs the server of the fleet '{}' on {}: without it no hive of the fleet hears the \
                     others, and no machine can join",
                    state.name, hosts.listen
                ),
            )
            .hint("give --force to stop it; `rbee-hive fleet up` starts it again")),
            _ => Ok(()),
        }
    }

    /// Stops what runs here and removes what this hive has of its fleet. On the machine of `fleet up` the keys and the
    /// streams stay, unless it is to forget them.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; those of files.
    pub(crate) async fn leave(&self, forget: bool) -> Result<Left> {
        let mut hosting = self.0.hosting.lock().await;
        let Some(state) = self.state().await? else {
            return Err(Failure::new(Code::NotInFleet, "this hive has left its fleet already"));
        };
        let stopped_server = hosting.is_some();
        if let Some(hosting) = hosting.take() {
            if let Some(joining) = hosting.joining {
                joining.cancel();
            }
            hosting.server.stop().await;
        }
        let (folder, fleet) = (self.0.folder.clone(), state.name.clone());
        let forgotten = forget || state.hosts.is_none();
        spawn::blocking(move || match state.hosts {
            Some(hosts) if !forget => {
                folder.set_state(&State { hosts: Some(Hosts { is_down: true, ..hosts }), ..state })
            }
            _ => folder.remove(),
        })
        .await??;
        Ok(Left { fleet, stopped_server, forgotten })
    }

    /// Expels a hive: nats-server ends its connections and takes none from it.
    ///
    /// # Errors
    /// [`Code::NotInFleet`]; [`Code::UnknownHive`]; [`Code::InvalidField`]; those of files.
    pub(crate) async fn expel(&self, name: &str) -> Result<Expelled> {
        let hosting = self.hosting().await?;
        let Some(running) = hosting.as_ref() else { return Err(Failure::internal("the fleet is gone")) };
        let (gate, who) = (Arc::clone(&running.gate), name.to_owned());
        let expelled_at = spawn::blocking(move || gate.expel(&who)).await??;
        running.server.reload();
        Ok(Expelled { name: name.to_ascii_lowercase(), expelled_at })
    }
}
