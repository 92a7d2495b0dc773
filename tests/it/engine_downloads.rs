//! Releases of engines and their archives, from a stand-in of GitHub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rbee_hive::config::{Config, DeviceKind};
use rbee_hive::engines::choose::choose;
use rbee_hive::engines::fetch::{Archive, Archives, LocalArchive};
use rbee_hive::engines::machine::Machine;
use rbee_hive::engines::release::{Asset, LATEST, Releases};
use rbee_hive::engines::unpack;
use rbee_hive::error::{Code, Failure};
use rbee_hive::models::Catalog;
use rbee_hive::narration::{NarrationContext, with_narration_context};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::github::{Digests, FakeGitHub, archive_name, engine_archive};
use crate::support::{has_chunk, quick, soon, until};

/// A program that says which version it is.
fn program(version: &str) -> Vec<u8> {
    format!("#!/bin/sh\necho 'version: {version}'\n").into_bytes()
}

/// Runs what narrates as a job does, so that nothing is narrated outside one.
async fn in_a_job(work: impl Future<Output = ()>) {
    let (entries, _narrated) = tokio::sync::mpsc::unbounded_channel();
    let context = NarrationContext::new("job-1".to_owned(), "worker_install", entries);
    with_narration_context(context, work).await;
}

/// What a hive has of releases and archives.
struct Place {
    dir: TempDir,
    config: Config,
    github: FakeGitHub,
    releases: Releases,
    archives: Archives,
    catalog: Catalog,
}

impl Place {
    async fn new() -> Self {
        let (dir, github) = (tempfile::tempdir().expect("a folder"), FakeGitHub::start().await);
        let mut config = quick(dir.path());
        config.engine_builds.releases = github.releases.clone();
        // Several chunks, so that a part of an archive can be kept.
        config.downloads.chunk_bytes = 64 << 10;
        let catalog = Catalog::new(&config).expect("a catalog");
        let archives = Archives::new(&config, &catalog, dir.path().join("data/engines/downloads"));
        Self { releases: Releases::new(&config), archives, catalog, config, github, dir }
    }

    /// Publishes a release with an engine of about so many bytes.
    fn publish(&self, tag: &str, bytes: usize) {
        self.github.publish(tag, &[(&archive_name(tag), &engine_archive(tag, &program(tag), bytes))]);
    }

    /// The archive of the latest release.
    async fn latest(&self) -> Archive {
        let known = self.releases.find(LATEST, Duration::ZERO).await.expect("a release");
        Archive::of_asset(&known.release.assets[0]).expect("an archive")
    }

    async fn bring(&self, archive: &Archive) -> Result<LocalArchive, Failure> {
        soon("an archive", self.archives.bring(archive, &CancellationToken::new())).await
    }

    fn downloads(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("data/engines/downloads")).into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_asked_for_sparingly_and_remembered() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b1", 10);
        let find =
            async |version: &str, fresh: u64| place.releases.find(version, Duration::from_secs(fresh)).await;
        let first = find(LATEST, 0).await.expect("a release");
        assert_eq!((first.release.tag.as_str(), first.problem.is_none()), ("b1", true));
        assert_eq!(first.release.assets[0].name, archive_name("b1"));
        // Nobody is asked for what was said a moment ago, and nothing is sent again that has not changed.
        let asked = || place.github.asked().iter().map(|asked| asked.status).collect::<Vec<_>>();
        find(LATEST, 60).await.expect("a release");
        assert_eq!(asked(), [200]);
        let again = find(LATEST, 0).await.expect("a release");
        assert_eq!((asked(), again.release), (vec![200, 304], first.release));
        // A new release is seen, and the old one can be named.
        place.publish("b2", 10);
        assert_eq!(find(LATEST, 0).await.expect("a release").release.tag, "b2");
        assert_eq!(find("b1", 0).await.expect("a release").release.tag, "b1");
        let failure = find("b3", 0).await.expect_err("there is none");
        assert_eq!(failure.code, Code::RevisionNotFound);
        assert!(failure.message.contains("b3") && failure.hint.is_some(), "{failure:?}");

