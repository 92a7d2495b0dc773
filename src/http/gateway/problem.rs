//! Refusals of requests that a worker was to answer.

use crate::dialects::trouble::Trouble;
use crate::http::problem::{self, Problem};
use crate::residency::Refused;

/// "Service Unavailable" (RFC 9110 section 15.6.4).
const UNAVAILABLE: u16 = 503;

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let problem = Self::from(refused.failure().as_ref().clone()).status(status(&refused));
        match refused {
            Refused::Load { again_in, .. } => {
                problem.retry_after(again_in.as_secs_f64().ceil().max(1.0) as u64)
            }
            Refused::Plain(_) => problem,
        }
    }
}

/// A refusal, for the end of a stream.
pub(super) fn trouble(refused: &Refused) -> Trouble {
    problem::trouble(refused.failure(), status(refused), None)
}

/// The status of a refusal: not the request is at fault for a load that fails, whatever it fails of.
fn status(refused: &Refused) -> u16 {
    match refused {
        Refused::Load { .. } => UNAVAILABLE,
        Refused::Plain(failure) => failure.code.http_status(),
    }
}
