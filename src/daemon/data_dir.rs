//! The data folder at the start: made, private, and the hive's own.
//!
//! Invariant: whoever is neither the hive's user nor root can put nothing into the folder, so nothing there
//! leads elsewhere: records, journals and sockets are what the hive wrote.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::Config;
use crate::disk;
use crate::error::{Code, Failure, Result};

/// Makes the data folder and its folders, and checks them.
///
/// # Errors
/// [`Code::ConfigInvalid`] if one belongs to another user, can be written by others, or is a link;
/// [`Code::Io`] if one cannot be made.
pub(super) fn prepare(config: &Config) -> Result<()> {
    let dir = &config.data_dir;
    make(dir)?;
    // The user may have put a link in its place, but not within it.
    check(dir, &fs::metadata(dir).map_err(|error| Failure::io("look at", dir, &error))?)?;
    for dir in [config.store_dir(), config.jobs_dir(), config.workers_dir()] {
        make(&dir)?;
        check(&dir, &fs::symlink_metadata(&dir).map_err(|error| Failure::io("look at", &dir, &error))?)?;
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    disk::create_private_dir(dir)
        .map_err(|error| Failure::io("create", dir, &error).hint("choose another --data-dir"))
}

fn check(dir: &Path, found: &Metadata) -> Result<()> {
    let refused = |what: String, hint: String| {
        Err(Failure::new(Code::ConfigInvalid, format!("the hive's folder {} {what}", dir.display()))
            .hint(hint))
    };
    if !found.is_dir() {
        return refused(
            "is a link".to_owned(),
            "move the whole data folder with --data-dir, or mount the other disk in its place".to_owned(),
        );
    }
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != 0 {
        return refused(
            format!("belongs to another user ({owner}; the hive runs as {user})"),
            "start the hive as that user, or choose another --data-dir".to_owned(),
        );
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return refused(
            format!("can be written by others than its owner (mode {mode:04o})"),
            format!("run `chmod go-w {}`, or choose a folder below it as --data-dir", dir.display()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn config(dir: &Path) -> Config {
        Config { data_dir: dir.join("data"), ..Config::default() }
    }

    fn set_mode(dir: &Path, mode: u32) {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_are_made_for_their_owner_alone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        for _ in 0..2 {
            prepare(&config).unwrap();
        }
        for made in [&config.data_dir, &config.store_dir(), &config.jobs_dir(), &config.workers_dir()] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        }
        set_mode(&config.data_dir, 0o755);
        prepare(&config).unwrap();
    }

    #[test]
    fn a_folder_into_which_others_can_put_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        prepare(&config).unwrap();
        for mode in [0o770, 0o702, 0o1777] {
            set_mode(&config.data_dir, mode);
            let refused = prepare(&config).unwrap_err();
            assert_eq!(refused.code, Code::ConfigInvalid);
            assert!(refused.hint.unwrap().contains("chmod go-w"), "{mode:o}");
        }
        set_mode(&config.data_dir, 0o700);
        set_mode(&config.jobs_dir(), 0o720);
        assert!(prepare(&config).unwrap_err().message.contains("0720"));
        set_mode(&config.jobs_dir(), 0o700);
        // Only root can give a folder away.
        if std::os::unix::fs::chown(&config.data_dir, Some(12_345), None).is_ok() {
            let foreign = prepare(&config).unwrap_err();
            assert!(foreign.message.contains("another user (12345"), "{foreign}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (config, elsewhere) = (config(dir.path()), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &config.data_dir).unwrap();
        prepare(&config).unwrap();
        fs::remove_dir(config.workers_dir()).unwrap();
        symlink(dir.path(), config.workers_dir()).unwrap();
        assert!(prepare(&config).unwrap_err().message.contains("is a link"));
    }
}
