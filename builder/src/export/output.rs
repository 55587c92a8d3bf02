//! Making what was asked for: every output of a build, of what the solver found.

use std::cell::RefCell;
use std::sync::Arc;

use kiln_cache::Store;
use kiln_frontend::dockerfile::csv;
use kiln_oci::{Digest, Platform, Reference};

use super::archive::{self, Archive, DirectorySink, TarSink, write_failed};
use super::files::{self, Part};
use super::image::{self, ImageSet};
use super::{cache, push};
use crate::engine::{Client, Work};
use crate::error::BuildError;
use crate::op::content::Contents;
use crate::plan::Planned;
use crate::request::{BuildRequest, BuiltImage, CacheTarget, Destination, LayerOptions, Output};
use crate::solver::Solution;
use crate::source::image::environment;

/// Makes the outputs of one build.
pub struct Exporter<'a> {
    /// Where images are kept.
    pub store: &'a Store,
    /// What the build works with.
    pub work: &'a Work,
    /// What was asked for.
    pub request: &'a BuildRequest,
    /// Where results go.
    pub client: &'a Client<'a>,
    /// What was planned.
    pub planned: &'a Planned,
    /// What came of it.
    pub solution: &'a Solution,
}

/// Says what cannot be made of a plan, before anything is built.
///
/// # Errors
/// When an output cannot hold the images of several platforms.
pub fn check(request: &BuildRequest, planned: &Planned) -> Result<(), BuildError> {
    if planned.is_index && request.outputs.iter().any(|output| matches!(output, Output::Docker { .. })) {
        return Err(BuildError::input("docker exporter does not currently support exporting manifest lists")
            .hint("use `type=oci`, or build for one platform"));
    }
    Ok(())
}

/// Returns how the layers of the image are written that the build is mostly about, if any
/// output needs one: that in the store before those in archives.
pub fn layer_options(request: &BuildRequest) -> Option<LayerOptions> {
    if request.outputs.is_empty() {
        return Some(LayerOptions::default());
    }
    let in_store = request.outputs.iter().find(|output| matches!(output, Output::Image { .. }));
    in_store.and_then(Output::layers).or_else(|| request.outputs.iter().find_map(Output::layers))
}

/// The build argument that puts the cache into the image.
const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";

/// Larger caches are not read by other builders (spec: remote-cache.md §1.2).
const MOST_READ: u64 = 1 << 20;

/// Whether the image is to have its cache in it.
fn has_cache(request: &BuildRequest) -> bool {
    let argument = request.options.build_args.get(INLINE_CACHE);
    // Other builders take what is no truth value for a no.
    request.cache_to.contains(&CacheTarget::Inline) || argument.and_then(|text| csv::boolean(text)).unwrap_or(false)
}

/// The images that were made so far; two outputs that want the same layers share one.
type Made = RefCell<Vec<(LayerOptions, Arc<ImageSet>)>>;

