//! A TCP relay in front of a hive. A test can break its connections, stop their traffic, or lead them to
//! another hive.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the relay does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    Break,
    Hold,
}

/// A relay of TCP connections. Dropping it breaks them all.
pub(crate) struct Relay {
    pub(crate) url: String,
    target: Arc<Mutex<String>>,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to the hive at that URL.
    pub(crate) async fn to(url: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (mode, state) = watch::channel(Mode::Forward);
        let target = Arc::new(Mutex::new(host(url)));
        let current = Arc::clone(&target);
        let task = rbee_hive::spawn::detached(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, mode) = (current.lock().clone(), state.clone());
                rbee_hive::spawn::detached(async move { relay(near, &target, mode).await });
            }
        });
        Self { url: format!("http://{address}"), target, mode, task }
    }

    /// Leads new connections to the hive at that URL.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.target.lock() = host(url);
    }

    /// Breaks every connection, and every new one until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Break);
    }

    /// Forwards nothing and breaks nothing until [`Self::mend`], as after a machine has slept.
    pub(crate) fn silence(&self) {
        self.mode.send_replace(Mode::Hold);
    }

    pub(crate) fn mend(&self) {
        self.mode.send_replace(Mode::Forward);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// The host and port of a URL.
fn host(url: &str) -> String {
    url.strip_prefix("http://").expect("a URL of plain HTTP").to_owned()
}

async fn relay(mut near: TcpStream, target: &str, mut mode: watch::Receiver<Mode>) {
    let forwarding = async {
        if let Ok(mut far) = TcpStream::connect(target).await {
            // Either side may close at any time; that ends the other.
            let _ended = copy_bidirectional(&mut near, &mut far).await;
        }
    };
    tokio::pin!(forwarding);
    loop {
        let current = *mode.borrow_and_update();
        if current == Mode::Break {
            return;
        }
        tokio::select! {
            biased;
            changed = mode.changed() => if changed.is_err() { return },
            () = &mut forwarding, if current == Mode::Forward => return,
        }
    }
}
