//! Who is in the fleet, as one hive hears it. No connection and no clock is in here: see the tests.
//!
//! A hive counts as silent by how long this one has heard others since it last heard that one, by this one's own clock
//! that nobody sets. This hive hears itself, too. While it hears nobody, because its connection is lost or because the
//! servers take no signs of life, it judges nobody: see [`Members::listens`] and [`Members::hear`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::names::HiveName;
use super::record::{HiveRecord, Secret, Told};
use crate::time::Instant as Wall;

/// After how many missed signs of life a hive is shown as unreachable.
const MISSED: u32 = 3;

/// Whether a hive can be reached, as another one hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Presence {
    /// It gives signs of life.
    Reachable,
    /// It has been silent for a while.
    Unreachable,
}

/// A hive of the fleet.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FleetHive)]
pub(crate) struct Member {
    /// Whether it can be reached.
    pub(crate) presence: Presence,
    /// What it last told about itself.
    #[serde(flatten)]
    pub(crate) record: HiveRecord,
    /// Since when it is silent, where it cannot be reached.
    pub(crate) silent_since: Option<Wall>,
    #[serde(skip)]
    pub(super) secret: Option<Secret>,
    #[serde(skip)]
    heard: Instant,
}

/// What has become of a hive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Happened {
    /// It is new in the fleet, or was started again.
    Joined,
    /// It has told something new about itself.
    Changed,
    /// It has been silent for a while.
    Unreachable,
    /// It can be reached again.
    Back,
    /// It left by itself.
    Left,
    /// It was silent for so long that its name is free.
    Gone,
}

/// A change of the fleet.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = HiveChangeEvent)]
pub(crate) struct HiveChange {
    /// What has happened.
    pub(crate) change: Happened,
    /// The hive.
    pub(crate) hive: Member,
}

/// The hives of a fleet.
#[derive(Debug)]
pub(crate) struct Members {
    hives: BTreeMap<HiveName, Member>,
    heartbeat: Duration,
    gone_after: Duration,
    /// Since when this hive hears the others without a gap.
    listening: Option<Instant>,
    /// When it last heard anyone; `None` where it has lost its connection.
    last: Option<Instant>,
}

impl Members {
    pub(super) fn new(heartbeat: Duration, gone_after: Duration) -> Self {
        Self { hives: BTreeMap::new(), heartbeat, gone_after, listening: None, last: None }
    }

