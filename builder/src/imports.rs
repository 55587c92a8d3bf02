//! Caches elsewhere, looked in for what the store does not have (spec: remote-cache.md §4).
//!
//! Nothing is loaded before the first step is not found here: an unchanged rebuild asks nobody. Then all
//! are loaded at the same time, and whoever asks waits for those that come before the one that has the
//! answer. A cache that cannot be had in time, or read, is as good as none.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_cache::layer::Compression;
use kiln_cache::remote::{self, Document, Entry, inline};
use kiln_frontend::dockerfile::{Diagnostic, Phase};
use kiln_oci::{self as oci, Descriptor, Digest, ImageConfig, Manifest, Reference, media_type};
use kiln_registry_client::{Client as Registry, Repository};
use kiln_runtime::Cancel;

use crate::error::{BuildError, chain};
use crate::request::CacheSource;
use crate::source::image::{is_image, registry as sorted};
use crate::step::{Step, Steps};

/// How long a cache may take to load.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked whether there is still somebody waiting.
const ATTENTION: Duration = Duration::from_millis(50);
/// Of a cache with more layers than this only those are asked for that a step needs.
const MOST_ASKED: usize = 256;
/// Configs larger than this are not read.
const MAX_CONFIG: u64 = 16 << 20;
/// Of an index with more images than this the others are not read.
const MOST_IMAGES: usize = 64;
/// The config of a cache that is no image.
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The caches of one build, however often it is tried.
pub struct Imports {
    caches: Vec<Arc<Cache>>,
    registry: Registry,
    steps: Steps,
    deadline: Duration,
    start: Once,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// One of them.
struct Cache {
    name: Reference,
    state: Mutex<State>,
    changed: Condvar,
    /// Stops its loading.
    cancel: Arc<AtomicBool>,
    /// For each blob that was asked for, whether it is still there.
    there: Mutex<HashMap<Digest, bool>>,
    warnings: Mutex<Vec<String>>,
}

enum State {
    Loading {
        since: Instant,
    },
    /// None, where it cannot be had.
    Loaded(Arc<Vec<Loaded>>),
}

/// The document of one image.
struct Loaded {
    document: Document,
    entries: Vec<Entry>,
    /// The entry that each key leads to.
    keys: HashMap<Digest, usize>,
}

/// What a cache says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The identity of the result.
    pub class: Digest,
    /// Other keys, made of contents, that lead to it.
    pub contents: Vec<Digest>,
    /// Its layers and their blobs, lowest first; none where the cache holds the keys alone.
    pub chain: Option<Vec<(Digest, Descriptor)>>,
    /// When it was made, nanoseconds since 1970.
    pub created: Option<u64>,
    /// Where the blobs may be had, as `host/repository`.
    pub source: String,
}

impl Imports {
    /// Caches that are loaded when something is looked up in them.
    pub fn new(sources: &[CacheSource], registry: &Registry, steps: &Steps) -> Self {
        Self::within(DEADLINE, sources, registry, steps)
    }

