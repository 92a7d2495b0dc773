//! A disk of a test's own, to be filled.

use std::path::{Path, PathBuf};

use super::{command, skipped};

/// A tmpfs whose size can be changed. It is unmounted when this is dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with a message, where this machine does not allow the mount.
    pub(crate) async fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let mounted = mount("size=1g,mode=0700", at).await;
        if !mounted {
            skipped("no tmpfs can be mounted here (that takes root, on Linux)");
        }
        mounted.then(|| Self(at.to_owned()))
    }

    pub(crate) async fn resize(&self, size: &str) {
        assert!(mount(&format!("remount,size={size}"), &self.0).await, "{size}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

async fn mount(options: &str, at: &Path) -> bool {
    let mut command = command("mount");
    command.args(["-t", "tmpfs", "-o", options, "rbee-hive-test"]).arg(at);
    command.output().await.is_ok_and(|output| output.status.success())
}
