//! What the tests of the decision share.

use super::snapshot::{Action, Decision};
use crate::time::in_words;

/// The decision in words, one line for each action and one for the time to wake at.
pub(super) fn told(decision: &Decision) -> Vec<String> {
    let wake = decision.wake_at.map(|at| format!("wake at {}", in_words(at)));
    decision.actions.iter().map(action).chain(wake).collect()
}

pub(super) fn action(action: &Action) -> String {
    match action {
        Action::Load { model, because } => format!("load {model}: {because}"),
        Action::Grant { load, placement } => format!("grant load {load} at {placement}"),
        Action::Refuse { load, why } => format!("refuse load {load}: {why}"),
        Action::Cancel { load } => format!("cancel load {load}"),
        Action::Wait { load, why } => format!("load {load} waits for {why}"),
        Action::WaitLease { lease, why } => format!("lease {lease} waits for {why}"),
        Action::Drain { worker, because, .. } => format!("drain {worker}: {because}"),
        Action::Stop { worker, because } => format!("stop {worker}: {because}"),
        Action::Reopen { worker } => format!("reopen {worker}"),
        Action::GrantLease { lease } => format!("grant lease {lease}"),
        Action::RefuseLease { lease, why } => format!("refuse lease {lease}: {why}"),
        Action::EndLease { lease } => format!("end lease {lease}"),
    }
}
