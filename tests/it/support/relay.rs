//! A wire that can be cut: connections to a hive pass through it, and break or fall silent when the
//! test says so.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Whole,
    Cut,
    Silent,
}

/// A relay of TCP connections. Dropping it breaks them all.
pub(crate) struct Relay {
    pub(crate) url: String,
    wire: watch::Sender<Wire>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to the hive at that URL.
    pub(crate) async fn to(url: &str) -> Self {
        let target = url.strip_prefix("http://").expect("a URL of plain HTTP").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (wire, state) = watch::channel(Wire::Whole);
        let task = rbee_hive::spawn::detached(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, wire) = (target.clone(), state.clone());
                rbee_hive::spawn::detached(async move { relay(near, &target, wire).await });
            }
        });
        Self { url: format!("http://{address}"), wire, task }
    }

    /// Breaks every connection, and every new one until it is mended.
    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Lets nothing through, and breaks nothing: what a machine that was asleep finds.
    pub(crate) fn silence(&self) {
        self.wire.send_replace(Wire::Silent);
    }

    pub(crate) fn mend(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(mut near: TcpStream, target: &str, mut wire: watch::Receiver<Wire>) {
    let carried = async {
        if let Ok(mut far) = TcpStream::connect(target).await {
            // Either side may go away at any time; that ends the other.
            let _ended = copy_bidirectional(&mut near, &mut far).await;
        }
    };
    tokio::pin!(carried);
    loop {
        let state = *wire.borrow_and_update();
        if state == Wire::Cut {
            return;
        }
        tokio::select! {
            biased;
            changed = wire.changed() => if changed.is_err() { return },
            () = &mut carried, if state == Wire::Whole => return,
        }
    }
}
