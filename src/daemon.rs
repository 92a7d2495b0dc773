//! One run of a hive: locks the data folder, serves, and shuts down in order.

mod data_dir;
mod health;
mod take_over;
mod offer;
mod ending;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::address::Address;
use crate::app::{App, AppState};
use crate::config::{Bind, Config};
use crate::disk;
use crate::doctor;
use crate::error::{Code, Failure, Result};
use crate::events::Topic;
use crate::files;
use crate::http::{self, Closing, Listener, Sockets};
use crate::ops::{self, Asker};
use crate::paths;
use crate::residency::Submit;
use crate::spawn;
use crate::text::json;
use crate::time::{Instant, monotonic};
use crate::workers::WorkerChange;

use offer::{Offer, Taker};
use wire::{FromHive, FromSuccessor};

pub use ending::Stop;
pub use health::answers;
pub use take_over::{Estate, Predecessor};

/// How the line begins that `rbee-hive serve` prints on standard output once it serves; its URL follows.
pub const READY: &str = "rbee-hive ready on ";

/// How often old jobs are pruned while nothing is submitted.
const PRUNE_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// The contents of `DATA_DIR/hive.json`, which exists while a hive runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HiveFile {
    /// The daemon's process id.
    pub pid: u32,
    /// The URL that it serves at; `unix:` and a path if it serves on a Unix socket alone.
    pub url: String,
    /// The port of the URL, or 0.
    pub port: u16,
    /// The URL of the address that stands in Ollama's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ollama_url: Option<String>,
    /// The path of its Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "paths::shown_option")]
    pub unix_socket: Option<PathBuf>,
    /// The name that it reports.
    pub hive_id: String,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Instant,
}

/// A hive that is set up and bound, and does not answer yet.
#[derive(Debug)]
pub struct Hive {
    app: AppState,
    listener: Listener,
    router: Router,
    hive_file: PublishedHiveFile,
    /// Held for the whole run. The system releases it even if the process is killed.
    lock: std::fs::File,
    /// What the hive before this one left to it.
    estate: Option<Estate>,
}

impl Hive {
    /// Sets a hive up on a bound listener: locks the data folder, reads earlier jobs back, reads the token,
    /// and writes `hive.json`. What remains for [`Self::run`] cannot fail, so `hive.json` never names a
    /// hive that does not start.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], [`Code::DataDirLocked`] naming the hive that runs, or if a folder cannot be
    /// made or read.
    pub fn open(listener: impl Into<Listener>, config: Config) -> Result<Self> {
        Self::open_with(listener, config, None)
    }

