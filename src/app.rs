//! The shared state of a running hive: its settings and its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::address::Address;
use crate::callers::{Caller, Callers};
use crate::config::{Config, ModelSettings, Reloaded, served_id};
use crate::engine_store::EngineStore;
use crate::engines::Engines;
use crate::error::{Code, Failure, Result};
use crate::events::{Hub, Topic};
use crate::fleet::{Fleet, HiveName, Served as ServedNow, Serving, Setup, Visits};
use crate::jobs::{Job, JobId, Registry};
use crate::models::{Catalog, Model, ModelId};
use crate::origin::without_brackets;
use crate::queen::Queen;
use crate::readers::Readers;
use crate::requests::Ledger;
use crate::residency::Residency;
use crate::responses::Responses;
use crate::settings::{Defaults, Settings};
use crate::time::Instant;
use crate::turns::Turns;
use crate::usage::Usage;
use crate::workers::telemetry::Telemetry;
use crate::workers::{Abilities, Asked, Served, StartRequest, Supervisor, WorkerPhase};
use crate::{engine, outgoing};

/// Something that requests may name.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    /// Its name, where that is not the id under which it is served.
    pub(crate) alias: Option<String>,
    pub(crate) served_id: String,
    pub(crate) model: &'a Model,
}

/// One running hive. Handlers get it as [`AppState`].
#[derive(Debug)]
pub struct App {
    /// The settings that it was started with; [`App::in_effect`] has those that a reload changes.
    pub config: Config,
    /// The address that it serves at.
    pub address: Address,
    /// The machine's host name.
    pub hostname: String,
    /// When it started.
    pub started_at: Instant,
    /// Every job.
    pub jobs: Registry,
    /// The changes for readers of `/v1/events`.
    pub events: Arc<Hub>,
    /// Who reads streams.
    pub(crate) readers: Readers,
    /// The models of this machine.
    pub catalog: Catalog,
    /// The settings of single models.
    pub(crate) settings: Settings,
    /// The worker processes.
    pub workers: Supervisor,
    /// The engines that the hive installs.
    pub engines: Engines,
    /// Which models are in memory.
    pub(crate) residency: Residency,
    /// The models that are being loaded: a second load of one waits for the first.
    pub loading: Turns<String>,
    /// Who changes the aliases of what is served under an id, which are read before.
    pub(crate) naming: Turns<String>,
    /// The resources that the machine and the workers use.
    pub telemetry: Telemetry,
    /// Who may call, where a token is asked for.
    pub(crate) callers: Callers,
    /// How much each caller used each model.
    pub(crate) usage: Usage,
    /// The requests to the gateway.
    pub(crate) requests: Ledger,
    /// The responses that clients may go on with.
    pub(crate) responses: Responses,
    /// The HTTP client of the gateway, for workers.
    pub gateway: reqwest::Client,
    /// The queen, if the settings name one.
    pub queen: Option<Queen>,
    /// The fleet, where this hive is in one.
    pub(crate) fleet: Fleet,
    /// The answers to other hives.
    pub(crate) visits: Visits,
    /// What makes, joins and leaves a fleet.
    pub(crate) fleet_setup: Setup,
    in_effect: RwLock<Arc<Config>>,
    /// The turn of a reload.
    reloading: Mutex<()>,
    /// Cancelled when the hive begins to shut down.
    pub shutdown: CancellationToken,
    /// Cancelled when every job has ended and every worker is gone: ends the streams that follow the
    /// hive itself.
    pub quiet: CancellationToken,
    /// Cancelled when every connection has ended.
    pub(crate) served: CancellationToken,
}

/// The shared state of every handler.
pub type AppState = Arc<App>;

/// A model on `/v1/events`.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelChangeEvent)]
pub(crate) struct ModelChange<'a> {
    change: &'static str,
    model: &'a Model,
}

/// What a caller names: a model, or a variant of it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) model: Model,
    pub(crate) variant: Option<String>,
    /// What counts for it.
    pub(crate) settings: Arc<ModelSettings>,
}

