# One recipe for each check: `just --list`.

default: ci

# Format the code
fmt:
    cargo fmt --all

# Check the formatting, and run clippy with warnings as errors
lint:
    cargo fmt --all --check
    cargo clippy --all-targets --all-features --locked -- -D warnings

# Build the documentation, with broken links as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features --lib --examples --locked

# Check the types of the page's scripts; needs Node
types:
    npx --yes --package typescript@5.9.3 tsc --project ui/tsconfig.json

# Run the tests, with small numbers of seeds and kills
test *args:
    cargo test --locked {{args}}

# Check licences, bans, advisories and sources of dependencies
deny:
    cargo deny --locked check

# Run the benchmarks
bench *args:
    cargo bench --locked {{args}}

# Build with nothing but Rust and a C compiler
bare-build:
    .ci/bare-build

# Check the units of systemd
units:
    .ci/units

# Test the traces, which need the feature otlp
traces:
    cargo test --locked --package rbee-hive --features otlp --test it traces::

# Test the API of target/debug/rbee-hive by its own description; needs Python
schemathesis:
    .ci/schemathesis

# Check that what is written for macOS compiles
macos:
    .ci/macos

# Build the Debian package; needs cargo-deb
deb:
    packaging/deb

# Run all checks, as CI does
ci:
    .ci/run
