//! The schema of an event stream.
//!
//! OpenAPI 3.1 leaves open what the schema of a stream is of. Here it is of each of its events, by its fields, as
//! `itemSchema` of OpenAPI 3.2 has it: `contentSchema` says what is in the JSON of `data`, and an event that is sent
//! without a name is one of the name `message` (WHATWG HTML, section 9.2.6).

use serde_json::{Value, json};

/// The media type of event streams.
const EVENTS: &str = "text/event-stream";

/// Makes the schemas of event streams, which are of the JSON of `data`, those of whole events.
pub(super) fn complete(path: &str, operation: &mut Value) {
    let answers = operation["responses"].as_object_mut().into_iter().flatten();
    for (_, answer) in answers {
        if let Some(stream) = answer.get_mut("content").and_then(|content| content.get_mut(EVENTS)) {
            stream["schema"] = schema(path, &stream["schema"]);
        }
    }
}

fn schema(path: &str, data: &Value) -> Value {
    match path {
        // Its two forms: only the typed one has names.
        "/v1/jobs/{job_id}/stream" => {
            let names = ["narration", "result", "done", "failed", "cancelled", "elision"];
            let line =
                json!({ "type": "string", "description": "A line for people, the result, or how it ended." });
            json!({ "anyOf": [event(json!(names), encoded(data)), event(json!(["message"]), line)] })
        }
        "/v1/chat/completions" | "/v1/completions" => {
            let failure = json!({
                "type": "object", "required": ["error"], "properties": { "error": {} },
                "description": "Why the answer breaks off; the stream ends without `[DONE]`.",
            });
            let part = encoded(&json!({ "anyOf": [data, failure] }));
            event(json!(["message", "error"]), json!({ "anyOf": [part, { "enum": ["[DONE]"] }] }))
        }
        _ => json!({
            "type": "object", "required": ["data"],
            "properties": { "event": { "type": "string" }, "data": encoded(data) },
        }),
    }
}

/// An event of one of these names.
fn event(names: Value, data: Value) -> Value {
    json!({
        "type": "object", "required": ["data", "event"],
        "properties": { "event": { "enum": names }, "data": data },
    })
}

/// A text that is JSON of this schema.
fn encoded(schema: &Value) -> Value {
    json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema })
}
