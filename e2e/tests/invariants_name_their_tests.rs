//! docs/invariants.md names the test that guards each invariant; this fails when such a name is of no test.

use std::collections::BTreeSet;
use std::path::Path;

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the checkout") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names in backticks that look like those of tests or of their files.
fn named(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_test =
        |name: &&str| name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    quoted.filter(is_test).collect()
}

#[test]
fn every_name_in_the_list_of_invariants_is_of_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
    let list = std::fs::read_to_string(root.join("docs/invariants.md")).expect("docs/invariants.md");
    let mut files = Vec::new();
    rust_files(root, &mut files);
    let sources: Vec<_> =
        files.iter().map(|path| std::fs::read_to_string(path).expect("a source file")).collect();
    let names = named(&list);
    assert!(
        names.len() > 40,
        "only {} names were found: the list or this test has changed its form",
        names.len()
    );
    let missing: Vec<_> = names
        .into_iter()
        .filter(|name| !files.iter().any(|path| path.file_stem().is_some_and(|stem| stem == *name)))
        .filter(|name| !sources.iter().any(|source| source.contains(&format!("fn {name}("))))
        .collect();
    assert!(missing.is_empty(), "docs/invariants.md names what is no test: {missing:?}");
}
