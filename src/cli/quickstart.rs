//! `rbee-hive quickstart`: shows the hive's main operations on a machine that has no model yet.
//!
//! It downloads a small real model from the Hugging Face Hub. Without a network it generates a tiny
//! one and says so.
//!
//! It starts a hive in this process, does everything through the public API as any client would, and
//! prints every narration as it arrives.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{process, serve};
use crate::config::Bind;
use crate::daemon::{self, Hive};
use crate::disk;
use crate::engine::sample_model::{SampleModel, SampleWeights};
use crate::error::{Code, Failure, Result};
use crate::files::Draft;
use crate::outgoing;
use crate::spawn;
use crate::text;
use crate::time::in_words;

/// The model to download: small, permissively licensed (Apache-2.0), with an architecture and a
/// tokenizer that the built-in engine supports. It is named by its file, on the publisher's main branch,
/// so that further files in the repository do not make the name ambiguous.
const REAL_MODEL: &str = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF/smollm2-360m-instruct-q8_0.gguf";
const REAL_MODEL_REVISION: &str = "main";
/// How long connecting to the Hub may take. A user without a network waits this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The name of the generated model.
const MODEL: &str = "rbee-quickstart";
/// The one sentence that the generated model knows.
const SENTENCE: &str = "Hello from your hive! I am a tiny model, made on this machine a moment ago: \
                        real GGUF, real inference, and this one sentence is all I know.";

/// Start a hive, get a model, then list, load, chat with and unload it through the public API. The
/// hive keeps running afterwards.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    serve: serve::Args,
    /// Use no network: generate a tiny model instead of downloading a small real one
    #[arg(long)]
    offline: bool,
    /// Install an engine first, which runs more models than the built-in one: the one that is recommended for this
    /// machine, or the one of this id
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = RECOMMENDED)]
    engine: Option<String>,
    /// Stop the hive at the end
    #[arg(long)]
    exit: bool,
}

/// Stands for the id of the engine that is recommended for this machine.
const RECOMMENDED: &str = "recommended";
/// The engine that every machine can have.
const ENGINE_OF_EVERY_MACHINE: &str = "llama-server-cpu";

impl Args {
    pub(super) async fn run(self) -> Result<()> {
        // Failures are in the streams that are printed; other log lines would mix with them.
        process::log_to_stderr("error", self.serve.log_format(), false);
        let mut config = self.serve.into_config()?;
        config.timers.connect = config.timers.connect.min(CONNECT_LIMIT).into();
        if !config.is_local() || config.bind == Bind::None {
            return Err(Failure::new(
                Code::ConfigInvalid,
                "quickstart works only for callers of this machine",
            )
            .hint(
                "leave out --bind, --token-file, --allow-host and --public-url, or use them with \
                     `rbee-hive serve`",
            ));
        }
        process::allow_open_files();
        print_line("🐝 rbee-hive quickstart: this hive will list, load, chat with and unload a model.")?;
        let signal = process::stop_signal();
        let hive = Hive::open(daemon::bind(&config).await?, config)?;
        let (url, model_dir) = (hive.url(), hive.app().config.data_dir.join("quickstart"));
        print_line(&format!("   The hive serves on {url}; everything below uses its public API."))?;

        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut running = spawn::detached(async move {
            hive.run(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    _ = signal => {}
                }
            })
            .await
        });
        let tour = Tour { client: outgoing::for_workers(Duration::from_secs(10))?, url: url.clone() };
        let outcome = tokio::select! {
            outcome = tour.run(&model_dir, self.offline, self.engine.as_deref()) => outcome,
            // The tour was interrupted.
            ended = &mut running => return ended.unwrap_or_else(|_| Err(Failure::internal("the hive panicked"))),
        };
        let outcome = match outcome {
            Ok(model) if !self.exit => print_line(&format!(
                "\n✅ Done. The hive keeps running on {url} (Ctrl-C stops it). Try it yourself:\n\n   \
                 curl -s {url}/v1/jobs -H 'Content-Type: application/json' \\\n        \
                 -d '{{\"ModelLoad\":{{\"id\":\"{model}\"}}}}'\n   \
                 curl -N {url}/v1/jobs/<job_id from above>/stream\n   \
                 curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n        \
                 -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}'"
            )),
            outcome => outcome.map(drop),
        };
        if outcome.is_err() || self.exit {
            stop.cancel();
        }
        let ended = running.await.unwrap_or_else(|_| Err(Failure::internal("the hive panicked")));
        outcome.and(ended)
    }
}

