# What the checks run, one recipe each: `just --list`.

default: ci

# Format the code
fmt:
    cargo fmt

# Everything that clippy knows, as errors
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# The documentation, with broken links as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# The types of the page's scripts; needs Node
types:
    npx --yes --package typescript@5.9.3 tsc --project ui/tsconfig.json

# The tests, with small counts of seeds and kills
test *args:
    cargo test --locked {{args}}

# Licences, bans, advisories and sources of dependencies
deny:
    cargo deny --locked check

# The benchmarks
bench *args:
    cargo bench --locked {{args}}

# The first build, with nothing but Rust and a C compiler
bare-build:
    .ci/bare-build

# All checks, as they run elsewhere
ci:
    .ci/run
