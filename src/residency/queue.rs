//! The queue of requests that wait for a worker: one line for each model, fair to callers.
//!
//! Within the line of a model, callers take turns, and the requests of one caller stay in the order in which
//! they came. A caller that comes back to a line goes to the end of its turns.
//!
//! Invariants:
//! - The lines together never hold more entries than the limit. In a full queue, a newcomer takes the place of
//!   the newest entry of the caller that has the most; if its own caller has as many, it is refused.
//! - An entry leaves exactly once: by its turn, by its ticket, displaced, or with its whole line.
//! - A place is the truth: as many entries as it says leave before, if no other caller comes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The queue; `T` is what waits.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    limit: usize,
    lines: HashMap<Arc<str>, Line<T>>,
    /// How many entries each caller has, in all lines.
    held: HashMap<Arc<str>, usize>,
    length: usize,
    /// The number of the next entry.
    next_number: u64,
}

/// The entries that wait for one model.
#[derive(Debug)]
struct Line<T> {
    /// The callers that have entries, the next one first.
    turns: VecDeque<Arc<str>>,
    /// The entries of each caller by their numbers. None of the maps is empty.
    entries: HashMap<Arc<str>, BTreeMap<u64, T>>,
    length: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), entries: HashMap::new(), length: 0 }
    }
}

/// Names one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    model: Arc<str>,
    caller: Arc<str>,
    number: u64,
}

impl Ticket {
    /// The model that it waits for.
    pub(crate) fn model(&self) -> &Arc<str> {
        &self.model
    }
}

/// Where in its line an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// 1 is next.
    pub(crate) position: usize,
    /// The entries in the line.
    pub(crate) of: usize,
}

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed<T> {
    /// It waits. Where the queue was full, the entry whose place it took has left.
    Waits { ticket: Ticket, displaced: Option<T> },
    /// The queue is full, and no caller has more entries than its own.
    Full(T),
}

/// The line of one model.
#[derive(Debug)]
pub(crate) struct LineView<'a, T> {
    pub(crate) model: &'a Arc<str>,
    pub(crate) waiting: usize,
    /// The entry that has waited longest.
    pub(crate) oldest: &'a T,
    /// The callers and how many of their entries wait; the next one first.
    pub(crate) callers: Vec<(&'a Arc<str>, usize)>,
}

impl<T> Queue<T> {
    /// An empty queue for so many entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, lines: HashMap::new(), held: HashMap::new(), length: 0, next_number: 0 }
    }

    /// Whether nothing waits for the model.
    pub(crate) fn has_none(&self, model: &str) -> bool {
        !self.lines.contains_key(model)
    }

    /// Lets an entry wait for a model.
    pub(crate) fn push(&mut self, model: &Arc<str>, caller: &Arc<str>, entry: T) -> Pushed<T> {
        let mut displaced = None;
        if self.length >= self.limit {
            let Some(newest) = self.displaceable(caller) else { return Pushed::Full(entry) };
            displaced = self.remove(&newest);
        }
        let ticket =
            Ticket { model: Arc::clone(model), caller: Arc::clone(caller), number: self.next_number };
        self.next_number += 1;
        self.length += 1;
        *self.held.entry(Arc::clone(caller)).or_default() += 1;
        self.lines.entry(Arc::clone(model)).or_default().push(&ticket, entry);
        Pushed::Waits { ticket, displaced }
    }

    /// The entry whose turn it is.
    pub(crate) fn next(&self, model: &str) -> Option<&T> {
        let line = self.lines.get(model)?;
        Some(line.entries.get(line.turns.front()?)?.first_key_value()?.1)
    }

    /// Takes out the entry whose turn it is.
    pub(crate) fn pop(&mut self, model: &str) -> Option<T> {
        let line = self.lines.get_mut(model)?;
        let (caller, entry) = line.pop()?;
        self.left(model, &caller);
        Some(entry)
    }

    /// Takes an entry out, wherever it stands; `None` if it has left already.
    pub(crate) fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let entry = self.lines.get_mut(&ticket.model)?.remove(ticket)?;
        self.left(&ticket.model, &ticket.caller);
        Some(entry)
    }

    /// Everything that waits for a model, in no order.
    pub(crate) fn all_of(&mut self, model: &str) -> impl Iterator<Item = &mut T> {
        self.lines
            .get_mut(model)
            .into_iter()
            .flat_map(|line| line.entries.values_mut())
            .flat_map(BTreeMap::values_mut)
    }

    /// Takes out all that waits for a model, in the order of their turns.
    pub(crate) fn remove_line(&mut self, model: &str) -> Vec<T> {
        let waiting = self.lines.get(model).map_or(0, |line| line.length);
        (0..waiting).filter_map(|_| self.pop(model)).collect()
    }

    /// Where an entry stands; `None` if it has left.
    pub(crate) fn place(&self, ticket: &Ticket) -> Option<Place> {
        self.lines.get(&ticket.model)?.place(ticket)
    }

    /// The models that entries wait for, in no order.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Arc<str>> {
        self.lines.keys()
    }

    /// The lines, in no order.
    pub(crate) fn lines(&self) -> impl Iterator<Item = LineView<'_, T>> {
        self.lines.iter().filter_map(|(model, line)| line.view(model))
    }

    /// The entry that a newcomer of this caller displaces: the newest of the caller that has the most.
    fn displaceable(&self, caller: &Arc<str>) -> Option<Ticket> {
        let own = self.held.get(caller).copied().unwrap_or_default();
        let most = self.held.values().copied().max().filter(|most| *most > own)?;
        let richest = self.held.iter().filter(|(_, held)| **held == most).map(|(caller, _)| caller);
        richest.filter_map(|caller| self.newest(caller)).max_by_key(|ticket| ticket.number)
    }

    fn newest(&self, caller: &Arc<str>) -> Option<Ticket> {
        let newest = self.lines.iter().filter_map(|(model, line)| {
            let (number, _) = line.entries.get(caller)?.last_key_value()?;
            Some(Ticket { model: Arc::clone(model), caller: Arc::clone(caller), number: *number })
        });
        newest.max_by_key(|ticket| ticket.number)
    }

    /// Accounts for an entry that has left.
    fn left(&mut self, model: &str, caller: &str) {
        self.length -= 1;
        if let Some(held) = self.held.get_mut(caller) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(caller);
            }
        }
        if self.lines.get(model).is_some_and(|line| line.length == 0) {
            self.lines.remove(model);
        }
    }
}