impl Target {
    /// The id under which workers serve it.
    pub(crate) fn served_id(&self) -> String {
        served_id(&self.model.id, self.variant.as_deref())
    }

    /// What to start for it, where a caller asks for that.
    pub(crate) fn request(&self, asked: Asked) -> StartRequest {
        StartRequest::new(&self.model, self.variant.as_deref(), &self.settings, asked)
    }
}

impl App {
    /// Makes the parts of a hive that serves at `address`: reads earlier jobs back, finds the engines. The
    /// folders of the settings must exist.
    ///
    /// # Errors
    /// If a folder cannot be read or a setting cannot be met.
    pub fn open(config: Config, address: Address) -> Result<AppState> {
        let store = EngineStore::open(config.engines_dir());
        let (shutdown, workers) = (CancellationToken::new(), Supervisor::new(&config, store.clone())?);
        let events = Arc::new(Hub::new(config.jobs.event_ring));
        let (catalog, served_by) = (Catalog::new(&config)?, workers.clone());
        catalog.keep_served_ids(move || served_by.served_files());
        let supported_by = workers.clone();
        catalog.ask_engines(engine::load::obstacle, move |needs| supported_by.support(needs));
        let fleet = Fleet::default();
        catalog.transfers().ask(Arc::new(fleet.clone()));
        let settings = Settings::open(&config);
        let usage = Usage::open(config.usage_dir());
        let requests = Ledger::of(usage.clone());
        let hostname = gethostname::gethostname().to_string_lossy().into_owned();
        Ok(Arc::new(Self {
            engines: Engines::new(&config, store, workers.clone(), &catalog, requests.clone())?,
            settings: settings.clone(),
            fleet_setup: Setup::new(&config.data_dir, &config.fleet, &hostname),
            hostname,
            started_at: Instant::now(),
            jobs: Registry::open(&config, Arc::clone(&events))?,
            catalog,
            residency: Residency::new(&config, workers.clone(), settings),
            telemetry: Telemetry::new(&config, workers.clone()),
            callers: Callers::open(&config)?,
            usage,
            requests,
            responses: Responses::default(),
            gateway: outgoing::for_workers(*config.timers.connect)?,
            queen: Queen::of(&config, &address, shutdown.clone())?,
            visits: Visits::default(),
            fleet,
            address,
            loading: Turns::default(),
            naming: Turns::default(),
            workers,
            events,
            readers: Readers::default(),
            shutdown,
            quiet: CancellationToken::new(),
            served: CancellationToken::new(),
            in_effect: RwLock::new(Arc::new(config.clone())),
            reloading: Mutex::default(),
            config,
        }))
    }

    /// The settings in effect: those of the start, with what reloads have taken over since.
    #[must_use]
    pub fn in_effect(&self) -> Arc<Config> {
        Arc::clone(&self.in_effect.read())
    }

    /// Reads the named tokens and the file of the settings again, takes over what a running hive can take over, and
    /// tells what that was and what needs a restart: in its answer, the log and on `/v1/events`.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`]: nothing changes of what is in the file that is not valid.
    pub fn reload(&self) -> Result<Reloaded> {
        let _turn = self.reloading.lock();
        self.callers.reload()?;
        let running = self.in_effect();
        let Some(mut file) = running.file.clone() else {
            tracing::info!("nothing to reload: the hive was started without --config");
            return Ok(Reloaded::default());
        };
        let read = Config::from_file(&file.path)?.with_absolute_paths()?;
        // As the hive would be started with it: flags count more than the file.
        let effective = running.taking_over(&read)?;
        effective.validate()?;
        let reloaded = read.file.as_ref().map(|read| file.update(read)).unwrap_or_default();
        self.jobs.keep(&effective.jobs);
        self.catalog.transfers().reload(&effective.downloads);
        self.settings.reload(&effective.models);
        self.workers.reload(&effective);
        self.residency.reload(&effective.residency);
        *self.in_effect.write() = Arc::new(Config { file: Some(file), ..effective });
        let Reloaded { file, applied, restart_needed } = &reloaded;
        tracing::info!(?file, ?applied, "read the settings again");
        if !restart_needed.is_empty() {
            tracing::warn!(settings = ?restart_needed, "these settings need a restart of the hive");
        }
        if !applied.is_empty() || !restart_needed.is_empty() {
            self.events.publish(Topic::Config, &reloaded);
        }
        Ok(reloaded)
    }