    fn within(deadline: Duration, sources: &[CacheSource], registry: &Registry, steps: &Steps) -> Self {
        let mut caches: Vec<Arc<Cache>> = Vec::new();
        for CacheSource::Registry(name) in sources {
            if caches.iter().all(|cache| cache.name != *name) {
                caches.push(Arc::new(Cache::new(name.clone())));
            }
        }
        Self {
            caches,
            registry: registry.clone(),
            steps: steps.clone(),
            deadline,
            start: Once::new(),
            threads: Mutex::default(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty()
    }

    /// Whether any of them has anything. Waits until that is known.
    pub fn have_any(&self, cancel: &Cancel) -> bool {
        self.caches.iter().any(|cache| !self.wait(cache, cancel).is_empty())
    }

    /// Returns what the first cache that knows it says about a key; one that has the result, before one that knows the
    /// key alone. Of a result that is not `is_here` the blobs are asked for: all are there, or there is no result.
    pub fn find(&self, key: &Digest, is_here: &dyn Fn(&Digest) -> bool, cancel: &Cancel) -> Option<Found> {
        let mut known: Option<Found> = None;
        for cache in &self.caches {
            for loaded in self.wait(cache, cancel).iter() {
                let Some(found) = loaded.find(key, &cache.source()) else { continue };
                if let Some(chain) = &found.chain
                    && self.are_there(cache, chain, loaded, is_here)
                {
                    return Some(found);
                }
                known.get_or_insert(Found { chain: None, ..found });
            }
        }
        known
    }

    /// Returns what the user should know.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let texts =
            self.caches.iter().flat_map(|cache| cache.warnings.lock().expect("no panic under the lock").clone());
        texts.map(|text| Diagnostic::warning(Phase::Lower, "cache-import", text)).collect()
    }

    /// Starts to load all, if nobody has yet.
    fn started(&self) {
        self.start.call_once(|| {
            let mut threads = self.threads.lock().expect("no panic under the lock");
            for cache in &self.caches {
                *cache.state.lock().expect("no panic under the lock") = State::Loading { since: Instant::now() };
                let (cache, registry) = (cache.clone(), self.registry.with_cancel(cache.cancel.clone()));
                let steps = self.steps.clone();
                threads.push(std::thread::spawn(move || cache.load(&registry, &steps)));
            }
        });
    }

    /// Returns what a cache holds, when it is loaded or its time is up.
    fn wait(&self, cache: &Cache, cancel: &Cancel) -> Arc<Vec<Loaded>> {
        self.started();
        let mut state = cache.state.lock().expect("no panic under the lock");
        loop {
            match &*state {
                State::Loaded(loaded) => return loaded.clone(),
                _ if cancel.is_cancelled() => return Arc::default(),
                State::Loading { since } if since.elapsed() > self.deadline => {
                    cache.cancel.store(true, Ordering::Relaxed);
                    let seconds = self.deadline.as_secs();
                    cache.warn(format!("{}: no answer within {seconds} seconds", cache.failure()));
                    *state = State::Loaded(Arc::default());
                }
                State::Loading { .. } => {
                    state = cache.changed.wait_timeout(state, ATTENTION).expect("no panic under the lock").0;
                }
            }
        }
    }

    /// Whether every blob of `chain` that is not here is where the cache is. What a registry does not tell is taken for a
    /// yes: whoever needs the blob will see.
    fn are_there(
        &self,
        cache: &Cache,
        chain: &[(Digest, Descriptor)],
        loaded: &Loaded,
        is_here: &dyn Fn(&Digest) -> bool,
    ) -> bool {
        let mut there = cache.there.lock().expect("no panic under the lock");
        let is_known = chain.iter().all(|(diff_id, blob)| there.contains_key(&blob.digest) || is_here(diff_id));
        if !is_known {
            // About all at once, as far as there are not very many: steps after this one will want to know theirs.
            let count = loaded.document.layers().len();
            let others = (0..count).filter(|_| count <= MOST_ASKED).filter_map(|number| loaded.layer(number));
            let mut unknown: HashMap<Digest, Descriptor> = HashMap::new();
            for (diff_id, blob) in chain.iter().cloned().chain(others) {
                if !there.contains_key(&blob.digest) && !is_here(&diff_id) {
                    unknown.insert(blob.digest, blob);
                }
            }
            let repository = Repository::from(&cache.name);
            let has = |blob: &Descriptor| self.registry.has_blob(&repository, blob).unwrap_or(true);
            let answers: Vec<(Digest, bool)> = std::thread::scope(|scope| {
                let asked: Vec<_> = unknown.values().map(|blob| (blob.digest, scope.spawn(|| has(blob)))).collect();
                asked.into_iter().map(|(digest, answer)| (digest, answer.join().unwrap_or(true))).collect()
            });
            there.extend(answers);
        }
        let is_gone =
            |(diff_id, blob): &&(Digest, Descriptor)| there.get(&blob.digest) == Some(&false) && !is_here(diff_id);
        let gone = chain.iter().find(is_gone);
        if let Some((_, blob)) = gone {
            cache.warn(format!("{} has lost layers of its cache, so their steps run: {}", cache.name, blob.digest));
        }
        gone.is_none()
    }
}

impl Drop for Imports {
    fn drop(&mut self) {
        self.caches.iter().for_each(|cache| cache.cancel.store(true, Ordering::Relaxed));
        for thread in self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).drain(..) {
            // It has told of its failure.
            let _ = thread.join();
        }
    }
}

