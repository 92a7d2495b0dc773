//! `rbee-hive serve`: flags, environment and file become the settings of a hive that serves.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};
use tokio::sync::watch;

use super::process::{self, LogFormat};
use super::service_manager;
use crate::app::AppState;
use crate::config::{Bind, Config, Given, Source};
use crate::daemon::{self, Hive, Predecessor, READY};
use crate::error::{Failure, Result};
use crate::http::Sockets;
use crate::{spawn, text, traces};

/// The flags of `serve`, and which settings they and the environment gave.
#[derive(Clone, Debug)]
pub(super) struct Args {
    flags: Flags,
    given: Given,
}

/// Serve the hive's API. The flags cover common settings; a file given with --config can set all.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct Flags {
    /// The port to serve on; 0 takes a free one [default: 7835]
    #[arg(long, env = "RBEE_HIVE_PORT")]
    port: Option<u16>,
    /// The address to bind; any address but loopback needs --token-file; 'none' serves on --unix-socket alone
    /// [default: 127.0.0.1]
    #[arg(long, env = "RBEE_HIVE_BIND", value_name = "ADDRESS")]
    bind: Option<Bind>,
    /// A Unix socket to serve on too, for the user who runs the hive
    #[arg(long, env = "RBEE_HIVE_UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// A second address to serve at, in Ollama's place [default: none; Ollama's own is 127.0.0.1:11434]
    #[arg(long, env = "RBEE_HIVE_OLLAMA_LISTEN", value_name = "ADDRESS:PORT")]
    ollama_listen: Option<SocketAddr>,
    /// The folder for state, logs and imported models [default: rbee-hive under the XDG data folder]
    #[arg(long, env = "RBEE_HIVE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A folder to scan for GGUF files; may be repeated (or `RBEE_HIVE_MODELS_DIR`, separated as in PATH)
    #[arg(long, value_name = "DIR")]
    models_dir: Vec<PathBuf>,
    /// A name that this hive answers to; may be repeated, the hive reports the first [default: localhost]
    #[arg(long, env = "RBEE_HIVE_HIVE_ID", value_delimiter = ',', value_name = "NAME")]
    hive_id: Vec<String>,
    /// The queen to announce this hive to
    #[arg(long, env = "RBEE_HIVE_QUEEN_URL", value_name = "URL")]
    queen_url: Option<String>,
    /// The address at which the queen reaches this hive [default: its own address]
    #[arg(long, env = "RBEE_HIVE_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// A file, readable by its owner alone, with the bearer token that callers must send
    #[arg(long, env = "RBEE_HIVE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The origin of a web page that may call, besides the hive's own; may be repeated
    #[arg(long, env = "RBEE_HIVE_ALLOW_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// A host name under which clients may call this hive, besides loopback names; may be repeated
    #[arg(long, env = "RBEE_HIVE_ALLOW_HOST", value_delimiter = ',', value_name = "HOST")]
    allow_host: Vec<String>,
    /// End workers with the hive even when it is killed, instead of leaving them to its next start
    #[arg(long, env = "RBEE_HIVE_WORKERS_LIFELINE", value_name = "BOOL")]
    workers_lifeline: Option<bool>,
    /// The executable of llama.cpp's server; empty turns it off [default: llama-server on PATH]
    #[arg(long, env = "RBEE_HIVE_LLAMA_SERVER", value_name = "FILE")]
    llama_server: Option<String>,
    /// Take over from the hive that uses the data folder, if one runs: its sockets, its workers and its jobs
    #[arg(long)]
    take_over: bool,
    /// The form of the log on standard error: lines for people, or a JSON object for each line [default: text]
    #[arg(long, env = "RBEE_HIVE_LOG_FORMAT", value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// A TOML file with settings; flags and the environment override it
    #[arg(long, env = "RBEE_HIVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The settings that each flag, by the name of its field, and its variable give.
const SETTINGS: [(&str, &[&str]); 14] = [
    ("port", &["port"]),
    ("bind", &["bind"]),
    ("unix_socket", &["unix_socket"]),
    ("ollama_listen", &["ollama.listen"]),
    ("data_dir", &["data_dir"]),
    ("models_dir", &["models_dirs"]),
    ("hive_id", &["hive_ids"]),
    ("queen_url", &["queen_url"]),
    ("public_url", &["public_url"]),
    ("token_file", &["token_file"]),
    ("allow_origin", &["allow_origins"]),
    ("allow_host", &["allow_hosts"]),
    ("workers_lifeline", &["workers.lifeline"]),
    ("llama_server", &["llama_server.program", "llama_server.enabled"]),
];