    /// The name that this hive reports.
    #[must_use]
    pub fn hive_id(&self) -> &str {
        self.config.hive_ids.first().map_or("localhost", String::as_str)
    }

    /// The name of this hive in a fleet: the first of its ids, else that of its machine.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] if no hive of a fleet can have it.
    pub(crate) fn fleet_name(&self) -> Result<HiveName> {
        let given = self.config.hive_ids.first().filter(|id| !id.eq_ignore_ascii_case("localhost"));
        HiveName::new(given.unwrap_or(&self.hostname))
    }

    /// Refuses a `hive_id` that names another hive. `request_host` is the host that the request was sent
    /// to: a web page sends the host that it was loaded from.
    ///
    /// # Errors
    /// [`Code::UnknownHive`], naming what this hive answers to.
    pub fn check_hive_id(&self, hive_id: &str, request_host: Option<&str>) -> Result<()> {
        let is = |name: &str| name.eq_ignore_ascii_case(hive_id);
        let loopback = without_brackets(hive_id).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if is("localhost")
            || loopback
            || is(&self.hostname)
            || request_host.is_some_and(is)
            || self.config.hive_ids.iter().any(|name| is(name))
        {
            return Ok(());
        }
        Err(Failure::new(
            Code::UnknownHive,
            format!("this hive is not '{}', it is '{}'", crate::text::excerpt(hive_id), self.hive_id()),
        )
        .hint("leave hive_id out, or start this hive with --hive-id to give it another name"))
    }

    /// The job of that id, of this hive or of another one of its fleet.
    ///
    /// # Errors
    /// [`Code::JobNotFound`]; [`Code::FleetUnreachable`] if the others cannot be asked.
    pub(crate) async fn find_job(&self, id: &str) -> Result<Arc<Job>> {
        match (self.jobs.get(id), JobId::parse(id)) {
            (Err(_), Some(id)) if self.fleet.is_on() => self.fleet.job(&id).await,
            (found, _) => found,
        }
    }

    /// What a caller names, by the id or the unique name of a model, an alias, or one of these with `@` and the
    /// name of a variant.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] with the nearest names, [`Code::ModelAmbiguous`].
    pub(crate) async fn find_target(&self, name: &str) -> Result<Target> {
        self.find(name, None).await
    }

    /// As [`Self::find_target`], for a request to a model: a name that means nothing means the model with the
    /// alias `*`. Operations, which delete and change, take no such name.
    ///
    /// # Errors
    /// As [`Self::find_target`], if no model has that alias.
    pub(crate) async fn find_requested(&self, name: &str) -> Result<Target> {
        self.find(name, self.settings.catch_all()).await
    }

    async fn find(&self, name: &str, otherwise: Option<(String, Option<String>)>) -> Result<Target> {
        let called = |name: &str| self.settings.called(name);
        let (mut model, variant) = self.catalog.find_called(name, called, otherwise).await?;
        if variant.is_none() {
            self.check_not_gone(name, &model)?;
        }
        if let Some(variant) = &variant {
            self.settings.check_variant(&model.id, variant)?;
        }
        self.workers.engines().await;
        self.describe(&mut model);
        let settings = self.settings.of(&model.id, variant.as_deref());
        Ok(Target { model, variant, settings })
    }

    /// The id under which workers serve what a request names. Asks the catalog only where it has to: not for the
    /// id of what a worker serves, nor for an alias of that.
    ///
    /// # Errors
    /// As [`Self::find_requested`].
    pub(crate) async fn served_id(&self, name: &str) -> Result<String> {
        match self.served_now(name) {
            Some(id) => Ok(id),
            None => Ok(self.find_requested(name).await?.served_id()),
        }
    }

