//! A real browser: headless Chromium, driven through chromedriver by W3C `WebDriver` 2, which is JSON
//! over HTTP. The client crates for it would bring half a hundred others into the build for these
//! few requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{PATIENCE, soon};

/// Where a machine must have a browser, so that no test is skipped there unseen.
const REQUIRE: &str = "RBEE_HIVE_REQUIRE_CHROMIUM";

/// `WebDriver`'s code of a key: the first holds it down, the second lets it go.
const CONTROL: &str = "\u{E009}";

/// One browser with one page. Its processes end with it, however the test ends.
pub(crate) struct Browser {
    port: u16,
    session: String,
    http: reqwest::Client,
    driver: tokio::process::Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None`, having said so, where this machine has none.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests must see what was left out")]
    pub(crate) async fn start() -> Option<Self> {
        let (Some(driver), Some(chromium)) =
            (find(&["chromedriver"]), find(&["chromium", "google-chrome", "chrome"]))
        else {
            assert!(
                std::env::var_os(REQUIRE).is_none(),
                "{REQUIRE} is set, and there is no chromium with chromedriver"
            );
            eprintln!(
                "skipped: no chromium with chromedriver on this machine (apt-get install chromium chromium-driver)"
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut driver = command(&driver, profile.path()).spawn().expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = soon("chromedriver's port", async {
            loop {
                let line = lines.next_line().await.expect("its output").expect("chromedriver did not end");
                let port = line.strip_prefix("ChromeDriver was started successfully on port ");
                if let Some(port) = port {
                    return port.trim_end_matches('.').parse().expect("a port");
                }
            }
        })
        .await;
        // What it says further on must not fill the pipe.
        drop(rbee_hive::spawn::detached(async move { while let Ok(Some(_)) = lines.next_line().await {} }));
        // Fails where a hive of this process did it before.
        let _there = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut browser = Self { port, session: String::new(), http, driver, _profile: profile };
        let wanted = capabilities(&chromium, browser._profile.path());
        let begun = browser.send("/session", &wanted).await.expect("a session");
        browser.session = begun["sessionId"].as_str().expect("a session's id").to_owned();
        let patience = u64::try_from(PATIENCE.as_millis()).expect("a short time");
        browser.ask("timeouts", &json!({"script": patience, "pageLoad": patience})).await;
        Some(browser)
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

    /// What a script of the page's own language returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({"script": script, "args": []})).await
    }

    /// What a script gives to the function that is its `arguments[0]`.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        self.ask("execute/async", &json!({"script": script, "args": []})).await
    }

    /// What an expression gives.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression});")).await
    }

    /// Waits until an expression holds. Where it never does, says what the page shows.
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
                panic!("waited in vain for {what}; the page shows {}", shown.as_str().unwrap_or_default());
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

    /// Presses the button or link of that name, as a person does, once it is there.
    pub(crate) async fn press(&self, within: &str, name: &str) {
        let found = format!(
            "[...document.querySelectorAll({within})].flatMap((e) => [...e.querySelectorAll('button, a')])\
             .find((e) => !e.disabled && (e.getAttribute('aria-label') ?? e.innerText).trim() === {name})",
            within = json!(within),
            name = json!(name)
        );
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.until(&format!("the button '{name}' in {within}"), &found).await;
            // The page may draw between the two, and put another in its place.
            let button = self.eval(&found).await;
            let pressed = match button.is_null() {
                true => Err("it was gone again".to_owned()),
                false => self.command(&format!("{}/click", reference(&button)), &json!({})).await,
            };
            let Err(why) = pressed else { return };
            assert!(
                tokio::time::Instant::now() < deadline,
                "'{name}' in {within} could not be pressed: {why}"
            );
        }
    }

    /// Types into the field of that selector, in place of what it held.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.until(selector, &format!("document.querySelector({})", json!(selector))).await;
        let field = self.element(selector).await.expect("the field");
        // All of it marked, as a person does it: what is cleared by other means is no input, and the
        // page draws the old text again.
        let all = format!("{CONTROL}a{CONTROL}{text}");
        self.ask(&format!("{field}/value"), &json!({ "text": all })).await;
    }

    /// Presses keys, wherever the focus is. Characters of `WebDriver`'s private range are keys.
    pub(crate) async fn keys(&self, keys: &str) {
        let focus = self.eval("document.activeElement").await;
        self.ask(&format!("{}/value", reference(&focus)), &json!({ "text": keys })).await;
    }

    /// The width of the window, and light or dark.
    pub(crate) async fn look(&self, width: u32, scheme: &str) {
        self.look_at(width, &[("prefers-color-scheme", scheme)]).await;
    }

    /// The same, with these features of the medium (CSS Media Queries Level 5).
    pub(crate) async fn look_at(&self, width: u32, features: &[(&str, &str)]) {
        let height = if width > 800 { 900 } else { 812 };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", &metrics).await;
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.cdp("Emulation.setEmulatedMedia", &json!({"features": features})).await;
        self.until("the new width", &format!("innerWidth === {width}")).await;
    }

    /// Writes what the page looks like to `target/screenshots`.
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

    /// What the page's console has said since it was last asked, warnings and errors alone.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.ask("se/log", &json!({"type": "browser"})).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Drags a long list from its top to its end and back, a step a frame. Answers the milliseconds
    /// between the frames, and how many of its rows there were at most.
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

    /// A command of the `DevTools` protocol.
    pub(crate) async fn cdp(&self, command: &str, parameters: &Value) {
        self.ask("goog/cdp/execute", &json!({"cmd": command, "params": parameters})).await;
    }

    /// A command that must succeed.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        self.command(path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A command of the session; its value, or what went wrong.
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
        let sound = answer.status().is_success();
        let answer: Value = answer.json().await.expect("JSON");
        let value = answer["value"].clone();
        if sound { Ok(value) } else { Err(value["message"].as_str().unwrap_or_default().to_owned()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends Chromium, which is no child of this process. Blocking, because a
        // test that fails has no other moment left.
        if let Ok(mut driver) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _limited = driver.set_read_timeout(Some(Duration::from_secs(10)));
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

/// The path of an element that an answer holds (`WebDriver` 2, section 12.1).
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

#[expect(clippy::disallowed_methods, reason = "the browser is the test's, not the hive's")]
fn command(driver: &Path, home: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(driver);
    command
        .arg("--port=0")
        .env("HOME", home)
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}
