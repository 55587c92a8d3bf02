//! Getting a layer in the form that somebody needs: from the store, or from where its image came.
//!
//! A layer that came with an image is here only as a note of where it may be had, until a
//! command needs its directory, a copy its index, or an export its blob.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kiln_cache::layer::{self, Compression, LayerError, Unpack};
use kiln_cache::tree::Tree;
use kiln_cache::{BlobError, FileError, LayerBlob, Record, Store};
use kiln_frontend::graph::Location;
use kiln_oci::{Descriptor, Digest, Hasher, Reference};
use kiln_registry_client::{Client as Registry, Error as RegistryError, Repository};
use kiln_runtime::Cancel;

use crate::error::{BuildError, Kind, chain};
use crate::lost::Lost;
use crate::op::content::DamagedLayer;
use crate::op::files::FileNode;
use crate::op::layer_files;
use crate::request::LayerOptions;
use crate::source::layout;
use crate::source::local::Unreadable;
use crate::step::{Step, Steps};

/// Brings layers into the form that is needed.
pub struct Layers {
    store: Store,
    registry: Arc<Registry>,
    steps: Steps,
    cancel: Cancel,
    /// One lock for each layer: it is brought once, whoever asks.
    locks: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    trees: Mutex<HashMap<Vec<Digest>, Arc<Tree>>>,
    files: Mutex<HashMap<Vec<Digest>, Arc<FileNode>>>,
    /// Blobs that were written, and hashed, in this build.
    fresh: Mutex<HashSet<Digest>>,
    /// Where the build file names the image that a layer came with.
    origins: Mutex<HashMap<Digest, Location>>,
    lost: Arc<Lost>,
    damage: AtomicBool,
}

/// The form that is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Directory,
    Index,
    Blob,
}

impl Layers {
    /// Layers of `store`, or from registries, but for what is `lost` there.
    pub fn new(store: Store, registry: Arc<Registry>, steps: Steps, cancel: Cancel, lost: Arc<Lost>) -> Self {
        Self {
            store,
            registry,
            steps,
            cancel,
            locks: Mutex::default(),
            trees: Mutex::default(),
            files: Mutex::default(),
            fresh: Mutex::default(),
            origins: Mutex::default(),
            lost,
            damage: AtomicBool::new(false),
        }
    }

    /// Returns what talks to registries, and to other servers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Notes that layers are those of an image, and the line of the build file that brought it in. No step can make them.
    pub fn came_from(&self, layers: &[Digest], location: Option<&Location>) {
        self.lost.keep(layers);
        if let Some(location) = location {
            let mut origins = self.origins.lock().expect("no panic under the lock");
            origins.extend(layers.iter().map(|diff_id| (*diff_id, location.clone())));
        }
    }

    /// Whether something of a layer turned out to be damaged since the last call.
    pub fn met_damage(&self) -> bool {
        self.damage.swap(false, Ordering::Relaxed)
    }

    /// Whether a layer can be had at all.
    pub fn is_available(&self, diff_id: &Digest) -> bool {
        self.is_here(diff_id) || self.known_blobs(diff_id).iter().any(|blob| !blob.sources.is_empty())
    }

    /// Whether a layer is in the store, in whatever form.
    pub fn is_here(&self, diff_id: &Digest) -> bool {
        self.store.layer(diff_id).directory().is_some() || self.has(diff_id, Form::Blob)
    }

    /// Whether a layer was tried in vain to be had from elsewhere.
    pub fn is_lost(&self, diff_id: &Digest) -> bool {
        self.lost.has(diff_id) && !self.is_here(diff_id)
    }

