//! A fleet with NATS servers of its own, on six machines: three hives, and a cluster of three nats-servers. All of it
//! speaks TLS, with certificates of one authority; only the servers among themselves do not.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rbee_hive::config::Config;
use reqwest::{Client, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::network::Network;
use super::tls::Authority;
use super::{
    Daemon, Scripted, client_at, command, data_lines, folder, nats_server, read_all, serve, soon, until,
};

/// The networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    /// Between hives.
    Hives = 1,
    /// From hives to the servers.
    Nats = 2,
    /// Between servers.
    Routes = 3,
}

/// The machines of the hives `a`, `b` and `c`, and of the servers: numbers of the network.
const HIVES: [u8; 3] = [1, 2, 3];
const NODES: [u8; 3] = [4, 5, 6];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The machines, with what runs on them. All of it ends with this value.
pub(crate) struct Machines {
    network: Network,
    /// The servers; `None` while one is down.
    nodes: [Option<Child>; 3],
    hives: [Option<Daemon>; 3],
    homes: [TempDir; 3],
    server: PathBuf,
    dir: TempDir,
}

/// A hive as its users on its own machine ask it, which need not run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    models: PathBuf,
    client: Client,
}

impl Machines {
    /// Three hives that know each other; `None`, with a message, where there is no nats-server, or where this user may
    /// make no networks. The engine `scripted` of each does what its script says.
    pub(crate) async fn start(gone_after: &str, scripts: [&Scripted; 3]) -> Option<Self> {
        let server = nats_server()?;
        let network = Network::of(3, 6).await?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut all = Self {
            network,
            nodes: [const { None }; 3],
            hives: [const { None }; 3],
            homes: std::array::from_fn(|_| folder()),
            server,
            dir,
        };
        let authority = Authority::new();
        write(&all.dir.path().join("ca.pem"), &authority.pem());
        for node in 0..3 {
            all.prepare_node(node, &authority);
            all.start_node(node);
        }
        for (hive, script) in scripts.iter().enumerate() {
            all.prepare_hive(hive, &authority, gone_after, script);
        }
        for hive in 0..3 {
            all.start_hive(hive).await;
        }
        for machine in all.machines() {
            machine.sees(&NAMES).await;
        }
        Some(all)
    }

    /// The hives, to be asked.
    pub(crate) fn machines(&self) -> [Machine; 3] {
        std::array::from_fn(|hive| {
            let home = self.homes[hive].path();
            Machine {
                name: NAMES[hive],
                models: home.join("models"),
                client: client_at(&home.join("socket")),
            }
        })
    }

    /// Cuts a hive off from these networks, silently.
    pub(crate) async fn cut_hive(&self, hive: usize, networks: &[Net]) {
        for network in networks {
            self.network.cut(*network as u8, HIVES[hive]).await;
        }
    }

    pub(crate) async fn mend_hive(&self, hive: usize, networks: &[Net]) {
        for network in networks {
            self.network.mend(*network as u8, HIVES[hive]).await;
        }
    }

    /// Cuts a server off from these networks, silently.
    pub(crate) async fn cut_node(&self, node: usize, networks: &[Net]) {
        for network in networks {
            self.network.cut(*network as u8, NODES[node]).await;
        }
    }

    pub(crate) async fn mend_node(&self, node: usize, networks: &[Net]) {
        for network in networks {
            self.network.mend(*network as u8, NODES[node]).await;
        }
    }

    fn prepare_node(&self, node: usize, authority: &Authority) {
        let dir = self.dir.path().join(format!("node-{node}"));
        std::fs::create_dir(&dir).expect("a folder");
        let at = |network: Net, node: u8| Network::address(network as u8, node);
        let address = at(Net::Nats, NODES[node]);
        let (certificate, key) = certify(&dir, authority, &address.to_string());
        let mut routes = String::new();
        for other in NODES {
            write!(routes, "\"nats://{}:6222\",", at(Net::Routes, other)).expect("a string takes it");
        }
        let text = format!(
            "listen: \"{address}:4222\"\nserver_name: node-{node}\nlogfile: \"{}\"\n\
             jetstream {{ store_dir: \"{}\", sync_interval: always, max_file_store: 1GB }}\n\
             tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n\
             cluster {{ name: tests, listen: \"{}:6222\", routes: [{routes}] }}\n",
            dir.join("log").display(),
            dir.join("jetstream").display(),
            certificate.display(),
            key.display(),
            at(Net::Routes, NODES[node]),
        );
        write(&dir.join("nats.conf"), &text);
    }