/// The variable that has the folders of `--models-dir`: separated as in `PATH`, which clap cannot read.
const MODELS_DIR: &str = "RBEE_HIVE_MODELS_DIR";

/// Variables that begin as those of settings do and belong to clients, to the log and to tests.
const OTHER_VARIABLES: [&str; 4] = [MODELS_DIR, "RBEE_HIVE_LOG_FORMAT", "RBEE_HIVE_HOST", "RBEE_HIVE_TOKEN"];
const BEGINNINGS_OF_TESTS: [&str; 4] =
    ["RBEE_HIVE_TEST_", "RBEE_HIVE_REQUIRE_", "RBEE_HIVE_BENCH_", "RBEE_HIVE_SOURCE_"];

/// What is to be said of a variable that looks like one of a setting and is none.
fn problem_of_variable(name: &str) -> Option<String> {
    if !name.starts_with("RBEE_HIVE_") || BEGINNINGS_OF_TESTS.iter().any(|test| name.starts_with(test)) {
        return None;
    }
    let flags = SETTINGS.iter().map(|(field, _)| *field).chain(["config"]);
    let mut known: Vec<_> = flags.map(|field| format!("RBEE_HIVE_{}", field.to_uppercase())).collect();
    known.extend(OTHER_VARIABLES.map(str::to_owned));
    if known.iter().any(|known| known == name) {
        return None;
    }
    let near = text::nearest(name, known.iter().map(String::as_str)).first().copied();
    let near = near.map(|near| format!("; the nearest is {near}")).unwrap_or_default();
    Some(format!("the variable {name} is set and means nothing to a hive{near}"))
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { given: given(matches), flags: Flags::from_arg_matches(matches)? })
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { given: given(matches), flags: Flags::from_arg_matches_mut(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.extend(given(matches));
        self.flags.update_from_arg_matches(matches)
    }
}

/// Which settings flags and the environment gave.
fn given(matches: &ArgMatches) -> Given {
    let mut given = Given::new();
    for (field, settings) in SETTINGS {
        let source = match matches.value_source(field) {
            Some(ValueSource::CommandLine) => Source::Flag { flag: format!("--{}", field.replace('_', "-")) },
            Some(ValueSource::EnvVariable) => {
                Source::Environment { variable: format!("RBEE_HIVE_{}", field.to_uppercase()) }
            }
            _ => continue,
        };
        given.extend(settings.iter().map(|setting| ((*setting).to_owned(), source.clone())));
    }
    given
}

impl Args {
    /// The settings: the defaults, overridden by the file, the environment and flags, in this order.
    pub(super) fn into_config(self) -> Result<Config> {
        let Self { flags, mut given } = self;
        let models_dirs = match std::env::var_os(MODELS_DIR) {
            Some(dirs) if flags.models_dir.is_empty() => {
                let source = Source::Environment { variable: MODELS_DIR.to_owned() };
                let dirs: Vec<_> =
                    std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()).collect();
                given.extend((!dirs.is_empty()).then(|| ("models_dirs".to_owned(), source)));
                dirs
            }
            _ => flags.models_dir.clone(),
        };
        Ok(Config { given, ..flags.into_config(models_dirs)? })
    }
}

impl Flags {
    fn into_config(self, models_dirs: Vec<PathBuf>) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::from_file(path)?,
            None => Config::default(),
        };
        fn set<T>(setting: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *setting = given;
            }
        }
        fn set_all<T>(setting: &mut Vec<T>, given: Vec<T>) {
            if !given.is_empty() {
                *setting = given;
            }
        }
        set(&mut config.port, self.port);
        set(&mut config.bind, self.bind);
        set(&mut config.data_dir, self.data_dir);
        set_all(&mut config.models_dirs, models_dirs);
        set_all(&mut config.hive_ids, self.hive_id);
        set_all(&mut config.allow_origins, self.allow_origin);
        set_all(&mut config.allow_hosts, self.allow_host);
        set(&mut config.workers.lifeline, self.workers_lifeline);
        if let Some(program) = self.llama_server {
            config.llama_server.enabled = !program.is_empty();
            config.llama_server.program = Some(program.into()).filter(|_| config.llama_server.enabled);
        }
        config.queen_url = self.queen_url.or(config.queen_url);
        config.public_url = self.public_url.or(config.public_url);
        config.token_file = self.token_file.or(config.token_file);
        config.ollama.listen = self.ollama_listen.or(config.ollama.listen);
        config.unix_socket = self.unix_socket.or(config.unix_socket);
        let config = config.with_absolute_paths()?;
        config.validate()?;
        Ok(config)
    }
}