        // While it cannot be asked, what it said is used, and told to be of then; also by the next hive.
        place.github.limit(Some(1500));
        let known = find(LATEST, 0).await.expect("a release");
        let problem = known.problem.expect("a problem");
        assert_eq!((known.release.tag.as_str(), problem.code), ("b2", Code::DownloadFailed));
        assert!(problem.message.contains("lets this address ask for no more"), "{problem}");
        assert!(problem.hint.expect("a hint").starts_with("try again in 24 min"));
        let failure = find("b4", 0).await.expect_err("nothing is remembered of it");
        assert_eq!(failure.stage.as_deref(), Some("release"));
        place.github.limit(None);
        place.github.be_busy(1);
        assert!(
            find(LATEST, 0)
                .await
                .expect("a release")
                .problem
                .expect("a problem")
                .message
                .contains("too busy")
        );
        let Place { github, config, .. } = place;
        drop(github);
        let known = Releases::new(&config).find(LATEST, Duration::ZERO).await.expect("a release");
        assert_eq!(known.release.tag, "b2");
        assert!(known.at <= jiff::Timestamp::now() && known.problem.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_archives_points_to_the_one_that_has_them() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b11160", 10);
        place.github.publish("v0.5.0", &[("nightly-tag.txt", b"b11160\n")]);
        for version in [LATEST, "v0.5.0", "b11160"] {
            let known = place.releases.find(version, Duration::ZERO).await.expect("a release");
            assert_eq!(known.release.tag, "b11160", "{version}");
        }
        // The pointer is fetched once, and remembered with its release.
        assert_eq!(place.github.count("storage"), 2, "once for each of two names of the release");
        place.releases.find(LATEST, Duration::ZERO).await.expect("a release");
        assert_eq!(place.github.count("storage"), 2);
        place.github.limit(Some(9));
        assert!(place.releases.find(LATEST, Duration::ZERO).await.expect("a release").problem.is_some());
        place.github.limit(None);
        for pointer in ["../../../x", "b11160/../x", "", "b404"] {
            place.github.publish("v0.6.0", &[("nightly-tag.txt", pointer.as_bytes())]);
            let failure = place.releases.find(LATEST, Duration::ZERO).await.expect_err("it points nowhere");
            assert!(matches!(failure.code, Code::InvalidField | Code::RevisionNotFound), "{failure:?}");
        }
        place.github.publish("v0.7.0", &[("llama-v0.7.0-ui.tar.gz", b"x")]);
        let failure = place.releases.find(LATEST, Duration::ZERO).await.expect_err("it has none");
        assert!(failure.message.contains("v0.7.0") && failure.message.contains("no archive"), "{failure}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_a_release_is_chosen_fetched_and_unpacked() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b7", 300_000);
        let known = place.releases.find(LATEST, Duration::ZERO).await.expect("a release");
        let machine = Machine::here(Path::new("python3")).await.expect("a machine");
        let chosen = choose(&known.release, &machine, DeviceKind::Cpu).expect("an archive");
        assert_eq!((chosen.archive.name, chosen.libraries), (archive_name("b7"), None));
        let archive = Archive::of_asset(&known.release.assets[0]).expect("an archive");
        let local = place.bring(&archive).await.expect("it comes");
        assert_eq!(Some(&local.sha256), archive.sha256.as_ref());
        let into = place.dir.path().join("into");
        std::fs::create_dir(&into).expect("a folder");
        let stop = CancellationToken::new();
        let unpacked = unpack::engine(&local, None, &into, &stop).await.expect("it is sound");
        let said = crate::support::command(&unpacked.program).output().await.expect("it runs");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "version: b7\n");
        assert_eq!(unpacked.size_bytes, 300_000 + 3 + program("b7").len() as u64);
        place.archives.discard(&local).await.expect("it goes");
        assert!(place.downloads().is_empty());
        // Its sources have no hash, and come all the same.
        place.github.publish(
            "b8",
            &[(&archive_name("b8"), b"x"), ("sources.tar.gz", &engine_archive("b8", b"x", 9))],
        );
        let release = place.releases.find("b8", Duration::ZERO).await.expect("a release").release;
        let sources = Archive::of_sources(&release).expect("sources").expect("a name");
        assert_eq!(
            place.bring(&sources).await.expect("they come").path.file_name().unwrap(),
            "llama.cpp-b8.tar.gz"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_breaks_off_or_is_cancelled_goes_on_where_it_was() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b1", 600_000);
        let archive = place.latest().await;
        // It breaks off three times, and goes on by itself.
        place.github.cut(3, 100_000);
        let local = place.bring(&archive).await.expect("it comes");
        let size = std::fs::metadata(&local.path).expect("a file").len();
        assert_eq!((size, Some(size)), (local.size_bytes, archive.size));
        let stored =
            || place.github.asked().into_iter().filter(|asked| asked.server == "storage").collect::<Vec<_>>();
        assert!(
            stored().len() > 3 && stored().iter().skip(1).all(|asked| asked.range.is_some()),
            "{:?}",
            stored()
        );
        // What is here is not fetched again, and what is damaged is.
        let before = stored().len();
        place.bring(&archive).await.expect("it is here");
        assert_eq!(stored().len(), before);
        let mut bytes = std::fs::read(&local.path).expect("a file");
        bytes[200_000] ^= 1;
        std::fs::write(&local.path, bytes).expect("it is written");
        place.bring(&archive).await.expect("it comes again");
        assert!(stored().len() > before);

        // So large that it does not end by itself before it is cancelled: each connection gets a part of it.
        place.publish("b2", 6_000_000);
        let archive = place.latest().await;
        place.github.hold(Some(200_000));
        let stop = CancellationToken::new();
        let bringing = place.archives.bring(&archive, &stop);
        let cancel = async {
            // Something of it is stored, and it is no model.
            let journal =
                place.dir.path().join(format!("data/engines/downloads/{}.partial.journal", archive.name));
            until("a chunk", || async { has_chunk(&journal) }).await;
            assert!(place.catalog.list().await.expect("a list").is_empty());
            stop.cancel();
        };
        let (brought, ()) = soon("the end", async { tokio::join!(bringing, cancel) }).await;
        let failure = brought.expect_err("it was cancelled");
        assert_eq!(failure.code, Code::Cancelled);
        assert_eq!(failure.hint.as_deref(), Some("what is stored is kept: WorkerInstall goes on from there"));
        assert_eq!(
            place.downloads().len(),
            3,
            "the first archive, and a part with its journal: {:?}",
            place.downloads()
        );
        place.github.hold(None);
        let before = stored().len();
        place.bring(&archive).await.expect("it comes");
        let again: Vec<_> = stored().split_off(before);
        assert!(
            again
                .iter()
                .all(|asked| asked.range.as_deref().is_some_and(|range| !range.starts_with("bytes=0-"))),
            "{again:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_hash_or_another_one_is_refused_and_not_kept() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b1", 100_000);
        place.github.tell(Digests::Missing);
        let failure = place.bring(&place.latest().await).await.expect_err("it has no hash");
        assert_eq!((failure.code, place.github.count("files")), (Code::EngineRefused, 0));
        assert!(failure.hint.expect("a hint").contains("archive_sha256"));
        place.github.tell(Digests::Wrong);
        let failure = place.bring(&place.latest().await).await.expect_err("it is another file");
        assert_eq!(failure.code, Code::DownloadFailed, "{failure:?}");
        assert!(failure.message.contains("has the SHA-256"), "{failure}");
        assert!(place.downloads().is_empty(), "{:?}", place.downloads());
        // Something else under the name of an archive ends the transfer at its first bytes.
        place.github.tell(Digests::Right);
        place.github.publish("b2", &[(&archive_name("b2"), b"<html>a page</html>")]);
        let failure = place.bring(&place.latest().await).await.expect_err("it is no archive");
        assert!(failure.message.contains("is not an archive of the kind that its name tells"), "{failure}");
        assert!(place.downloads().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_the_settings_is_fetched_or_used_in_place() {
    in_a_job(async {
        let place = Place::new().await;
        place.publish("b1", 1000);
        let asset: Asset =
            place.releases.find(LATEST, Duration::ZERO).await.expect("a release").release.assets[0].clone();
        let mut builds = place.config.engine_builds.clone();
        builds.archive = Some(asset.url.clone());
        let bring = async |builds: &rbee_hive::config::EngineBuilds| {
            place.bring(&Archive::of_settings(builds).expect("an archive")?).await
        };
        assert_eq!(bring(&builds).await.expect_err("no hash").code, Code::EngineRefused);
        builds.archive_sha256 = asset.sha256.clone();
        let fetched = bring(&builds).await.expect("it comes");
        assert!(fetched.is_own);
        // A file of this machine stays where it is, and needs no hash.
        let own: PathBuf = place.dir.path().join("own archive.tar.gz");
        std::fs::copy(&fetched.path, &own).expect("a copy");
        builds.archive = Some(own.display().to_string());
        builds.archive_sha256 = None;
        let used = bring(&builds).await.expect("it is here");
        assert_eq!((&used.path, used.is_own, &used.sha256), (&own, false, &fetched.sha256));
        place.archives.discard(&used).await.expect("nothing to do");
        assert!(own.exists());
        builds.archive_sha256 = Some("0".repeat(64));
        let failure = bring(&builds).await.expect_err("another hash");
        assert!(failure.code == Code::EngineRefused && own.exists(), "{failure:?}");
        builds.archive = Some("/no/such/archive.zip".to_owned());
        assert_eq!(bring(&builds).await.expect_err("no file").code, Code::Io);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_serves_over_tls_to_those_who_trust_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = dir.path().join("authority.pem");
    let github = FakeGitHub::start_over_tls(&authority).await;
    github.publish("b1", &[(&archive_name("b1"), b"archive")]);
    let certificate =
        reqwest::Certificate::from_pem(&std::fs::read(&authority).expect("a file")).expect("PEM");
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client =
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().expect("a client");
    let url = format!("{}/latest", github.releases);
    let release: serde_json::Value =
        client.get(&url).send().await.expect("an answer").json().await.expect("JSON");
    let file = release["assets"][0]["browser_download_url"].as_str().expect("a URL");
    assert!(file.starts_with("https://localhost:"), "{file}");
    assert_eq!(client.get(file).send().await.expect("an answer").bytes().await.expect("bytes"), "archive");
    assert!(crate::support::client().get(&url).send().await.is_err(), "others do not trust it");
}
