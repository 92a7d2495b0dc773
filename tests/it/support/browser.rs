//! A real browser: headless Chromium, controlled through chromedriver by W3C `WebDriver` 2, which is
//! JSON over HTTP. A client crate would add about fifty crates to the build for these few requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{PATIENCE, command, skipped, soon};

/// Where this variable is set, a machine without a browser fails the tests instead of skipping them.
const REQUIRE: &str = "RBEE_HIVE_REQUIRE_CHROMIUM";

/// How often a browser is started before the test fails. Chromedriver gives Chromium a minute to start,
/// which a busy machine may exceed.
const STARTS: usize = 3;

/// One permit for each browser that may run at the same time: one for each core.
static BROWSERS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new(cores)
});

/// `WebDriver`'s code of a key: the first occurrence holds it down, the second releases it.
const CONTROL: &str = "\u{E009}";
const BACKSPACE: &str = "\u{e003}";

/// One browser with one page. Dropping it ends its processes, also in a test that fails.
pub(crate) struct Browser {
    port: u16,
    session: String,
    http: reqwest::Client,
    driver: tokio::process::Child,
    _profile: tempfile::TempDir,
    _permit: SemaphorePermit<'static>,
}

impl Browser {
    /// Starts a browser, as soon as the machine may run another one; `None`, with a message, where
    /// there is none.
    pub(crate) async fn start() -> Option<Self> {
        let (Some(driver), Some(chromium)) =
            (find(&["chromedriver"]), find(&["chromium", "google-chrome", "chrome"]))
        else {
            assert!(
                std::env::var_os(REQUIRE).is_none(),
                "{REQUIRE} is set, and there is no chromium with chromedriver"
            );
            skipped(
                "no chromium with chromedriver on this machine (apt-get install chromium chromium-driver)",
            );
            return None;
        };
        let mut start = 1;
        loop {
            // Other tests hold the permits for as long as they run.
            let permit = BROWSERS.acquire().await.expect("the semaphore stays open");
            match Self::start_once(&driver, &chromium, permit).await {
                Ok(browser) => return Some(browser),
                Err(why) => assert!(start < STARTS, "no browser after {start} starts: {why}"),
            }
            start += 1;
        }
    }

    async fn start_once(
        driver: &Path,
        chromium: &Path,
        permit: SemaphorePermit<'static>,
    ) -> Result<Self, String> {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut driver = command(driver);
        driver.arg("--port=0").env("HOME", profile.path()).env("TMPDIR", profile.path());
        driver.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.spawn().expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = soon("chromedriver's port", async {
            while let Some(line) = lines.next_line().await.expect("its output") {
                let port = line.strip_prefix("ChromeDriver was started successfully on port ");
                if let Some(port) = port {
                    return Ok(port.trim_end_matches('.').parse().expect("a port"));
                }
            }
            // Another program may take the port that it chose.
            Err("chromedriver ended before it told its port".to_owned())
        })
        .await?;
        // Reads the rest of its output, so that the pipe never fills.
        drop(rbee_hive::spawn::detached(async move { while let Ok(Some(_)) = lines.next_line().await {} }));
        // A client with a connection for each request: a kept one may close while a request is sent.
        let http = super::client();
        let wanted = capabilities(chromium, profile.path());
        let mut browser =
            Self { port, session: String::new(), http, driver, _profile: profile, _permit: permit };
        let session = browser.send("/session", &wanted).await?;
        browser.session = session["sessionId"].as_str().expect("a session's id").to_owned();
        let patience = u64::try_from(PATIENCE.as_millis()).expect("a short time");
        browser.ask("timeouts", &json!({"script": patience, "pageLoad": patience})).await;
        Ok(browser)
    }

    pub(crate) async fn open(&self, url: &str) {
        self.ask("url", &json!({ "url": url })).await;
    }

    pub(crate) async fn reload(&self) {
        self.ask("refresh", &json!({})).await;
    }

