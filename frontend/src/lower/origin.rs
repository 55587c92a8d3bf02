//! Where a stage begins and where files come from: names of stages, contexts and images.

use std::collections::BTreeSet;

use kiln_oci::{Platform, Reference};

use super::context::Context;
use super::stages::{Stages, error};
use super::{Facts, ImageFact, ImageName, ImageQuery, Request};
use crate::dockerfile::suggest::closest;
use crate::dockerfile::{Diagnostic, Instruction, InstructionKind};

/// What people often mean by a name that is not found.
const WELL_KNOWN: [&str; 7] = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

/// How many stages are looked at for a suggestion.
const MAX_CANDIDATES: usize = 1_000;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The empty file system.
    Empty,
    /// What the user put in the place of the name.
    Context(Context),
    /// An image.
    Image(Reference),
}

impl Origin {
    /// Finds out what a name that is no stage stands for.
    ///
    /// # Errors
    /// When the name is neither a context nor a possible image.
    pub(super) fn outside(name: &str, platform: &Platform, request: &Request) -> Result<Self, Diagnostic> {
        if name == "scratch" {
            return Ok(Self::Empty);
        }
        if let Some(context) = Context::find(name, platform, request)? {
            return Ok(Self::Context(context));
        }
        match name.parse::<Reference>() {
            Ok(reference) => Ok(Self::Image(reference.with_default_tag())),
            Err(cause) => Err(error("invalid-reference", format!("failed to parse stage name \"{name}\": {cause}"))),
        }
    }

    /// Returns what must be known about it, if anything.
    pub(super) fn query(&self, platform: &Platform) -> Option<ImageQuery> {
        match self {
            Self::Empty => None,
            Self::Context(context) => context.query(platform),
            Self::Image(reference) => {
                Some(ImageQuery { image: ImageName::Reference(reference.to_string()), platform: platform.normalized() })
            }
        }
    }
}

/// Whether a name that stands for no stage was perhaps meant to: it looks like one, and either the instruction takes
/// files from stages more often than from images, or there is a stage of nearly that name.
pub(super) fn may_be_stage(name: &str, instruction: &Instruction, stages: &Stages<'_>) -> bool {
    let is_plain = !name.contains(['/', ':', '@', '.']) && stages.names().next().is_some();
    let is_from = matches!(instruction.kind, InstructionKind::From(_));
    is_plain && (!is_from || nearest(name, stages).is_some())
}

/// Says that there is no such stage, and which there are.
pub(super) fn no_such_stage(name: &str, stages: &Stages<'_>) -> String {
    let meant = nearest(name, stages).map(|stage| format!("; did you mean `{stage}`?")).unwrap_or_default();
    format!("no stage is named `{name}`; {}{meant}", stages.hint())
}

fn nearest<'s>(name: &str, stages: &'s Stages<'_>) -> Option<&'s str> {
    closest(&name.to_lowercase(), stages.names().take(MAX_CANDIDATES))
}

/// The images that a round of lowering needs: known ones are checked, unknown ones collected.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    facts: &'a Facts,
    /// What has been looked at, by query and by the line that asks.
    seen: BTreeSet<(ImageQuery, usize)>,
    /// What is not known yet.
    needs: BTreeSet<ImageQuery>,
    /// What is known to be missing.
    pub(super) errors: Vec<Diagnostic>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(facts: &'a Facts) -> Self {
        Self { facts, seen: BTreeSet::new(), needs: BTreeSet::new(), errors: Vec::new() }
    }

    /// Notes that `instruction` uses what `written` names.
    pub(super) fn image(&mut self, query: ImageQuery, written: &str, stages: &Stages<'_>, instruction: &Instruction) {
        if !self.seen.insert((query.clone(), instruction.lines.first)) {
            return;
        }
        match self.facts.images.get(&query) {
            Some(ImageFact::Found { .. }) => {}
            Some(ImageFact::Missing(cause)) => {
                let names = stages.names().take(MAX_CANDIDATES).chain(WELL_KNOWN);
                let suggestion = closest(written, names).map(str::to_owned);
                let mut missing = error("missing-image", format!("{written}: {cause}"))
                    .suggest(suggestion)
                    .at(instruction.lines, instruction.span);
                if may_be_stage(written, instruction, stages) {
                    missing = missing.hint(no_such_stage(written, stages));
                }
                self.errors.push(missing);
            }
            None => {
                self.needs.insert(query);
            }
        }
    }

    /// Returns what is not known yet, each once, sorted.
    pub(super) fn into_needs(self) -> Vec<ImageQuery> {
        self.needs.into_iter().collect()
    }
}