    /// Starts a server, with the data that it has.
    pub(crate) fn start_node(&mut self, node: usize) {
        let mut server = command(&self.server);
        server.arg("--config").arg(self.dir.path().join(format!("node-{node}/nats.conf")));
        let mut server = self.network.on(NODES[node], &server);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        self.nodes[node] = Some(server.spawn().expect("nats-server starts"));
    }

    /// Kills a server, as a lack of power does.
    pub(crate) async fn kill_node(&mut self, node: usize) {
        let mut child = self.nodes[node].take().expect("it runs");
        child.kill().await.expect("it is killed");
    }

    /// Stops a server in the middle of what it does, or has it go on.
    pub(crate) fn signal_node(&self, node: usize, signal: Signal) {
        let pid = self.nodes[node].as_ref().and_then(Child::id).expect("it runs");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// The server that leads the stream of events, as the servers' logs tell it.
    pub(crate) fn leader(&self) -> usize {
        let elected = |node: &usize| {
            let log = std::fs::read_to_string(self.dir.path().join(format!("node-{node}/log")));
            let log = log.unwrap_or_default();
            let is_elected =
                |line: &&str| line.contains("new stream leader") && line.contains("rbee_home_jobs");
            // After the process, the time.
            let last = log.lines().rev().find(is_elected)?;
            last.split_once(' ').map(|(_, rest)| rest.to_owned())
        };
        (0..3).max_by_key(elected).expect("a server")
    }

    fn prepare_hive(&self, hive: usize, authority: &Authority, gone_after: &str, script: &Scripted) {
        let dir = self.homes[hive].path();
        let name = format!("{}.hive.rbee.internal", NAMES[hive]);
        let (certificate, key) = certify(dir, authority, &name);
        let mut config = Config::default();
        script.serve_for(&mut config, 1);
        let fleet = &mut config.fleet;
        let at = |node: u8| format!("tls://{}:4222", Network::address(Net::Nats as u8, node));
        fleet.nats = Some(NODES.map(at).join(","));
        fleet.ca = Some(self.dir.path().join("ca.pem"));
        (fleet.certificate, fleet.key) = (Some(certificate), Some(key));
        fleet.listen = Some("0.0.0.0:7837".parse().expect("an address"));
        fleet.advertise = Some(Network::address(Net::Hives as u8, HIVES[hive]).to_string());
        fleet.heartbeat = Duration::from_millis(500).into();
        let mut text = toml::Table::new();
        text.insert("fleet".to_owned(), toml::Value::try_from(&config.fleet).expect("TOML"));
        text["fleet"].as_table_mut().expect("a table").insert("gone_after".to_owned(), gone_after.into());
        text.insert("engines".to_owned(), toml::Value::try_from(&config.engines).expect("TOML"));
        write(&dir.join("hive.toml"), &text.to_string());
    }

    /// Starts a hive, with the data that it has.
    pub(crate) async fn start_hive(&mut self, hive: usize) {
        let dir = self.homes[hive].path();
        let (config, socket) = (dir.join("hive.toml"), dir.join("socket"));
        let (config, socket) = (config.to_str().expect("UTF-8"), socket.to_str().expect("UTF-8"));
        let words = ["--config", config, "--hive-id", NAMES[hive], "--unix-socket", socket];
        let mut command: Command = self.network.on(HIVES[hive], &serve(dir, &words));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        self.hives[hive] = Some(Daemon::run(command).await);
    }

    pub(crate) async fn kill_hive(&mut self, hive: usize) {
        self.hives[hive].take().expect("it runs").kill().await;
    }

    /// Ends all of it, hives as a service manager does.
    pub(crate) async fn stop(mut self) {
        for hive in self.hives.iter_mut().filter_map(Option::take) {
            hive.stop().await;
        }
    }
}

impl Machine {
    pub(crate) fn models(&self) -> &Path {
        &self.models
    }