impl<T> Line<T> {
    fn push(&mut self, ticket: &Ticket, entry: T) {
        let own = self.entries.entry(Arc::clone(&ticket.caller)).or_default();
        if own.is_empty() {
            self.turns.push_back(Arc::clone(&ticket.caller));
        }
        own.insert(ticket.number, entry);
        self.length += 1;
    }

    fn pop(&mut self) -> Option<(Arc<str>, T)> {
        let caller = self.turns.pop_front()?;
        let own = self.entries.get_mut(&caller)?;
        let (_, entry) = own.pop_first()?;
        if own.is_empty() {
            self.entries.remove(&caller);
        } else {
            self.turns.push_back(Arc::clone(&caller));
        }
        self.length -= 1;
        Some((caller, entry))
    }

    fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let own = self.entries.get_mut(&ticket.caller)?;
        let entry = own.remove(&ticket.number)?;
        if own.is_empty() {
            self.entries.remove(&ticket.caller);
            self.turns.retain(|caller| *caller != ticket.caller);
        }
        self.length -= 1;
        Some(entry)
    }

    fn place(&self, ticket: &Ticket) -> Option<Place> {
        let own = self.entries.get(&ticket.caller)?;
        own.get(&ticket.number)?;
        let before = own.range(..ticket.number).count();
        let turn = self.turns.iter().position(|caller| *caller == ticket.caller)?;
        // Before this entry's own round, each caller has had `before` turns, and those ahead one more.
        let others = self.turns.iter().enumerate().filter(|(at, _)| *at != turn).map(|(at, caller)| {
            let turns = before + usize::from(at < turn);
            self.entries.get(caller).map_or(0, |entries| entries.len().min(turns))
        });
        Some(Place { position: 1 + before + others.sum::<usize>(), of: self.length })
    }

    fn view<'a>(&'a self, model: &'a Arc<str>) -> Option<LineView<'a, T>> {
        let first = |entries: &'a BTreeMap<u64, T>| entries.first_key_value();
        let (_, oldest) = self.entries.values().filter_map(first).min_by_key(|(number, _)| **number)?;
        let held = |caller| self.entries.get(caller).map_or(0, BTreeMap::len);
        let callers = self.turns.iter().map(|caller| (caller, held(caller))).collect();
        Some(LineView { model, waiting: self.length, oldest, callers })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is done to a queue. Models, callers and entries are small numbers.
    #[derive(Clone, Debug)]
    enum Step {
        Push {
            model: u8,
            caller: u8,
        },
        Pop {
            model: u8,
        },
        /// Takes out the entry of that number.
        Remove {
            entry: usize,
        },
        RemoveLine {
            model: u8,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..3_u8, 0..4_u8).prop_map(|(model, caller)| Step::Push { model, caller }),
            3 => (0..3_u8).prop_map(|model| Step::Pop { model }),
            2 => (0..40_usize).prop_map(|entry| Step::Remove { entry }),
            1 => (0..3_u8).prop_map(|model| Step::RemoveLine { model }),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// A queue that is too simple to be wrong: one list, in the order of arrival, and the callers' turns.
    #[derive(Default)]
    struct Model {
        /// Entry, model and caller.
        waiting: Vec<(usize, u8, u8)>,
        /// The callers of each model, the next one first.
        turns: [Vec<u8>; 3],
    }

    impl Model {
        /// The entries of a model in the order in which they leave.
        fn order(&self, model: u8) -> Vec<usize> {
            let mut rest: Vec<_> = self.waiting.iter().filter(|(_, of, _)| *of == model).copied().collect();
            let mut order = Vec::new();
            while !rest.is_empty() {
                for caller in &self.turns[usize::from(model)] {
                    if let Some(at) = rest.iter().position(|(_, _, by)| by == caller) {
                        order.push(rest.remove(at).0);
                    }
                }
            }
            order
        }

        fn take(&mut self, entry: usize) {
            let at = self.waiting.iter().position(|(waiting, _, _)| *waiting == entry).unwrap();
            let (_, model, caller) = self.waiting.remove(at);
            if !self.waiting.iter().any(|(_, of, by)| (*of, *by) == (model, caller)) {
                self.turns[usize::from(model)].retain(|by| *by != caller);
            }
        }

        fn pop(&mut self, model: u8) -> Option<usize> {
            let first = *self.order(model).first()?;
            let caller = self.turns[usize::from(model)].remove(0);
            self.turns[usize::from(model)].push(caller);
            self.take(first);
            Some(first)
        }

        fn held(&self, caller: u8) -> usize {
            self.waiting.iter().filter(|(_, _, by)| *by == caller).count()
        }

        /// Whether the newcomer waits, and what left for it.
        fn push(&mut self, limit: usize, entry: usize, model: u8, caller: u8) -> Option<Option<usize>> {
            let mut displaced = None;
            if self.waiting.len() == limit {
                let most = (0..4).map(|by| self.held(by)).max().unwrap();
                if self.held(caller) == most {
                    return None;
                }
                let newest = self.waiting.iter().rev().find(|(_, _, by)| self.held(*by) == most).unwrap().0;
                self.take(newest);
                displaced = Some(newest);
            }
            self.waiting.push((entry, model, caller));
            let turns = &mut self.turns[usize::from(model)];
            if !turns.contains(&caller) {
                turns.push(caller);
            }
            Some(displaced)
        }
    }

    fn name(number: u8) -> Arc<str> {
        number.to_string().into()
    }

    proptest! {
        #[test]
        fn a_queue_is_fair_bounded_and_loses_nothing(steps in steps(), limit in 1..12_usize) {
            let (mut queue, mut model) = (Queue::new(limit), Model::default());
            let mut tickets: Vec<Option<Ticket>> = Vec::new();
            for step in steps {
                match step {
                    Step::Push { model: of, caller } => {
                        let entry = tickets.len();
                        let expected = model.push(limit, entry, of, caller);
                        match queue.push(&name(of), &name(caller), entry) {
                            Pushed::Waits { ticket, displaced } => {
                                prop_assert_eq!(Some(displaced), expected);
                                tickets.push(Some(ticket));
                            }
                            Pushed::Full(back) => {
                                prop_assert_eq!((back, expected), (entry, None));
                                tickets.push(None);
                            }
                        }
                    }
                    Step::Pop { model: of } => {
                        let next = queue.next(&name(of)).copied();
                        prop_assert_eq!(next, queue.pop(&name(of)));
                        prop_assert_eq!(next, model.pop(of));
                    }
                    Step::Remove { entry } => {
                        let waits = model.waiting.iter().any(|(waiting, _, _)| *waiting == entry);
                        if let Some(Some(ticket)) = tickets.get(entry) {
                            prop_assert_eq!(queue.remove(ticket), waits.then_some(entry));
                        }
                        if waits {
                            model.take(entry);
                        }
                    }
                    Step::RemoveLine { model: of } => {
                        let order = model.order(of);
                        prop_assert_eq!(queue.remove_line(&name(of)), order.clone());
                        order.into_iter().for_each(|entry| model.take(entry));
                    }
                }
                prop_assert!(queue.length <= limit);
                prop_assert_eq!(queue.length, model.waiting.len());
                for of in 0..3 {
                    let order = model.order(of);
                    for (before, entry) in order.iter().enumerate() {
                        let place = queue.place(tickets[*entry].as_ref().unwrap());
                        prop_assert_eq!(place, Some(Place { position: before + 1, of: order.len() }));
                    }
                    prop_assert_eq!(queue.has_none(&name(of)), order.is_empty());
                    let line = queue.lines().find(|line| **line.model == *name(of));
                    let seen = line.map(|line| {
                        let callers: usize = line.callers.iter().map(|(_, held)| held).sum();
                        (line.waiting, callers, *line.oldest)
                    });
                    let oldest = model.waiting.iter().find(|(_, waits_for, _)| *waits_for == of);
                    prop_assert_eq!(seen, oldest.map(|(entry, _, _)| (order.len(), order.len(), *entry)));
                }
            }
            prop_assert!(queue.held.len() <= 4 && queue.held.values().all(|held| *held > 0));
        }
    }
}