impl Args {
    /// The form of the log.
    pub(super) fn log_format(&self) -> LogFormat {
        self.flags.log_format.unwrap_or_default()
    }

    /// Serves until SIGINT, SIGQUIT, SIGTERM or SIGUSR1, on the sockets that a service manager passed where it did. SIGHUP
    /// reloads the settings.
    pub(super) async fn run(self, passed: Sockets) -> Result<()> {
        process::log_to_stderr("info", self.log_format(), true);
        process::allow_open_files();
        let variables =
            std::env::vars_os().filter_map(|(name, _)| problem_of_variable(&name.to_string_lossy()));
        variables.for_each(|problem| tracing::warn!("{problem}"));
        let takes_over = self.flags.take_over;
        let config = passed.into_settings(self.into_config()?)?;
        let mut stop = std::pin::pin!(process::stop_signal());
        // A hangup during the start must not end the process.
        let (opened, app) = watch::channel(None::<AppState>);
        process::on_hangup(move || reload(app.borrow().clone()));
        let mut predecessor = if takes_over { Predecessor::find(&config).await? } else { None };
        let sockets = passed.or(predecessor.as_mut().map(Predecessor::sockets).unwrap_or_default());
        let (config, keeps_unix) = (sockets.into_settings(config)?, sockets.unix.is_some());
        let listener = daemon::bind_beside(&config, sockets).await?;
        let estate = match predecessor {
            Some(predecessor) => tokio::select! {
                estate = predecessor.take(keeps_unix) => Some(estate?),
                _ = &mut stop => return Ok(()),
            },
            None => None,
        };
        // It reads the disks of the models, which may not answer: the signal ends it even then.
        let hive = tokio::select! {
            hive = spawn::blocking(move || Hive::open_with(listener, config, estate)) => hive??,
            _ = &mut stop => return Ok(()),
        };
        opened.send_replace(Some(Arc::clone(hive.app())));
        ready_line(&hive)?;
        let attending = spawn::detached(service_manager::attend(Arc::clone(hive.app())));
        let ended = hive.run(stop).await;
        // So that what the manager hears last has left the process.
        let _told = attending.await;
        traces::end();
        ended
    }
}

/// Reloads the settings because of a hangup.
fn reload(app: Option<AppState>) {
    tracing::info!("received SIGHUP: the hive serves on, and reads its settings again");
    let Some(app) = app else { return };
    service_manager::around_reload(|| {
        if let Err(failure) = app.reload() {
            let hint = failure.hint.as_deref().unwrap_or_default();
            tracing::warn!("the settings stay as they were: {failure}; {hint}");
        }
    });
}

