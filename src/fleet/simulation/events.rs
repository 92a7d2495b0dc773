//! The outbox and the fence against a stream in memory: lost answers, late messages, cut connections, killed hives, lost
//! power and hives that are taken for dead.
//!
//! What has to hold in the end, whatever happened: the stream has every number of a job once, in order, and one end; and
//! the hive that ran the job has the same as the stream.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::value::RawValue;
use tokio::task::{JoinHandle, yield_now};

use super::{each_seed, hive, lost};
use crate::config::Config;
use crate::error::{Code, Failure, Result};
use crate::events::Hub;
use crate::fleet::duty::end_job;
use crate::fleet::names::HiveName;
use crate::fleet::outbox::Outbox;
use crate::fleet::store::{Appended, Entry, EventStore};
use crate::fleet::stream::Place;
use crate::jobs::{Chunk, Job, JobClass, JobId, Mirror, NewJob, OperationKind, Registry};
use crate::n;
use crate::narration::with_narration_context;
use crate::spawn;

/// How many seeds one round runs.
const SEEDS: u64 = 150;
/// After how many turns of the scheduler what has not ended never will.
const PATIENCE: usize = 400_000;

/// The stream, with the faults of a network.
#[derive(Clone)]
struct Sim(Arc<Mutex<State>>);

struct State {
    chance: StdRng,
    /// How many of a hundred calls go wrong.
    faults: u32,
    jobs: BTreeMap<JobId, Vec<Message>>,
    /// The ids that the server has seen.
    ids: HashSet<String>,
    next: u64,
    /// Messages whose sender has given up, and which are under way all the same.
    late: Vec<Message>,
    is_cut: bool,
}

#[derive(Clone)]
struct Message {
    number: u64,
    job: JobId,
    id: String,
    after: u64,
    text: String,
    place: Place,
}

impl State {
    fn percent(&mut self, percent: u32) -> bool {
        self.chance.random_range(0..100) < percent
    }

    /// As the server does it: a known id first, then the fence.
    fn take(&mut self, mut message: Message) -> Appended {
        if self.ids.contains(&message.id) {
            return Appended::Fenced;
        }
        let messages = self.jobs.entry(message.job.clone()).or_default();
        if messages.last().map_or(0, |last| last.number) != message.after {
            return Appended::Fenced;
        }
        self.next += 1;
        message.number = self.next;
        message.place.message = self.next;
        self.ids.insert(message.id.clone());
        messages.push(message);
        Appended::As(self.next)
    }

    fn arrive_late(&mut self) {
        if !self.late.is_empty() {
            let late = self.chance.random_range(0..self.late.len());
            let late = self.late.swap_remove(late);
            self.take(late);
        }
    }
}

impl Sim {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: StdRng::seed_from_u64(seed),
            faults: 25,
            jobs: BTreeMap::new(),
            ids: HashSet::new(),
            next: 0,
            late: Vec::new(),
            is_cut: false,
        })))
    }

    fn number(&self, below: u32) -> u32 {
        self.0.lock().chance.random_range(0..below)
    }

    fn percent(&self, percent: u32) -> bool {
        self.0.lock().percent(percent)
    }

    async fn delay(&self, most: u32) {
        for _ in 0..self.number(most + 1) {
            yield_now().await;
        }
    }
}

impl EventStore for Sim {
    async fn last(&self, _: &HiveName, job: &JobId) -> Result<Option<Place>> {
        self.delay(4).await;
        let mut state = self.0.lock();
        let faults = state.faults;
        if state.is_cut || state.percent(faults) {
            return Err(lost());
        }
        Ok(state.jobs.get(job).and_then(|messages| messages.last()).map(|last| last.place.clone()))
    }

    async fn append(&self, entry: Entry<'_>) -> Result<Appended> {
        let message = Message {
            number: 0,
            job: entry.job.clone(),
            id: entry.id.to_owned(),
            after: entry.after,
            text: entry.chunk.encode(entry.operation),
            place: Place {
                message: 0,
                seq: entry.chunk.last_seq(),
                at: entry.chunk.events.last().map(|event| event.at.0),
                end: entry.chunk.end(),
                by: Some(entry.by.clone()),
            },
        };
        self.delay(4).await;
        let appended = {
            let mut state = self.0.lock();
            let faults = state.faults;
            if state.percent(faults) {
                state.arrive_late();
            }
            if state.percent(faults) {
                state.late.push(message);
                return Err(lost());
            }
            if state.is_cut || state.percent(faults) {
                return Err(lost());
            }
            let appended = state.take(message);
            if state.percent(faults) { Err(lost()) } else { Ok(appended) }
        };
        self.delay(4).await;
        appended
    }

    async fn read(&self, _: &HiveName, job: &JobId, mirror: &Mirror) {
        while !mirror.has_ended() {
            let messages = self.0.lock().jobs.get(job).cloned().unwrap_or_default();
            for message in messages {
                mirror.take(Chunk::decode(message.text.as_bytes()).unwrap());
            }
            yield_now().await;
        }
    }

    async fn again(&self) {
        yield_now().await;
    }

    fn largest(&self) -> usize {
        600
    }
}

/// One run of the hive, from its start to its end.
struct Run {
    jobs: Arc<Registry>,
    /// Whether it was killed.
    is_dead: Arc<AtomicBool>,
    publishing: Vec<JoinHandle<()>>,
}

impl Run {
    fn start(dir: &Path, sim: &Sim) -> Self {
        let config = Config { data_dir: dir.to_owned(), ..Config::default() };
        let jobs = Arc::new(Registry::open(&config, Arc::new(Hub::new(10))).unwrap());
        let mut run = Self { jobs, is_dead: Arc::default(), publishing: Vec::new() };
        let (acts, _) = run.jobs.follow_acts();
        for job in acts {
            run.publish(sim, job, false);
        }
        run
    }

