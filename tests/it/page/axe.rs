//! axe-core, which finds barriers to access in a page. It is an npm package, and npm installs it into
//! the target folder when the first test needs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Browser, command, executable, skipped, soon};

const VERSION: &str = "4.14.1";

/// Where this variable is set, a machine without axe-core fails the tests instead of skipping checks.
const REQUIRE: &str = "RBEE_HIVE_REQUIRE_AXE";

/// Fails where axe finds a violation in what the page shows.
pub(super) async fn check(browser: &Browser, what: &str) {
    if browser.eval("!window.axe").await == json!(true) {
        let Some(axe) = source().await else { return };
        browser.run(axe).await;
    }
    let script = "const done = arguments[0];\
        axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})\
        .then((found) => done(found.violations.map((v) => ({id: v.id, help: v.help, nodes: v.nodes.map((n) => n.html.slice(0, 200) + ' | ' + n.failureSummary)}))),\
        (error) => done([{id: 'axe', help: String(error)}]));";
    let violations = browser.run_async(script).await;
    assert_eq!(violations, json!([]), "{what}: {violations:#}");
}

/// The script, installed by the first test that asks; `None`, with a message, where it cannot be had.
async fn source() -> Option<&'static str> {
    static SOURCE: OnceCell<Option<String>> = OnceCell::const_new();
    let install = async || match install().await {
        Ok(source) => Some(source),
        Err(why) => {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set, and there is no axe-core: {why}");
            skipped(&format!("the checks for barriers to access, because there is no axe-core: {why}"));
            None
        }
    };
    SOURCE.get_or_init(install).await.as_deref()
}

async fn install() -> Result<String, String> {
    let target = executable().ancestors().nth(2).ok_or("no target folder")?.to_owned();
    let folder = target.join("npm");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // Another run of the tests may install it at the same time.
    let lock = std::fs::File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    let lock = rbee_hive::spawn::blocking(move || lock.lock().map(|()| lock));
    let _lock = soon("another npm to end", lock)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let package = folder.join("node_modules/axe-core");
    if installed(&package).as_deref() != Some(VERSION) {
        run_npm(&folder).await?;
    }
    let script: PathBuf = package.join("axe.min.js");
    std::fs::read_to_string(&script).map_err(|error| format!("{}: {error}", script.display()))
}

/// The installed version.
fn installed(package: &Path) -> Option<String> {
    let manifest = std::fs::read(package.join("package.json")).ok()?;
    let manifest: Value = serde_json::from_slice(&manifest).ok()?;
    Some(manifest["version"].as_str()?.to_owned())
}

async fn run_npm(folder: &Path) -> Result<(), String> {
    let mut npm = command("npm");
    npm.args(["install", "--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000"])
        .args(["--loglevel=error", "--no-update-notifier", "--prefix"])
        .arg(folder)
        .arg("--cache")
        .arg(folder.join("cache"))
        .arg(format!("axe-core@{VERSION}"));
    let limit = Duration::from_secs(120);
    let output = tokio::time::timeout(limit, npm.output())
        .await
        .map_err(|_| format!("npm did not end within {limit:?}"))?
        .map_err(|error| format!("npm does not start: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("npm failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