/// Prints the one line on standard output, from which a program that starts the hive reads its
/// address. The socket is bound and accepts connections.
fn ready_line(hive: &Hive) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let also = hive.ollama_url().map(|url| format!(" and, for Ollama's clients, {url}")).unwrap_or_default();
    writeln!(
        out,
        "{READY}{}{also} (pid {}, data in {})",
        hive.url(),
        std::process::id(),
        hive.app().config.data_dir.display()
    )
    .and_then(|()| out.flush())
    .map_err(|error| Failure::internal("could not write the ready line").detail(error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn the_command_line_definition_is_valid() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_says_which_settings_it_gives() {
        let command = <Flags as clap::Args>::augment_args(Command::new("serve"));
        let known: Vec<_> =
            Config::default().settings().unwrap().into_iter().map(|setting| setting.name).collect();
        let flags = command
            .get_arguments()
            .filter(|flag| !["config", "take_over", "log_format"].contains(&flag.get_id().as_str()));
        let mut count = 0;
        for flag in flags {
            let id = flag.get_id().as_str();
            let (_, settings) = SETTINGS.iter().find(|(field, _)| *field == id).expect(id);
            assert!(settings.iter().all(|setting| known.iter().any(|name| name == setting)), "{settings:?}");
            assert_eq!(flag.get_long(), Some(&*id.replace('_', "-")));
            let variable = flag.get_env().map_or(MODELS_DIR.into(), |variable| variable.to_string_lossy());
            assert_eq!(variable, format!("RBEE_HIVE_{}", id.to_uppercase()));
            count += 1;
        }
        assert_eq!(count, SETTINGS.len());
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_nearest_and_every_known_one_is_not() {
        let problem = problem_of_variable("RBEE_HIVE_MODEL_DIR").unwrap();
        assert!(problem.ends_with("the nearest is RBEE_HIVE_MODELS_DIR"), "{problem}");
        for name in ["RBEE_WORKER_ID", "PORT", "RBEE_HIVE_TEST_SEED"] {
            assert_eq!(problem_of_variable(name), None);
        }
        let mut commands = vec![<Cli as clap::CommandFactory>::command()];
        while let Some(command) = commands.pop() {
            for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
                assert_eq!(problem_of_variable(&variable.to_string_lossy()), None);
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hive.toml");
        std::fs::write(&file, "port = 1\nhive_ids = [\"a\"]\n[timers]\nsilence = \"2s\"\n").unwrap();
        let cli = Cli::parse_from([
            "rbee-hive",
            "--config",
            file.to_str().unwrap(),
            "--port",
            "2",
            "--data-dir",
            dir.path().to_str().unwrap(),
        ]);
        let config = cli.serve.into_config().unwrap();
        assert_eq!((config.port, &*config.hive_ids[0]), (2, "a"));
        assert_eq!(*config.timers.silence, std::time::Duration::from_secs(2));
        let cli = Cli::parse_from(["rbee-hive", "--data-dir", "data", "--models-dir", "models"]);
        let config = cli.serve.into_config().unwrap();
        assert!(config.data_dir.is_absolute() && config.models_dirs[0].is_absolute());
    }

    #[test]
    fn an_unknown_setting_is_reported_with_its_file_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hive.toml");
        std::fs::write(&file, "port = 1\nprot = 2\n").unwrap();
        let cli = Cli::parse_from(["rbee-hive", "--config", file.to_str().unwrap()]);
        let failure = cli.serve.into_config().unwrap_err();
        assert!(failure.message.contains("hive.toml") && failure.message.contains("prot"), "{failure}");
    }

    #[test]
    fn a_timer_out_of_bounds_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hive.toml");
        let refused =
            [("silence", "0s"), ("retry", "0s"), ("retry_after", "8785h"), ("read_deadline", "9000000000y")];
        for (name, time) in refused {
            std::fs::write(&file, format!("[timers]\n{name} = \"{time}\"\n")).unwrap();
            let cli = Cli::parse_from(["rbee-hive", "--config", file.to_str().unwrap()]);
            let failure = cli.serve.into_config().unwrap_err();
            assert!(failure.message.contains(name), "{failure}");
        }
    }

    #[test]
    fn without_tcp_there_must_be_another_way_in() {
        let config = |args: &[&str]| {
            Cli::parse_from([&["rbee-hive", "--bind", "none"], args].concat()).serve.into_config()
        };
        assert!(config(&[]).unwrap_err().hint.unwrap().contains("--unix-socket"));
        let queen = config(&["--unix-socket", "s", "--queen-url", "http://queen"]).unwrap_err();
        assert!(queen.hint.unwrap().contains("--public-url"));
        assert!(config(&["--unix-socket", "s"]).unwrap().is_local());
        assert!(!config(&["--unix-socket", "s", "--public-url", "https://a.example"]).unwrap().is_local());
        assert!(!config(&["--unix-socket", "s", "--allow-host", "a.example"]).unwrap().is_local());
        assert!(!config(&["--unix-socket", "s", "--token-file", "t"]).unwrap().is_local());
    }

    #[test]
    fn beyond_loopback_a_token_is_required() {
        for (flag, address) in [("--bind", "0.0.0.0"), ("--ollama-listen", "0.0.0.0:11434")] {
            let cli = Cli::parse_from(["rbee-hive", flag, address]);
            let failure = cli.serve.into_config().unwrap_err();
            assert!(failure.message.contains(address), "{failure}");
            assert!(failure.hint.unwrap().contains("--token-file"));
        }
        let flags = ["rbee-hive", "--ollama-listen", "0.0.0.0:11434", "--token-file", "t"];
        assert!(!Cli::parse_from(flags).serve.into_config().unwrap().is_local());
    }
}