impl Cache {
    fn new(name: Reference) -> Self {
        Self {
            name,
            state: Mutex::new(State::Loaded(Arc::default())),
            changed: Condvar::new(),
            cancel: Arc::default(),
            there: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    fn source(&self) -> String {
        Repository::from(&self.name).to_string()
    }

    fn failure(&self) -> String {
        format!("cannot import the cache of {}", self.name)
    }

    /// Keeps the first warning: what comes after it is most often of the same cause.
    fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock().expect("no panic under the lock");
        if warnings.is_empty() {
            warnings.push(text);
        }
    }

    fn load(&self, registry: &Registry, steps: &Steps) {
        let step = steps.start(format!("importing cache manifest from {}", self.name));
        let loaded = load(registry, &self.name, &step);
        let loaded = match step.end(loaded) {
            Ok((loaded, problems)) => {
                problems.into_iter().for_each(|problem| self.warn(format!("{}: {problem}", self.failure())));
                loaded
            }
            // Its time was up, or nobody waits any more.
            Err(_) if self.cancel.load(Ordering::Relaxed) => Vec::new(),
            Err(error) => {
                self.warn(format!("{}: {error}", self.failure()));
                Vec::new()
            }
        };
        let mut state = self.state.lock().expect("no panic under the lock");
        if matches!(*state, State::Loading { .. }) {
            *state = State::Loaded(Arc::new(loaded));
        }
        self.changed.notify_all();
    }
}

impl Loaded {
    fn new(document: Document) -> Self {
        let entries = document.entries();
        let mut keys = HashMap::new();
        for (number, entry) in entries.iter().enumerate() {
            keys.entry(entry.class).or_insert(number);
        }
        for (number, entry) in entries.iter().enumerate() {
            entry.definitions.iter().chain(&entry.contents).for_each(|key| {
                keys.entry(*key).or_insert(number);
            });
        }
        Self { document, entries, keys }
    }

    fn find(&self, key: &Digest, source: &str) -> Option<Found> {
        let entry = &self.entries[*self.keys.get(key)?];
        let result = entry.result.as_ref();
        let layers = result.map(|result| self.document.chain(&result.layers));
        let chain: Option<Vec<_>> =
            layers.and_then(|layers| layers.into_iter().map(|number| self.layer(number)).collect());
        let of_layer = |result: &remote::CacheResult| {
            let top = self.document.chain(&result.layers).last().copied()?;
            self.document.layers()[top].annotations.as_ref()?.created
        };
        let created = result.and_then(|result| result.created.or_else(|| of_layer(result)));
        let contents = entry.contents.clone();
        Some(Found { class: entry.class, contents, chain, created, source: source.to_owned() })
    }

    /// Returns a layer and its blob; none where it is not described, or of a kind that nobody here can unpack.
    fn layer(&self, number: usize) -> Option<(Digest, Descriptor)> {
        let layer = &self.document.layers()[number];
        let annotations = layer.annotations.as_ref()?;
        Compression::of_media_type(&annotations.media_type)?;
        let (diff_id, blob) = (annotations.diff_id.parse().ok()?, layer.blob.parse().ok()?);
        Some((diff_id, Descriptor::new(annotations.media_type.clone(), blob, annotations.size)))
    }
}

/// Loads the caches of an image, or of the images of an index; also says what is wrong with those that cannot be used.
fn load(registry: &Registry, name: &Reference, step: &Step) -> Result<(Vec<Loaded>, Vec<String>), BuildError> {
    let repository = Repository::from(name);
    let malformed = |error: &dyn std::error::Error| BuildError::environment(chain(error));
    let resolved = registry.resolve(name).map_err(sorted)?;
    let announced = Some(&*resolved.descriptor.media_type);
    let manifests: Vec<Manifest> = match oci::Document::parse(&resolved.bytes, announced).map_err(|e| malformed(&e))? {
        oci::Document::Manifest(manifest) => vec![manifest],
        oci::Document::Index(index) => {
            let mut manifests = Vec::new();
            let images = index.manifests.iter().filter(|manifest| is_image(manifest));
            let images = images.filter(|manifest| media_type::is_manifest(&manifest.media_type));
            for descriptor in images.take(MOST_IMAGES) {
                let bytes = registry.manifest(&repository, descriptor).map_err(sorted)?;
                match oci::Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| malformed(&e))? {
                    oci::Document::Manifest(manifest) => manifests.push(manifest),
                    oci::Document::Index(_) => {}
                }
            }
            manifests
        }
    };
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for manifest in &manifests {
        if manifest.config.media_type == CACHE_CONFIG {
            problems.push("it is a cache of its own, and only caches in images are read yet".to_owned());
            continue;
        }
        let config: ImageConfig = serde_json::from_slice(&blob(registry, &repository, &manifest.config)?)
            .map_err(|error| BuildError::environment(format!("the image's config is malformed: {error}")))?;
        match inline::read(&config, manifest) {
            Ok(document) => loaded.extend(document.map(Loaded::new)),
            Err(error) => problems.push(chain(&error)),
        }
    }
    let keys: usize = loaded.iter().map(|loaded| loaded.keys.len()).sum();
    match keys {
        0 if problems.is_empty() => {
            step.note("there is no cache in this image: `--cache-to type=inline` puts one there")
        }
        0 => {}
        1 => step.note("1 key"),
        _ => step.note(format!("{keys} keys")),
    }
    Ok((loaded, problems))
}

