# What one can do here. Each recipe is one line of cargo or a script, so that just is not needed.

# Lists the recipes.
default:
    @just --list --unsorted

# From nothing to a failover between two clusters, on this machine.
demo *arguments:
    cargo demo {{ arguments }}

# The same with a real Prometheus, and a page of what it has seen: --page FILE.
observe *arguments:
    cargo demo --observe {{ arguments }}

# Real faults on the real federation in network namespaces, all or those whose names contain a word; needs root.
e2e *arguments:
    cargo e2e {{ arguments }}

# The same by chance, for so long: --minutes 60 --seed 7.
soak *arguments:
    cargo soak {{ arguments }}

# The whole federation in one thread, with random faults: --seeds 1000, or --seed 7 to read one story.
simulate *arguments:
    cargo simulate {{ arguments }}

# Each safety rule switched off once in the simulation; fails if nobody notices.
simulate-mutants *arguments:
    cargo simulate-mutants {{ arguments }}

# The protocol in every order of its steps, and each of its rules left out once; --show RULE tells a counterexample.
model *arguments:
    cargo model {{ arguments }}

# How long a scrape takes of a hub with 1,000 placements of five volumes, optimized.
scrape:
    cargo scrape

# Everything that must pass before a change lands.
ci:
    .ci/run

# All tests, those on real control planes too.
test *arguments:
    cargo test --workspace {{ arguments }}

# The tests that need no control plane: cores, contract, shapes, telemetry, journal.
test-fast:
    cargo test -p understudy-proto -p understudy-crds -p hub-core -p agent-core -p understudy-telemetry
    cargo test -p understudy-hub --test journal

# The hub's journal on disks that crash, lie, fill up, fail and rot.
test-journal:
    cargo test -p understudy-hub --test journal

# Lints, as strict as in CI.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

format:
    cargo fmt --all

# Writes the definitions in crds/yaml anew.
generate:
    cargo run -p understudy-crds --bin generate

# Licences, sources, TLS providers and duplicates (needs cargo-deny).
deny:
    cargo deny check licenses bans sources

# Release builds of the three programs.
build:
    cargo build --release -p understudy-hub -p understudy-agent -p understudy-gate

# The reference of all crates.
docs:
    cargo doc --workspace --no-deps --document-private-items
