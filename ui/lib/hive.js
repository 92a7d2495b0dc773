// The store: the state of the hive as the snapshot and the events of `/v1/events` report it.

/** @typedef {import("./types.js").Model} Model */
/** @typedef {import("./types.js").Worker} Worker */
/** @typedef {import("./types.js").Job} Job */
/** @typedef {import("./types.js").Telemetry} Telemetry */
/** @typedef {import("./types.js").Residency} Residency */
/** @typedef {import("./types.js").FleetStatus} FleetStatus */
/** @typedef {import("./types.js").FleetHive} FleetHive */
/** `fleet`: who is in it; `others`: what `fleet.js` has read of the other hives.
 * @typedef {"models"|"workers"|"jobs"|"engines"|"residency"|"telemetry"|"connection"|"fleet"|"others"} State
 */
/** @typedef {State|"caller"|"callers"} Topic */
/** @typedef {object} Connection
 * @property {"connecting"|"live"|"lost"} state
 * @property {number} since
 * @property {number} retryAt
 * @property {string} cause
 * @property {boolean} restarted */
/** @typedef {{busy: number|null, memory: number}} GpuSample */
/** @typedef {{at: number, cpu: number, ram: number, disk: number, gpus: GpuSample[]}} Sample */
/** @typedef {{at: number, cpu: number, rss: number, tokens: number}} WorkerSample */

/** Samples in a graph: five minutes with one sample a second. */
export const HISTORY = 300;
/** Samples over which a token rate is averaged. */
const RATE_SAMPLES = 5;
/** Samples of a download's rate that are kept: one minute with two samples a second. */
export const RATES = 120;
/** Jobs that are kept; beyond this number the oldest ended ones are dropped. */
const MOST_JOBS = 2000;

class Hive extends EventTarget {
  /** @type {Map<string, Model>} */
  models = new Map();
  /** @type {Map<number, Worker>} */
  workers = new Map();
  /** Those of this hive, and those of other hives that the page has asked for.
   * @type {Map<string, Job>} */
  jobs = new Map();
  /** The fleet; null where the hive stands alone. @type {FleetStatus|null} */
  fleet = null;
  /** What is in memory and what waits for room. @type {Residency|null} */
  residency = null;
  /** @type {Telemetry|null} */
  telemetry = null;
  /** @type {Sample[]} */
  history = [];
  /** By worker_id, because a pid may be reused. @type {Map<string, WorkerSample[]>} */
  workerHistory = new Map();
  /** Bytes a second of each download, one entry for each progress event. @type {Map<string, number[]>} */
  rates = new Map();
  /** @type {Connection} */
  connection = { state: "connecting", since: Date.now(), retryAt: 0, cause: "", restarted: false };
  /** When the page started to wait for the hive, in milliseconds since the Unix epoch. */
  asked = Date.now();
  hiveId = "";
  version = "";
  /** Whether a snapshot has arrived. Before that an empty list has no meaning. */
  hasSnapshot = false;

  /** @param {Topic} topic */
  changed(topic) {
    this.dispatchEvent(new Event(topic));
  }

  /** Calls `listen` for changes of any of the topics, until the signal.
   * @param {Topic[]} topics @param {() => void} listen @param {AbortSignal} signal */
  on(topics, listen, signal) {
    for (const topic of topics) this.addEventListener(topic, listen, { signal });
  }

  /** @param {any} snapshot */
  applySnapshot(snapshot) {
    this.hiveId = snapshot.hive_id;
    this.version = snapshot.version;
    this.hasSnapshot = true;
    this.models = new Map(snapshot.models.map((/** @type {Model} */ model) => [model.id, model]));
    this.workers = new Map(snapshot.workers.map((/** @type {Worker} */ worker) => [worker.pid, worker]));
    const acts = snapshot.jobs.map((/** @type {Job} */ job) => [
      job.job_id,
      { ...this.jobs.get(job.job_id), ...job },
    ]);
    // Ended jobs that were loaded earlier stay; a running job that the snapshot lacks has ended, but for
    // those of other hives.
    this.jobs = new Map([...[...this.jobs].filter(([, job]) => job.ended_at || !isOurs(job)), ...acts]);
    this.residency = snapshot.residency;
    const places = this.fleet?.places ?? [];
    this.applyFleet(snapshot.fleet && { ...snapshot.fleet, places });
    this.changed("models");
    this.changed("workers");
    this.changed("jobs");
    this.changed("residency");
  }