    pub(crate) async fn try_get(&self, path: &str) -> reqwest::Result<Response> {
        soon(path, self.client.get(format!("http://hive{path}")).send()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.try_get(path).await.expect("an answer")
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.expect("JSON")
    }

    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        soon(path, self.client.post(format!("http://hive{path}")).json(body).send()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.try_post(path, body).await.expect("an answer")
    }

    /// The id of the job, if the operation is taken just now.
    pub(crate) async fn try_submit(&self, operation: &Value) -> Option<String> {
        let answer: Value = self.try_post("/v1/jobs", operation).await.ok()?.json().await.ok()?;
        answer["job_id"].as_str().map(str::to_owned)
    }

    /// Submits an operation, again and again until it is taken.
    pub(crate) async fn submit(&self, operation: &Value) -> String {
        until(&format!("{operation} to be taken"), || self.try_submit(operation)).await
    }

    /// Runs an operation that must succeed and gives its result.
    pub(crate) async fn succeed(&self, operation: &Value) -> Value {
        let id = self.submit(operation).await;
        let stream = read_all(self.get(&format!("/v1/jobs/{id}/stream")).await).await;
        let lines = data_lines(&stream);
        assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{operation}:\n{stream}");
        serde_json::from_str(&lines[lines.len() - 2]).expect("a result line before the end")
    }

    /// Begins to follow a job, by its typed stream, once it is found.
    pub(crate) async fn follow(&self, id: &str) -> Response {
        let path = format!("/v1/jobs/{id}/stream?format=json");
        until(&format!("{id} at {}", self.name), async || {
            self.try_get(&path).await.ok().filter(|answer| answer.status() == 200)
        })
        .await
    }

    /// The typed stream of a job, to its end.
    pub(crate) async fn typed(&self, id: &str) -> String {
        read_all(self.follow(id).await).await
    }

    /// How it stands in the fleet.
    pub(crate) async fn status(&self) -> Value {
        self.succeed(&json!({ "FleetStatus": {} })).await
    }

    /// What it shows another hive as; nothing where it does not show it.
    pub(crate) async fn presence(&self, hive: &str) -> Option<String> {
        let status = self.status().await;
        let hives = status["hives"].as_array().expect("hives");
        let member = hives.iter().find(|member| member["hive"] == hive)?;
        member["presence"].as_str().map(str::to_owned)
    }

    /// Waits until it shows another hive as that.
    pub(crate) async fn shows(&self, hive: &str, presence: Option<&str>) {
        until(&format!("{hive} to be {presence:?} at {}", self.name), async || {
            (self.presence(hive).await.as_deref() == presence).then_some(())
        })
        .await;
    }

    /// Waits until it is in the fleet, and can reach exactly these.
    pub(crate) async fn sees(&self, names: &[&str]) {
        until(&format!("{names:?} at {}", self.name), async || {
            let status = self.status().await;
            let hives = status["hives"].as_array().expect("hives").iter();
            let reachable = hives.filter(|hive| hive["presence"] == "reachable");
            let reachable: Vec<_> = reachable.filter_map(|hive| hive["hive"].as_str()).collect();
            (status["is_in"] == true && reachable == names).then_some(())
        })
        .await;
    }

    /// Waits until it is in the fleet, which has all of its events.
    pub(crate) async fn is_well(&self) {
        until(&format!("{} in its fleet", self.name), async || {
            let status = self.status().await;
            (status["is_in"] == true && status["unpublished"] == 0).then_some(())
        })
        .await;
    }
}

/// What a hive tells on `/v1/events` about the others, from now on.
pub(crate) struct Heard(Arc<Mutex<String>>);

impl Heard {
    pub(crate) async fn at(machine: &Machine) -> Self {
        let (text, mut events) = (Arc::new(Mutex::new(String::new())), machine.get("/v1/events").await);
        let told = Arc::clone(&text);
        rbee_hive::spawn::detached(async move {
            while let Ok(Some(chunk)) = events.chunk().await {
                told.lock().push_str(&String::from_utf8_lossy(&chunk));
            }
        });
        Self(text)
    }

    /// What has become of that hive, but for its numbers.
    pub(crate) fn of(&self, hive: &str) -> Vec<String> {
        let text = self.0.lock().clone();
        let events = text.split("\n\n").filter(|event| event.contains("event: hive\n"));
        let told = events.filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
        // The last one may not be whole.
        let told = told.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let of_it = told.filter(|event| event["hive"]["hive"] == hive);
        let changes = of_it.map(|event| event["change"].as_str().unwrap_or_default().to_owned());
        changes.filter(|change| change != "changed").collect()
    }

    /// Waits until that has become of it, and nothing else.
    pub(crate) async fn hears(&self, hive: &str, changes: &[&str]) {
        until(&format!("{hive} to be told as {changes:?}"), async || {
            (self.of(hive) == changes).then_some(())
        })
        .await;
    }
}

/// Makes a certificate for that name and its key, and gives their files.
fn certify(dir: &Path, authority: &Authority, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = authority.certify(name);
    let files = (dir.join("certificate.pem"), dir.join("key.pem"));
    write(&files.0, &certificate.pem());
    write(&files.1, &key.serialize_pem());
    std::fs::set_permissions(&files.1, std::fs::Permissions::from_mode(0o600)).expect("it is its owner's");
    files
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("a file");
}