/// A client of the hive that prints what it does.
struct Tour {
    client: Client,
    url: String,
}

impl Tour {
    /// Runs every step. Returns the model's id.
    async fn run(&self, model_dir: &Path, offline: bool, engine: Option<&str>) -> Result<String> {
        if let Some(id) = engine {
            self.install(id).await?;
        }
        let downloaded = if offline { None } else { self.download().await? };
        let model = match downloaded {
            Some(model) => model,
            None => self.generate(model_dir).await?,
        };
        self.step("List the models", json!({ "ModelList": { "hive_id": "localhost" } })).await?;
        self.step("Load the model into a worker process", json!({ "ModelLoad": { "id": model } })).await?;
        self.chat(&model, "Hello, who are you?").await?;
        self.step(
            "Unload the model and check that its worker is gone",
            json!({ "ModelUnload": { "id": model } }),
        )
        .await?;
        if engine.is_none() && !offline {
            self.offer_engine().await?;
        }
        Ok(model)
    }

    /// Installs an engine. Where that fails, the tour goes on with those that are here.
    async fn install(&self, id: &str) -> Result<()> {
        let recommended = if id == RECOMMENDED { self.recommended_engine().await? } else { None };
        let recommended = recommended.as_ref().and_then(|offer| offer["id"].as_str());
        let id = if id == RECOMMENDED { recommended.unwrap_or(ENGINE_OF_EVERY_MACHINE) } else { id };
        let operation = json!({ "WorkerInstall": { "worker_id": id } });
        if let Err(error) = self.job(&format!("Install the engine {id}"), operation).await? {
            print_line(&format!(
                "  The installation failed: {error}\n  The tour goes on with the built-in engine."
            ))?;
        }
        Ok(())
    }

    /// Says in one line how to get the engine that is recommended for this machine, unless one of its kind is here.
    async fn offer_engine(&self) -> Result<()> {
        let capabilities = self.client.get(format!("{}/v1/capabilities", self.url)).send().await;
        let capabilities: Value = capabilities.map_err(lost)?.json().await.map_err(lost)?;
        let names = capabilities["engines"].as_array().into_iter().flatten().map(|engine| &engine["name"]);
        if names.filter_map(Value::as_str).any(|name| name.starts_with("llama-server")) {
            return Ok(());
        }
        let offer = self.recommended_engine().await?.filter(|offer| offer["problem"].is_null());
        let Some(id) = offer.as_ref().and_then(|offer| offer["id"].as_str()) else { return Ok(()) };
        let size = offer.as_ref().and_then(|offer| offer["size"].as_u64()).map(text::bytes);
        let size = size.map_or_else(String::new, |size| format!(" ({size})"));
        print_line(&format!(
            "\n💡 {id}{size} runs more models than the built-in engine. WorkerInstall \
             {{\"worker_id\":\"{id}\"}} installs it, as does `rbee-hive quickstart --engine`."
        ))
    }

    /// The engine that is recommended for this machine, as the hive offers it.
    async fn recommended_engine(&self) -> Result<Option<Value>> {
        let operation = json!({ "WorkerCatalogList": {} });
        let answer = self.client.post(format!("{}/v1/jobs", self.url)).json(&operation).send().await;
        let answer: Value = answer.map_err(lost)?.json().await.map_err(lost)?;
        let Some(stream) = answer["sse_url"].as_str() else { return Ok(None) };
        let mut offers = Value::Null;
        self.lines(self.client.get(format!("{}{stream}", self.url)), |line| {
            if let Ok(result @ Value::Object(_)) = serde_json::from_str(line) {
                offers = result;
            }
            Ok(())
        })
        .await?;
        let offers = offers["workers"].as_array().into_iter().flatten();
        Ok(offers.into_iter().find(|offer| offer["recommended"] == true).cloned())
    }

    /// Downloads the real model. Returns `None` if that failed.
    async fn download(&self) -> Result<Option<String>> {
        let request = json!({ "ModelDownload": { "model": REAL_MODEL, "revision": REAL_MODEL_REVISION } });
        let title = "Download a small real model from the Hugging Face Hub (386 MB; --offline skips this)";
        match self.job(title, request).await? {
            Ok(result) => Ok(result["id"].as_str().map(str::to_owned)),
            Err(error) => {
                print_line(&format!(
                    "  The download failed: {error}\n  This machine generates a model instead."
                ))?;
                Ok(None)
            }
        }
    }

