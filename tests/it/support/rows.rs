//! The operations that the tests run over: those of the hive's table, and one more that is added here by
//! the steps of CONTRIBUTING.md and by nothing else. A test that needs anything besides those steps
//! fails for that one.

use std::sync::LazyLock;

use rbee_hive::error::Result;
use rbee_hive::jobs::{JobClass, OperationKind};
use rbee_hive::n;
use rbee_hive::ops::{self, Asker, Context, Deadline, Operation, Row, TABLE};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{TestHive, document, section};

/// Step 1: the operation's type.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TextRepeat {
    text: String,
    #[serde(default = "once")]
    times: usize,
}

const fn once() -> usize {
    1
}

#[derive(Debug, Serialize, ToSchema)]
struct Repeated {
    text: String,
}

impl Operation for TextRepeat {
    const NAME: &'static str = "TextRepeat";
    const VERB: &'static str = "repeat";
    const KIND: OperationKind = OperationKind::Act;
    const CLASS: JobClass = JobClass::Acts;
    const DEADLINE: Deadline = Deadline::Act;

    type Output = Repeated;

    async fn run(self, cx: Context) -> Result<Self::Output> {
        n!("text_repeat", "Repeating a text {} time(s) on hive '{}'", self.times, cx.hive_id);
        Ok(Repeated { text: self.text.repeat(self.times) })
    }
}

/// Step 2: its row.
static ADDED: &[Row] = &[Row::of::<TextRepeat>()];

/// Step 3: its section.
const SECTION: &str = "
### TextRepeat

`text_repeat` · act · class acts · deadline of acts

| field | type | default | |
|---|---|---|---|
| `text` | string | | the text |
| `times` | integer | `1` | how often |

Result: `{\"text\"}`.
";

/// Every operation: those of the hive, and the added one.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain(ADDED)
}

/// `docs/EVENTS.md` with the section of the added operation.
pub(crate) fn events_document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document("docs/EVENTS.md") + SECTION);
    &DOCUMENT
}

/// The fields that a request must give, with their documented types.
pub(crate) fn required_fields(row: &Row) -> Vec<(&'static str, &'static str)> {
    let lines = section(events_document(), &format!("### {}", row.name)).lines();
    lines
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let (field, kind, default) = (cells.next()?, cells.next()?, cells.next()?);
            default.is_empty().then_some((field.trim_end_matches('`'), kind))
        })
        .collect()
}

/// The fields of a valid request whose names no hive has.
pub(crate) fn sample_fields(row: &Row) -> Value {
    let value = |(field, kind): (&str, &str)| {
        let value: Value = match kind {
            "model id" | "string" => "nothing".into(),
            "SHA-256" => "0".repeat(64).into(),
            // No worker of a hive has the process id 1.
            "integer" | "device" => 1.into(),
            "boolean" => false.into(),
            other => panic!("docs/EVENTS.md: {}: the tests have no value of the type '{other}'", row.name),
        };
        (field.to_owned(), value)
    };
    Value::Object(required_fields(row).into_iter().map(value).collect::<Map<_, _>>())
}

/// Understands an operation of the hive or the added one.
pub(crate) fn parse(row: &'static Row, operation: &Value) -> Result<ops::Submission> {
    let table = if is_added(row) { ADDED } else { TABLE };
    ops::parse_in(table, operation.to_string().as_bytes())
}

/// Submits an operation of the hive, or the added one past its HTTP route. Gives the job's id.
pub(crate) async fn submit(hive: &TestHive, row: &'static Row, operation: &Value) -> String {
    if is_added(row) {
        let submission = parse(row, operation).unwrap_or_else(|failure| panic!("{operation}: {failure}"));
        let submitted = ops::submit(&hive.app, submission, &Asker::hive(), None).expect("it is taken");
        return submitted.job.id().to_string();
    }
    hive.submit(operation).await
}

fn is_added(row: &Row) -> bool {
    ADDED.iter().any(|added| added.name == row.name)
}