    fn publish(&mut self, sim: &Sim, job: Arc<Job>, is_new: bool) {
        let keep = std::time::Duration::from_secs(3600);
        let (outbox, jobs) = (Outbox::new(sim.clone(), hive("a"), keep), Arc::clone(&self.jobs));
        self.publishing.push(spawn::detached(async move { outbox.publish(&jobs, job, is_new).await }));
    }

    /// Submits an act that tells some things and ends.
    fn submit(&mut self, sim: &Sim) {
        let (steps, fails) = (sim.number(12), sim.percent(30));
        let (is_dead, pace) = (Arc::clone(&self.is_dead), sim.clone());
        let script = move |stop: tokio_util::sync::CancellationToken| async move {
            for step in 0..steps {
                pace.delay(6).await;
                if is_dead.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
                if stop.is_cancelled() {
                    return Err(Failure::new(Code::Cancelled, "told to stop"));
                }
                n!("step", "Step {step}");
            }
            if fails { Err(Failure::new(Code::Io, "as the test wants it")) } else { Ok(()) }
        };
        let submitted = self.jobs.submit(NewJob {
            operation: "test",
            kind: OperationKind::Act,
            class: JobClass::Acts,
            runs_unjournalled: false,
            request: RawValue::from_string("{}".to_owned()).unwrap(),
            idempotency_key: None,
            run: Box::new(move |job, context| {
                with_narration_context(
                    context,
                    async move { job.run(None, |handle| script(handle.stop)).await },
                )
                .boxed()
            }),
        });
        let job = submitted.unwrap().job;
        self.publish(sim, job, true);
    }

    /// Kills it. Where it loses its power, the ends of its journals are lost.
    async fn kill(self, dir: &Path, sim: &Sim) {
        self.is_dead.store(true, Ordering::Release);
        self.publishing.iter().for_each(JoinHandle::abort);
        // What was narrated is written by now.
        for _ in 0..50 {
            yield_now().await;
        }
        if sim.percent(40) {
            for entry in std::fs::read_dir(dir.join("jobs")).unwrap() {
                let path = entry.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                let lines: Vec<_> = text.lines().collect();
                let kept = lines.len() - sim.number(lines.len() as u32) as usize;
                std::fs::write(&path, lines[..kept].join("\n") + "\n").unwrap();
            }
        }
    }
}

/// Another hive takes `a` for dead and ends one of its jobs, whether or not that is so.
async fn take_for_dead(sim: &Sim, job: &Job) {
    if let Ok(Some(place)) = sim.last(&hive("a"), job.id()).await
        && place.end.is_none()
    {
        let _ended = end_job(sim, &hive("z"), &hive("a"), job.header().clone(), &place).await;
    }
}

async fn schedule(seed: u64) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::new(seed);
    let mut run = Run::start(dir.path(), &sim);
    for _ in 0..30 {
        sim.delay(15).await;
        match sim.number(100) {
            0..15 => {
                let mut state = sim.0.lock();
                state.is_cut = !state.is_cut;
            }
            15..25 => {
                run.kill(dir.path(), &sim).await;
                run = Run::start(dir.path(), &sim);
            }
            25..40 => {
                let jobs = run.jobs.follow_acts().0;
                if !jobs.is_empty() {
                    take_for_dead(&sim, &jobs[sim.number(jobs.len() as u32) as usize]).await;
                }
            }
            40..65 => run.submit(&sim),
            _ => {}
        }
    }
    {
        let mut state = sim.0.lock();
        (state.is_cut, state.faults) = (false, 0);
    }
    for turn in 0.. {
        if run.publishing.iter().all(JoinHandle::is_finished) {
            break;
        }
        if turn > PATIENCE {
            return Err("the outbox is stuck".to_owned());
        }
        yield_now().await;
    }
    let late = std::mem::take(&mut sim.0.lock().late);
    for message in late {
        sim.0.lock().take(message);
    }
    for job in run.jobs.follow_acts().0 {
        check(&sim, &run.jobs, &job).await.map_err(|why| format!("{}: {why}", job.id()))?;
    }
    Ok(())
}

async fn check(sim: &Sim, jobs: &Registry, job: &Job) -> Result<(), String> {
    let messages = sim.0.lock().jobs.get(job.id()).cloned().unwrap_or_default();
    let chunks: Vec<_> =
        messages.iter().map(|message| Chunk::decode(message.text.as_bytes()).unwrap()).collect();
    if chunks.first().is_none_or(|first| first.job.is_none()) {
        return Err("the first message does not tell of the job".to_owned());
    }
    let events: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.events).collect();
    let numbers: Vec<_> = events.iter().map(|event| event.seq).collect();
    if numbers != (1..=numbers.len() as u64).collect::<Vec<_>>() {
        return Err(format!("the stream has {numbers:?}"));
    }
    let ends: Vec<_> = chunks.iter().map(|chunk| chunk.end().is_some()).collect();
    if ends.iter().filter(|is_end| **is_end).count() != 1 || ends.last() != Some(&true) {
        return Err(format!("the ends among the messages are {ends:?}"));
    }
    let (_, here) = jobs.log(job).await.unwrap().snapshot();
    let here: Vec<_> = here.iter().map(|event| event.to_line("test")).collect();
    let there: Vec<_> = events.iter().map(|event| event.to_line("test")).collect();
    if here != there {
        return Err(format!("the hive has\n{}\nthe stream has\n{}", here.join("\n"), there.join("\n")));
    }
    Ok(())
}

#[test]
fn whatever_happens_the_stream_has_everything_once_and_one_end() {
    each_seed(SEEDS, schedule);
}