    pub(crate) async fn back(&self) {
        self.ask("back", &json!({})).await;
    }

    /// Runs a script in the page and returns its value.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Runs a script in the page and returns what it passes to the function in `arguments[0]`.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        self.ask("execute/async", &json!({"script": script, "args": []})).await
    }

    /// The value of an expression in the page.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression});")).await
    }

    /// Waits until an expression is true; fails with what the page shows if it never is.
    pub(crate) async fn until(&self, what: &str, expression: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let script = format!("try {{ return Boolean({expression}); }} catch (_) {{ return false; }}");
        loop {
            let holds = self.command("execute/sync", &json!({"script": script, "args": []})).await;
            if holds.is_ok_and(|holds| holds == true) {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                self.screenshot("failed").await;
                let shown = self.eval("location.href + '\\n' + document.body.innerText").await;
                panic!(
                    "waited {PATIENCE:?} in vain for {what}; the page shows {}",
                    shown.as_str().unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page shows a text somewhere within a selector.
    pub(crate) async fn shows(&self, within: &str, text: &str) {
        let expression = format!(
            "[...document.querySelectorAll({})].some((e) => e.innerText.includes({}))",
            json!(within),
            json!(text)
        );
        self.until(&format!("'{text}' in {within}"), &expression).await;
    }

    /// Waits for the button or link of that name and clicks it.
    pub(crate) async fn click(&self, within: &str, name: &str) {
        let found = format!(
            "[...document.querySelectorAll({within})].flatMap((e) => [...e.querySelectorAll('button, a')])\
             .find((e) => !e.disabled && (e.getAttribute('aria-label') ?? e.innerText).trim() === {name})",
            within = json!(within),
            name = json!(name)
        );
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.until(&format!("the button '{name}' in {within}"), &found).await;
            // The page may redraw in between and replace the button.
            let button = self.eval(&found).await;
            let clicked = match button.is_null() {
                true => Err("it is gone".to_owned()),
                false => self.command(&format!("{}/click", reference(&button)), &json!({})).await,
            };
            let Err(why) = clicked else { return };
            assert!(
                tokio::time::Instant::now() < deadline,
                "'{name}' in {within} could not be clicked: {why}"
            );
        }
    }

    /// Replaces the text of the field of that selector by typing.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.until(selector, &format!("document.querySelector({})", json!(selector))).await;
        let field = self.element(selector).await.expect("the field");
        // Selects the old text first, as a person does. WebDriver's own command to clear a field sends
        // no input event, so the page would draw the old text again.
        let text = if text.is_empty() { BACKSPACE } else { text };
        let all = format!("{CONTROL}a{CONTROL}{text}");
        self.ask(&format!("{field}/value"), &json!({ "text": all })).await;
    }

    /// Types keys into the focused element. Characters of `WebDriver`'s private range are special keys.
    pub(crate) async fn keys(&self, keys: &str) {
        let focus = self.eval("document.activeElement").await;
        self.ask(&format!("{}/value", reference(&focus)), &json!({ "text": keys })).await;
    }

    /// Sets the width of the window and the colour scheme.
    pub(crate) async fn resize(&self, width: u32, scheme: &str) {
        self.emulate(width, &[("prefers-color-scheme", scheme)]).await;
    }

    /// Sets the width of the window and features of the medium (CSS Media Queries Level 5).
    pub(crate) async fn emulate(&self, width: u32, features: &[(&str, &str)]) {
        let height = if width > 800 { 900 } else { 812 };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", &metrics).await;
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.cdp("Emulation.setEmulatedMedia", &json!({"features": features})).await;
        self.until("the new width", &format!("innerWidth === {width}")).await;
    }

    /// Writes a picture of the page to `target/screenshots`.
    pub(crate) async fn screenshot(&self, name: &str) {
        let folder = super::executable().ancestors().nth(2).expect("the target folder").join("screenshots");
        std::fs::create_dir_all(&folder).expect("a folder for screenshots");
        let url = format!("http://127.0.0.1:{}/session/{}/screenshot", self.port, self.session);
        let answer: Value = soon("a screenshot", self.http.get(url).send())
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        let png = STANDARD.decode(answer["value"].as_str().expect("a picture")).expect("Base64");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("a screenshot can be written");
    }

    /// Warnings and errors of the page's console since the last call.
    pub(crate) async fn console_problems(&self) -> Vec<String> {
        let log = self.ask("se/log", &json!({"type": "browser"})).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Scrolls a long list from its top to its end and back, one step for each frame. Returns the
    /// milliseconds between frames and the greatest number of rows that existed at once.
    pub(crate) async fn scroll(&self, list: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; const list = document.querySelector({}); const frames = []; let most = 0;\
             let before = performance.now(); let step = 0;\
             requestAnimationFrame(function frame(now) {{\
               frames.push(now - before); before = now; most = Math.max(most, list.querySelectorAll('[role=listitem]').length);\
               step += 1; list.scrollTop = list.scrollHeight * (step < 60 ? step / 60 : step < 120 ? 1 - (step - 60) / 60 : 1);\
               if (step < 125) requestAnimationFrame(frame); else setTimeout(() => done({{frames: frames.slice(1), most}}), 200);\
             }});",
            json!(list)
        );
        self.run_async(&script).await
    }

    /// Slows the network down: milliseconds of latency, and bytes a second.
    pub(crate) async fn slow_down(&self, latency: u32, bytes: u32) {
        self.cdp("Network.enable", &json!({})).await;
        let conditions = json!({
            "offline": false, "latency": latency, "downloadThroughput": bytes, "uploadThroughput": -1,
        });
        self.cdp("Network.emulateNetworkConditions", &conditions).await;
    }

    /// Sends a command of the `DevTools` protocol.
    pub(crate) async fn cdp(&self, command: &str, parameters: &Value) {
        self.ask("goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await;
    }

    /// Sends a command that must succeed.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        self.command(path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sends a command of the session; returns its value or an error message.
    async fn command(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.send(&format!("/session/{}/{path}", self.session), body).await
    }

    /// The path of the first element of that selector.
    async fn element(&self, selector: &str) -> Result<String, String> {
        let found = self.command("element", &json!({"using": "css selector", "value": selector})).await?;
        Ok(reference(&found))
    }

    async fn send(&self, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = soon(path, self.http.post(url).json(body).send()).await.expect("chromedriver answers");
        let is_success = answer.status().is_success();
        let answer: Value = answer.json().await.expect("JSON");
        let value = answer["value"].clone();
        if is_success { Ok(value) } else { Err(value["message"].as_str().unwrap_or_default().to_owned()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends Chromium, which is not a child of this process. The request blocks,
        // because a failing test has no time left for async work.
        if let Ok(mut driver) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _limited = driver.set_read_timeout(Some(Duration::from_secs(30)));
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\n\r\n",
                self.session, self.port
            );
            let _sent = driver.write_all(request.as_bytes());
            let _answered = driver.read(&mut [0; 64]);
        }
        let _killed = self.driver.start_kill();
    }
}

fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)))
        .find(|file| file.is_file())
}

/// The path of the element that a response names (`WebDriver` 2, section 12.1).
fn reference(value: &Value) -> String {
    let id = value["element-6066-11e4-a52e-4f735466cecf"].as_str().expect("an element");
    format!("element/{id}")
}

fn capabilities(chromium: &Path, profile: &Path) -> Value {
    let data = format!("--user-data-dir={}", profile.join("profile").display());
    let options = json!({
        "binary": chromium,
        "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--no-proxy-server", "--window-size=1440,900", data,
        ],
    });
    json!({"capabilities": {"alwaysMatch": {
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
    }}})
}
