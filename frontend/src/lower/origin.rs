//! Where a stage begins and where files come from: names of stages, contexts and images.

use std::collections::BTreeSet;

use kiln_oci::{Platform, Reference};

use super::context::Context;
use super::stages::{Stages, error};
use super::{Facts, ImageFact, ImageName, ImageQuery, Request};
use crate::dockerfile::suggest::Suggestions;
use crate::dockerfile::{Diagnostic, Instruction, InstructionKind};

/// What people often mean by a name that is not found.
const WELL_KNOWN: [&str; 7] = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

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
            Err(cause) => {
                let found = error("invalid-reference", format!("failed to parse stage name \"{name}\": {cause}"));
                Err(Diagnostic { hint: image_hint(name), ..found })
            }
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

/// What was perhaps meant by something that cannot be the name of an image.
fn image_hint(name: &str) -> Option<String> {
    if let Some((_, rest)) = name.split_once("://") {
        return Some(format!("an image is not named by a URL: write `{rest}`"));
    }
    if let Some(before) = name.strip_suffix([':', '@']) {
        return Some(format!("the tag behind `{before}` is empty; a variable in it has no value?"));
    }
    let lower = name.to_lowercase();
    let is_possible = lower != name && lower.parse::<Reference>().is_ok();
    is_possible.then(|| format!("names of images and stages are in lower case: write `{lower}`"))
}

/// The images that a round of lowering needs: known ones are checked, unknown ones collected.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    facts: &'a Facts,
    /// What has been looked at, by query and by the line that asks.
    seen: BTreeSet<(ImageQuery, usize)>,
    /// What is not known yet.
    needs: BTreeSet<ImageQuery>,
    suggestions: Suggestions,
    /// What is known to be missing.
    pub(super) errors: Vec<Diagnostic>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(facts: &'a Facts) -> Self {
        Self {
            facts,
            seen: BTreeSet::new(),
            needs: BTreeSet::new(),
            suggestions: Suggestions::default(),
            errors: Vec::new(),
        }
    }

    /// Notes that `instruction` uses what `written` names.
    pub(super) fn image(&mut self, query: ImageQuery, written: &str, stages: &Stages<'_>, instruction: &Instruction) {
        if !self.seen.insert((query.clone(), instruction.lines.first)) {
            return;
        }
        match self.facts.images.get(&query) {
            Some(ImageFact::Found { .. }) => {}
            Some(ImageFact::Missing(cause)) => {
                let suggestion = self.suggestions.closest(written, stages.names().chain(WELL_KNOWN)).map(str::to_owned);
                let missing = error("missing-image", format!("{written}: {cause}"))
                    .suggest(suggestion)
                    .at(instruction.lines, instruction.span);
                let hint = self.stage_hint(written, stages, instruction);
                self.errors.push(Diagnostic { hint, ..missing });
            }
            None => {
                self.needs.insert(query);
            }
        }
    }

    /// Says that there is no stage of this name, and which there are, if one was perhaps meant: the name looks like a
    /// stage's, and either the instruction takes files from stages more often than from images, or a stage is called nearly
    /// so.
    pub(super) fn stage_hint(&mut self, name: &str, stages: &Stages<'_>, instruction: &Instruction) -> Option<String> {
        if name.contains(['/', ':', '@', '.']) || stages.names().next().is_none() {
            return None;
        }
        let meant = self.suggestions.closest(&name.to_lowercase(), stages.names());
        if meant.is_none() && matches!(instruction.kind, InstructionKind::From(_)) {
            return None;
        }
        let meant = meant.map(|stage| format!("; did you mean `{stage}`?")).unwrap_or_default();
        Some(format!("no stage is named `{name}`; {}{meant}", stages.hint()))
    }

    /// Returns what is not known yet, each once, sorted.
    pub(super) fn into_needs(self) -> Vec<ImageQuery> {
        self.needs.into_iter().collect()
    }
}
