//! A recorded case: what is built, and what came of it.

use std::collections::BTreeMap;

use kiln_testkit::context::{Compression, Edit, Entry};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// One build, or a sequence of builds with one state directory.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Case {
    pub name: String,
    group: String,
    note: String,
    /// What the machine must have.
    pub requires: Vec<String>,
    /// What BuildKit did wrong here. Then `correct` replaces members; without it nothing is
    /// known about the right result.
    pub upstream_defect: Option<String>,
    correct: Object,
    /// Kept outside the context and given with `-f`.
    pub dockerfile: Option<String>,
    /// More files beside that Dockerfile.
    pub dockerfile_dir: Option<Vec<Entry>>,
    pub context: Vec<Entry>,
    /// The archive that is sent as context on standard input.
    pub tar: Option<Vec<Entry>>,
    pub options: Option<Options>,
    /// Changes of the context before this build of a sequence.
    pub edits: Vec<Edit>,
    /// The sequence. Each build has the members of a case; Dockerfile and archive are kept
    /// from the build before, options are those of the case unless it has its own.
    builds: Vec<Case>,
    tree: Option<Value>,
    image: Option<Value>,
    config: Option<Value>,
    history: Option<Value>,
    layers: Option<Value>,
    diff_ids: Option<Value>,
    steps: Option<Value>,
    logs: Option<Value>,
    platforms: Option<Value>,
    error: Option<Value>,
}

impl Case {
    /// Returns the builds in order.
    pub fn builds(&self) -> &[Case] {
        if self.builds.is_empty() { std::slice::from_ref(self) } else { &self.builds }
    }

    /// Returns what is recorded of a build, or what is right where BuildKit was wrong.
    pub fn expected(&self) -> Object {
        let recorded = [
            ("tree", &self.tree),
            ("image", &self.image),
            ("config", &self.config),
            ("history", &self.history),
            ("layers", &self.layers),
            ("diff_ids", &self.diff_ids),
            ("steps", &self.steps),
            ("logs", &self.logs),
            ("platforms", &self.platforms),
            ("error", &self.error),
        ];
        let mut expected: Object =
            recorded.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect();
        expected.extend(self.correct.clone());
        expected.retain(|_, value| !value.is_null());
        expected
    }

    /// Whether anybody knows what is right.
    pub fn is_comparable(&self) -> bool {
        self.upstream_defect.is_none() || self.builds().iter().any(|build| !build.correct.is_empty())
    }

    /// Whether a word occurs in a Dockerfile or an error of the case.
    pub fn mentions(&self, word: &str) -> bool {
        let error = |case: &Case| case.error.as_ref().is_some_and(|error| error.to_string().contains(word));
        let file = |case: &Case| case.dockerfile.as_ref().is_some_and(|text| text.contains(word));
        file(self) || self.builds().iter().any(|build| file(build) || error(build))
    }
}

/// The flags of a build.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Without a value the name alone is given.
    pub build_args: BTreeMap<String, Option<String>>,
    pub target: Option<String>,
    pub platform: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub secrets: Vec<Secret>,
    /// Without a value it is the base image.
    pub build_contexts: BTreeMap<String, Option<NamedContext>>,
    pub no_cache: bool,
    pub no_cache_filter: Vec<String>,
    pub network: Option<String>,
    pub add_hosts: Vec<String>,
    pub shm_size: Option<String>,
    pub ulimits: Vec<String>,
    pub ssh: Vec<String>,
    pub allow: Vec<String>,
    /// Variables of the program itself.
    pub env: BTreeMap<String, String>,
    /// The value of `-f`.
    pub file: Option<String>,
    pub stdin: Option<Stdin>,
    /// Of the archive on standard input.
    pub compression: Compression,
    /// The exporter: `oci` or `tar`, depending on the file, if nothing is said.
    pub output: Option<String>,
    pub output_attrs: BTreeMap<String, String>,
    /// More arguments.
    pub extra: Vec<String>,
}

/// What the program gets to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// The Dockerfile, named with `-f -`.
    Dockerfile,
    /// The Dockerfile in place of a context.
    Context,
    /// An archive in place of a context.
    Tar,
}

/// A secret of a build.
#[derive(Debug, Deserialize)]
pub struct Secret {
    pub id: String,
    /// The variable it is in; else it is in a file.
    pub env: Option<String>,
    #[serde(flatten)]
    pub file: Entry,
}

/// A value of `--build-context`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum NamedContext {
    /// As it is written.
    Text(String),
    /// A folder of its own.
    Folder { context: Vec<Entry> },
    /// The image that an earlier build of the sequence made.
    Build { build: usize },
}
