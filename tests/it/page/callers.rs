//! The callers on the page: their tokens and usage, and what is off for a caller who may not do everything.

use serde_json::{Value, json};

use super::{ESCAPE, capture, check_console};
use crate::callers::{holder, managed, secret};
use crate::support::{Browser, TestHive, client_with, soon, write_model};

/// The texts of the buttons that are off.
const OFF: &str = "[...document.querySelectorAll('main button:disabled')].map((e) => e.innerText.trim())";

/// Opens the page with the token of that name.
async fn open_as(browser: &Browser, hive: &TestHive, name: &str, page: &str) {
    browser.open(&format!("{}/#/{page}", hive.url)).await;
    browser.run(&format!("sessionStorage['rbee.token'] = JSON.stringify({})", json!(secret(name)))).await;
    browser.reload().await;
}

/// The secret that the dialog shows, which is closed then.
async fn take_secret(browser: &Browser) -> String {
    browser.shows("dialog", "This is the only time that it is shown").await;
    let secret = browser.eval("document.querySelector('#secret').innerText").await;
    browser.click("dialog", "Done").await;
    secret.as_str().expect("text").to_owned()
}

async fn answers(hive: &TestHive, secret: &str, path: &str) -> u16 {
    let request = client_with(secret).get(format!("{}{path}", hive.url));
    soon(path, request.send()).await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked_on_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    write_model(&hive.models_dir(), "tiny");
    browser.open(&format!("{}/#/callers", hive.url)).await;
    browser.shows("main", "This hive asks nobody for a token").await;
    browser.shows("main", "No requests to models").await;
    capture(&browser, "callers-open").await;

    // The first token is the user's own, and the page goes on with it.
    browser.click("main", "Make a token").await;
    browser.shows("dialog", "the first one is for you").await;
    capture(&browser, "callers-first").await;
    browser.fill("#token-name", "no such name").await;
    browser.keys(super::ENTER).await;
    browser.until("a refused name", "document.querySelector('#token-name:invalid')").await;
    browser.fill("#token-name", "boss").await;
    browser.keys(super::ENTER).await;
    browser.shows("dialog", "From now on the hive asks everybody for a token").await;
    assert_eq!(browser.eval("document.activeElement.innerText.trim()").await, json!("Copy"));
    browser.keys(ESCAPE).await;
    capture(&browser, "callers-made").await;
    let boss = take_secret(&browser).await;
    assert_eq!((boss.len(), answers(&hive, "", "/v1/jobs").await), (64, 401));
    assert_eq!(answers(&hive, &boss, "/v1/config").await, 200, "the first one manages the hive");
    browser.shows("main table", "boss (this page's)").await;
    browser.until("no question", "!document.querySelector('dialog')").await;

    // Another one, with a limit of each kind.
    browser.click("main", "Make a token").await;
    browser.fill("#token-name", "boss").await;
    browser.click("dialog", "Make it").await;
    browser.shows("dialog .failure", "there is a token 'boss' already").await;
    browser.fill("#token-name", "alice").await;
    let choose = "for (const [id, value] of [['token-role', 'use'], ['token-expires', '168h']]) {\
        const list = document.getElementById(id); list.value = value; list.dispatchEvent(new Event('change')); }";
    browser.run(choose).await;
    browser.fill("#token-per-minute", "60").await;
    browser.fill("#token-concurrent", "2").await;
    browser.fill("#token-models", "tiny, small*").await;
    capture(&browser, "callers-form").await;
    browser.click("dialog", "Make it").await;
    let alice = take_secret(&browser).await;
    for part in ["60 a minute, 2 at once", "tiny, small*", "in 6 d 23 h", "not yet"] {
        browser.shows("main table", part).await;
    }
    let ask = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "Hello" }] });
    let url = format!("{}/v1/chat/completions", hive.url);
    let answer = soon("an answer", client_with(&alice).post(url).json(&ask).send()).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect("its body");

    // How much each used; the secret is nowhere.
    browser.reload().await;
    browser.shows("[aria-labelledby=usage-title]", "1 request").await;
    browser.shows("[aria-labelledby=usage-title] table", "alice").await;
    browser.shows("[aria-labelledby=tokens-title] table", "just now").await;
    capture(&browser, "callers").await;
    let choose = "const list = document.querySelector('[aria-label=Caller]'); list.value = 'alice'; list.dispatchEvent(new Event('change'));";
    browser.run(choose).await;
    browser.shows("[aria-labelledby=usage-title]", "By day").await;
    let jobs = client_with(&boss).get(format!("{}/v1/jobs", hive.url)).send().await.expect("an answer");
    let jobs = jobs.text().await.expect("text");
    assert!(jobs.contains("token_create") && !jobs.contains(&alice) && !jobs.contains(&boss), "{jobs}");

    browser.click("main", "Revoke alice").await;
    browser.shows("dialog", "It lets nobody in any more").await;
    capture(&browser, "callers-revoke").await;
    browser.click("dialog", "Keep it").await;
    browser.click("main", "Revoke alice").await;
    browser.click("dialog", "Revoke").await;
    browser.until("no alice", "!document.querySelector('main table').innerText.includes('alice')").await;
    assert_eq!(answers(&hive, &alice, "/v1/jobs").await, 401);

    // The last one: the hive is open again, and the page goes on.
    browser.click("main", "Revoke boss").await;
    browser.shows("dialog", "It is the last one: then the hive asks nobody for a token").await;
    browser.click("dialog", "Revoke").await;
    browser.shows("main", "This hive asks nobody for a token").await;
    assert_eq!(hive.get("/v1/jobs").await.status(), 200);
    browser.shows("#connection", "Live").await;
    drop(browser);
    hive.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_may_not_do_is_off_and_the_page_says_why() {
    let Some(browser) = Browser::start().await else { return };
    let hive = managed(|_| {}).await;
    write_model(&hive.models_dir(), "tiny");
    hive.load("tiny").await;
    holder(&hive, "reader", json!({ "role": "read" })).await;
    holder(&hive, "alice", json!({ "role": "use" })).await;
    let jobs = hive.get("/v1/jobs?operation=model_load").await.json::<Value>().await.expect("JSON");
    let job = format!("jobs/{}", jobs["jobs"][0]["job_id"].as_str().expect("an id"));

    open_as(&browser, &hive, "reader", "models").await;
    browser
        .shows("#caller", "With the token “reader”, of the role “read”, you may look at everything.")
        .await;
    browser.shows("#caller", "Chats need the role “use”, the rest “manage”").await;
    let why = "document.querySelector('main button:disabled').title.includes('needs the role “manage”')";
    for (page, shown, off) in [
        ("models", "tiny", json!(["Download a model", "Unload"])),
        ("models/tiny", "Architecture", json!(["Unload", "Delete"])),
        ("workers", "Tokens/s", json!(["Start a worker", "Stop"])),
        (&job, "Where the time went", json!(["Run again"])),
        ("callers", "Only tokens with the role “manage” may see", json!(["Make a token"])),
    ] {
        browser.run(&format!("location.hash = '#/{page}'")).await;
        browser.shows("main", shown).await;
        let all_off = format!("{off}.every((text) => {OFF}.includes(text))");
        browser.until(&format!("{off} to be off on {page}"), &all_off).await;
        browser.until("the reason", why).await;
    }
    capture(&browser, "callers-reader").await;
    browser.run("location.hash = '#/chat/tiny'").await;
    browser.until("no chat", "document.querySelector('#draft').disabled").await;
    let reason = "document.querySelector('#draft').placeholder === 'Your token may not use models'";
    browser.until("the reason", reason).await;
    capture(&browser, "chat-reader").await;

    // Another token, in place of that one; a wrong one changes nothing.
    browser.click("#caller", "Use another token").await;
    browser.shows("dialog", "Use another token").await;
    capture(&browser, "token-another").await;
    browser.fill("#token", "wrong").await;
    browser.click("dialog", "Continue").await;
    browser.shows("dialog", "The hive refused that token").await;
    browser.keys(ESCAPE).await;
    browser.until("the dialog to close", "!document.querySelector('dialog')").await;
    browser.shows("#caller", "reader").await;
    browser.click("#caller", "Use another token").await;
    browser.fill("#token", &secret("alice")).await;
    browser.click("dialog", "Continue").await;
    browser.shows("#caller", "you may use models and look at everything").await;
    browser.fill("#draft", "Who are you?").await;
    browser.click(".composer", "Send").await;
    browser.shows(".message.assistant", "Hello from a small model.").await;

    // A token that is revoked while the page uses it: the page asks for one.
    hive.succeed(&json!({ "TokenRevoke": { "name": "alice" } })).await;
    browser.shows("dialog", "This hive asks for a token").await;
    browser.fill("#token", &secret("boss")).await;
    browser.click("dialog", "Continue").await;
    browser.until("no note", "!document.querySelector('#caller').innerText").await;
    browser.run("location.hash = '#/models'").await;
    browser
        .until("what may be done", &format!("document.querySelector('main table') && !{OFF}.length"))
        .await;
    drop(browser);
    hive.stop().await;
}

/// Compares the page's hashes with the browser's, for lengths around those of a block.
const HASHES: &str = "const done = arguments[0];\
    import(new URL('lib/sha256.js', document.querySelector('script').src)).then(async ({sha256}) => {\
        const wrong = [];\
        for (let length = 0; length < 150; length += 1) {\
            const text = 'aä€'.repeat(50).slice(0, length);\
            const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)));\
            const hex = Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('');\
            if (sha256(text) !== hex) wrong.push(length);\
        }\
        done(wrong);\
    });";

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_a_secret_is_the_one_that_the_browser_makes() {
    let Some(browser) = Browser::start().await else { return };
    let hive = TestHive::start().await;
    browser.open(&format!("{}/#/jobs", hive.url)).await;
    assert_eq!(browser.run_async(HASHES).await, json!([]));
    check_console(&browser).await;
    drop(browser);
    hive.stop().await;
}
