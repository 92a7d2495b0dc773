//! Chat templates, compared with Jinja2 as `transformers` sets it up.
//!
//! Every template of `tests/templates` is rendered with every conversation there, here and by
//! `reference.py`. Both give the same text, or both refuse.

use std::path::Path;
use std::process::Stdio;

use rbee_hive::engine::template::rendering::Rendering;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

#[cfg(target_os = "linux")]
use crate::support::until;
use crate::support::{command, executable, python_with, soon};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/templates");

/// Templates that Jinja2 refuses and the hive renders: minijinja iterates over `none` as over nothing, and
/// has an order for values of different types.
const LENIENT: [&str; 2] = ["{% for x in none %}x{% endfor %}", "{{ 1 < 'a' }}"];

#[tokio::test]
async fn templates_render_as_with_jinja2() {
    let Some(python) = python_with("jinja2", "RBEE_TEST_JINJA2").await else { return };
    let conversations: Vec<Value> = serde_json::from_str(&read("conversations.json")).expect("JSON");
    let templates = templates();
    let cases: Vec<(&str, &Value)> = templates
        .iter()
        .flat_map(|template| conversations.iter().map(|conversation| (template.as_str(), conversation)))
        .collect();
    let answers = reference(&python, &cases).await;
    assert_eq!(answers.len(), cases.len());
    let mut differences = Vec::new();
    for ((source, context), expected) in cases.iter().zip(&answers) {
        let rendering = Rendering { source: (*source).into(), context: context.as_object().cloned() };
        let rendered = rendering.run(context.to_string().len());
        let same = match &rendered {
            Ok(text) => expected["text"] == json!(text),
            Err(_) => expected["text"].is_null(),
        };
        let lenient = LENIENT.contains(source);
        assert!(!lenient || !same, "no longer a difference: {source}");
        if !same && !lenient {
            differences.push(format!("{source}\n  with {context}\n  is {rendered:?}\n  not {expected}"));
        }
    }
    let (count, of) = (differences.len(), cases.len());
    assert!(differences.is_empty(), "{count} of {of} renderings differ:\n{}", differences.join("\n"));
}

/// Templates that use as much as they can of something. Whatever they do, they end as a refusal, and their
/// worker goes on.
#[tokio::test]
async fn a_hostile_template_costs_its_own_process_and_nothing_else() {
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let filters = format!("{{{{ 'x'{} }}}}", "|upper".repeat(100_000));
    let blocks = "{% if true %}".repeat(20_000) + &"{% endif %}".repeat(20_000);
    let sums = format!("{{{{ 1{} }}}}", "+1".repeat(200_000));
    for template in [
        "{% set ns = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a | string | length }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a == [ns.a] }}{{ ns.a }}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | tojson }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{{ varargs }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ '%9000000000d' % 1 }}",
        "{{ '{:>9000000000}'.format(1) }}",
        "{{ 'x'.center(9000000000) ~ 'x'.zfill(9000000000) }}",
        "{{ ('x' * 100000000) | replace('x', 'yyyyyyyyyy') }}",
        "{{ range(99999) | list | tojson(indent='x' * 99999) }}",
        &brackets,
        &filters,
        &blocks,
        &sums,
    ] {
        let shown: String = template.chars().take(80).collect();
        let answer = render_in_process(template).await;
        let failure = answer.as_ref().map(|answer| &answer["Failure"]["code"]);
        // Without an answer, the process was ended by one of its limits.
        assert!(failure.is_none_or(|code| code == "model_unsupported"), "{shown}: {answer:?}");
    }
}

/// The answer of the process of one rendering, unless one of its limits ended it.
async fn render_in_process(template: &str) -> Option<Value> {
    answer_of(rendering_process(), template).await
}

async fn answer_of(mut child: tokio::process::Child, template: &str) -> Option<Value> {
    let rendering = json!({"source": template, "context": {"messages": [{"role": "user", "content": "Hi"}]}});
    child.stdin.take().expect("a pipe").write_all(rendering.to_string().as_bytes()).await.expect("a pipe");
    let output = soon("the end of a rendering", child.wait_with_output()).await.expect("it runs");
    // A status would say that the process itself fails.
    assert!(output.status.code().is_none_or(|code| code == 0), "{output:?}");
    serde_json::from_slice(&output.stdout).ok()
}

fn rendering_process() -> tokio::process::Child {
    start_rendering(&mut command(executable()))
}

fn start_rendering(command: &mut tokio::process::Command) -> tokio::process::Child {
    command
        .arg("render-template")
        .env("MIMALLOC_ARENA_RESERVE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs")
}

/// The kernel holds the limits, before the process has read anything.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_rendering_has_limits_of_memory_and_time() {
    let child = rendering_process();
    let path = format!("/proc/{}/limits", child.id().expect("a process id"));
    let limits = until("the limits of the process", || async {
        let limits = std::fs::read_to_string(&path).ok()?;
        let of = |name: &str, column: usize| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(column)?.parse::<u64>().ok()
        };
        let hard = |name: &str| of(name, 1);
        // The last one that it sets.
        let memory = hard("Max address space")?;
        Some((memory, hard("Max cpu time")?, hard("Max core file size")?, of("Max cpu time", 0)?))
    })
    .await;
    assert!(limits.0 < 1 << 30, "{} MiB", limits.0 >> 20);
    assert_eq!((limits.1, limits.2), (5, 0));
    assert_eq!(limits.3, 4, "its signal, unlike that of the hard one, says that it was the time");
}

/// A process cannot raise the limits that it was started with, and need not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_rendering_works_within_lower_limits() {
    let limited = "ulimit -v 262144 && ulimit -t 3 && exec \"$0\" \"$@\"";
    let child = start_rendering(command("sh").args(["-c", limited]).arg(executable()));
    let answer = answer_of(child, "{{ messages[0].content }}").await;
    assert_eq!(answer, Some(json!({"Text": "Hi"})));
}

/// The templates in files of their own, and the lines of `snippets.txt`.
fn templates() -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(FOLDER)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jinja"))
        .collect();
    files.sort();
    let files = files.iter().map(|path| std::fs::read_to_string(path).expect("a readable file"));
    let snippets = read("snippets.txt");
    let snippets = snippets.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    files.chain(snippets.map(unescaped)).collect()
}

/// A line with its escapes `\n`, `\t`, `\r` and `\\` replaced.
fn unescaped(line: &str) -> String {
    let mut parts = line.split(r"\\");
    let first = parts.next().unwrap_or_default().to_owned();
    let replaced = |part: &str| part.replace(r"\n", "\n").replace(r"\t", "\t").replace(r"\r", "\r");
    parts.fold(replaced(&first), |text, part| text + "\\" + &replaced(part))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(name)).expect("a readable file")
}

/// What Jinja2 makes of each case.
async fn reference(python: &str, cases: &[(&str, &Value)]) -> Vec<Value> {
    let mut child = command(python)
        .arg(Path::new(FOLDER).join("reference.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input: String = cases
        .iter()
        .map(|(source, context)| json!({"source": source, "context": context}).to_string() + "\n")
        .collect();
    // It answers while it reads.
    let send = async move { stdin.write_all(input.as_bytes()).await.expect("a pipe") };
    let (output, ()) = soon("Jinja2", async { tokio::join!(child.wait_with_output(), send) }).await;
    let output = output.expect("it runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}