  /** @param {{change: string, job: Job, message?: string, progress?: import("./types.js").Progress}} news */
  applyJob({ job, message, progress }) {
    const before = this.jobs.get(job.job_id);
    this.jobs.set(job.job_id, {
      ...job,
      message: message ?? before?.message,
      progress: progress ?? before?.progress,
    });
    this.#sampleRate(job, progress);
    this.forgetOldJobs();
    this.changed("jobs");
    if (job.ended_at && !before?.ended_at) this.dispatchEvent(new CustomEvent("ended", { detail: job }));
  }

  /** @param {Job} job @param {import("./types.js").Progress} [progress] */
  #sampleRate(job, progress) {
    if (job.ended_at) this.rates.delete(job.job_id);
    if (progress?.unit !== "bytes") return;
    const rates = this.rates.get(job.job_id) ?? [];
    this.rates.set(job.job_id, [...rates, progress.rate_per_second ?? 0].slice(-RATES));
  }

  /** @param {Job[]} jobs */
  addJobs(jobs) {
    for (const job of jobs) this.jobs.set(job.job_id, { ...this.jobs.get(job.job_id), ...job });
    this.forgetOldJobs();
    this.changed("jobs");
  }

  forgetOldJobs() {
    if (this.jobs.size <= MOST_JOBS) return;
    const ended = [...this.jobs.values()].filter((job) => job.ended_at).sort(byAge);
    for (const job of ended.slice(0, this.jobs.size - MOST_JOBS)) this.jobs.delete(job.job_id);
  }

  /** @param {{change: string, model: Model}} news */
  applyModel({ change, model }) {
    if (change === "removed") this.models.delete(model.id);
    else this.models.set(model.id, model);
    this.changed("models");
  }

  /** @param {Model[]} models */
  setModels(models) {
    this.models = new Map(models.map((model) => [model.id, model]));
    this.changed("models");
  }

  /** @param {{change: string, worker: Worker}} news */
  applyWorker({ change, worker }) {
    if (change === "removed" || worker.status === "stopped") this.workers.delete(worker.pid);
    else this.workers.set(worker.pid, worker);
    this.changed("workers");
  }

  /** @param {Residency} residency */
  applyResidency(residency) {
    // An event has the memory only while a load asks for room.
    const memory = residency.memory.length ? residency.memory : (this.residency?.memory ?? []);
    this.residency = { ...residency, memory };
    this.changed("residency");
  }

  /** How the hive stands in its fleet. @param {FleetStatus|null} [status] */
  applyFleet(status) {
    if (!status?.fleet && !this.fleet) return;
    this.fleet = status?.fleet ? status : null;
    this.changed("fleet");
  }

  /** A hive of the fleet came, went or told something new. One that is gone is shown until the fleet is read
   * again. @param {{change: string, hive: FleetHive}} news */
  applyHive({ change, hive }) {
    if (!this.fleet) return;
    const before = this.fleet.hives.find((each) => each.hive === hive.hive);
    const end = change === "gone" || change === "left" ? change : undefined;
    /** @type {FleetHive} */
    const now = { ...hive, end };
    const others = this.fleet.hives.filter((each) => each !== before);
    const hives = [...others, now].sort((a, b) => (a.hive < b.hive ? -1 : 1));
    this.fleet = { ...this.fleet, hives };
    this.changed("fleet");
  }

  /** The other hives that are in the fleet. */
  otherHives() {
    const { fleet } = this;
    return fleet?.hives.filter(({ hive, end }) => hive !== fleet.hive && !end) ?? [];
  }

  /** @param {Telemetry} telemetry */
  applyTelemetry(telemetry) {
    const at = Date.now();
    this.telemetry = telemetry;
    const { system } = telemetry;
    this.history.push({
      at,
      cpu: system.cpu_percent,
      ram: share(system.ram_used_bytes, system.ram_total_bytes),
      disk: share(system.disk_used_bytes, system.disk_total_bytes),
      gpus: system.gpus.map((gpu) => ({
        busy: gpu.utilization_percent,
        memory: share(gpu.memory_used_bytes, gpu.memory_total_bytes),
      })),
    });
    if (this.history.length > HISTORY) this.history.splice(0, this.history.length - HISTORY);
    for (const worker of telemetry.worker_states ?? []) {
      this.workers.set(worker.pid, worker);
      let samples = this.workerHistory.get(worker.worker_id);
      if (!samples) this.workerHistory.set(worker.worker_id, (samples = []));
      samples.push({
        at,
        cpu: worker.cpu_percent,
        rss: worker.rss_bytes,
        tokens: worker.tokens_generated,
      });
      if (samples.length > HISTORY) samples.shift();
    }
    const alive = new Set([...this.workers.values()].map((worker) => worker.worker_id));
    for (const id of this.workerHistory.keys()) if (!alive.has(id)) this.workerHistory.delete(id);
    this.changed("telemetry");
  }

  /** @param {Partial<Connection>} change */
  setConnection(change) {
    const since = change.state && change.state !== this.connection.state ? Date.now() : this.connection.since;
    this.connection = { ...this.connection, since, ...change };
    this.changed("connection");
  }

  /** The workers that serve a model, or a variant of it, or are starting. @param {string} id */
  workersOf(id) {
    return [...this.workers.values()].filter(
      (worker) => this.modelOf(worker.model) === id && isAlive(worker),
    );
  }

  /** The model of what is served, which may be a variant, `ID@NAME`.
   * @param {string} served @param {Map<string, Model>} [models] those of the hive that serves it */
  modelOf(served, models = this.models) {
    const at = served.lastIndexOf("@");
    return at < 1 || models.has(served) ? served : served.slice(0, at);
  }

  /** The jobs of this hive, or of those for which `isMeant` is true, the newest first.
   * @param {(job: Job) => boolean} [isMeant] */
  jobList(isMeant = isOurs) {
    return [...this.jobs.values()].filter(isMeant).sort((a, b) => -byAge(a, b));
  }

  /** Jobs that have not ended. */
  runningJobs() {
    return this.jobList().filter((job) => !job.ended_at && job.kind === "act" && !job.request.dry_run);
  }

  /** The models that an engine may be able to load, those without a doubt first, by their ids. */
  loadableModels() {
    const doubt = (/** @type {Model} */ model) => Number(doubtAbout(model) !== "");
    const models = [...this.models.values()].filter(isLoadable);
    return models.sort((a, b) => doubt(a) - doubt(b) || (a.id < b.id ? -1 : 1));
  }

  /** Tokens a second at each kept sample, averaged over the samples before it, because tokens come in
   * bursts. @param {Worker} worker @returns {number[]} */
  tokenRates(worker) {
    const samples = this.workerHistory.get(worker.worker_id) ?? [];
    return samples.map((last, index) => {
      const first = samples[Math.max(0, index - RATE_SAMPLES)];
      const seconds = (last.at - first.at) / 1000;
      return seconds > 0 ? Math.max(0, (last.tokens - first.tokens) / seconds) : 0;
    });
  }

  /** The latest token rate per second; null where it is unknown. @param {Worker} worker */
  tokenRate(worker) {
    const rates = this.tokenRates(worker);
    return rates.length < 2 ? null : rates[rates.length - 1];
  }
}

