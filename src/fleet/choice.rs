//! Which hive answers a request to a model that several may answer: a decision that reads nothing but what it is given.

use super::holdings::Served;

/// A hive that may answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    /// Whether it is the hive that was asked.
    pub(crate) is_here: bool,
    pub(crate) served: Served,
    /// Requests that the hive that was asked has sent there and that have not ended.
    pub(crate) sent: usize,
    /// Whether it has answered the beginning of the conversation before.
    pub(crate) knows_conversation: bool,
    /// Whether a request loads the model there.
    pub(crate) loads: bool,
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The hive at this place of the list answers.
    Goes(usize),
    /// The model is loaded nowhere: one of these hives is to load it, the one where it fits best.
    Fits(Vec<usize>),
    /// None of them answers.
    Nobody,
}

impl Candidate {
    /// Requests under way there: what the hive told lags behind, what was sent from here does not.
    fn outstanding(&self) -> usize {
        self.served.requests.max(self.sent)
    }

    fn is_full(&self) -> bool {
        self.served.slots > 0 && self.outstanding() >= self.served.slots
    }
}

/// Where the model is ready, the hive with the fewest requests under way answers, one with a free slot first; of equals
/// the one that knows the conversation, then the one that was asked. Where it is only being loaded, that hive does.
pub(crate) fn choose(candidates: &[Candidate]) -> Choice {
    let all = || candidates.iter().enumerate();
    let order = |candidate: &Candidate| {
        (candidate.is_full(), candidate.outstanding(), !candidate.knows_conversation, !candidate.is_here)
    };
    let ready = all().filter(|(_, candidate)| candidate.served.ready > 0);
    let loading = all().filter(|(_, candidate)| candidate.served.loading > 0);
    let best = ready
        .min_by_key(|(_, candidate)| order(candidate))
        .or_else(|| loading.min_by_key(|(_, candidate)| order(candidate)));
    if let Some((place, _)) = best {
        return Choice::Goes(place);
    }
    let loads: Vec<_> = all().filter(|(_, candidate)| candidate.loads).map(|(place, _)| place).collect();
    match loads.as_slice() {
        [] => Choice::Nobody,
        [only] => Choice::Goes(*only),
        _ => Choice::Fits(loads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(requests: usize) -> Candidate {
        let served = Served { ready: 1, slots: 2, requests, loading: 0 };
        Candidate { served, loads: true, ..Candidate::default() }
    }

    fn here(candidate: Candidate) -> Candidate {
        Candidate { is_here: true, ..candidate }
    }

    fn knowing(candidate: Candidate) -> Candidate {
        Candidate { knows_conversation: true, ..candidate }
    }

    fn cold() -> Candidate {
        Candidate { loads: true, ..Candidate::default() }
    }

    fn loading() -> Candidate {
        Candidate { served: Served { loading: 1, ..Served::default() }, ..cold() }
    }

    #[test]
    fn the_fewest_requests_count_then_the_conversation_then_the_hive_that_was_asked() {
        for (candidates, expected) in [
            (vec![ready(1), here(ready(0))], 1),
            (vec![ready(0), here(ready(1))], 0),
            (vec![ready(1), here(ready(1))], 1),
            (vec![knowing(ready(1)), here(ready(1))], 0),
            (vec![knowing(ready(1)), here(ready(0))], 1),
            // What was sent from here counts at once.
            (vec![Candidate { sent: 2, ..ready(0) }, here(ready(1))], 1),
            (vec![ready(9), ready(3)], 1),
        ] {
            assert_eq!(choose(&candidates), Choice::Goes(expected), "{candidates:?}");
        }
        // Fewer requests, but no slot is free for one more.
        let one_slot = Candidate { served: Served { slots: 1, ..ready(1).served }, ..ready(1) };
        let many = Candidate { served: Served { slots: 8, ..ready(3).served }, ..ready(3) };
        assert_eq!(choose(&[one_slot, many]), Choice::Goes(1));
    }

    #[test]
    fn what_is_ready_or_being_loaded_is_loaded_nowhere_else() {
        assert_eq!(choose(&[here(cold()), loading(), cold()]), Choice::Goes(1));
        assert_eq!(choose(&[here(loading()), ready(9)]), Choice::Goes(1));
        assert_eq!(choose(&[cold(), here(cold())]), Choice::Fits(vec![0, 1]));
        assert_eq!(choose(&[Candidate::default(), cold()]), Choice::Goes(1));
        assert_eq!(choose(&[Candidate::default()]), Choice::Nobody);
        assert_eq!(choose(&[]), Choice::Nobody);
    }
}