    /// As [`Self::served_id`], for what a request names itself: the alias `*` does not count.
    ///
    /// # Errors
    /// As [`Self::find_target`].
    pub(crate) async fn served_id_itself(&self, name: &str) -> Result<String> {
        match self.served_now(name) {
            Some(id) => Ok(id),
            None => Ok(self.find_target(name).await?.served_id()),
        }
    }

    /// As [`Self::served_id_itself`], as far as that is known without the disk; `None` for what this hive does not have.
    ///
    /// # Errors
    /// [`Code::ModelAmbiguous`]
    pub(crate) fn known_id(&self, name: &str) -> Result<Option<String>> {
        if let Some(id) = self.served_now(name) {
            return Ok(Some(id));
        }
        let known = self.catalog.find_known(name, |name| self.settings.called(name))?;
        Ok(known.and_then(|(model, variant)| {
            let is_there = |variant: &str| self.settings.check_variant(&model, variant).is_ok();
            variant.as_deref().is_none_or(is_there).then(|| served_id(&model, variant.as_deref()))
        }))
    }

    /// The id of what a worker serves and `name` means, as far as that is known without the catalog.
    fn served_now(&self, name: &str) -> Option<String> {
        if !self.workers.statuses(name).is_empty() {
            return Some(name.to_owned());
        }
        let (model, variant) = self.settings.called(name)?;
        let id = served_id(&model, variant.as_deref());
        (!self.workers.statuses(&id).is_empty() && !self.catalog.knows(name)).then_some(id)
    }

    /// What can be done with what is served under that id, as far as it is known.
    pub(crate) async fn can(&self, served_id: &str) -> Abilities {
        self.workers.engines().await;
        let model = self.catalog.last_known(&self.settings.model_of(served_id));
        model.map(|model| self.abilities(&model, served_id)).unwrap_or_default()
    }

    /// What a model, or the variant of it that is served under that id, can do.
    pub(crate) fn abilities(&self, model: &Model, served_id: &str) -> Abilities {
        let (settings, template) = (self.settings.of_served(served_id), self.settings.template_of(served_id));
        self.workers.abilities(Served::of(served_id.to_owned(), model, &settings, template), &settings)
    }