impl Exporter<'_> {
    /// Makes all outputs. Returns the image, where one was made.
    ///
    /// # Errors
    /// When a layer cannot be packed, something not be written, or a registry refuses.
    pub fn export(&self) -> Result<Option<BuiltImage>, BuildError> {
        let made = Made::default();
        let mut pushed = Vec::new();
        let options = layer_options(self.request);
        let main = options.map(|options| self.images(&made, options)).transpose()?;
        for output in &self.request.outputs {
            self.output(output, &made, &mut pushed)?;
        }
        let outputs = &self.request.outputs;
        let in_store = outputs.is_empty() || outputs.iter().any(|output| matches!(output, Output::Image { .. }));
        let Some(main) = main else { return Ok(None) };
        let root = main.root().ok_or_else(|| BuildError::bug("a build made no image"))?;
        if in_store {
            self.keep(&main, root, pushed.is_empty())?;
        }
        Ok(Some(BuiltImage {
            descriptor: root.clone(),
            config: main.config(),
            size: main.size(),
            names: self.names(),
            pushed,
        }))
    }

    fn names(&self) -> Vec<String> {
        self.request.names.iter().map(Reference::familiar).collect()
    }

    /// Returns the images with layers written in that way, made by the first who asks.
    fn images(&self, made: &Made, options: LayerOptions) -> Result<Arc<ImageSet>, BuildError> {
        if let Some((_, set)) = made.borrow().iter().find(|(known, _)| *known == options) {
            return Ok(set.clone());
        }
        let step = self.work.steps.start("exporting to image");
        if options.clamp && self.planned.plans.iter().all(|plan| plan.epoch.is_none()) {
            step.note("rewrite-timestamp does nothing without SOURCE_DATE_EPOCH");
        }
        let make = || -> Result<ImageSet, BuildError> {
            let mut images = Vec::new();
            for plan in &self.planned.plans {
                let cache = match has_cache(self.request) {
                    true => cache::entries(self.store, &self.planned.graph, plan, self.solution),
                    false => Vec::new(),
                };
                let image = image::make(self.store, &self.work.layers, plan, self.solution, options, &cache)?;
                step.note(format!("exporting manifest {}", image.descriptor.digest));
                step.note(format!("exporting config {}", image.config.digest));
                if !cache.is_empty() && image.config.size > MOST_READ {
                    step.note(format!(
                        "the config has {} bytes: other builders read no cache of that size",
                        image.config.size
                    ));
                }
                images.push(image);
            }
            if !self.planned.is_index {
                return Ok(ImageSet { images, index: None });
            }
            let set = ImageSet::with_index(self.store, images)?;
            if let Some(index) = set.root() {
                step.note(format!("exporting manifest list {}", index.digest));
            }
            Ok(set)
        };
        let result = make().map(Arc::new);
        if result.is_ok() {
            self.request.names.iter().for_each(|name| step.note(format!("naming to {name}")));
        }
        let set = step.end(result)?;
        made.borrow_mut().push((options, set.clone()));
        Ok(set)
    }

    /// Gives the image its names in the store. Unless it was pushed, everything it needs is made
    /// to be here: other tools can read it.
    fn keep(&self, set: &ImageSet, root: &kiln_oci::Descriptor, whole: bool) -> Result<(), BuildError> {
        if whole {
            let diff_ids: Vec<Digest> = set.layers().map(|(diff_id, _)| *diff_id).collect();
            self.work.layers.blobs(&diff_ids)?;
        }
        let mut names = self.names();
        // An unchanged rebuild writes nothing.
        names.retain(|name| self.store.image(name).ok().flatten().is_none_or(|had| had.digest != root.digest));
        if !names.is_empty() {
            self.store.tag(&names, root).map_err(|error| environment(&error))?;
        }
        Ok(())
    }

    fn output(&self, output: &Output, made: &Made, pushed: &mut Vec<String>) -> Result<(), BuildError> {
        match output {
            Output::Image { push: false, .. } | Output::CacheOnly => Ok(()),
            Output::Image { push: true, layers } => self.push(&*self.images(made, *layers)?, pushed),
            Output::Oci { destination: Destination::File(path), tar: false, layers } => {
                let set = self.images(made, *layers)?;
                let archive = Archive { set: &set, names: &self.request.names, with_docker: false };
                let step = self.work.steps.start("exporting to oci image format");
                let mut sink = DirectorySink { path: path.clone() };
                step.end(archive::write(&archive, self.store, &self.work.layers, &mut sink))
            }
            Output::Oci { destination, layers, .. } => self.archive(&*self.images(made, *layers)?, destination, false),
            Output::Docker { destination, layers } => self.archive(&*self.images(made, *layers)?, destination, true),
            Output::Tar { destination } => self.tar(destination),
            Output::Local { directory, split } => self.local(directory, *split),
        }
    }

    fn push(&self, set: &ImageSet, pushed: &mut Vec<String>) -> Result<(), BuildError> {
        if self.request.names.is_empty() {
            return Err(BuildError::input("tag is needed when pushing to registry").hint("add `-t NAME`"));
        }
        for name in &self.request.names {
            let step = self.work.steps.start(format!("pushing {name}"));
            let result = push::push(&self.work.registry, self.store, &self.work.layers, set, name, &step);
            step.end(result)?;
            pushed.push(name.familiar());
        }
        Ok(())
    }

    fn archive(&self, set: &ImageSet, destination: &Destination, with_docker: bool) -> Result<(), BuildError> {
        let kind = if with_docker { "docker" } else { "oci" };
        let step = self.work.steps.start(format!("exporting to {kind} image format"));
        let archive = Archive { set, names: &self.request.names, with_docker };
        let write = || -> Result<(), BuildError> {
            let stream = self.client.results.stream(destination).map_err(|error| write_failed(&error))?;
            let mut sink = TarSink::new(stream);
            archive::write(&archive, self.store, &self.work.layers, &mut sink)?;
            let stream = sink.finish().map_err(|error| write_failed(&error))?;
            stream.finish().map_err(|error| write_failed(&error))
        };
        step.end(write())
    }

    fn tar(&self, destination: &Destination) -> Result<(), BuildError> {
        let step = self.work.steps.start("exporting to tarball");
        let write = || -> Result<(), BuildError> {
            let (parts, contents) = self.files(None)?;
            let mut stream = self.client.results.stream(destination).map_err(|error| write_failed(&error))?;
            files::tar(&parts, &contents, self.epoch(), &mut stream).map_err(|error| self.copy_failed(&error))?;
            stream.finish().map_err(|error| write_failed(&error))
        };
        step.end(write())
    }

    fn local(&self, directory: &std::path::Path, split: Option<bool>) -> Result<(), BuildError> {
        let step = self.work.steps.start("exporting to client directory");
        let write = || -> Result<(), BuildError> {
            let (parts, contents) = self.files(split)?;
            files::check_apart(&parts)?;
            let target = self.client.results.directory(directory).map_err(|error| write_failed(&error))?;
            let skipped = files::directories(&parts, &contents, self.epoch(), &target)
                .map_err(|error| self.copy_failed(&error))?;
            if !skipped.is_empty() {
                step.note(format!("not written, as they are no ordinary files: {}", skipped.join(", ")));
            }
            Ok(())
        };
        let result = write();
        step.end(result)
    }

    /// A file could not be read, or not written.
    fn copy_failed(&self, error: &std::io::Error) -> BuildError {
        BuildError { is_damage: self.work.layers.take_damage(error), ..write_failed(error) }
    }

    /// SOURCE_DATE_EPOCH, seconds.
    fn epoch(&self) -> Option<i64> {
        self.planned.plans.iter().find_map(|plan| plan.epoch)
    }

    /// The files of all platforms, each in a folder of its own if `split`.
    fn files(&self, split: Option<bool>) -> Result<(Vec<Part>, Contents), BuildError> {
        let layers = &self.work.layers;
        let mut parts = Vec::new();
        for plan in &self.planned.plans {
            let chain = self.solution.chain(plan.root);
            layers.directories(&chain)?;
            let folder = split.unwrap_or(self.planned.is_index).then(|| folder(&plan.platform));
            parts.push(Part { platform: plan.platform.format_all(), folder, tree: layers.files(&chain)? });
        }
        Ok((parts, Contents::new(layers.clone(), self.store.clone())))
    }
}

/// The name of a platform's folder.
fn folder(platform: &Platform) -> String {
    platform.format_all().replace('/', "_")
}
