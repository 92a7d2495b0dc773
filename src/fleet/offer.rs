//! Which hive does what may run on any of them: each says what it offers, and the best offer is taken.
//!
//! A hive's offer is what its own planner decides at this moment, with what is in its memory; so the choice among hives
//! is that of one machine, made once more.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::names::HiveName;
use crate::error::{Code, Failure, Result};

/// What a hive offers for an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// How good it is; less is better. See the constants.
    pub rank: u8,
    /// The bytes that are free for it there.
    pub free_bytes: u64,
    /// The offer in words, after `hive 'x': `.
    pub words: String,
    /// The bytes of the file of the model that it would begin to load, which one load of all hives suffices for. Absent
    /// where it begins none: it has it, or loads it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<u64>,
}

/// The best of several offers.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) hive: HiveName,
    /// Why it is that, in words.
    pub(super) why: String,
    /// As in its offer.
    pub(super) begins: Option<u64>,
}

impl Offer {
    /// It has what is asked for.
    pub const HAS_IT: u8 = 0;
    /// It is about to have it.
    pub const LOADS_IT: u8 = 1;
    /// It can do it at once. The class of the place is added.
    pub const AT_ONCE: u8 = 10;
    /// Others have to go for it, or it has to wait. The class of the place is added.
    pub const AFTER_OTHERS: u8 = 50;
}

/// The best offer.
///
/// # Errors
/// [`Code::NowhereToRun`], or the code that all hives have, with the reason of each.
pub(super) fn choose(mut offers: Vec<(HiveName, Result<Offer>)>) -> Result<Best> {
    let order = |(hive, offer): &(HiveName, Result<Offer>)| match offer {
        Ok(offer) => (offer.rank, std::cmp::Reverse(offer.free_bytes), hive.clone()),
        Err(_) => (u8::MAX, std::cmp::Reverse(0), hive.clone()),
    };
    offers.sort_by_key(order);
    let mut best = None;
    let mut others = String::new();
    for (hive, offer) in &offers {
        match offer {
            Ok(offer) if best.is_none() => best = Some((hive.clone(), offer)),
            Ok(offer) => write!(others, "; '{hive}': {}", offer.words).unwrap_or_default(),
            Err(failure) => write!(others, "; '{hive}': {failure}").unwrap_or_default(),
        }
    }
    if let Some((hive, offer)) = best {
        let why = format!("hive '{hive}' does it: {}{others}", offer.words);
        return Ok(Best { hive, why, begins: offer.begins });
    }
    let refusals = || offers.iter().filter_map(|(hive, offer)| Some((hive, offer.as_ref().err()?)));
    let Some((_, first)) = refusals().next() else {
        return Err(Failure::new(Code::HiveUnreachable, "no hive of the fleet answers")
            .hint("`rbee-hive fleet status` shows the hives"));
    };
    // Where all say the same, there is nothing to tell of each.
    if refusals().all(|(_, other)| other.message == first.message) {
        return Err(first.clone());
    }
    let is_one_reason = refusals().all(|(_, other)| other.code == first.code);
    let code = if is_one_reason { first.code } else { Code::NowhereToRun };
    let causes = refusals().map(|(hive, why)| format!("hive '{hive}': {why}")).collect();
    Err(Failure { causes, ..Failure::new(code, "no hive of the fleet can do that") }
        .hint("the causes say why, hive by hive; name one with hive_id to see its own answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(rank: u8, free_bytes: u64) -> Result<Offer> {
        Ok(Offer { rank, free_bytes, words: format!("{rank} with {free_bytes}"), begins: None })
    }

    fn refusal() -> Result<Offer> {
        Err(Failure::new(Code::ModelNotFound, "no such model"))
    }

    fn chosen(offers: &[(&str, Result<Offer>)]) -> Result<(String, String)> {
        let offers = offers.iter().map(|(hive, offer)| (HiveName::new(hive).unwrap(), offer.clone()));
        choose(offers.collect()).map(|best| (best.hive.to_string(), best.why))
    }

    #[test]
    fn the_best_rank_counts_then_what_is_free_then_the_name() {
        for (offers, expected) in [
            ([("a", offer(11, 5)), ("b", offer(0, 1)), ("c", refusal())], "b"),
            ([("a", offer(11, 5)), ("b", offer(11, 9)), ("c", offer(50, 99))], "b"),
            ([("c", offer(11, 5)), ("b", offer(11, 5)), ("a", refusal())], "b"),
        ] {
            assert_eq!(chosen(&offers).unwrap().0, expected, "{offers:?}");
        }
        let (_, why) = chosen(&[("a", offer(0, 1)), ("b", offer(50, 9)), ("c", refusal())]).unwrap();
        assert_eq!(why, "hive 'a' does it: 0 with 1; 'b': 50 with 9; 'c': no such model");
    }

    #[test]
    fn where_nobody_can_each_says_why() {
        let full = || Err(Failure::new(Code::OutOfMemory, "no room"));
        let failure = chosen(&[("a", refusal()), ("b", full())]).unwrap_err();
        assert_eq!(failure.code, Code::NowhereToRun);
        assert_eq!(failure.causes, ["hive 'a': no such model", "hive 'b': no room"]);
        let failure = chosen(&[("a", refusal()), ("b", refusal())]).unwrap_err();
        assert_eq!((failure.code, &*failure.message), (Code::ModelNotFound, "no such model"));
        let other = || Err(Failure::new(Code::ModelNotFound, "not here"));
        let failure = chosen(&[("a", refusal()), ("b", other())]).unwrap_err();
        assert_eq!((failure.code, failure.causes.len()), (Code::ModelNotFound, 2));
    }
}
