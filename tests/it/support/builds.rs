//! Stand-ins of llama.cpp's server, as builds that a hive installs.

use std::path::Path;

use super::executable;

/// A build that works: a script that tells this version and lists no device, and that serves by the built-in engine.
pub(crate) fn working_build(version: &str) -> Vec<u8> {
    build(version, "")
}

/// A build that hangs while it loads its model, after it has written its process id to the file [`HANGS`] in its
/// worker's folder.
pub(crate) fn hanging_build(version: &str) -> Vec<u8> {
    build(version, &format!("cd \"$TMPDIR\" && echo $$ >new && mv new {HANGS}\nexec sleep 1000"))
}

/// The file that a build makes that hangs.
pub(crate) const HANGS: &str = "hangs";

/// A build that answers as another model than the one that it was given.
pub(crate) fn wrong_build(version: &str, model: &Path) -> Vec<u8> {
    build(version, &format!("model='{}'", model.display()))
}

/// A build that crashes at each start.
pub(crate) fn crashing_build() -> Vec<u8> {
    b"#!/bin/sh\necho broken >&2\nexit 3\n".to_vec()
}

/// The script; `before` is what it does before it serves.
fn build(version: &str, before: &str) -> Vec<u8> {
    let script = format!(
        r#"#!/bin/sh
case ${{1-}} in
--version) echo 'version: {version}' && exit ;;
--list-devices) echo 'Available devices:' && exit ;;
esac
slots=1 template=
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$2 ;;
    --port) port=$2 ;;
    --alias) name=$2 ;;
    --ctx-size) context=$2 ;;
    --parallel) slots=$2 ;;
    --chat-template-file) template=$2 ;;
    esac
    shift
done
{before}
export RBEE_WORKER_SECRET="$LLAMA_API_KEY"
exec '{program}' worker --model "$model" --port "$port" --model-id "$name" --slots "$slots" \
    --context-length "$((context / slots))" ${{template:+--chat-template "$template"}}
"#,
        program = executable().display(),
    );
    script.into_bytes()
}