    /// Notes that a cache says where a layer's blob may be had.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn may_be_had(&self, diff_id: &Digest, blob: &Descriptor, source: &str) -> Result<(), LayerError> {
        self.store.layer(diff_id).add_blob(blob, Some(source))
    }

    /// Returns the blobs of a layer, and where they may be had as far as that was not tried in vain.
    fn known_blobs(&self, diff_id: &Digest) -> Vec<LayerBlob> {
        let mut blobs = self.store.layer(diff_id).blobs();
        if self.lost.has(diff_id) {
            blobs.iter_mut().for_each(|blob| blob.sources.clear());
        }
        blobs
    }

    /// Returns the directory of a layer, for a command to run on.
    ///
    /// # Errors
    /// When it is nowhere to be had, or damaged.
    pub fn directory(&self, diff_id: &Digest) -> Result<PathBuf, BuildError> {
        if let Some(path) = self.store.layer(diff_id).directory() {
            return Ok(path);
        }
        self.bring(diff_id, Form::Directory)?;
        layer::ensure_directory(&self.store, diff_id).map_err(|error| self.failed(&error))
    }

    /// Returns the directories of a chain, lowest first; those that are missing are brought
    /// at the same time.
    ///
    /// # Errors
    /// As [`Layers::directory`].
    pub fn directories(&self, layers: &[Digest]) -> Result<Vec<PathBuf>, BuildError> {
        self.all(layers, Form::Directory)?;
        layers.iter().map(|diff_id| self.directory(diff_id)).collect()
    }

    /// Returns the files of a chain as a tree.
    ///
    /// # Errors
    /// As [`Layers::directory`].
    pub fn tree(&self, layers: &[Digest]) -> Result<Arc<Tree>, BuildError> {
        if let Some(tree) = self.trees.lock().expect("no panic under the lock").get(layers) {
            return Ok(tree.clone());
        }
        self.all(layers, Form::Index)?;
        let tree = Arc::new(Tree::of(&self.store, layers).map_err(|error| self.failed(&error))?);
        self.trees.lock().expect("no panic under the lock").insert(layers.to_vec(), tree.clone());
        Ok(tree)
    }

    /// Returns the files of a chain as something to copy from.
    ///
    /// # Errors
    /// As [`Layers::directory`].
    pub fn files(&self, layers: &[Digest]) -> Result<Arc<FileNode>, BuildError> {
        if let Some(files) = self.files.lock().expect("no panic under the lock").get(layers) {
            return Ok(files.clone());
        }
        let files = Arc::new(layer_files::files(layers, &*self.tree(layers)?));
        self.files.lock().expect("no panic under the lock").insert(layers.to_vec(), files.clone());
        Ok(files)
    }

    /// Returns a description of a layer's blob without bringing the blob, making one if there
    /// is none anywhere.
    ///
    /// # Errors
    /// When a blob cannot be made.
    pub fn descriptor(&self, diff_id: &Digest, options: LayerOptions) -> Result<Descriptor, BuildError> {
        let compression = options.compression;
        let mut blobs = self.known_blobs(diff_id);
        blobs.retain(|blob| self.store.has_blob(&blob.descriptor.digest) || !blob.sources.is_empty());
        // A blob that came with an image stays as it is: other registries have it already.
        blobs.sort_by_key(|blob| (blob.sources.is_empty(), blob.descriptor.digest));
        let wanted = blobs
            .iter()
            .find(|blob| !blob.sources.is_empty() && !options.force)
            .or_else(|| blobs.iter().find(|blob| is_of(&blob.descriptor, compression)));
        match wanted {
            Some(blob) => Ok(blob.descriptor.clone()),
            None => {
                // From its source, when it is nowhere nearer: what it unpacks to may not give it again.
                if !self.has(diff_id, Form::Blob) && blobs.iter().any(|blob| !blob.sources.is_empty()) {
                    self.bring(diff_id, Form::Blob)?;
                }
                let made =
                    layer::ensure_blob(&self.store, diff_id, compression).map_err(|error| self.failed(&error))?;
                self.wrote(made.digest);
                Ok(made)
            }
        }
    }

    /// Returns a layer like another in which no time is later than `latest`, seconds since 1970;
    /// the one that an earlier build made, where there is one.
    ///
    /// # Errors
    /// As [`Layers::directory`].
    pub fn clamped(&self, diff_id: &Digest, latest: i64, compression: Compression) -> Result<Digest, BuildError> {
        let mut hasher = Hasher::domain("kiln.clamped.v1");
        hasher.digest(diff_id).field(latest.to_string());
        let key = hasher.finish();
        let known = self.store.lookup(&key).and_then(|record| record.outputs.first()?.first().copied());
        if let Some(known) = known.filter(|known| self.is_available(known)) {
            return Ok(known);
        }
        self.bring(diff_id, Form::Directory)?;
        let packed = layer::clamp(&self.store, diff_id, latest, compression).map_err(|error| self.failed(&error))?;
        if let Some(blob) = &packed.blob {
            self.wrote(blob.digest);
        }
        let note = Record {
            key,
            class: packed.diff_id,
            op: *diff_id,
            step: format!("layer of times up to {latest}"),
            outputs: vec![vec![packed.diff_id]],
            inputs: Vec::new(),
            seconds: 0.0,
            size: packed.size,
            created: crate::solver::nanoseconds(),
            contents: Vec::new(),
        };
        if let Err(error) = self.store.record(&note) {
            tracing::debug!(%error, "the next build will clamp {diff_id} again");
        }
        Ok(packed.diff_id)
    }

    /// Notes that a blob was written, and hashed on the way, in this build.
    pub fn wrote(&self, digest: Digest) {
        self.fresh.lock().expect("no panic under the lock").insert(digest);
    }

    /// Opens a blob that was written in this build: it need not be hashed again. `None` for others.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn fresh_blob(&self, descriptor: &Descriptor) -> io::Result<Option<File>> {
        if !self.fresh.lock().expect("no panic under the lock").contains(&descriptor.digest) {
            return Ok(None);
        }
        let file = File::open(self.store.blob_path(&descriptor.digest))?;
        Ok((file.metadata()?.len() == descriptor.size).then_some(file))
    }

    /// Returns where a blob of a layer may be had, as `host/repository`.
    pub fn sources(&self, diff_id: &Digest) -> Vec<String> {
        self.known_blobs(diff_id).into_iter().flat_map(|blob| blob.sources).collect()
    }

    /// Notes that a registry has a blob now.
    pub fn pushed(&self, diff_id: &Digest, descriptor: &Descriptor, repository: &str) {
        if let Err(error) = self.store.layer(diff_id).add_blob(descriptor, Some(repository)) {
            tracing::debug!(%error, "not noted that {repository} has {}", descriptor.digest);
        }
    }

    /// Brings the blobs of a chain into the store.
    ///
    /// # Errors
    /// When one is nowhere to be had, or damaged.
    pub fn blobs(&self, layers: &[Digest]) -> Result<(), BuildError> {
        self.all(layers, Form::Blob)
    }

    /// Opens a layer's blob, from the store or from where it may be had.
    ///
    /// # Errors
    /// When it is nowhere to be had.
    pub fn open_blob(self: &Arc<Self>, diff_id: &Digest, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        if self.store.has_blob(&descriptor.digest) {
            let blob = self.store.open_blob(&descriptor.digest).map_err(io::Error::other)?;
            return Ok(Box::new(Noticing { stream: Box::new(blob), layers: self.clone(), lose: None }));
        }
        let blob =
            self.known_blobs(diff_id).into_iter().find(|blob| blob.descriptor.digest == descriptor.digest).ok_or_else(
                || io::Error::new(io::ErrorKind::NotFound, format!("blob {} is gone", descriptor.digest)),
            )?;
        let (source, stream) =
            self.remote(&blob).inspect_err(|error| self.lose(diff_id, &blob, error)).map_err(io::Error::other)?;
        let lose = Some((*diff_id, LayerBlob { sources: vec![source], ..blob }));
        Ok(Box::new(Noticing { stream, layers: self.clone(), lose }))
    }

    /// Notes that a blob that came from elsewhere is not to be had there, if a step can make its layer again: then the
    /// build, tried again, runs that.
    fn lose(&self, diff_id: &Digest, blob: &LayerBlob, error: &BuildError) {
        if error.kind == Kind::Cancelled || self.cancel.is_cancelled() || !self.lost.add(diff_id, &error.message) {
            return;
        }
        // Others may be back tomorrow.
        let is_gone = error.kind == Kind::Input || error.is_damage;
        for source in blob.sources.iter().filter(|_| is_gone) {
            if let Err(error) = self.store.layer(diff_id).forget_source(&blob.descriptor.digest, source) {
                tracing::debug!(%error, "the next build will try {source} again");
            }
        }
        self.damage.store(true, Ordering::Relaxed);
    }

    /// Sorts an error of the store. A layer's directory that turned out to be damaged is taken away.
    pub fn failed(&self, error: &LayerError) -> BuildError {
        let mut built = failed(error);
        built.is_damage |= self.take_damage(error);
        // Whoever asked may not be able to pass it on.
        self.damage.fetch_or(built.is_damage, Ordering::Relaxed);
        built
    }

    /// Takes a layer's directory away if an error says that it is damaged; returns whether it did. The layer is brought or
    /// made again when it is asked for the next time.
    pub fn take_damage(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        let diff_id = find(error, |error| match error.downcast_ref() {
            Some(LayerError::NotReproducible(diff_id)) => Some(*diff_id),
            _ => error.downcast_ref::<DamagedLayer>().map(|damaged| damaged.diff_id),
        });
        let Some(diff_id) = diff_id else { return false };
        let taken = self.store.layer(&diff_id).discard_directory();
        taken.inspect_err(|error| tracing::debug!(%error, "the directory of layer {diff_id} stays")).is_ok()
    }

    fn all(&self, layers: &[Digest], form: Form) -> Result<(), BuildError> {
        let missing: Vec<&Digest> = layers.iter().filter(|diff_id| !self.has(diff_id, form)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let results: Vec<Result<(), BuildError>> = std::thread::scope(|scope| {
            let handles: Vec<_> = missing.iter().map(|diff_id| scope.spawn(|| self.bring(diff_id, form))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| Err(BuildError::bug("a transfer panicked"))))
                .collect()
        });
        results.into_iter().collect()
    }

    fn has(&self, diff_id: &Digest, form: Form) -> bool {
        let layer = self.store.layer(diff_id);
        match form {
            Form::Directory => layer.directory().is_some(),
            Form::Index => layer.has_index(),
            Form::Blob => layer.blobs().iter().any(|blob| self.store.has_blob(&blob.descriptor.digest)),
        }
    }

    fn bring(&self, diff_id: &Digest, form: Form) -> Result<(), BuildError> {
        let lock = self.locks.lock().expect("no panic under the lock").entry(*diff_id).or_default().clone();
        let _guard = lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.has(diff_id, form) {
            return Ok(());
        }
        if self.cancel.is_cancelled() {
            return Err(BuildError::cancelled());
        }
        let layer = self.store.layer(diff_id);
        let blobs = self.known_blobs(diff_id);
        let has_blob = blobs.iter().any(|blob| self.store.has_blob(&blob.descriptor.digest));
        let has_source = blobs.iter().any(|blob| !blob.sources.is_empty());
        // The directory of a layer that came from elsewhere does not give the same blob again.
        let is_here = has_blob || (layer.directory().is_some() && !(form == Form::Blob && has_source));
        if is_here {
            return match form {
                Form::Directory => layer::ensure_directory(&self.store, diff_id).map(drop),
                Form::Index => layer::ensure_index(&self.store, diff_id).map(drop),
                Form::Blob => layer::ensure_blob(&self.store, diff_id, Compression::Gzip).map(drop),
            }
            .map_err(|error| self.failed(&error));
        }
        let blob = blobs.into_iter().find(|blob| !blob.sources.is_empty()).ok_or_else(|| {
            BuildError::environment(format!("layer {diff_id} is not in the store any more"))
                .hint("build again: the step that made it will run again")
        })?;
        let source = blob.sources.first().cloned().unwrap_or_default();
        let step = self.steps.start(format!("[internal] pull {} from {source}", blob.descriptor.digest));
        let result = self.unpack(diff_id, &blob, &step).map_err(|mut error| {
            error.location = self.origins.lock().expect("no panic under the lock").get(diff_id).cloned();
            error
        });
        step.end(result)
    }

    fn unpack(&self, diff_id: &Digest, blob: &LayerBlob, step: &Step) -> Result<(), BuildError> {
        let (source, stream) = self.remote(blob).inspect_err(|error| self.lose(diff_id, blob, error))?;
        let item = blob.descriptor.digest.to_string();
        let mut stream = Counted { stream, step, item, total: blob.descriptor.size, current: 0, told: 0 };
        let unpack =
            Unpack { diff_id: *diff_id, blob: blob.descriptor.clone(), source: Some(source.clone()), keep_blob: true };
        let result = layer::unpack(&self.store, &unpack, &mut stream, &|| self.cancel.is_cancelled());
        result.map_err(|error| {
            let failed = self.failed(&error).context(format!("cannot pull {}", blob.descriptor.digest));
            if is_of_content(&error) {
                self.lose(diff_id, &LayerBlob { sources: vec![source], ..blob.clone() }, &failed);
            }
            failed
        })
    }

    /// Opens the first source that answers; also says which.
    fn remote(&self, blob: &LayerBlob) -> Result<(String, Box<dyn Read + Send>), BuildError> {
        let mut first = None;
        for source in &blob.sources {
            let opened: Result<Box<dyn Read + Send>, _> = match layout::blob_path(source, &blob.descriptor.digest) {
                Some(path) => match File::open(&path) {
                    Ok(file) => Ok(Box::new(file)),
                    Err(error) => Err(BuildError::environment(format!("cannot read {}: {error}", path.display()))),
                },
                None => self.fetch(source, &blob.descriptor),
            };
            match opened {
                Ok(stream) => return Ok((source.clone(), stream)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| BuildError::bug(format!("blob {} has no source", blob.descriptor.digest))))
    }

    fn fetch(&self, source: &str, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BuildError> {
        let reference: Reference = source
            .parse()
            .map_err(|error| BuildError::bug(format!("the store names a strange source {source:?}: {error}")))?;
        let stream =
            self.registry.blob(&Repository::from(&reference), descriptor).map_err(crate::source::image::registry)?;
        Ok(Box::new(stream))
    }
}

/// Whether a blob is compressed that way.
fn is_of(descriptor: &Descriptor, compression: Compression) -> bool {
    let suffix = descriptor.media_type.rsplit(['.', '+']).next().unwrap_or_default();
    matches!(
        (compression, suffix),
        (Compression::Gzip, "gzip") | (Compression::Zstd, "zstd") | (Compression::Uncompressed, "tar")
    )
}

/// Whether a layer could not be unpacked for what it is, or for where it comes from, rather than for this machine.
fn is_of_content(error: &LayerError) -> bool {
    matches!(
        error,
        LayerError::Archive { .. }
            | LayerError::Stream { .. }
            | LayerError::DiffId { .. }
            | LayerError::Blob(BlobError::Damaged { .. } | BlobError::Size { .. })
    )
}

/// Sorts an error of the store.
fn failed(error: &LayerError) -> BuildError {
    if let LayerError::Stream { source, .. } = error
        && let Some(error) = RegistryError::from_io(source)
    {
        return crate::source::image::registry(error.clone());
    }
    match error {
        LayerError::Cancelled => BuildError::cancelled(),
        LayerError::Changed { path } => {
            let built = BuildError::input(format!("`{path}` changed while it was being copied"));
            BuildError { is_change: true, ..built }.hint(CHANGED_HINT)
        }
        _ if is_changed(error) => BuildError { is_change: true, ..BuildError::input(chain(error)) }.hint(CHANGED_HINT),
        LayerError::Unrepresentable { .. } => BuildError::input(chain(error)),
        _ if let Some(built) = unreadable(error) => built,
        _ => {
            let mut built = BuildError::new(Kind::Environment, chain(error));
            built.is_damage = matches!(
                error,
                LayerError::DiffId { .. } | LayerError::Missing(_) | LayerError::Blob(BlobError::Damaged { .. })
            );
            if is_disk_full(error) {
                return built.hint("free some space, for example with `kiln prune`, and build again");
            }
            if is_foreign_id(error) {
                return built.hint(FOREIGN_ID_HINT);
            }
            built
        }
    }
}

/// What to do about a file that does not keep still.
const CHANGED_HINT: &str = "build again when nothing writes to it, or leave it out with .dockerignore";

/// Whether a context's file was not the one that was walked any more.
pub fn is_changed(error: &(dyn std::error::Error + 'static)) -> bool {
    find(error, |error| error.is::<crate::source::local::Changed>().then_some(())).is_some()
}

/// Returns the error for a file of a context that cannot be opened, if it is about one. What is around that, names the file
/// as it would be in the image.
pub fn unreadable(error: &(dyn std::error::Error + 'static)) -> Option<BuildError> {
    find(error, |error| {
        let unreadable = error.downcast_ref::<Unreadable>()?;
        let built = BuildError::input(chain(unreadable));
        Some(BuildError { hint: unreadable.hint().map(str::to_owned), ..built })
    })
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
    find(error, |error| error.downcast_ref().filter(|error| is_full(error)).map(drop)).is_some()
}

/// Looks for something in an error and all that is underneath it, also in what another error only wraps.
fn find<T>(
    error: &(dyn std::error::Error + 'static),
    look: impl Fn(&(dyn std::error::Error + 'static)) -> Option<T> + Copy,
) -> Option<T> {
    let wrapped: Option<&(dyn std::error::Error + 'static)> = match error.downcast_ref() {
        Some(LayerError::Other(inner)) => Some(&**inner),
        _ => error.downcast_ref().and_then(io::Error::get_ref).map(|inner| inner as _),
    };
    look(error)
        .or_else(|| wrapped.and_then(|inner| find(inner, look)))
        .or_else(|| error.source().and_then(|source| find(source, look)))
}

/// What helps where a user namespace lacks an id.
pub(crate) const FOREIGN_ID_HINT: &str = "kiln runs in a user namespace, which has not all ids: the administrator can set more aside (`usermod \
     --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER`), and `--isolation=userns-single` takes any id";

/// Says whether something could not be given to an id that a user namespace lacks.
fn is_foreign_id(error: &LayerError) -> bool {
    matches!(error, LayerError::File(error)
        if error.doing == FileError::GIVING && error.source.kind() == io::ErrorKind::InvalidInput)
}

/// A blob that tells when it turns out to be damaged.
struct Noticing {
    stream: Box<dyn Read + Send>,
    layers: Arc<Layers>,
    /// The layer and where its blob comes from, if that is not the store.
    lose: Option<(Digest, LayerBlob)>,
}

impl Read for Noticing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).inspect_err(|error| match &self.lose {
            None => self.layers.damage.store(true, Ordering::Relaxed),
            Some((diff_id, blob)) => {
                let error = match RegistryError::from_io(error) {
                    Some(error) => crate::source::image::registry(error.clone()),
                    None => BuildError::environment(error.to_string()),
                };
                self.layers.lose(diff_id, blob, &error);
            }
        })
    }
}

/// A stream that tells how far it is, about every megabyte.
struct Counted<'a> {
    stream: Box<dyn Read + Send>,
    step: &'a Step,
    item: String,
    total: u64,
    current: u64,
    told: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.current += n as u64;
        if n == 0 || self.current - self.told >= 1 << 20 {
            self.told = self.current;
            self.step.progress(&self.item, self.current, Some(self.total), n == 0);
        }
        Ok(n)
    }
}
