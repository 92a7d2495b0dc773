//! Text that is certain, before one that may go on as a mark.

use crate::engine::overlap::overlap;

/// Takes from `held` what cannot belong to `mark`, nor to the white space before it.
pub(super) fn take_certain(held: &mut String, mark: &str) -> String {
    let before = &held[..held.len() - overlap(held, mark)];
    let certain = before.trim_end().len();
    let rest = held.split_off(certain);
    std::mem::replace(held, rest)
}