    /// The hives that are in the fleet, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&HiveName, &Member)> {
        self.hives.iter()
    }

    /// The hive of that name.
    pub(crate) fn get(&self, hive: &HiveName) -> Option<&Member> {
        self.hives.get(hive)
    }

    /// Whether the hive can be reached.
    pub(crate) fn is_reachable(&self, hive: &HiveName) -> bool {
        self.get(hive).is_some_and(|member| member.presence == Presence::Reachable)
    }

    /// This hive hears the others from `now` on; `None` where it has lost its connection. Silence before that is
    /// nobody's fault.
    pub(super) fn listens(&mut self, now: Option<Instant>) {
        (self.listening, self.last) = (now, now);
        for member in self.hives.values_mut() {
            member.heard = now.unwrap_or(member.heard);
        }
    }

    /// Whether this hive has listened for so long that who is not there is gone.
    pub(super) fn can_judge(&self, now: Instant) -> bool {
        self.listening.is_some_and(|since| now.saturating_duration_since(since) >= self.gone_after)
    }

    /// A sign of life. Returns what it changes for others. After a while in which nobody was heard, silence counts from
    /// now on.
    pub(super) fn hear(
        &mut self,
        hive: &HiveName,
        told: impl Into<Told>,
        now: Instant,
    ) -> Option<HiveChange> {
        if self.is_deaf(now) {
            self.listens(Some(now));
        }
        self.last = self.listening.and(Some(now));
        let Told { record, secret } = told.into();
        let before = self.hives.get(hive);
        let change = match before {
            None => Some(Happened::Joined),
            Some(before) if before.record.run != record.run => Some(Happened::Joined),
            Some(before) if before.presence == Presence::Unreachable => Some(Happened::Back),
            Some(before) if before.record != record => Some(Happened::Changed),
            Some(_) => None,
        };
        let member = Member { presence: Presence::Reachable, record, silent_since: None, secret, heard: now };
        self.hives.insert(hive.clone(), member.clone());
        change.map(|change| HiveChange { change, hive: member })
    }

    /// Whether this hive has heard nobody for so long that others would count as silent.
    fn is_deaf(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) >= self.heartbeat * MISSED)
    }

    /// A hive has left by itself.
    pub(super) fn leaves(&mut self, hive: &HiveName) -> Option<HiveChange> {
        let hive = self.hives.remove(hive)?;
        Some(HiveChange { change: Happened::Left, hive })
    }

    /// Who has become silent by now.
    pub(super) fn tick(&mut self) -> Vec<HiveChange> {
        let Some(last) = self.last else { return Vec::new() };
        let (heartbeat, gone_after) = (self.heartbeat, self.gone_after);
        let silent = |member: &Member| last.saturating_duration_since(member.heard);
        let gone = self.hives.extract_if(.., |_, member| silent(member) >= gone_after);
        let mut changes: Vec<_> = gone.map(|(_, hive)| HiveChange { change: Happened::Gone, hive }).collect();
        for member in self.hives.values_mut() {
            if member.presence == Presence::Reachable && silent(member) >= heartbeat * MISSED {
                member.presence = Presence::Unreachable;
                member.silent_since = Some(Wall::now().earlier(silent(member)));
                changes.push(HiveChange { change: Happened::Unreachable, hive: member.clone() });
            }
        }
        changes
    }

    /// The hive that is on duty.
    pub(super) fn on_duty(&self) -> Option<&HiveName> {
        let first = self.hives.iter().find(|(_, member)| member.presence == Presence::Reachable);
        first.map(|(first, _)| first)
    }

    /// Whether `hive` does for all what one of them has to do: the first of those that can be reached, by name. Two may
    /// believe it of themselves for a moment, so what they do must be safe to do twice.
    pub(super) fn is_on_duty(&self, hive: &HiveName) -> bool {
        self.on_duty() == Some(hive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(5);
    const GONE: Duration = Duration::from_secs(60);

    fn hive(name: &str) -> HiveName {
        HiveName::new(name).unwrap()
    }

    fn record(run: &str) -> HiveRecord {
        HiveRecord { run: run.into(), ..HiveRecord::default() }
    }

    /// The hive that listens hears itself, and looks who has become silent.
    fn hears_itself(members: &mut Members, now: Instant) -> Vec<HiveChange> {
        members.hear(&hive("z"), record("1"), now);
        members.tick()
    }

    fn happened(change: &Option<HiveChange>) -> Option<Happened> {
        change.as_ref().map(|change| change.change)
    }

    #[test]
    fn silence_makes_a_hive_unreachable_and_then_gone() {
        let (mut members, start) = (Members::new(BEAT, GONE), Instant::now());
        members.listens(Some(start));
        let a = hive("a");
        assert_eq!(happened(&members.hear(&a, record("1"), start)), Some(Happened::Joined));
        assert_eq!(happened(&members.hear(&a, record("1"), start + BEAT)), None);
        assert!((2..=3).all(|beat| hears_itself(&mut members, start + BEAT * beat).is_empty()));
        let changes = hears_itself(&mut members, start + BEAT * 4);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].change, Happened::Unreachable);
        let since = changes[0].hive.silent_since.unwrap();
        assert!((15_000..60_000).contains(&Wall::now().since_ms(since)), "{since:?}");
        assert!(!members.is_reachable(&a) && hears_itself(&mut members, start + BEAT * 5).is_empty());
        assert_eq!(happened(&members.hear(&a, record("1"), start + BEAT * 6)), Some(Happened::Back));
        assert_eq!(happened(&members.hear(&a, record("2"), start + BEAT * 6)), Some(Happened::Joined));
        let changes = (7..=18).flat_map(|beat| hears_itself(&mut members, start + BEAT * beat));
        let changes: Vec<_> = changes.map(|change| change.change).collect();
        assert_eq!(changes, [Happened::Unreachable, Happened::Gone]);
        assert_eq!(members.all().map(|(hive, _)| hive.as_str()).collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn who_hears_nobody_judges_nobody() {
        let (mut members, start) = (Members::new(BEAT, GONE), Instant::now());
        let a = hive("a");
        members.listens(Some(start));
        members.hear(&a, record("1"), start);
        members.listens(None);
        assert!(members.tick().is_empty());
        assert!(!members.can_judge(start + GONE * 2));
        members.listens(Some(start + GONE * 2));
        let since = |beats: u32| start + GONE * 2 + BEAT * beats;
        assert!(hears_itself(&mut members, since(2)).is_empty(), "its silence counts from the return on");
        assert!(!members.can_judge(since(11)) && members.can_judge(since(12)));
        let changes = (3..=12).flat_map(|beat| hears_itself(&mut members, since(beat)));
        let changes: Vec<_> = changes.map(|change| change.change).collect();
        assert_eq!(changes, [Happened::Unreachable, Happened::Gone]);
    }

    #[test]
    fn who_is_cut_off_without_a_word_judges_nobody_either() {
        let (mut members, start) = (Members::new(BEAT, GONE), Instant::now());
        members.listens(Some(start));
        members.hear(&hive("a"), record("1"), start);
        members.hear(&hive("z"), record("1"), start + BEAT);
        // Nothing comes any more, and nothing says so.
        assert!(members.tick().is_empty());
        // The first sign of life after that is not the last of those that are silent.
        let back = start + BEAT * 40;
        assert!(hears_itself(&mut members, back).is_empty());
        assert!(members.is_reachable(&hive("a")) && !members.can_judge(back + BEAT));
        let changes = (1..=12).flat_map(|beat| hears_itself(&mut members, back + BEAT * beat));
        let changes: Vec<_> = changes.map(|change| change.change).collect();
        assert_eq!(changes, [Happened::Unreachable, Happened::Gone]);
    }

    #[test]
    fn the_first_that_can_be_reached_is_on_duty() {
        let (mut members, start) = (Members::new(BEAT, GONE), Instant::now());
        members.listens(Some(start));
        members.hear(&hive("a"), record("1"), start);
        members.hear(&hive("b"), record("1"), start + BEAT * 2);
        members.hear(&hive("b"), record("1"), start + BEAT * 3);
        assert!(members.is_on_duty(&hive("a")) && !members.is_on_duty(&hive("b")));
        members.tick();
        assert!(members.is_on_duty(&hive("b")) && !members.is_on_duty(&hive("a")));
        assert_eq!(happened(&members.leaves(&hive("b"))), Some(Happened::Left));
        assert!(!members.is_on_duty(&hive("b")));
    }
}
