//! Machines in network namespaces of their own, and networks between them that a test can cut.
//!
//! A namespace is held by a process that ends with the test, also where that is killed, and so do the programs that run
//! there: nothing has a name outside, and nothing is left. A cut is silent: packets vanish, and nobody gets an error.

use std::net::Ipv4Addr;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::{command, skipped, wrapped};

/// Machines with the numbers from 1 on, each with a leg in each of the networks, which have numbers from 1 on too.
pub(crate) struct Network {
    /// Where the bridges are.
    hub: Space,
    machines: Vec<Space>,
}

/// A network namespace.
struct Space {
    holder: Child,
    /// Whether it is in a user namespace: an ordinary user may make it there alone.
    is_users: bool,
}

impl Network {
    /// Makes one; `None`, with a message, where the system does not let this user.
    pub(crate) async fn of(networks: u8, machines: u8) -> Option<Self> {
        let made = Self::make(networks, machines).await;
        made.inspect_err(|why| skipped(&format!("no network namespaces: {why}"))).ok()
    }

    async fn make(networks: u8, machines: u8) -> Result<Self, String> {
        let hub = Space::first().await?;
        let bridges = (1..=networks)
            .map(|network| format!("link add {0} type bridge\nlink set {0} up\n", bridge(network)));
        hub.run(&["ip", "-batch", "-"], &bridges.collect::<String>()).await?;
        let mut made = Self { hub, machines: Vec::new() };
        for machine in 1..=machines {
            let space = made.hub.another().await?;
            made.connect(&space, networks, machine, machines).await?;
            made.machines.push(space);
        }
        Ok(made)
    }

    /// Gives a machine its legs. It knows who is where, so that also nobody is looked for in vain.
    async fn connect(&self, space: &Space, networks: u8, machine: u8, machines: u8) -> Result<(), String> {
        let (mut outside, mut inside) = (String::new(), "link set lo up\n".to_owned());
        for network in 1..=networks {
            let (port, leg) = (port(network, machine), bridge(network));
            let (own, pid) = (hardware(network, machine), space.pid());
            outside += &format!(
                "link add {port} type veth peer name {leg} address {own} netns {pid}\n\
                 link set {port} master {leg} up\n"
            );
            inside +=
                &format!("link set {leg} up\naddr add {}/24 dev {leg}\n", Self::address(network, machine));
            for other in (1..=machines).filter(|other| *other != machine) {
                let (address, hardware) = (Self::address(network, other), hardware(network, other));
                inside += &format!("neigh add {address} lladdr {hardware} dev {leg} nud permanent\n");
            }
        }
        self.hub.run(&["ip", "-batch", "-"], &outside).await?;
        space.run(&["ip", "-batch", "-"], &inside).await
    }

    /// The address of a machine in a network.
    pub(crate) fn address(network: u8, machine: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, network, machine)
    }

    /// The command that runs a program on a machine. It ends with the thread that starts it, and so with the test.
    pub(crate) fn on(&self, machine: u8, program: &Command) -> Command {
        let mut command = self.machines[usize::from(machine) - 1].enter();
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        wrapped(command, program)
    }

    /// From now on, nothing gets from the machine into that network, nor from there to it.
    pub(crate) async fn cut(&self, network: u8, machine: u8) {
        self.set(network, machine, "0").await;
    }

    /// Ends [`Self::cut`].
    pub(crate) async fn mend(&self, network: u8, machine: u8) {
        self.set(network, machine, "3").await;
    }

    /// Sets the state of the machine's port of the bridge: 0 drops what comes, and 3 forwards it.
    async fn set(&self, network: u8, machine: u8, state: &str) {
        let port = port(network, machine);
        self.hub.run(&["bridge", "link", "set", "dev", &port, "state", state], "").await.expect("it is set");
    }
}

fn bridge(network: u8) -> String {
    format!("net{network}")
}

/// What connects a machine to the bridge.
fn port(network: u8, machine: u8) -> String {
    format!("port{network}-{machine}")
}

fn hardware(network: u8, machine: u8) -> String {
    format!("02:00:00:00:{network:02x}:{machine:02x}")
}

impl Space {
    async fn first() -> Result<Self, String> {
        let is_users = !rustix::process::geteuid().is_root();
        let mut unshare = command("unshare");
        if is_users {
            unshare.args(["--user", "--map-root-user"]);
        }
        Self::held_by(unshare, is_users).await
    }

    /// Another one, in the same user namespace.
    async fn another(&self) -> Result<Self, String> {
        let mut unshare = self.enter();
        unshare.arg("unshare");
        Self::held_by(unshare, self.is_users).await
    }

    async fn held_by(mut unshare: Command, is_users: bool) -> Result<Self, String> {
        unshare.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = unshare.spawn().map_err(|error| format!("unshare: {error}"))?;
        // What it says again, it says from within.
        let (stdin, stdout) =
            (holder.stdin.as_mut().expect("a pipe"), holder.stdout.as_mut().expect("a pipe"));
        let _told = stdin.write_all(b"?").await;
        match stdout.read_u8().await {
            Ok(_) => Ok(Self { holder, is_users }),
            Err(_) => Err("unshare may not make one".to_owned()),
        }
    }

    fn pid(&self) -> u32 {
        self.holder.id().expect("it runs")
    }

    /// The beginning of a command that runs a program in there.
    fn enter(&self) -> Command {
        let mut command = command("nsenter");
        command.args(["--target", &self.pid().to_string(), "--net"]);
        if self.is_users {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
    }

    /// Runs a program in there that has to succeed.
    async fn run(&self, words: &[&str], input: &str) -> Result<(), String> {
        let mut command = self.enter();
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("nsenter: {error}"))?;
        let mut stdin = child.stdin.take().expect("a pipe");
        let _written = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}