    /// The same, with what the hive before this one left to it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(listener: impl Into<Listener>, config: Config, estate: Option<Estate>) -> Result<Self> {
        config.validate()?;
        let listener = listener.into();
        data_dir::prepare(&config)?;
        let lock = match &estate {
            Some(estate) => estate.lock.try_clone().map_err(|error| {
                Failure::internal("the lock that another hive left cannot be held").detail(error)
            })?,
            None => lock(&config.data_dir)?,
        };
        Self::open_locked(listener, config, lock, estate)
    }

    fn open_locked(
        listener: Listener,
        config: Config,
        lock: std::fs::File,
        estate: Option<Estate>,
    ) -> Result<Self> {
        for file in [
            config.model_ids_file(),
            config.memory_file(),
            config.engine_support_file(),
            config.model_settings_file(),
            config.tokens_file(),
        ] {
            files::remove_draft(&file);
        }
        let address = listener.address()?;
        let app = App::open(config, address)?;
        if app.config.fleet.nats.is_some() {
            app.fleet_name()?;
        }
        let router = http::router(&app)?;
        let hive_file = PublishedHiveFile::write(&app, listener.ollama_url())?;
        Ok(Self { app, listener, router, hive_file, lock, estate })
    }

    /// The hive's shared state.
    #[must_use]
    pub const fn app(&self) -> &AppState {
        &self.app
    }

    /// The URL that it serves at.
    #[must_use]
    pub fn url(&self) -> String {
        self.app.address.url()
    }

    /// The URL of the address that stands in Ollama's place, if it serves at one.
    #[must_use]
    pub fn ollama_url(&self) -> Option<String> {
        self.listener.ollama_url()
    }

    /// Serves until `stop` is ready, a request asks for a shutdown, or another hive takes over. Then ends jobs, workers
    /// and connections, in that order, so that every open stream gets its terminal event. For a successor it leaves the
    /// workers and lets answers finish: see [`Stop`].
    ///
    /// # Errors
    /// [`Code::Internal`] if the connection loop panicked.
    pub async fn run<S: Into<Stop>>(self, stop: impl Future<Output = S>) -> Result<()> {
        let (mut hive, mut stop) = (self, pin!(stop));
        while let Some(Returned { sockets, config, lock }) = hive.run_once(stop.as_mut()).await? {
            tracing::error!("the hive that took over is gone before it served: this one serves again");
            let listener = Listener::new(None, None).await?.on(sockets)?;
            hive = spawn::blocking(move || Self::open_locked(listener, config, lock, None)).await??;
        }
        Ok(())
    }

    /// One run, until a stop; or until a successor took over and then did not serve.
    async fn run_once<S: Into<Stop>>(
        self,
        stop: Pin<&mut impl Future<Output = S>>,
    ) -> Result<Option<Returned>> {
        let Self { app, mut listener, router, hive_file, lock, estate } = self;
        // Before the adoption, whose changes are published too.
        let housekeeping = spawn::detached(housekeeping(Arc::clone(&app), app.workers.changes()));
        let usage = spawn::detached(keep_usage(Arc::clone(&app)));
        // Before the first answer, so that the workers of an earlier run are in every listing.
        app.workers.adopt().await;
        // Before the first decision about them.
        let estate = estate.map(|estate| (estate.hold(&app), estate));
        let residency = spawn::detached(own_residency(Arc::clone(&app)));
        let mut offer = Offer::make(&app.config.data_dir, &mut listener).await;
        let (timers, closing) = (app.config.timers.clone(), Closing::new(app.quiet.clone()));
        let server = spawn::detached(http::serve(listener, router, timers, closing.clone()));
        spawn::detached(look_at_folders(Arc::clone(&app)));
        if let Some((held, estate)) = estate {
            spawn::detached(estate.attend(Arc::clone(&app), held));
        }
        if let Some(queen) = &app.queen {
            queen.announce();
        }
        app.fleet.open(Arc::new(ops::at_home(Arc::clone(&app), http::answer_hives)));
        spawn::detached(ops::resume_fleet(Arc::clone(&app)));
        let (stop, taker) = tokio::select! {
            stop = stop => (stop.into(), None),
            () = app.shutdown.cancelled() => (Stop::Ended, None),
            taker = offer.taken() => (Stop::ForSuccessor, Some(taker)),
        };

        offer.withdraw();
        let timers = &app.config.timers;
        if stop == Stop::ForSuccessor {
            tracing::info!(
                "stopping for another process: its turn comes when jobs have finished; workers stay"
            );
            if taker.is_none() {
                offer.close();
            }
            ending::settle(&app, &closing).await;
        } else {
            tracing::info!("stopping: ending jobs, then workers, then connections");
        }
        app.shutdown.cancel();
        app.jobs.close().await;
        app.visits.set_limit(match (stop, &taker) {
            (Stop::ForSuccessor, Some(_)) => *timers.last_answers,
            (Stop::ForSuccessor, None) => *timers.hand_over,
            (Stop::Ended, _) => *timers.drain,
        });
        app.fleet.close(stop == Stop::ForSuccessor).await;
        // Before the data folder is released: the next hive runs a server of its own.
        app.fleet_setup.stop().await;
        match stop {
            Stop::Ended => app.workers.stop_all(*timers.stop_grace).await,
            Stop::ForSuccessor => app.workers.hand_over(*timers.stop_grace).await,
        }
        let _ended = residency.await;
        housekeeping.abort();
        let served = match taker {
            Some(Taker { mut channel, keeps_unix }) => {
                hive_file.leave();
                let released = FromHive::Released { in_flight: app.workers.in_flight() };
                let sent = channel.send(&released, &[lock.as_fd()]).await;
                closing.set_limit(*timers.last_answers);
                // It holds the lock and the sockets too, until it ends.
                let serves = sent.is_ok() && channel.receive::<FromSuccessor>().await.is_ok();
                app.quiet.cancel();
                if !serves {
                    // The answers under way go on beside the next run.
                    drop(server);
                    let sockets = offer.take_back();
                    return Ok(Some(Returned { sockets, config: app.config.clone(), lock }));
                }
                offer.leave(keeps_unix);
                drop(lock);
                tokio::select! {
                    (served, ()) = async { tokio::join!(server, app.visits.end()) } => served,
                    never = ending::report(&app, &channel) => match never {},
                }
            }
            None => {
                if stop == Stop::ForSuccessor {
                    closing.set_limit(*timers.hand_over);
                }
                app.quiet.cancel();
                drop(offer);
                let served = server.await;
                // Before the lock is released: afterwards the file may be that of the next hive.
                drop(hive_file);
                drop(lock);
                served
            }
        };
        app.visits.end().await;
        // A successor that took the folder over counts into the same files: see `usage`.
        app.served.cancel();
        let _written = usage.await;
        tracing::info!("stopped");
        served.map_err(|error| Failure::internal("the connection loop panicked").detail(error))?;
        Ok(None)
    }
}

