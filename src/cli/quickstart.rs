//! `rbee-hive quickstart`: the hive's main job on a machine that has nothing yet, before one's eyes.
//!
//! Where there is a network it fetches a small real model from the Hugging Face Hub; where there is
//! none it makes a tiny one on the spot, and says so.
//!
//! It is a client like any other: after starting a hive in this process it does everything through
//! the public API, and shows every narration as it arrives.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::serve;
use crate::daemon::{self, Hive};
use crate::engine::sample_model::{SampleModel, SampleWeights};
use crate::error::{Code, Failure, Result};
use crate::files::Draft;
use crate::http::client;
use crate::spawn;
use crate::text;
use crate::time::in_words;

/// The model that is fetched: small, permissively licensed (Apache-2.0), of an architecture and with
/// a tokenizer that the built-in engine knows. It is asked for by its file, on the branch that its
/// publisher keeps, so that more files in its repository change nothing.
const REAL_MODEL: &str = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF/smollm2-360m-instruct-q8_0.gguf";
const REAL_MODEL_REVISION: &str = "main";
/// How long connecting to the Hub may take: somebody without a network is waiting.
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The model that is made on the spot: its name, and the one sentence that it knows.
const MODEL: &str = "rbee-quickstart";
const SENTENCE: &str = "Hello from your hive! I am a tiny model, made on this machine a moment ago: \
                        real GGUF, real inference, and this one sentence is all I know.";

/// Starts a hive, makes sure that there is a model, then lists, loads, chats with and unloads it
/// through the public API. The hive stays up afterwards.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    serve: serve::Args,
    /// Use no network: make a tiny model here instead of fetching a small real one
    #[arg(long)]
    offline: bool,
    /// End the hive when everything has been shown
    #[arg(long)]
    exit: bool,
}

impl Args {
    pub(super) async fn run(self) -> Result<()> {
        // What fails is on the streams that are shown; a log in between would only disturb.
        super::log_to_stderr("error");
        let mut config = self.serve.into_config()?;
        config.timers.connect = config.timers.connect.min(MOST_PATIENCE).into();
        if config.token_file.is_some() {
            return Err(Failure::new(Code::ConfigInvalid, "quickstart shows a hive without a token")
                .hint("leave --token-file out here, or run `rbee-hive serve` with it"));
        }
        say("🐝 rbee-hive quickstart: this hive will list, load, chat with and unload a model.")?;
        let signal = super::stop_signal();
        let hive = Hive::open(daemon::bind(&config).await?, config)?;
        let (url, model_dir) = (hive.url(), hive.app().config.data_dir.join("quickstart"));
        say(&format!("   It serves on {url}; everything below goes through its public API."))?;

        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut running = spawn::detached(async move {
            hive.run(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = signal => {}
                }
            })
            .await
        });
        let tour = Tour { client: client::for_workers(Duration::from_secs(10))?, url: url.clone() };
        let shown = tokio::select! {
            shown = tour.run(&model_dir, self.offline) => shown,
            // Interrupted in the middle of it.
            ended = &mut running => return ended.unwrap_or_else(|_| Err(Failure::internal("the hive panicked"))),
        };
        let shown = match shown {
            Ok(model) if !self.exit => say(&format!(
                "\n✅ That was all of it. The hive stays up on {url} (Ctrl-C ends it). Try it yourself:\n\n   \
                 curl -s {url}/v1/jobs -H 'Content-Type: application/json' \\\n        \
                 -d '{{\"ModelLoad\":{{\"id\":\"{model}\"}}}}'\n   \
                 curl -N {url}/v1/jobs/<job_id from above>/stream\n   \
                 curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n        \
                 -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}'"
            )),
            shown => shown.map(drop),
        };
        if shown.is_err() || self.exit {
            stop.cancel();
        }
        let ended = running.await.unwrap_or_else(|_| Err(Failure::internal("the hive panicked")));
        shown.and(ended)
    }
}

/// A client of the hive, telling a person what it sees.
struct Tour {
    client: Client,
    url: String,
}

impl Tour {
    /// Answers the model that was shown.
    async fn run(&self, model_dir: &Path, offline: bool) -> Result<String> {
        let mut real = None;
        if !offline {
            real = self.fetch().await?;
        }
        let model = match real {
            Some(model) => model,
            None => self.make(model_dir).await?,
        };
        self.step("List the models", json!({ "ModelList": { "hive_id": "localhost" } })).await?;
        self.step("Load it: a worker process of its own", json!({ "ModelLoad": { "id": model } })).await?;
        self.chat(&model, "Hello, who are you?").await?;
        self.step("Unload it, and prove that it is gone", json!({ "ModelUnload": { "id": model } })).await?;
        Ok(model)
    }

    /// Fetches the real model. `None` where that did not work.
    async fn fetch(&self) -> Result<Option<String>> {
        let request = json!({ "ModelDownload": { "model": REAL_MODEL, "revision": REAL_MODEL_REVISION } });
        let title = "Fetch a small real model from the Hugging Face Hub (386 MB; --offline does without)";
        match self.job(title, request).await? {
            Ok(result) => Ok(result["id"].as_str().map(str::to_owned)),
            Err(error) => {
                say(&format!("  It could not be fetched: {error}\n  So this machine makes one instead."))?;
                Ok(None)
            }
        }
    }

