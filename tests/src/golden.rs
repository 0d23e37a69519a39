//! Texts that are compared with a file of the repository.

use std::path::Path;

/// Set, differing files are written anew instead: read the diff before you commit it.
const UPDATE: &str = "TIDEGATE_UPDATE_GOLDEN";

/// `path` is relative to the tests package. Panics with both texts where they differ.
pub fn check(path: &str, text: &str) {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let expected = std::fs::read_to_string(&full).unwrap_or_default();
    if expected == text {
        return;
    }
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&full, text).unwrap_or_else(|error| panic!("write {path}: {error}"));
        return;
    }
    panic!(
        "{path} is not what came out; {UPDATE}=1 writes it anew\n--- the file:\n{expected}\n--- came out:\n{text}\n---"
    );
}