/// What a hive serves with again after a successor took over and did not serve.
struct Returned {
    sockets: Sockets,
    config: Config,
    lock: std::fs::File,
}

/// Tidies the folders of models, and tells which of the user's are missing. The hive serves meanwhile: their disks may
/// be slow, or not answer.
async fn look_at_folders(app: AppState) {
    let warn = |wrong: &Failure| tracing::warn!("{wrong}; {}", wrong.hint.as_deref().unwrap_or_default());
    let _told = doctor::folders(&app).await.inspect_err(warn);
    let _logged = app.catalog.tidy().await.inspect_err(warn);
}

/// Serves a hive with these settings on `listener` until `stop` is ready.
///
/// # Errors
/// Those of [`Hive::open`] and [`Hive::run`].
pub async fn run<S: Into<Stop>>(
    listener: impl Into<Listener>,
    config: Config,
    stop: impl Future<Output = S>,
) -> Result<()> {
    Hive::open(listener, config)?.run(stop).await
}

/// Listens on the addresses of the settings.
///
/// # Errors
/// [`Code::PortInUse`], naming the process that holds the port if the system tells it;
/// [`Code::ConfigInvalid`] if the Unix socket cannot be made.
pub async fn bind(config: &Config) -> Result<Listener> {
    bind_beside(config, Sockets::default()).await
}

/// Listens on these sockets, and on the addresses of the settings that none of them stands for.
///
/// # Errors
/// As [`bind`].
pub async fn bind_beside(config: &Config, sockets: Sockets) -> Result<Listener> {
    let tcp = match config.bind {
        Bind::Address(ip) if sockets.http.is_none() => {
            Some(bind_tcp(SocketAddr::new(ip, config.port), &config.data_dir, "--bind or --port").await?)
        }
        _ => None,
    };
    let path = config.unix_socket.as_deref().filter(|_| sockets.unix.is_none());
    let listener = Listener::new(tcp, path).await?;
    let listener = match config.ollama.listen {
        Some(address) if sockets.ollama.is_none() => {
            listener.in_place_of_ollama(bind_tcp(address, &config.data_dir, "--ollama-listen").await?)
        }
        _ => listener,
    };
    listener.on(sockets)
}

/// Listens at the address, which `flag` sets.
async fn bind_tcp(address: SocketAddr, data_dir: &Path, flag: &str) -> Result<TcpListener> {
    let port = address.port();
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let holder = crate::workers::port_holder_in_words(port);
            let hint = match HiveFile::of(data_dir).filter(HiveFile::serves) {
                Some(HiveFile { pid, url, .. }) => {
                    format!("the hive of this data folder runs already, as process {pid}: use it at {url}, or stop it")
                }
                None => format!("stop that process, or choose another port with {flag} (0 takes a free one)"),
            };
            Failure::new(Code::PortInUse, format!("port {port} is taken by {holder}")).hint(hint)
        }
        _ => Failure::new(Code::Io, format!("could not bind {address}: {error}"))
            .hint(format!("choose another address with {flag}")),
    })
}

impl HiveFile {
    /// The hive that the data folder names as the one that runs.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&files::read(&dir.join("hive.json"), files::SMALL).ok()?).ok()
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> Address {
        let tcp = self.url.strip_prefix("http://").and_then(|address| address.parse().ok());
        let path = || {
            self.unix_socket.clone().unwrap_or_else(|| PathBuf::from(self.url.trim_start_matches("unix:")))
        };
        tcp.map_or_else(|| Address::Unix(path()), Address::Tcp)
    }