    /// Makes the tiny model and puts it into the catalog.
    async fn make(&self, model_dir: &Path) -> Result<String> {
        let file = make_model(model_dir).await?;
        self.step(
            "Put it into the catalog",
            json!({ "ModelDownload": { "model": format!("file:{}", file.display()) } }),
        )
        .await?;
        Ok(MODEL.to_owned())
    }

    /// Submits an operation that must succeed and shows its stream to the end.
    async fn step(&self, title: &str, operation: Value) -> Result<()> {
        match self.job(title, operation).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::internal(format!("the quickstart stopped here: {error}"))),
        }
    }

    /// Submits an operation and shows its stream to the end. Answers its result, or its error.
    async fn job(&self, title: &str, operation: Value) -> Result<std::result::Result<Value, String>> {
        say(&format!("\n▶ {title}\n  POST /v1/jobs {operation}"))?;
        let answer = self.client.post(format!("{}/v1/jobs", self.url)).json(&operation).send().await;
        let answer: Value = answer.map_err(lost)?.json().await.map_err(lost)?;
        let Some(stream) = answer["sse_url"].as_str() else {
            return Err(Failure::internal(format!(
                "the hive refused its own quickstart: {}",
                answer["detail"]
            )));
        };
        say(&format!("  GET {stream}"))?;
        let (mut result, mut last) = (String::new(), String::new());
        self.lines(self.client.get(format!("{}{stream}", self.url)), |line| {
            result = std::mem::replace(&mut last, line.to_owned());
            say(&format!("  │ {}", shortened(line)))
        })
        .await?;
        match last.strip_prefix("[ERROR] ") {
            None if last == "[DONE]" => Ok(Ok(serde_json::from_str(&result).unwrap_or_default())),
            Some(error) => Ok(Err(error.to_owned())),
            None => Err(Failure::internal("a stream ended without a terminal event")),
        }
    }

    /// Asks the model something and shows its answer word by word.
    async fn chat(&self, model: &str, prompt: &str) -> Result<()> {
        let body = json!({
            "model": model, "max_tokens": 64, "stream": true, "temperature": 0,
            "messages": [{ "role": "user", "content": prompt }],
        });
        say(&format!(
            "\n▶ Chat with it, through the OpenAI-compatible gateway\n  POST /v1/chat/completions {body}"
        ))?;
        show(&format!("  │ you:   {prompt}\n  │ model: "))?;
        let (started, mut tokens) = (Instant::now(), 0);
        self.lines(self.client.post(format!("{}/v1/chat/completions", self.url)).json(&body), |line| {
            let chunk: Value = serde_json::from_str(line).unwrap_or_default();
            match chunk["choices"][0]["delta"]["content"].as_str() {
                Some(text) => {
                    tokens += 1;
                    show(text)
                }
                None => Ok(()),
            }
        })
        .await?;
        if tokens == 0 {
            return Err(Failure::internal("the model said nothing"));
        }
        say(&format!("\n  │ ({tokens} pieces in {})", in_words(started.elapsed())))
    }

    /// Hands each `data:` line of an event stream to `show`, as it arrives.
    async fn lines(
        &self,
        request: reqwest::RequestBuilder,
        mut show: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).map_err(lost)?;
        let (mut body, mut rest) = (answer.bytes_stream(), Vec::new());
        while let Some(chunk) = body.next().await {
            rest.extend_from_slice(&chunk.map_err(lost)?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if let Some(data) = String::from_utf8_lossy(&line).trim_end().strip_prefix("data: ") {
                    show(data)?;
                }
            }
        }
        Ok(())
    }
}

/// Makes the model, anew where an earlier quickstart did: that is quicker than looking whether it is
/// whole.
async fn make_model(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(format!("{MODEL}.gguf"));
    let started = Instant::now();
    let (dir, made) = (dir.to_owned(), path.clone());
    spawn::blocking(move || {
        std::fs::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, &error))?;
        let draft = Draft::of(&made);
        let model = SampleModel {
            name: MODEL.to_owned(),
            weights: SampleWeights::Sentence(SENTENCE.to_owned()),
            ..SampleModel::default()
        };
        model.write(draft.path())?;
        draft.publish().map_err(|error| Failure::io("write", &made, &error))
    })
    .await??;
    let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    say(&format!(
        "\n▶ Make a model: no download, this machine made it in {}\n  {} ({}); it is tiny and knows one \
         sentence. For a real one, see ModelDownload, or give a folder of GGUF files with --models-dir.",
        in_words(started.elapsed()),
        path.display(),
        text::bytes(size)
    ))?;
    Ok(path)
}

/// A line as wide as a terminal can show without drowning the rest.
fn shortened(line: &str) -> String {
    const MOST: usize = 400;
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} in all)", &line[..end], text::bytes(line.len() as u64)),
        None => line.to_owned(),
    }
}

fn lost(error: reqwest::Error) -> Failure {
    Failure::internal("the quickstart lost its hive").cause(&error)
}

fn say(text: &str) -> Result<()> {
    show(&format!("{text}\n"))
}

/// Writes to standard output at once. A closed pipe is the reader's decision.
fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Code::Io, format!("could not write to standard output: {error}")))
}
