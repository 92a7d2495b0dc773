//! What this hive does for others that ask it.

use std::sync::Arc;

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use super::asking::Asking;
use super::holdings::Holdings;
use super::home::Home;
use super::link::failed;
use super::listing;
use super::names::HiveName;
use super::offer::Offer;
use super::places::{Fleet, Places};
use super::placing::Placement;
use super::wire::{
    Found, HasBlob, HasModel, List, Made, OfBlob, OfJob, OfModel, Submit, reply, request, verb,
};
use crate::error::{Code, Failure, Result};
use crate::jobs::log::Batch;
use crate::jobs::{Chunk, Job, JobFilter, JobPage};
use crate::models::Sheet;
use crate::spawn;
use crate::text::excerpt;

/// How many requests of others are under way at once; the others wait.
const AT_ONCE: usize = 256;
/// The longest page of jobs for another hive.
const MOST_JOBS: usize = 1000;

/// Answers other hives.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) asking: Asking,
    pub(super) places: Arc<Places>,
    pub(super) holdings: Arc<RwLock<Holdings>>,
    pub(super) hive: HiveName,
    pub(super) home: Arc<dyn Home>,
}

impl Serving {
    /// Answers until the connection is closed.
    ///
    /// # Errors
    /// [`Code::FleetUnreachable`] if the subjects cannot be subscribed to.
    pub(super) async fn run(&self) -> Result<()> {
        let mine = self.asking.link.client.subscribe(self.asking.names.request(&self.hive, "*"));
        let ours = self.asking.link.client.subscribe(self.asking.names.question("*"));
        let (mine, ours) = futures::try_join!(mine, ours).map_err(|error| failed("subscribe", &error))?;
        let mut messages = stream::select(mine, ours);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(message) = messages.next().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let serving = self.clone();
            spawn::detached(async move {
                serving.answer(message).await;
                drop(place);
            });
        }
        Ok(())
    }

    async fn answer(&self, message: Message) {
        let Message { subject, reply: Some(to), payload, .. } = message else { return };
        let verb = subject.rsplit('.').next().unwrap_or_default();
        let answer = match verb {
            verb::SUBMIT => reply(self.submit(&payload)),
            verb::OFFER => reply(self.offer(&payload).await),
            verb::FOLLOW => reply(self.follow(&payload)),
            verb::CANCEL => reply(self.cancel(&payload).await),
            verb::LIST => reply(self.list(&payload)),
            verb::SHEET => reply(self.sheet(&payload).await),
            verb::HAS => reply(self.has(&payload).await),
            verb::PLACE => reply(self.place(&payload).await),
            verb::BLOB => reply(self.blob(&payload).await),
            verb::FIND => match self.follow(&payload) {
                Ok(found) => reply(Ok(found)),
                // Who does not have it says nothing.
                Err(_) => return,
            },
            other => reply::<()>(Err(Failure::new(
                Code::RouteNotFound,
                format!("hive '{}' does not know the request '{}'", self.hive, excerpt(other)),
            )
            .hint("it is of another version: update the older one"))),
        };
        self.send(to, answer).await;
    }

    async fn send(&self, to: Subject, payload: Bytes) {
        if let Err(error) = self.asking.link.client.publish(to, payload).await {
            tracing::debug!(%error, "an answer to another hive was not sent");
        }
    }

    fn submit(&self, payload: &[u8]) -> Result<Made> {
        let submit: Submit = request(payload)?;
        let inbox = submit.inbox.clone();
        let submitted = self.home.submit(submit)?;
        if let Some(inbox) = inbox {
            self.tell(Arc::clone(&submitted.job), 0, inbox);
        }
        Ok(Made { job: submitted.job.header().clone(), repeated: submitted.repeated })
    }

    async fn offer(&self, payload: &[u8]) -> Result<Offer> {
        self.home.offer(request(payload)?).await
    }

    async fn sheet(&self, payload: &[u8]) -> Result<Sheet> {
        let OfModel { model } = request(payload)?;
        self.home.sheet(&model).await
    }

    async fn has(&self, payload: &[u8]) -> Result<HasModel> {
        let OfModel { model } = request(payload)?;
        self.home.has_model(&model).await
    }

    async fn place(&self, payload: &[u8]) -> Result<Placement> {
        let fleet = Fleet { own: &self.hive, asking: &self.asking, holdings: &self.holdings };
        self.places.set(fleet, request(payload)?).await
    }

    async fn blob(&self, payload: &[u8]) -> Result<HasBlob> {
        let OfBlob { sha256 } = request(payload)?;
        Ok(HasBlob { complete: self.home.has_blob(&sha256).await? })
    }

    fn follow(&self, payload: &[u8]) -> Result<Found> {
        let (OfJob { after, inbox, .. }, job) = self.job(payload)?;
        let found = Found { hive: self.hive.to_string(), job: job.header().clone() };
        if let Some(inbox) = inbox {
            self.tell(job, after, inbox);
        }
        Ok(found)
    }

    async fn cancel(&self, payload: &[u8]) -> Result<()> {
        self.home.jobs().cancel(&self.job(payload)?.1).await
    }

    /// A request about a job, and that job.
    fn job(&self, payload: &[u8]) -> Result<(OfJob, Arc<Job>)> {
        let asked: OfJob = request(payload)?;
        let job = self.home.jobs().get(asked.job_id.as_str())?;
        Ok((asked, job))
    }

    fn list(&self, payload: &[u8]) -> Result<JobPage> {
        let List { state, operation, before, limit } = request(payload)?;
        let filter = JobFilter { state, kind: None, operation, before };
        let page = self.home.jobs().list(&filter, limit.min(MOST_JOBS));
        Ok(listing::that_fits(page, self.asking.link.largest()))
    }

    /// Sends the events of a job after number `after` to an inbox of another hive, until the job's end.
    fn tell(&self, job: Arc<Job>, after: u64, inbox: String) {
        let serving = self.clone();
        spawn::detached(async move {
            let Ok(log) = serving.home.jobs().log(&job).await else { return };
            let mut cursor = log.follow(after);
            while let Some(batch) = cursor.next().await {
                serving.tell_batch(&job, batch, &inbox).await;
            }
        });
    }

    async fn tell_batch(&self, job: &Job, batch: Batch, inbox: &str) {
        for chunk in Chunk::of(batch, &job.header().operation, self.asking.link.largest()) {
            self.send(inbox.to_owned().into(), chunk.encode(&job.header().operation).into()).await;
        }
    }
}
