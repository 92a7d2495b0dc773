//! Requests to models that other hives of the fleet have: who of them answers.

use tokio_util::sync::DropGuard;

use super::forwarded::Forwarded;
use crate::app::AppState;
use crate::error::{Code, Failure, Result};
use crate::fleet::{Agreed, Candidate, Choice, HiveName, Holder, Others, Serving, choose_hive};
use crate::models::Model;
use crate::ops;

/// The other hives, for one request.
pub(super) struct Elsewhere {
    pub(super) others: Others,
    /// The names by which another hive may know the model.
    pub(super) names: Vec<String>,
    /// The id under which this hive serves the model, if it has it.
    pub(super) here: Option<String>,
    /// The model as this hive knows it.
    pub(super) own: Option<Model>,
    /// The request without its body and its model.
    pub(super) call: Forwarded,
    /// The hives that have been tried; `None` is this one.
    pub(super) tried: Vec<Option<HiveName>>,
    /// Held while the hive loads the model that this request has chosen for that: until the first byte of the answer.
    pub(super) lead: Option<DropGuard>,
}

/// Who answers.
pub(super) enum Place {
    Here,
    There(Holder),
}

impl Elsewhere {
    /// Who answers. `served_id` is the id under which this hive serves the model.
    ///
    /// # Errors
    /// [`Code::ModelNotLoaded`] if nobody answers; why it fits nowhere.
    pub(super) async fn choose(&mut self, app: &AppState, served_id: &str) -> Result<Place> {
        self.lead = None;
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut holders = self.others.holders(&names, self.own.as_ref());
        holders.retain(|holder| !self.tried.contains(&Some(holder.hive.clone())));
        let is_here = self.here.is_some() && !self.tried.contains(&None);
        let here = is_here.then(|| candidate_here(app, served_id));
        if let (Some(_), []) = (&here, holders.as_slice()) {
            return Ok(Place::Here);
        }
        let knowing = self.others.knowing(served_id, &self.call.conversation);
        let candidates = holders.iter().map(|holder| Candidate {
            knows_conversation: knowing.as_ref() == Some(&Some(holder.hive.clone())),
            ..self.others.candidate(holder)
        });
        let here = here.map(|here| Candidate { knows_conversation: knowing == Some(None), ..here });
        let candidates: Vec<_> = candidates.chain(here).collect();
        match choose_hive(&candidates) {
            Choice::Goes(place) => Ok(there(&holders, place)),
            Choice::Fits(places) => {
                let asked: Vec<_> =
                    places.iter().map(|place| self.id_at(&holders, *place, served_id)).collect();
                let hives: Vec<_> = asked.iter().map(|(hive, _)| hive.clone()).collect();
                let Agreed { hive, why, lead } = ops::where_it_fits(app, asked).await?;
                self.lead = lead;
                tracing::info!(model = served_id, %hive, why, "a hive is chosen to load a model for a request");
                let place = places.into_iter().zip(hives).find(|(_, asked)| *asked == hive);
                Ok(place.map_or(Place::Here, |(place, _)| there(&holders, place)))
            }
            Choice::Nobody if is_here => Ok(Place::Here),
            Choice::Nobody => Err(self.nobody()),
        }
    }

    /// The hive at a place of the list of candidates, whose last one is this hive, with the id of the model there.
    fn id_at(&self, holders: &[Holder], place: usize, served_id: &str) -> (HiveName, String) {
        match holders.get(place) {
            Some(holder) => (holder.hive.clone(), holder.served_id.clone()),
            None => (self.others.own().clone(), served_id.to_owned()),
        }
    }

    fn nobody(&self) -> Failure {
        let name = self.names.first().map_or("", String::as_str);
        if !self.tried.is_empty() {
            let message = format!("no other hive of the fleet answers for the model '{name}'");
            return Failure::new(Code::HiveUnreachable, message)
                .hint("`rbee-hive fleet status` shows the hives; try again in a moment");
        }
        Failure::new(Code::ModelNotLoaded, format!("no hive of the fleet has the model '{name}' loaded"))
            .hint("load it: `rbee-hive load MODEL --hive any`; requests load none there ([residency] on_demand)")
    }
}

fn there(holders: &[Holder], place: usize) -> Place {
    holders.get(place).cloned().map_or(Place::Here, Place::There)
}

/// This hive as one of those that may answer.
fn candidate_here(app: &AppState, served_id: &str) -> Candidate {
    let Serving { on_demand, served, .. } = app.serving();
    let served = served.get(served_id).copied().unwrap_or_default();
    Candidate { is_here: true, served, loads: on_demand, ..Candidate::default() }
}
