//! From a request's body to an operation, in either spelling.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::field_error::FieldError;
use super::refused::REFUSED;
use super::row::{Decoded, ReadyOperation, Row};
use crate::error::{Code, Failure, Result};
use crate::text::{excerpt, nearest_ids};

/// The largest request, in bytes: room for the longest URL. An act's request is kept with its job, in
/// its journal and in events of `/v1/events`, so the limit is below that of a body.
const MOST_REQUEST_BYTES: usize = 16 << 10;

/// An understood operation, not yet a job.
pub struct Submission {
    /// Its row.
    pub row: &'static Row,
    /// The name by which the caller addressed the hive.
    pub hive_id: String,
    /// The request in its `operation` spelling, with every default filled in.
    pub request: Box<RawValue>,
    /// The fields as they were sent, without those that name the hive: what is recorded of them may lack secrets.
    pub(super) fields: Map<String, Value>,
    /// Why this hive runs it, where any could have.
    pub(super) placed: Option<String>,
    pub(super) operation: Box<dyn ReadyOperation>,
}

impl Submission {
    /// The operation of the row with these fields, for that hive.
    ///
    /// # Errors
    /// [`Code::InvalidField`] or [`Code::InvalidId`] naming the field.
    pub(super) fn of(row: &'static Row, hive_id: String, fields: Map<String, Value>) -> Result<Self> {
        let sent = Value::Object(fields);
        let Decoded { operation, request } = row.decode(&sent)?;
        let request = row.request_for(&hive_id, members(request))?;
        if request.get().len() > MOST_REQUEST_BYTES {
            let problem = format!(
                "the request takes {} bytes of JSON, and may take {MOST_REQUEST_BYTES}",
                request.get().len()
            );
            return Err(FieldError::of_object(problem).into_failure(row.name));
        }
        Ok(Self { row, hive_id, request, fields: members(sent), placed: None, operation })
    }

    /// The request as it is sent to another hive of the fleet.
    ///
    /// # Errors
    /// [`Code::Internal`] if it does not serialise.
    pub(super) fn for_hive(&self, hive: &str) -> Result<Box<RawValue>> {
        self.row.request_for(hive, self.fields.clone())
    }
}

/// The members of an object.
fn members(value: Value) -> Map<String, Value> {
    if let Value::Object(members) = value { members } else { Map::new() }
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("request", &self.request.get()).finish_non_exhaustive()
    }
}