/** @param {number} part @param {number} total */
const share = (part, total) => (total > 0 ? (100 * part) / total : 0);
/** Ids are UUIDs of version 7: their order is their age. @param {Job} a @param {Job} b */
const byAge = (a, b) => (a.job_id < b.job_id ? -1 : a.job_id > b.job_id ? 1 : 0);
/** Whether this hive runs a job that the page keeps. @param {Job} job */
export const isOurs = ({ hive: name }) => name === undefined || name === hive.fleet?.hive;
/** Whether an engine may be able to load it. @param {Model} model */
export const isLoadable = ({ status }) => status === "available" || status === "unknown";
/** Whether it answers messages; where that is not known, it may. @param {Model} model */
export const canChat = ({ capabilities }) => !capabilities || capabilities.includes("chat");
/** Why an engine may not be able to load it after all; empty where nothing speaks against it.
 * @param {Model} model */
export const doubtAbout = ({ status, status_detail: detail }) =>
  status === "unknown"
    ? `This hive does not know its type${detail ? ` (${detail})` : ""}; an engine may know it.`
    : "";
/** A note of that doubt, for lists. @param {Model} model */
export const doubtNote = (model) => (doubtAbout(model) ? ", of an unknown type" : "");
/** @param {Worker} worker */
export const isServing = (worker) => worker.status === "ready" || worker.status === "busy";
/** @param {Worker} worker */
export const isAlive = (worker) => worker.status !== "crashed" && worker.status !== "stopped";

export const hive = new Hive();