    /// Generates the tiny model and adds it to the catalog.
    async fn generate(&self, model_dir: &Path) -> Result<String> {
        let file = generate_model(model_dir).await?;
        self.step(
            "Add the model to the catalog",
            json!({ "ModelDownload": { "model": format!("file:{}", file.display()) } }),
        )
        .await?;
        Ok(MODEL.to_owned())
    }

    /// Submits an operation that must succeed and prints its stream to the end.
    async fn step(&self, title: &str, operation: Value) -> Result<()> {
        match self.job(title, operation).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::internal(format!("the quickstart stopped here: {error}"))),
        }
    }

    /// Submits an operation and prints its stream to the end. Returns its result, or its error.
    async fn job(&self, title: &str, operation: Value) -> Result<std::result::Result<Value, String>> {
        print_line(&format!("\n▶ {title}\n  POST /v1/jobs {operation}"))?;
        let answer = self.client.post(format!("{}/v1/jobs", self.url)).json(&operation).send().await;
        let answer: Value = answer.map_err(lost)?.json().await.map_err(lost)?;
        let Some(stream) = answer["sse_url"].as_str() else {
            return Err(Failure::internal(format!(
                "the hive refused an operation of the quickstart: {}",
                answer["detail"]
            )));
        };
        print_line(&format!("  GET {stream}"))?;
        let (mut result, mut last) = (String::new(), String::new());
        self.lines(self.client.get(format!("{}{stream}", self.url)), |line| {
            result = std::mem::replace(&mut last, line.to_owned());
            print_line(&format!("  │ {}", shortened(line)))
        })
        .await?;
        match last.strip_prefix("[ERROR] ") {
            None if last == "[DONE]" => Ok(Ok(serde_json::from_str(&result).unwrap_or_default())),
            Some(error) => Ok(Err(error.to_owned())),
            None => Err(Failure::internal("a stream ended without a terminal event")),
        }
    }

    /// Sends the model a prompt and prints its answer as it arrives.
    async fn chat(&self, model: &str, prompt: &str) -> Result<()> {
        let body = json!({
            "model": model, "max_tokens": 64, "stream": true, "temperature": 0,
            "messages": [{ "role": "user", "content": prompt }],
        });
        print_line(&format!(
            "\n▶ Chat with the model through the OpenAI-compatible gateway\n  POST /v1/chat/completions {body}"
        ))?;
        print_now(&format!("  │ you:   {prompt}\n  │ model: "))?;
        let (started, mut tokens) = (Instant::now(), 0);
        self.lines(self.client.post(format!("{}/v1/chat/completions", self.url)).json(&body), |line| {
            let chunk: Value = serde_json::from_str(line).unwrap_or_default();
            match chunk["choices"][0]["delta"]["content"].as_str() {
                Some(text) => {
                    tokens += 1;
                    print_now(text)
                }
                None => Ok(()),
            }
        })
        .await?;
        if tokens == 0 {
            return Err(Failure::internal("the model returned no text"));
        }
        print_line(&format!("\n  │ ({tokens} pieces in {})", in_words(started.elapsed())))
    }

    /// Passes each `data:` line of an event stream to `show` as it arrives.
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

/// Generates the model. It replaces the model of an earlier quickstart, because that is faster than
/// checking whether that file is complete.
async fn generate_model(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(format!("{MODEL}.gguf"));
    let started = Instant::now();
    let (dir, made) = (dir.to_owned(), path.clone());
    spawn::blocking(move || {
        disk::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, &error))?;
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
    print_line(&format!(
        "\n▶ Generate a model: no download, this machine generated it in {}\n  {} ({}); it is tiny and knows \
         one sentence. For a real one, use ModelDownload, or give a folder of GGUF files with --models-dir.",
        in_words(started.elapsed()),
        path.display(),
        text::bytes(size)
    ))?;
    Ok(path)
}

/// The line, cut after 400 characters so that it does not fill the terminal.
fn shortened(line: &str) -> String {
    const MOST: usize = 400;
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} in all)", &line[..end], text::bytes(line.len() as u64)),
        None => line.to_owned(),
    }
}

fn lost(error: reqwest::Error) -> Failure {
    Failure::internal("the connection to the hive failed").cause(&error)
}

fn print_line(text: &str) -> Result<()> {
    print_now(&format!("{text}\n"))
}

/// Writes to standard output and flushes it. A closed pipe ends the quickstart.
fn print_now(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Code::Io, format!("could not write to standard output: {error}")))
}
