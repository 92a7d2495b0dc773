//! A wire that can be cut: connections to a hive pass through it, and break when the test says so.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A relay of TCP connections. Dropping it breaks them all.
pub(crate) struct Relay {
    pub(crate) url: String,
    is_up: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to the hive at that URL.
    pub(crate) async fn to(url: &str) -> Self {
        let target = url.strip_prefix("http://").expect("a URL of plain HTTP").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (is_up, up) = watch::channel(true);
        let task = rbee_hive::spawn::detached(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, mut up) = (target.clone(), up.clone());
                rbee_hive::spawn::detached(async move {
                    // An error is the relay's end.
                    tokio::select! {
                        biased;
                        _ = up.wait_for(|up| !up) => {}
                        () = relay(near, &target) => {}
                    }
                });
            }
        });
        Self { url: format!("http://{address}"), is_up, task }
    }

    /// Breaks every connection, and every new one until it is mended.
    pub(crate) fn cut(&self) {
        self.is_up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.is_up.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(mut near: TcpStream, target: &str) {
    if let Ok(mut far) = TcpStream::connect(target).await {
        // Either side may go away at any time; that ends the other.
        let _ended = copy_bidirectional(&mut near, &mut far).await;
    }
}
