//! Who in the fleet has a file of a model, for the transfers of this hive.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;

use super::leads::{self, Lead};
use super::membership::Membership;
use super::names::HiveName;
use super::wire::{HasBlob, OfBlob, verb};
use crate::models::{Found, Holder, WantedFile};

/// How long a hive may take to say that it has a file: what is not heard of by then is downloaded.
const LIMIT: Duration = Duration::from_secs(2);

/// Finds the hives that have a file. Where none has, one that wants it downloads it for all: this one, or another that
/// it is got from as it comes.
pub(super) async fn find(membership: &Membership, wanted: &WantedFile) -> Found {
    let others = others(membership, &wanted.without);
    if others.is_empty() || membership.check().is_err() {
        return Found::default();
    }
    let holders = holders(membership, &others, &wanted.sha256).await;
    if !holders.is_empty() || !wanted.can_lead {
        return Found { holders, lead: None };
    }
    match leads::of_download(&membership.asking, &membership.hive, &wanted.sha256, &wanted.without).await {
        Ok(Some(Lead::Ours(lead))) => {
            // The leader before may have completed it since they were asked.
            let holders = self::holders(membership, &others, &wanted.sha256).await;
            let lead = holders.is_empty().then_some(lead);
            Found { holders, lead }
        }
        Ok(Some(Lead::Theirs(leader))) => {
            let holder = holder(membership, &leader, &wanted.sha256, false);
            Found { holders: holder.into_iter().collect(), lead: None }
        }
        Ok(None) => Found::default(),
        Err(failure) => {
            tracing::debug!(error = %failure, "a file is downloaded without asking who does");
            Found::default()
        }
    }
}

/// The other hives that can be reached.
fn others(membership: &Membership, without: &[String]) -> Vec<HiveName> {
    let members = membership.asking.members.lock();
    let names = members.all().map(|(hive, _)| hive);
    let is_other = |hive: &&HiveName| {
        **hive != membership.hive
            && members.is_reachable(hive)
            && !without.iter().any(|left_out| left_out == hive.as_str())
    };
    names.filter(is_other).cloned().collect()
}

/// Those of them that have all of the file.
async fn holders(membership: &Membership, hives: &[HiveName], sha256: &str) -> Vec<Holder> {
    let request = OfBlob { sha256: sha256.to_owned() };
    let ask = hives.iter().map(async |hive| {
        let answer = membership.asking.one_within::<HasBlob>(LIMIT, hive, verb::BLOB, &request).await;
        match answer {
            Ok(HasBlob { complete: true }) => holder(membership, hive, sha256, true),
            Ok(_) => None,
            Err(failure) => {
                tracing::debug!(%hive, error = %failure, "a hive did not say whether it has a file");
                None
            }
        }
    });
    join_all(ask).await.into_iter().flatten().collect()
}

/// A hive that is to be asked for the file; `None` where nobody can reach it directly.
fn holder(membership: &Membership, hive: &HiveName, sha256: &str, is_complete: bool) -> Option<Holder> {
    let peer = membership.peers.get(hive);
    let peer =
        peer.inspect_err(|failure| tracing::debug!(%hive, error = %failure, "a file of it is not to be had"));
    let peer = peer.ok()?;
    let request = peer.request(Method::GET, &format!("/blobs/{sha256}")).build().ok()?;
    Some(Holder {
        hive: hive.to_string(),
        url: request.url().clone(),
        headers: request.headers().clone(),
        client: peer.client,
        is_complete,
        received: AtomicU64::new(0),
    })
}
