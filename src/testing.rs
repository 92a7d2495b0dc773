//! What the environment asks of tests.

/// How many rounds tests by chance run: what `RBEE_HIVE_TEST_ROUNDS` says, else one.
pub(crate) fn rounds() -> u64 {
    std::env::var("RBEE_HIVE_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"))
}
