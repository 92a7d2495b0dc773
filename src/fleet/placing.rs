//! Where a model is copied to that several hives are to have: a decision that reads nothing but what it is given.
//!
//! Invariants:
//! - A hive that is silent may be back in a moment, with what it has or copies: nothing is begun before it is back or gone.
//! - A copy that fails is not begun again on that hive at once, but after a wait that doubles.
//! - Nothing is deleted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::holdings::Holdings;
use super::members::{Members, Presence};
use super::names::HiveName;
use crate::jobs::JobId;
use crate::text::bytes;

/// The wait after a first copy before the next one of the same model.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The longest such wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Room that a copy leaves free on a disk, in bytes: as a download does.
pub(super) const MARGIN: u64 = 256 << 20;

/// A model that is kept on several hives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its id or name.
    pub(crate) model: String,
    /// How many hives are to have it. 0 ends the keeping.
    pub(crate) copies: usize,
}

/// How a model that is kept on several hives stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Placement {
    /// The model.
    pub(crate) model: String,
    /// How many hives are to have it.
    pub(crate) copies: usize,
    /// The hives that have it, as far as they can be reached.
    pub(crate) hives: Vec<String>,
    /// The copies under way.
    pub(crate) copying: Vec<Copying>,
    /// Why there are fewer than there are to be, where no more copies are under way.
    pub(crate) lacking: Option<String>,
}

/// A copy under way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Copying {
    /// The hive that gets it.
    pub(crate) hive: String,
    /// The job that copies it there.
    #[schema(value_type = String)]
    pub(crate) job_id: JobId,
}

/// What is known of a hive.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) hive: HiveName,
    /// Whether it gives no signs of life, or does not answer.
    pub(super) is_silent: bool,
    pub(super) has: Has,
    pub(super) free_bytes: Option<u64>,
}

/// What a hive has of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Has {
    Nothing,
    /// All of it, which is so many bytes.
    All(u64),
    /// That job copies it.
    Copying(JobId),
    /// Another model of that name.
    Another,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: as many hives have it as are to have it.
    Enough,
    /// Nothing before a copy has ended.
    UnderWay,
    Copy {
        from: HiveName,
        to: HiveName,
    },
    /// Nothing, for this reason.
    Lacking(String),
}

/// Of each model and hive: how many copies were begun there since the model was on as many hives as it is to be, and when
/// the next may be.
#[derive(Debug, Default)]
pub(super) struct Begun(HashMap<(String, HiveName), (u32, Instant)>);

impl Known {
    pub(super) fn can_send(&self) -> bool {
        !self.is_silent && matches!(self.has, Has::All(_))
    }

    fn copies(&self) -> bool {
        !self.is_silent && matches!(self.has, Has::Copying(_))
    }
}

impl Begun {
    fn may_begin(&self, model: &str, hive: &HiveName, now: Instant) -> bool {
        let begun = self.0.get(&(model.to_owned(), hive.clone()));
        begun.is_none_or(|(_, not_before)| now >= *not_before)
    }

    /// A copy is begun.
    pub(super) fn begin(&mut self, model: &str, hive: &HiveName, now: Instant) {
        let (times, not_before) = self.0.entry((model.to_owned(), hive.clone())).or_insert((0, now));
        let wait = FIRST_WAIT.saturating_mul(1 << (*times).min(10)).min(LONGEST_WAIT);
        (*times, *not_before) = (*times + 1, now + wait);
    }

    /// Copies of a model may be begun at once again.
    pub(super) fn forget(&mut self, model: &str) {
        self.0.retain(|(of, _), _| of != model);
    }
}

/// Whether a hive sees to the places now.
pub(super) fn is_due(members: &Members, own: &HiveName, now: Instant) -> bool {
    members.is_on_duty(own) && members.can_judge(now)
}

/// What is known of the hives without asking them. They have the same model as the first of them that has one of that name.
pub(super) fn known(members: &Members, holdings: &Holdings, model: &str) -> Vec<Known> {
    let mut first = None;
    let known = members.all().map(|(hive, member)| {
        let has = match holdings.named(hive, model) {
            None => Has::Nothing,
            Some(record) if record.is_like(&first.get_or_insert(record).model) => {
                Has::All(record.model.size_bytes)
            }
            Some(_) => Has::Another,
        };
        Known {
            hive: hive.clone(),
            is_silent: member.presence != Presence::Reachable,
            has,
            free_bytes: member.record.disk_free_bytes,
        }
    });
    known.collect()
}

