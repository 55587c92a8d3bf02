//! Which stages a target needs, and whether they go round in circles.

use std::collections::BTreeSet;

use super::stages::{Stages, error};
use crate::dockerfile::{Diagnostic, Instruction};

/// That one stage takes files from another.
#[derive(Debug, Clone)]
pub(super) struct Dependency<'a> {
    /// The other.
    pub(super) stage: usize,
    /// The instruction that says so.
    pub(super) instruction: &'a Instruction,
}

/// Looks for stages that need themselves. Only COPY and mounts count: FROM names earlier stages.
pub(super) fn check_cycles(stages: &Stages<'_>, dependencies: &[Vec<Dependency<'_>>]) -> Result<(), Diagnostic> {
    let mut visited = vec![false; dependencies.len()];
    for start in 0..dependencies.len() {
        if let Some(cycle) = cycle_from(start, dependencies, &mut visited) {
            let message = format!("circular dependency detected on stage: {}", stages.list[start].display());
            let mut found = error("circular-dependency", message)
                .hint("a stage takes files from stages above it, and never from itself");
            for instruction in cycle {
                found = found.at(instruction.lines, instruction.span);
            }
            return Err(found);
        }
    }
    Ok(())
}

/// Walks from `start` without recursion: a file may have very many stages.
fn cycle_from<'a>(
    start: usize,
    dependencies: &[Vec<Dependency<'a>>],
    visited: &mut [bool],
) -> Option<Vec<&'a Instruction>> {
    if std::mem::replace(&mut visited[start], true) {
        return None;
    }
    let mut on_path = BTreeSet::from([start]);
    // Each entry: a stage, and which of its dependencies comes next.
    let mut path = vec![(start, 0)];
    while let Some((stage, next)) = path.last_mut() {
        let Some(dependency) = dependencies[*stage].get(*next) else {
            on_path.remove(stage);
            path.pop();
            continue;
        };
        *next += 1;
        if on_path.contains(&dependency.stage) {
            return Some(path.iter().map(|&(stage, next)| dependencies[stage][next - 1].instruction).collect());
        }
        if !std::mem::replace(&mut visited[dependency.stage], true) {
            on_path.insert(dependency.stage);
            path.push((dependency.stage, 0));
        }
    }
    None
}

/// Returns the stages that the targets need, themselves included.
pub(super) fn reachable(targets: impl IntoIterator<Item = usize>, edges: &[Vec<usize>]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open: Vec<usize> = targets.into_iter().collect();
    while let Some(stage) = open.pop() {
        if found.insert(stage) {
            open.extend(&edges[stage]);
        }
    }
    found
}
