//! What crosses modules: the recorded vectors.

mod platforms;
mod references;

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads the cases of a vector file: from the folder named by `KILN_VECTORS`, else from the
/// tree's own copy.
fn vectors<T: DeserializeOwned>(name: &str) -> Vec<T> {
    #[derive(Deserialize)]
    struct File<T> {
        cases: Vec<T>,
    }
    let folder = std::env::var_os("KILN_VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors")), PathBuf::from);
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str::<File<T>>(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())).cases
}

/// Fails with all differences at once.
#[track_caller]
fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}
