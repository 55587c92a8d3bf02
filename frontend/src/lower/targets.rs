//! The targets of a file: its stages, as somebody sees them who wants to build one.

use super::stages::Stages;
use crate::dockerfile::{Diagnostic, File, Lines};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in lower case.
    pub name: Option<String>,
    /// Whether it is what is built when nothing is asked for.
    pub is_default: bool,
    /// What the comment above it says of it.
    pub description: Option<String>,
    /// What stands after FROM, not expanded.
    pub base: String,
    /// What stands after `--platform=`, not expanded.
    pub platform: Option<String>,
    /// Where its FROM stands.
    pub lines: Lines,
}

/// Lists the stages of a file.
///
/// # Errors
/// When the file cannot be cut into stages.
pub fn targets(file: &File) -> Result<Vec<Target>, Diagnostic> {
    let stages = Stages::of(file)?;
    let count = stages.list.len();
    let target = |stage: &super::stages::Stage<'_>| Target {
        name: stage.name.clone(),
        is_default: stage.index + 1 == count,
        description: stage
            .from
            .name
            .as_ref()
            .and_then(|name| stage.instruction.description_of(&name.text))
            .map(str::to_owned),
        base: stage.from.image.text.clone(),
        platform: stage.from.platform.as_ref().map(|word| word.text.clone()),
        lines: stage.instruction.lines,
    };
    Ok(stages.list.iter().map(target).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_targets_and_the_last_is_the_default() {
        let (file, _) = crate::dockerfile::parse(
            "# fetch gets it\nFROM scratch AS Fetch\n# pack final stage\nFROM --platform=$BUILDPLATFORM fetch AS pack\nFROM x\n",
        );
        let targets = targets(&file).unwrap();
        let names: Vec<_> = targets.iter().map(|target| (target.name.as_deref(), target.is_default)).collect();
        assert_eq!(names, [(Some("fetch"), false), (Some("pack"), false), (None, true)]);
        assert_eq!(targets[1].description.as_deref(), Some("final stage"));
        assert_eq!(targets[1].platform.as_deref(), Some("$BUILDPLATFORM"));
        assert_eq!((&*targets[0].base, targets[1].lines), ("scratch", Lines::single(4)));
        assert!(super::targets(&crate::dockerfile::parse("ARG a\n").0).is_err());
    }
}
