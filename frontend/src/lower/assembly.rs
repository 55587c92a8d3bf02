//! The graph while it grows: sources that are used more than once, and what is used of local directories.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::{ImageConfig, Platform};

use super::context::{ContextKind, layout_path};
use super::name::redacted;
use super::origin::Origin;
use super::path;
use super::prepare::Prepared;
use super::remote;
use super::stages::error;
use super::{Facts, ImageFact, ImageName, ImageQuery};
use crate::dockerfile::{Diagnostic, Instruction};
use crate::graph::{Edge, Graph, LocalSource, Location, Op, Source, Vertex};

/// The name of the directory that is being built.
pub(super) const MAIN_CONTEXT: &str = "context";

/// How many bytes the environments and histories of all stages and commands may take.
const MAX_TEXT: usize = 64 << 20;

/// The graph while it grows.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) graph: Graph,
    /// The bytes of environments and histories so far.
    spent: usize,
    images: BTreeMap<ImageQuery, Edge>,
    locals: BTreeMap<String, Local>,
}

#[derive(Debug)]
struct Local {
    edge: Edge,
    paths: BTreeSet<String>,
}

/// A tree that files are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    /// Something in the graph, or nothing.
    Edge(Option<Edge>),
    /// A directory of the client, of which only what is used is wanted.
    Local {
        /// Its name.
        name: String,
        /// How to show it.
        label: String,
    },
}

/// Names the vertex of an image, given its pinned reference.
pub(super) type Label<'a> = &'a mut dyn FnMut(&str) -> String;

impl Assembly {
    /// Accounts for texts that every command and every stage gets a copy of.
    ///
    /// # Errors
    /// When they are out of all proportion: a small file can ask for any amount of them.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Diagnostic> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent <= MAX_TEXT {
            return Ok(());
        }
        Err(error("graph-too-large", format!("the variables of all commands take more than {MAX_TEXT} bytes"))
            .hint("declare fewer variables, or declare them after the commands that do not need them"))
    }

    /// Adds a vertex without stage and location.
    pub(super) fn source(&mut self, source: Source, platform: Option<Platform>, name: String) -> Edge {
        self.graph.push(Vertex {
            op: Op::Source(source),
            inputs: Vec::new(),
            platform,
            name,
            stage: None,
            location: None,
            ignore_cache: false,
        })
    }

    /// Returns the tree that a name stands for, which must not be a stage.
    pub(super) fn tree(
        &mut self,
        origin: &Origin,
        platform: &Platform,
        prepared: &Prepared<'_>,
        label: Label<'_>,
    ) -> Result<Tree, Diagnostic> {
        if let Some(query) = origin.query(platform) {
            let edge = self.image(query, origin, prepared.facts, label)?;
            return Ok(Tree::Edge(edge));
        }
        let Origin::Context(context) = origin else { return Ok(Tree::Edge(None)) };
        let shown = format!("[context {}]", context.name);
        match &context.kind {
            ContextKind::Local(name) => {
                Ok(Tree::Local { name: name.clone(), label: format!("{shown} load from client") })
            }
            ContextKind::Git(url) => {
                let source = remote::git_context(url, prepared.request.keeps_git_dir())?;
                Ok(Tree::Edge(Some(self.source(source, None, format!("{shown} {}", redacted(url))))))
            }
            ContextKind::Http(url) => {
                let source = remote::http_context(url);
                Ok(Tree::Edge(Some(self.source(source, None, format!("{shown} {}", redacted(url))))))
            }
            ContextKind::Empty | ContextKind::Image(_) | ContextKind::OciLayout(_) => Ok(Tree::Edge(None)),
        }
    }

    /// Says which instruction brought a source in, where that is not known yet.
    pub(super) fn locate(&mut self, tree: &Tree, instruction: &Instruction) {
        let Tree::Edge(Some(edge)) = tree else { return };
        self.graph.vertices[edge.vertex.0 as usize].location.get_or_insert(Location {
            span: instruction.span.start..instruction.span.end,
            lines: (instruction.lines.first, instruction.lines.last),
        });
    }

    /// Returns the edge of an image, or nothing when the image is empty.
    fn image(
        &mut self,
        query: ImageQuery,
        origin: &Origin,
        facts: &Facts,
        label: Label<'_>,
    ) -> Result<Option<Edge>, Diagnostic> {
        if let Some(&edge) = self.images.get(&query) {
            return Ok(Some(edge));
        }
        let Some(ImageFact::Found { digest, config }) = facts.images.get(&query) else {
            // Preparation has asked for every image; this is one that it did not see.
            return Err(error("missing-image", format!("{:?}: not resolved", query.image)));
        };
        if is_empty(config) {
            return Ok(None);
        }
        let (source, shown) = match (&query.image, origin) {
            (ImageName::OciLayout(layout), _) => {
                let source = Source::OciLayout { store: layout_path(layout).to_owned(), digest: *digest };
                (source, layout.clone())
            }
            (ImageName::Reference(text), origin) => {
                let reference = match origin {
                    Origin::Image(reference) => reference.with_digest(*digest).to_string(),
                    Origin::Context(context) => match &context.kind {
                        ContextKind::Image(reference) => reference.with_digest(*digest).to_string(),
                        _ => text.clone(),
                    },
                    Origin::Empty => text.clone(),
                };
                (Source::Image { reference: reference.clone() }, reference)
            }
        };
        let name = match origin {
            Origin::Context(context) => format!("[context {}] {shown}", context.name),
            _ => label(&shown),
        };
        let edge = self.source(source, Some(query.platform.clone()), name);
        self.images.insert(query, edge);
        Ok(Some(edge))
    }

    /// Returns the edge of a tree of which `paths` are used.
    pub(super) fn edge<'p>(&mut self, tree: &Tree, paths: impl IntoIterator<Item = &'p str>) -> Option<Edge> {
        let (name, label) = match tree {
            Tree::Edge(edge) => return *edge,
            Tree::Local { name, label } => (name, label),
        };
        if !self.locals.contains_key(name) {
            let local = LocalSource { name: name.clone(), follow_paths: Vec::new() };
            let edge = self.source(Source::Local(local), None, label.clone());
            self.locals.insert(name.clone(), Local { edge, paths: BTreeSet::new() });
        }
        let local = self.locals.get_mut(name)?;
        local.paths.extend(paths.into_iter().map(path::rooted));
        Some(local.edge)
    }

    /// Writes what is used of local directories into their vertices, and hands over the graph.
    pub(super) fn finish(mut self) -> Graph {
        for Local { edge, paths } in self.locals.into_values() {
            let vertex = &mut self.graph.vertices[edge.vertex.0 as usize];
            if let Op::Source(Source::Local(local)) = &mut vertex.op
                && !paths.contains("/")
            {
                local.follow_paths = paths.into_iter().map(|path| path[1..].to_owned()).collect();
            }
        }
        self.graph
    }
}

/// Whether an image has nothing in it, so that building on it is building on nothing.
fn is_empty(config: &ImageConfig) -> bool {
    config.rootfs.diff_ids.is_empty() && config.history.iter().all(|entry| entry.empty_layer)
}
