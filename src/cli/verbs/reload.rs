//! `rbee-hive reload`: has the hive read the file of its settings again.

use serde_json::Value;

use super::Verb;
use crate::cli::end::Ended;
use crate::cli::session::Session;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(in crate::cli) struct Args {}

impl Verb for Args {
    const ASKS_ITSELF: bool = true;

    async fn run(self, session: &Session) -> Ended {
        let told = session.hive.reload().await.map_err(|error| session.explained(error))?;
        session.show(&told, of_reload)
    }
}

fn of_reload(told: &Value) -> String {
    let Some(file) = told["file"].as_str() else {
        return "nothing to reload: the hive was started without --config\n".to_owned();
    };
    let names = |list: &str| {
        let names = told[list].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    let lines = [("applied", names("applied")), ("needs a restart of the hive", names("restart_needed"))];
    let lines: String = lines
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {names}\n"))
        .collect();
    if lines.is_empty() { format!("nothing has changed in {file}\n") } else { lines }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_applied_and_what_needs_a_restart_is_told() {
        let told = |applied: Value, restart_needed: Value| {
            of_reload(&json!({ "file": "/f", "applied": applied, "restart_needed": restart_needed }))
        };
        assert_eq!(
            told(json!(["a", "b"]), json!(["port"])),
            "applied: a, b\nneeds a restart of the hive: port\n"
        );
        assert_eq!(told(json!([]), json!([])), "nothing has changed in /f\n");
        let none = of_reload(&json!({ "file": null, "applied": [], "restart_needed": [] }));
        assert!(none.contains("without --config"));
    }
}