    /// What requests may name of these models: each of them, its variants and the aliases of the settings.
    pub(crate) fn names<'a>(&self, models: &'a [Model]) -> Vec<Named<'a>> {
        let mut names = Vec::new();
        for model in models {
            let variants =
                self.settings.of_served(&model.id).variants.keys().cloned().map(Some).collect::<Vec<_>>();
            let each = std::iter::once(None).chain(variants);
            names.extend(each.map(|variant| Named {
                alias: None,
                served_id: served_id(&model.id, variant.as_deref()),
                model,
            }));
        }
        for (alias, (id, variant)) in self.settings.aliases() {
            let is_shadowed = models.iter().any(|model| model.id == alias || model.name == alias);
            if let Some(model) = models.iter().find(|model| model.id == id && !is_shadowed) {
                names.push(Named {
                    alias: Some(alias),
                    served_id: served_id(&id, variant.as_deref()),
                    model,
                });
            }
        }
        names
    }

    /// Whether a caller may use what is served under that id: whoever sent no token because none is asked for, and
    /// whose token is for it by its id, the id of its model, or one of its aliases.
    pub(crate) fn may_use(&self, caller: Option<&Caller>, served_id: &str) -> bool {
        let Some(caller) = caller.filter(|caller| caller.is_for_some_models()) else { return true };
        let model = self.settings.model_of(served_id);
        let aliases = self.settings.aliases();
        let aliases = aliases.iter().filter(|(_, (id, variant))| {
            crate::config::served_id(id, variant.as_deref()) == served_id
                || (*id == model && variant.is_none())
        });
        caller.may_use([served_id, &model].into_iter().chain(aliases.map(|(alias, _)| &**alias)))
    }

    /// Refuses what a caller may not use.
    ///
    /// # Errors
    /// [`Code::Forbidden`], naming the token and the model.
    pub(crate) fn check_may_use(&self, caller: Option<&Caller>, served_id: &str) -> Result<()> {
        match caller {
            Some(caller) if !self.may_use(Some(caller), served_id) => Err(caller.model_refused(served_id)),
            _ => Ok(()),
        }
    }

    /// What requests get that are served under that id, where they do not say.
    pub(crate) fn defaults(&self, served_id: &str) -> Defaults {
        self.settings.defaults(served_id, |model| self.catalog.recommended_sampling(model))
    }

    /// The model of that id or unique name, with whether a worker serves it.
    ///
    /// # Errors
    /// [`Code::ModelNotFound`] with the nearest names, [`Code::ModelAmbiguous`].
    pub async fn find_model(&self, id: &ModelId) -> Result<Model> {
        let mut model = self.catalog.find(id.as_str()).await?;
        self.check_not_gone(id.as_str(), &model)?;
        self.workers.engines().await;
        self.describe(&mut model);
        Ok(model)
    }

    /// Refuses a model that was found by its name or an alias, if that is the id of another model whose file is
    /// gone and that a worker serves.
    fn check_not_gone(&self, id: &str, found: &Model) -> Result<()> {
        if found.id == id || self.workers.of_model(id).is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Code::ModelNotFound,
            format!("the file of the model '{id}' is gone, and a worker still serves it"),
        )
        .hint(format!("ModelUnload ends that worker; '{}' is another model of that name", found.id)))
    }

    /// Every model of the catalog, with whether a worker serves it.
    ///
    /// # Errors
    /// If a disk does not answer.
    pub async fn list_models(&self) -> Result<Vec<Model>> {
        let models = self.catalog.list().await?;
        self.workers.engines().await;
        Ok(self.described(models))
    }

    /// The models of the last listing, for where the disk does not answer.
    #[must_use]
    pub fn known_models(&self) -> Vec<Model> {
        self.described(self.catalog.known())
    }

    fn described(&self, mut models: Vec<Model>) -> Vec<Model> {
        models.iter_mut().for_each(|model| self.describe(model));
        models
    }

    /// Says of a model what the catalog does not know: whether a worker serves it, what it can do, and which engines
    /// may run it.
    pub(crate) fn describe(&self, model: &mut Model) {
        model.loaded = self.workers.has_loaded(&model.id);
        model.capabilities = self.abilities(model, &model.id).list();
        model.support = model.needs.as_ref().map(|needs| self.workers.support(needs)).unwrap_or_default();
    }

    /// What the workers serve now, and how much is under way for it.
    pub(crate) fn serving(&self) -> Serving {
        let mut served: BTreeMap<String, ServedNow> = BTreeMap::new();
        for worker in self.workers.residents() {
            let of_model = served.entry(worker.model).or_default();
            of_model.requests += worker.in_flight;
            match worker.phase {
                WorkerPhase::Ready if !worker.draining => {
                    of_model.ready += 1;
                    of_model.slots += worker.slots as usize;
                }
                WorkerPhase::Loading => of_model.loading += 1,
                _ => {}
            }
        }
        // A load that waits for room has no worker yet.
        for model in self.residency.loading() {
            let of_model = served.entry(model.to_string()).or_default();
            of_model.loading = of_model.loading.max(1);
        }
        for line in self.residency.admissions().lines() {
            served.entry(line.model.to_string()).or_default().requests += line.waiting;
        }
        Serving { on_demand: self.in_effect().residency.on_demand, served, tokens: BTreeMap::new() }
    }

    /// Publishes a change of a model on `/v1/events`.
    pub fn publish_model_change(&self, change: &'static str, model: &Model) {
        let mut model = model.clone();
        self.describe(&mut model);
        self.events.publish(Topic::Model, &ModelChange { change, model: &model });
    }
}
