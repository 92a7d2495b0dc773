//! docs/CLIENTS.md is run: each of its blocks that is marked with `run`, with the address of a hive in the place of
//! the usual one.

use super::hives::{Hives, Language, MODEL, run, settle};
use crate::support::{command, document, said};

/// The blocks of a language that are to be run.
fn blocks(language: &str) -> Vec<String> {
    let document = document("docs/CLIENTS.md");
    let mut lines = document.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim() == format!("```{language} run") {
            let block: Vec<_> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
            blocks.push(block.join("\n"));
        }
    }
    assert!(!blocks.is_empty(), "there is no such block of {language}");
    blocks
}

/// Runs the blocks of a language. Those that greet the model must show its answer.
async fn the_blocks_run(name: &str, language: Language) {
    let Some(folder) = language.folder().await else { return };
    let hives = Hives::start().await;
    for block in blocks(name) {
        let scratch = language.scratch(folder);
        let address = hives.open.url.trim_start_matches("http://");
        let text = block.replace("localhost:7835", address);
        assert!(text.contains(address) && text.contains(MODEL), "it calls the hive's model:\n{block}");
        let file = scratch.path().join(format!("block.{}", language.extension()));
        std::fs::write(&file, text).expect("a file");
        let mut program = match name {
            "sh" => command("bash"),
            _ => language.program(folder, scratch.path()),
        };
        if name == "sh" {
            settle(&mut program, folder, scratch.path());
            program.args(["-euo", "pipefail"]);
        }
        program.arg(file);
        let shown = run(&hives, program).await;
        let expected = if block.contains("Hi") { said("Hi", 1) } else { String::new() };
        assert!(!shown.is_empty() && shown.contains(&expected), "{block}\nshows\n{shown}");
    }
    hives.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_says_in_python_runs() {
    the_blocks_run("python", Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_says_in_javascript_runs() {
    the_blocks_run("js", Language::Node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_says_in_the_shell_runs() {
    the_blocks_run("sh", Language::Python).await;
}

#[test]
fn every_block_that_runs_is_of_a_language_that_is_run() {
    let document = document("docs/CLIENTS.md");
    for line in document.lines().filter(|line| line.trim().starts_with("```") && line.contains("run")) {
        let words: Vec<_> = line.trim().trim_start_matches('`').split(' ').collect();
        assert!(matches!(words.as_slice(), ["python" | "js" | "sh", "run"]), "{line}");
    }
}