    /// Whether it still serves: a killed hive leaves its file behind.
    fn serves(&self) -> bool {
        crate::workers::port_holder(self.port).is_some_and(|(pid, _)| pid == self.pid)
    }
}

/// Locks the data folder.
fn lock(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join("hive.lock");
    let file = disk::open(files::own().create(true).truncate(false).write(true), &path)
        .map_err(|error| Failure::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let who = match HiveFile::of(dir) {
                Some(HiveFile { pid, url, .. }) => format!("process {pid}, serving on {url}"),
                None => "another process, which is starting or stopping".to_owned(),
            };
            Err(Failure::new(
                Code::DataDirLocked,
                format!("another hive uses the data folder {}: {who}", dir.display()),
            )
            .hint("use that hive, stop it, or choose another --data-dir"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(Failure::io("lock", &path, &error)),
    }
}

/// `hive.json`, which exists as long as this value.
#[derive(Debug)]
struct PublishedHiveFile(Option<PathBuf>);

impl PublishedHiveFile {
    /// Writes the file, all or nothing. On a full disk the hive runs without it: it is needed to free space.
    fn write(app: &App, ollama_url: Option<String>) -> Result<Self> {
        let file = HiveFile {
            pid: std::process::id(),
            url: app.address.url(),
            port: app.address.port(),
            ollama_url,
            unix_socket: app.config.unix_socket.clone(),
            hive_id: app.hive_id().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: app.started_at,
        };
        let path = app.config.data_dir.join("hive.json");
        match files::put(&path, json(&file).as_bytes()).map_err(|error| Failure::io("write", &path, &error)) {
            Err(failure) if failure.code == Code::DiskFull => {
                tracing::warn!("{failure}: other programs cannot find this hive by its file");
                // That of an earlier run would lead them to a hive that is gone.
                let _removed = disk::remove_file(&path);
            }
            written => drop(written?),
        }
        Ok(Self(Some(path)))
    }

    /// Leaves the file to the hive that writes the next one in its place.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for PublishedHiveFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _removed = disk::remove_file(path);
        }
    }
}

/// Runs the owner of the residency. A defect of it is told and costs no worker: it begins again, because loads and
/// requests wait for it.
async fn own_residency(app: AppState) {
    let run = || app.residency.clone().run(submit(&app), Arc::clone(&app.events), app.shutdown.clone());
    while let Err(error) = spawn::detached(run()).await {
        tracing::error!(%error, "the owner of the residency panicked; it begins again");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// How the owner of the residency submits operations.
fn submit(app: &AppState) -> Submit {
    let app = Arc::clone(app);
    Box::new(move |operation| {
        let submission = ops::parse(operation.to_string().as_bytes())?;
        Ok(ops::submit(&app, submission, &Asker::hive(), None)?.job)
    })
}

/// Writes what was counted of the usage every few seconds, and once all connections have ended.
async fn keep_usage(app: AppState) {
    let mut is_told = false;
    loop {
        let is_last = tokio::select! {
            () = app.served.cancelled() => true,
            () = tokio::time::sleep(*app.config.timers.usage) => false,
        };
        let usage = app.usage.clone();
        match spawn::blocking(move || usage.write()).await.flatten() {
            Ok(()) => is_told = false,
            Err(failure) if !is_told || is_last => {
                tracing::warn!("{failure}: the usage is kept in memory until it can be written");
                is_told = true;
            }
            Err(_) => {}
        }
        if is_last {
            return;
        }
    }
}

/// Prunes old jobs from time to time, and publishes changes of workers on `/v1/events`.
async fn housekeeping(app: AppState, mut changes: tokio::sync::broadcast::Receiver<WorkerChange>) {
    let mut prune = tokio::time::interval(
        app.config.jobs.keep_reads_for.clamp(std::time::Duration::from_secs(1), PRUNE_EVERY),
    );
    let mut counted = monotonic();
    loop {
        tokio::select! {
            _ = prune.tick() => {
                app.jobs.write_missing_journals();
                app.jobs.prune();
                app.engines.count_use(counted.elapsed()).await;
                counted = monotonic();
            }
            change = changes.recv() => match change {
                Ok(change) => app.events.publish(Topic::Worker, &change),
                // What was missed is in the next change of that worker, or in the telemetry.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
            },
        }
    }
}
