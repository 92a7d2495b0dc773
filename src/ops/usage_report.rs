//! `UsageReport`: how much each caller used each model.

use jiff::civil::Date;
use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::operation::{Context, Deadline, Operation};
use crate::config::PositiveDuration;
use crate::error::{Code, Failure, Result};
use crate::jobs::{JobClass, OperationKind};
use crate::usage::{Asked, DAYS, Reported, Row, Sums, before, today};
use crate::{n, spawn, text};

/// The days that are reported where a request does not say.
const USUAL_DAYS: i64 = 30;

/// Asks how much each caller used each model.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageReport {
    /// Of this caller alone: the name of a token, or an address.
    #[serde(default)]
    caller: Option<String>,
    /// Of this model alone, by the id under which it is served.
    #[serde(default)]
    model: Option<String>,
    /// The first day, such as `"2026-11-01"` or, before today, `"720h"`; null means 30 days before today.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    since: Option<Since>,
    /// The last day; null means today.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Date)]
    until: Option<Date>,
}

/// A day, as itself or by how long before today it is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
struct Since(Date);

impl<'de> Deserialize<'de> for Since {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Ok(date) = text.parse() {
            return Ok(Self(date));
        }
        let lasts =
            PositiveDuration::deserialize(text.as_str().into_deserializer()).map_err(|error: D::Error| {
                D::Error::custom(format!(
                    "write a day, such as \"2026-11-01\", or a duration, such as \"720h\": {error}"
                ))
            })?;
        let days = lasts.as_secs().div_ceil(24 * 3600);
        Ok(Self(before(today(), i64::try_from(days).unwrap_or(DAYS))))
    }
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Report {
    #[schema(value_type = String, format = Date)]
    since: Date,
    #[schema(value_type = String, format = Date)]
    until: Date,
    /// By caller and model, the largest number of requests first.
    usage: Vec<Used>,
    /// By day, those with requests alone.
    days: Vec<OfDay>,
    total: Sums,
}

/// What was used in a day.
#[derive(Debug, Serialize, ToSchema)]
struct OfDay {
    #[schema(value_type = String, format = Date)]
    date: Date,
    #[serde(flatten)]
    sums: Sums,
}

/// What one caller used of one model.
#[derive(Debug, Serialize, ToSchema)]
struct Used {
    caller: String,
    model: Option<String>,
    #[serde(flatten)]
    sums: Sums,
}

impl From<Row> for Used {
    fn from(Row { caller, model, sums }: Row) -> Self {
        Self { caller, model, sums }
    }
}

impl Operation for UsageReport {
    const NAME: &'static str = "UsageReport";
    const VERB: &'static str = "usage";
    const KIND: OperationKind = OperationKind::Read;
    const CLASS: JobClass = JobClass::Reads;
    const DEADLINE: Deadline = Deadline::Read;

    type Output = Report;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        let until = self.until.unwrap_or_else(today);
        let since = self.since.map_or_else(|| before(until, USUAL_DAYS), |since| since.0);
        n!("usage_report", "📊 Usage of hive '{}' from {since} to {until}", cx.hive_id);
        if since > until {
            let message = format!("the field 'since' is {since}, which is after {until}, the last day");
            return Err(
                Failure::new(Code::InvalidField, message).hint("ask from an earlier day to a later one")
            );
        }
        let asked = Asked { since, until, caller: self.caller, model: self.model };
        let usage = cx.app.usage.clone();
        let Reported { rows, days } = spawn::blocking(move || usage.report(&asked)).await?;
        let mut total = Sums::default();
        for Row { caller, model, sums } in &rows {
            total.merge(sums);
            let (caller, model) = (text::excerpt(caller), model.as_deref().unwrap_or("(no model)"));
            let Sums { requests, refused, prompt_tokens, completion_tokens, .. } = sums;
            n!(
                "usage_report",
                "{caller}, {model}: {requests} request(s), {refused} of them refused; tokens: {prompt_tokens} read, \
                 {completion_tokens} written"
            );
        }
        n!("usage_report", "{} request(s) of {} caller(s) and models in all", total.requests, rows.len());
        let days = days.into_iter().map(|(date, sums)| OfDay { date, sums }).collect();
        Ok(Report { since, until, usage: rows.into_iter().map(Into::into).collect(), days, total })
    }
}
