//! A real nats-server, alone or one of a cluster, on loopback.

use std::fmt::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{command, nats_server, until};

/// A nats-server with streams. It ends with this value.
pub(crate) struct NatsServer {
    pub(crate) port: u16,
    program: PathBuf,
    config: PathBuf,
    child: Option<Child>,
    dir: TempDir,
}

impl NatsServer {
    /// Starts one; `None`, with a message, where there is no nats-server.
    pub(crate) async fn start() -> Option<Self> {
        let mut server = Self::prepare(nats_server()?, free_port(), "alone", String::new());
        server.start_again().await;
        Some(server)
    }

    /// Starts a cluster of three.
    pub(crate) async fn cluster() -> Option<Vec<Self>> {
        let program = nats_server()?;
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let mut servers: Vec<_> = (0..3)
            .map(|i| {
                let mut text =
                    format!("cluster {{ name: tests, listen: \"127.0.0.1:{}\", routes: [", routes[i]);
                for route in &routes {
                    write!(text, "\"nats://127.0.0.1:{route}\",").expect("a string takes it");
                }
                text.push_str("] }\n");
                Self::prepare(program.clone(), free_port(), &format!("node-{i}"), text)
            })
            .collect();
        for server in &mut servers {
            server.spawn();
        }
        for server in &servers {
            server.accepts().await;
        }
        Some(servers)
    }

    fn prepare(program: PathBuf, port: u16, name: &str, more: String) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let server = Self { port, program, config: dir.path().join("nats.conf"), child: None, dir };
        server.configure(name, "1GB", &more);
        server
    }

    /// Writes its settings, with so much room for streams.
    fn configure(&self, name: &str, room: &str, more: &str) {
        let (port, dir) = (self.port, self.dir.path());
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: {name}\nlogfile: \"{}\"\n\
             jetstream {{ store_dir: \"{}\", sync_interval: always, max_file_store: {room} }}\n{more}",
            dir.join("log").display(),
            dir.join("jetstream").display(),
        );
        std::fs::write(&self.config, text).expect("a file");
    }

    /// From its next start on, it has so much room for streams.
    pub(crate) fn has_room(&self, room: &str) {
        self.configure("alone", room, "");
    }

    /// Where hives connect to.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn spawn(&mut self) {
        let mut command: Command = command(&self.program);
        command.arg("--config").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("nats-server starts"));
    }

    async fn accepts(&self) {
        until("nats-server to accept", || async {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok()
        })
        .await;
    }

    /// Starts it where it was: with its port and its data.
    pub(crate) async fn start_again(&mut self) {
        self.spawn();
        self.accepts().await;
    }

    /// Kills it, as a lack of power does.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("it is killed");
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
