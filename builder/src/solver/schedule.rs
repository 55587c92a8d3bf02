//! Which vertices can be worked on, and who waits for which.

use std::collections::{BTreeMap, BTreeSet};

use kiln_frontend::graph::{Graph, VertexId};

use super::Solved;

/// Which vertices can be worked on.
pub(super) struct Schedule {
    /// Now.
    pub(super) ready: Vec<VertexId>,
    /// Once so many others are solved.
    waiting: BTreeMap<VertexId, usize>,
    /// Who waits for which.
    users: BTreeMap<VertexId, Vec<VertexId>>,
    /// Those whose result somebody needs.
    pub(super) wanted: BTreeSet<VertexId>,
    pub(super) solved: BTreeMap<VertexId, Solved>,
}

impl Schedule {
    pub(super) fn new(graph: &Graph, needed: &BTreeSet<VertexId>, wanted: BTreeSet<VertexId>) -> Self {
        let (users, waiting) = (BTreeMap::<VertexId, Vec<VertexId>>::new(), BTreeMap::new());
        let mut schedule = Self { ready: Vec::new(), waiting, users, wanted, solved: BTreeMap::new() };
        for id in needed {
            let inputs: BTreeSet<VertexId> =
                graph.vertex(*id).inputs.iter().flatten().map(|edge| edge.vertex).collect();
            for input in &inputs {
                schedule.users.entry(*input).or_default().push(*id);
            }
            if inputs.is_empty() {
                schedule.ready.push(*id);
            } else {
                schedule.waiting.insert(*id, inputs.len());
            }
        }
        schedule.ready.reverse();
        schedule
    }

    /// Keeps what a vertex came to, and lets those go on who waited for it.
    pub(super) fn solve(&mut self, id: VertexId, solved: Solved) {
        self.solved.insert(id, solved);
        for user in self.users.remove(&id).unwrap_or_default() {
            if let Some(left) = self.waiting.get_mut(&user) {
                *left -= 1;
                if *left == 0 {
                    self.ready.push(user);
                }
            }
        }
    }

    /// Has `id` wait until `inputs`, which were solved without results, have them.
    pub(super) fn want(&mut self, id: VertexId, inputs: Vec<VertexId>) {
        let mut left = 0;
        for input in inputs {
            // Somebody else may have wanted it meanwhile, and got it.
            if self.solved.get(&input).is_some_and(|solved| !solved.is_absent()) {
                continue;
            }
            left += 1;
            self.users.entry(input).or_default().push(id);
            if self.wanted.insert(input) {
                self.ready.push(input);
            }
        }
        if left == 0 {
            self.ready.push(id);
        } else {
            self.waiting.insert(id, left);
        }
    }
}