/// Reads a body as an operation of `table`: `{"ModelList":{…}}` or `{"operation":"model_list",…}`.
///
/// # Errors
/// [`Code::InvalidJson`], [`Code::UnknownOperation`] with the nearest names, the codes of the
/// refused rows, [`Code::InvalidField`] or [`Code::InvalidId`] naming the field.
pub fn parse_in(table: &'static [Row], body: &[u8]) -> Result<Submission> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
            .hint(r#"send one operation, such as {"ModelList":{"hive_id":"localhost"}}"#)
    })?;
    let Value::Object(object) = value else {
        return Err(Failure::new(Code::InvalidJson, "the body is JSON, but not an object")
            .hint(r#"send one operation, such as {"ModelList":{"hive_id":"localhost"}}"#));
    };
    let (row, mut fields) = find(table, object)?;

    let hive_id = take_hive(row, &mut fields)?;
    Submission::of(row, hive_id, fields)
}

/// The row of the operation that the object names, and the operation's own fields.
fn find(table: &'static [Row], mut object: Map<String, Value>) -> Result<(&'static Row, Map<String, Value>)> {
    if let Some(operation) = object.remove("operation") {
        let Value::String(name) = operation else {
            return Err(Failure::new(Code::InvalidField, "field `operation`: expected a string")
                .hint(r#"name the operation in snake_case, such as "model_list""#));
        };
        let row = table.iter().find(|row| row.wire_name == name);
        let spelled = |row: &Row| (row.wire_name, row.name);
        return row.map(|row| (row, object)).ok_or_else(|| unknown(table, &name, spelled));
    }
    let mut entries = object.into_iter();
    let (Some((name, fields)), None) = (entries.next(), entries.next()) else {
        return Err(Failure::new(
            Code::UnknownOperation,
            "the body names no operation: it has neither exactly one key nor a field `operation`",
        )
        .hint(r#"send {"ModelList":{…}} or {"operation":"model_list",…}"#));
    };
    let spelled = |row: &Row| (row.name, row.wire_name);
    let row = table.iter().find(|row| row.name == name).ok_or_else(|| unknown(table, &name, spelled))?;
    match fields {
        Value::Object(fields) => Ok((row, fields)),
        // Some clients serialise an operation without fields as null.
        Value::Null => Ok((row, Map::new())),
        _ => Err(Failure::new(Code::InvalidField, format!("field `{name}`: expected an object"))
            .hint(format!(r#"send {{"{name}":{{…}}}}"#))),
    }
}

/// Takes out the field that names the hive. Whether it names this one depends on the request's host, so
/// the caller checks it.
fn take_hive(row: &Row, fields: &mut Map<String, Value>) -> Result<String> {
    let mut named: Option<String> = None;
    for field in ["hive_id", row.hive_field] {
        let problem = match (fields.remove(field), &named) {
            (None, _) => continue,
            (Some(Value::String(hive)), Some(other)) if hive != *other => "names another hive than `hive_id`",
            (Some(Value::String(hive)), _) => {
                named = Some(hive);
                continue;
            }
            (Some(_), _) => "expected a string",
        };
        return Err(FieldError::of_field(field, problem).into_failure(row.name));
    }
    Ok(named.unwrap_or_else(|| "localhost".to_owned()))
}

/// The refusal of a name that is in no row of the table. `spelled` gives a row's name as the body has to spell it, and
/// as it must not.
fn unknown(table: &[Row], name: &str, spelled: fn(&Row) -> (&'static str, &'static str)) -> Failure {
    if let Some(refused) = REFUSED.iter().find(|refused| refused.covers(name)) {
        return refused.failure(name);
    }
    let hint = match nearest_ids(name, table.iter().map(spelled)).as_slice() {
        [] => {
            let names: Vec<_> = table.iter().map(|row| spelled(row).0).collect();
            format!("the operations are {}", names.join(", "))
        }
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Failure::new(Code::UnknownOperation, format!("unknown operation '{}'", excerpt(name))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::parse;

    fn refusal(body: &str) -> Failure {
        parse(body.as_bytes()).expect_err(body)
    }

    #[test]
    fn both_spellings_give_the_same_request() {
        let one = parse(br#"{"ModelGet":{"id":"tiny"}}"#).unwrap();
        let two = parse(br#"{"operation":"model_get","hive_id":"localhost","id":"tiny"}"#).unwrap();
        assert_eq!(one.request.get(), two.request.get());
        assert_eq!(one.request.get(), r#"{"operation":"model_get","hive_id":"localhost","id":"tiny"}"#);
    }

    #[test]
    fn defaults_are_filled_in() {
        let load = parse(br#"{"ModelLoad":{"id":"tiny"}}"#).unwrap();
        assert!(load.request.get().contains(r#""device":"auto""#), "{}", load.request.get());
        let check = parse(br#"{"HiveCheck":{"alias":"127.0.0.1"}}"#).unwrap();
        assert_eq!(check.hive_id, "127.0.0.1");
        assert_eq!(parse(br#"{"operation":"model_list"}"#).unwrap().hive_id, "localhost");
        let both = parse(br#"{"HiveCheck":{"alias":"::1","hive_id":"::1"}}"#).unwrap();
        assert_eq!(both.hive_id, "::1");
    }

    #[test]
    fn requests_and_refusals_are_bounded() {
        let long = "x".repeat(20_000);
        let failure = refusal(&format!(r#"{{"ModelDownload":{{"model":"{long}"}}}}"#));
        assert_eq!(failure.code, Code::InvalidField);
        assert!(failure.message.contains("may take 16384"), "{failure}");
        let failure = refusal(&format!(r#"{{"ModelList":{{"{long}":1}}}}"#));
        assert!(failure.message.len() < 1000, "{failure}");
    }

    #[test]
    fn every_refusal_names_its_cause() {
        for (body, code, names) in [
            ("{", Code::InvalidJson, "line 1"),
            ("[]", Code::InvalidJson, "object"),
            (r#""ModelList""#, Code::InvalidJson, "object"),
            ("{}", Code::UnknownOperation, "names no operation"),
            (r#"{"ModelLst":{}}"#, Code::UnknownOperation, "'ModelLst'"),
            (r#"{"operation":"ModelList"}"#, Code::UnknownOperation, "'ModelList'"),
            (r#"{"operation":3}"#, Code::InvalidField, "`operation`"),
            (r#"{"ModelList":{},"ModelGet":{}}"#, Code::UnknownOperation, "exactly one key"),
            (r#"{"ModelList":[]}"#, Code::InvalidField, "`ModelList`"),
            (r#"{"ModelList":{"hive_id":3}}"#, Code::InvalidField, "`hive_id`"),
            (r#"{"HiveCheck":{"alias":"a","hive_id":"b"}}"#, Code::InvalidField, "`alias`"),
            (r#"{"ModelList":{"extra":3}}"#, Code::InvalidField, "`extra`"),
            (r#"{"ModelGet":{}}"#, Code::InvalidField, "`id`"),
            (r#"{"ModelGet":{"id":7}}"#, Code::InvalidField, "`id`"),
            (r#"{"ModelGet":{"id":"a b"}}"#, Code::InvalidId, "`id`"),
            (r#"{"ModelGet":{"id":""}}"#, Code::InvalidId, "`id`"),
            (r#"{"WorkerProcessGet":{"pid":"x"}}"#, Code::InvalidField, "`pid`"),
            (r#"{"WorkerProcessGet":{"pid":-1}}"#, Code::InvalidField, "`pid`"),
            (r#"{"Infer":{"prompt":"x"}}"#, Code::QueenOperation, "Infer"),
            (r#"{"operation":"worker_install"}"#, Code::InvalidField, "`worker_id`"),
            (r#"{"ImageTransform":{}}"#, Code::NotOffered, "ImageTransform"),
        ] {
            let failure = refusal(body);
            assert_eq!(failure.code, code, "{body}: {failure}");
            assert!(failure.message.contains(names), "{body}: {failure}");
            assert!(failure.hint.is_some(), "{body}");
            assert!(!failure.message.contains("job_id"));
        }
    }

    #[test]
    fn an_unknown_operation_is_told_the_nearest_names_as_it_has_to_spell_them() {
        for (body, nearest) in [
            (r#"{"ModelLst":{}}"#, "did you mean ModelList or Model"),
            (r#"{"model_list":{}}"#, "did you mean ModelList or Model"),
            (r#"{"operation":"ModelList"}"#, "did you mean model_list or model_"),
            (r#"{"operation":"model-list"}"#, "did you mean model_list or model_"),
            (r#"{"operation":"zzz"}"#, "the operations are hive_check, "),
        ] {
            let hint = refusal(body).hint.unwrap();
            assert!(hint.contains(nearest), "{body}: {hint}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _answer = parse(&body);
        }

        #[test]
        fn no_name_panics(name: String) {
            let body = serde_json::json!({ "operation": name });
            let _answer = parse(body.to_string().as_bytes());
        }
    }
}
