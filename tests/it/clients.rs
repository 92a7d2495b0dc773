//! The client libraries that people use, against a real hive: each script of `tests/clients` is one test. They
//! are installed by `.ci/clients`, and skipped with a message where that cannot be done.

mod hives;
mod document;

use hives::{Hives, Language, run};

/// A test for each script.
macro_rules! scripts {
    ($($test:ident: $language:ident $script:literal,)*) => {
        const SCRIPTS: &[(Language, &str)] = &[$((Language::$language, $script),)*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                passes(Language::$language, $script).await;
            }
        )*
    };
}

scripts! {
    openai_for_python: Python "openai_client",
    anthropic_for_python: Python "anthropic_client",
    ollama_for_python: Python "ollama_client",
    litellm: Python "litellm_client",
    langchain: Python "langchain_client",
    pydantic_ai: Python "pydantic_ai_client",
    instructor: Python "instructor_client",
    llm: Python "llm_client",
    prometheus: Python "metrics_client",
    openai_for_node: Node "openai_client",
    anthropic_for_node: Node "anthropic_client",
    ollama_for_node: Node "ollama_client",
    the_ai_sdk: Node "ai_sdk_client",
}

/// Runs a script, which says of each of its checks that it passed.
async fn passes(language: Language, script: &str) {
    let Some(folder) = language.folder().await else { return };
    let hives = Hives::start().await;
    let scratch = language.scratch(folder);
    let file = format!("{script}.{}", language.extension());
    let mut program = language.program(folder, scratch.path());
    // Modules of Node are found from where the script is.
    let scripts = match language {
        Language::Python => language.scripts(),
        Language::Node => hives::copied(&language.scripts(), scratch.path()),
    };
    program.arg(scripts.join(file));
    let said = run(&hives, program).await;
    assert!(said.lines().any(|line| line.starts_with("ok ")), "{script} checks nothing:\n{said}");
    hives.stop().await;
}

#[test]
fn every_script_is_run() {
    for language in [Language::Python, Language::Node] {
        let entries = std::fs::read_dir(language.scripts()).expect("the scripts");
        let names = entries.map(|entry| entry.expect("a file").path());
        let scripts =
            names.filter(|path| path.extension().is_some_and(|extension| extension == language.extension()));
        let mut found: Vec<_> =
            scripts.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
        found.retain(|name| name != "checks");
        found.sort();
        let mut run: Vec<_> =
            SCRIPTS.iter().filter(|(of, _)| *of == language).map(|(_, name)| (*name).to_owned()).collect();
        run.sort();
        assert_eq!(found, run, "{language:?}");
    }
}