/// What is to be done next, so that as many hives have a model as are to have it: those with the most room get it first.
pub(super) fn next(place: &Place, known: &[Known], begun: &Begun, now: Instant) -> Next {
    let have = known.iter().filter(|known| known.can_send()).count();
    let there = have + known.iter().filter(|known| known.copies()).count();
    if have >= place.copies {
        return Next::Enough;
    }
    if there >= place.copies {
        return Next::UnderWay;
    }
    if let Some(silent) = known.iter().find(|known| known.is_silent) {
        let why = format!("hive '{}' is silent: nothing is begun before it is back or gone", silent.hive);
        return Next::Lacking(why);
    }
    let source = known.iter().find_map(|known| match known.has {
        Has::All(size) => Some((&known.hive, size)),
        _ => None,
    });
    let Some((from, size)) = source else {
        return Next::Lacking("no hive that can be reached has it".to_owned());
    };
    let lack: Vec<_> = known.iter().filter(|known| known.has == Has::Nothing).collect();
    if lack.is_empty() {
        return Next::Lacking("the fleet has no further hives that can be reached".to_owned());
    }
    let has_room = |known: &&&Known| known.free_bytes.is_none_or(|free| free >= size.saturating_add(MARGIN));
    let mut roomy: Vec<_> = lack.iter().filter(has_room).collect();
    roomy.sort_by_key(|known| Reverse(known.free_bytes));
    let Some(first) = roomy.first() else {
        let (size, more) = (bytes(size), bytes(MARGIN));
        return Next::Lacking(format!("no further hive has room for it ({size} and {more} more)"));
    };
    match roomy.iter().find(|known| begun.may_begin(&place.model, &known.hive, now)) {
        Some(to) => Next::Copy { from: from.clone(), to: to.hive.clone() },
        None => Next::Lacking(format!("the copy to hive '{}' failed, and is begun again later", first.hive)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    fn hive(name: &str) -> HiveName {
        HiveName::new(name).unwrap()
    }

    fn known(name: &str, has: Has, free_gib: u64) -> Known {
        Known { hive: hive(name), is_silent: false, has, free_bytes: Some(free_gib << 30) }
    }

    fn silent(known: Known) -> Known {
        Known { is_silent: true, ..known }
    }

    fn decided(copies: usize, known: &[Known]) -> Next {
        let place = Place { model: "m".to_owned(), copies };
        next(&place, known, &Begun::default(), Instant::now())
    }

    #[test]
    fn copies_go_where_the_most_room_is_until_there_are_enough() {
        let a = || known("a", Has::All(SIZE), 0);
        let to = |name: &str| Next::Copy { from: hive("a"), to: hive(name) };
        let lacking = |why: &str| Next::Lacking(why.to_owned());
        assert_eq!(decided(1, &[a(), known("b", Has::Nothing, 9)]), Next::Enough);
        assert_eq!(decided(2, &[a(), known("b", Has::Nothing, 8), known("c", Has::Nothing, 9)]), to("c"));
        let copying = || known("b", Has::Copying(JobId::new()), 8);
        assert_eq!(decided(2, &[a(), copying(), known("c", Has::Nothing, 9)]), Next::UnderWay);
        assert_eq!(decided(3, &[a(), copying(), known("c", Has::Nothing, 9)]), to("c"));
        let full = known("b", Has::Nothing, 1);
        let no_room = "no further hive has room for it (1.0 GiB and 256.0 MiB more)";
        assert_eq!(decided(2, &[a(), full]), lacking(no_room));
        let no_more = "the fleet has no further hives that can be reached";
        assert_eq!(decided(2, &[a(), known("b", Has::Another, 9)]), lacking(no_more));
        assert_eq!(decided(2, &[known("b", Has::Nothing, 9)]), lacking("no hive that can be reached has it"));
    }

    #[test]
    fn nothing_is_begun_while_a_hive_is_silent() {
        let a = || known("a", Has::All(SIZE), 0);
        for has in [Has::All(SIZE), Has::Nothing, Has::Copying(JobId::new())] {
            let known = [a(), silent(known("b", has, 9)), known("c", Has::Nothing, 9)];
            assert!(matches!(decided(2, &known), Next::Lacking(why) if why.contains("hive 'b' is silent")));
            assert_eq!(decided(1, &known), Next::Enough);
        }
    }

    #[test]
    fn copies_that_fail_are_begun_again_after_waits_that_double() {
        let (mut begun, start) = (Begun::default(), Instant::now());
        begun.begin("m", &hive("b"), start);
        assert!(!begun.may_begin("m", &hive("b"), start));
        assert!(begun.may_begin("another", &hive("b"), start) && begun.may_begin("m", &hive("c"), start));
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..8 {
            let not_before = begun.0[&("m".to_owned(), hive("b"))].1;
            waits.push((not_before - now).as_secs());
            now = not_before;
            assert!(begun.may_begin("m", &hive("b"), now));
            begun.begin("m", &hive("b"), now);
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        begun.begin("another", &hive("b"), now);
        begun.forget("m");
        assert!(begun.may_begin("m", &hive("b"), now) && !begun.may_begin("another", &hive("b"), now));
    }
}