fn blob(registry: &Registry, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, BuildError> {
    if descriptor.size > MAX_CONFIG {
        return Err(BuildError::environment(format!("a config of {} bytes is not read", descriptor.size)));
    }
    let mut bytes = Vec::new();
    let mut stream = registry.blob(repository, descriptor).map_err(sorted)?;
    stream.read_to_end(&mut bytes).map_err(|error| BuildError::environment(chain(&error)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kiln_cache::remote::{Annotations, CacheLayer, CacheResult, ResultLayers};

    use super::*;
    use crate::progress::Silent;

    fn imports(deadline: Duration, names: &[String]) -> Imports {
        let sources: Vec<_> = names.iter().map(|name| CacheSource::Registry(name.parse().unwrap())).collect();
        let registry = Registry::new(kiln_registry_client::Options::default());
        Imports::within(deadline, &sources, &registry, &Steps::new(Arc::new(Silent)))
    }

    #[test]
    fn nobody_waits_longer_than_the_deadline() {
        // Takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("127.0.0.1:{}/app", silent.local_addr().unwrap().port());
        let imports = imports(Duration::from_millis(100), &[name.clone(), name]);
        assert!(imports.warnings().is_empty() && !imports.is_empty());
        assert_eq!(imports.find(&Digest::of("key"), &|_| false, &Cancel::new()), None);
        assert!(!imports.have_any(&Cancel::new()));
        let warnings = imports.warnings();
        assert_eq!(warnings.len(), 1, "the same cache twice is one: {warnings:?}");
        assert!(warnings[0].message.contains("no answer within"), "{warnings:?}");
    }

    #[test]
    fn a_build_that_is_stopped_does_not_wait() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("127.0.0.1:{}/app", silent.local_addr().unwrap().port());
        let imports = imports(Duration::from_secs(600), &[name]);
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(imports.find(&Digest::of("key"), &|_| false, &cancel), None);
        assert!(imports.warnings().is_empty());
    }

    #[test]
    fn what_cannot_be_unpacked_is_no_result() {
        let layer = |media_type: &str, diff_id: &str| CacheLayer {
            blob: Digest::of("blob").to_string(),
            parent: None,
            annotations: Some(Annotations {
                media_type: media_type.to_owned(),
                diff_id: diff_id.to_owned(),
                size: 7,
                created: Some(5),
            }),
        };
        let diff_id = Digest::of("diff id").to_string();
        let layers = vec![
            layer(media_type::LAYER_GZIP, &diff_id),
            layer("application/vnd.in-toto+json", &diff_id),
            layer(media_type::LAYER_ZSTD, "md5:1"),
            CacheLayer::default(),
        ];
        let entry = |number: usize| Entry {
            class: Digest::of([number as u8]),
            definitions: vec![Digest::of([number as u8, 1])],
            contents: Vec::new(),
            result: Some(CacheResult { layers: ResultLayers::Top(number), created: None }),
        };
        let document = Document::of_entries(layers, &(0..4).map(entry).collect::<Vec<_>>()).unwrap();
        let loaded = Loaded::new(document);
        let found = |number: u8| loaded.find(&Digest::of([number, 1]), "host/repository").unwrap();
        let chain = found(0).chain.unwrap();
        assert_eq!((chain[0].0.to_string(), chain[0].1.size, found(0).created), (diff_id, 7, Some(5)));
        assert_eq!(loaded.find(&Digest::of([0]), "host/repository"), Some(found(0)));
        for number in 1..4 {
            assert_eq!((found(number).chain, found(number).class), (None, Digest::of([number])));
        }
        assert_eq!(loaded.find(&Digest::of("other"), "host/repository"), None);
    }
}
