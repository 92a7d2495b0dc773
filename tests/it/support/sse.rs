//! Reads streams as their clients do.

use serde_json::Value;

/// The texts of the `data:` lines of a plain stream. Checks that every other line is empty.
pub(crate) fn data_lines(stream: &str) -> Vec<String> {
    assert!(stream.is_empty() || stream.ends_with("\n\n"), "the last event is complete: {stream:?}");
    stream
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.strip_prefix("data: ").unwrap_or_else(|| panic!("not a data line: {line:?}")).to_owned()
        })
        .collect()
}

/// One event of a typed stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Typed {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

/// The events of a typed stream, without its comments.
pub(crate) fn typed(stream: &str) -> Vec<Typed> {
    stream
        .split("\n\n")
        .filter(|block| !block.is_empty() && !block.starts_with(':'))
        .map(|block| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            Typed {
                id: field("id").map(|id| id.parse().expect("a number")),
                event: field("event").expect("a named event").to_owned(),
                data: serde_json::from_str(field("data").expect("data")).expect("JSON"),
            }
        })
        .collect()
}

/// Reads an answer to its end. If the end does not come, the panic shows what did.
pub(crate) async fn read_all(mut answer: reqwest::Response) -> String {
    let mut seen = String::new();
    let reading = async {
        while let Some(chunk) = answer.chunk().await.expect("a chunk") {
            seen += &String::from_utf8_lossy(&chunk);
        }
    };
    let ended = tokio::time::timeout(super::PATIENCE, reading).await;
    assert!(ended.is_ok(), "waited {:?} in vain for the end of a stream after\n{seen}", super::PATIENCE);
    seen
}

/// Reads more of the answer into `seen` until that contains `needle`.
pub(crate) async fn read_until(answer: &mut reqwest::Response, seen: &mut String, needle: &str) {
    super::soon(needle, async {
        while !seen.contains(needle) {
            let chunk = answer.chunk().await.expect("a chunk").expect("the stream goes on");
            *seen += &String::from_utf8_lossy(&chunk);
        }
    })
    .await;
}
