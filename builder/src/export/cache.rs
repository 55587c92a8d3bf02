//! What an image's cache says: of every step that the image needed, the keys, and of those whose
//! layers are in the image, which they are (spec: remote-cache.md §2.3, §3, mode `min`).
//!
//! It is made of the graph of this build, in which also those steps are that nothing was done for. So
//! a build that found everything in a cache says all that this cache said.

use kiln_cache::Store;
use kiln_cache::remote::{CacheResult, Entry, ResultLayers};
use kiln_frontend::graph::{Graph, Op};
use kiln_frontend::lower::Plan;
use kiln_oci::Digest;

use crate::solver::{Solution, Value};

/// Returns what there is to say about the image of a plan.
pub fn entries(store: &Store, graph: &Graph, plan: &Plan, solution: &Solution) -> Vec<Entry> {
    let image = solution.chain(plan.root);
    let mut entries = Vec::new();
    for id in graph.needed(plan.root) {
        let vertex = graph.vertex(id);
        let (Op::Exec(_) | Op::File(_), Some(solved)) = (&vertex.op, solution.solved.get(&id)) else { continue };
        let chain = match &solved.value {
            Value::Chain(chain) => Some(&chain[..]),
            Value::Absent => None,
            Value::Local(_) => continue,
        };
        let is_of_result = |outputs: &[Vec<Digest>]| chain.is_none_or(|chain| outputs.iter().eq([chain]));
        let records = store.results(&solved.class);
        let records = records.iter().filter(|record| is_of_result(&record.outputs));
        let mut contents: Vec<Digest> = records.flat_map(|record| record.contents.iter().copied()).collect();
        contents.sort();
        contents.dedup();
        let layers = chain.and_then(|chain| place(chain, &image));
        entries.push(Entry {
            class: solved.class,
            definitions: solution.definition(vertex).into_iter().collect(),
            contents,
            // The image's history says when.
            result: layers.map(|layers| CacheResult { layers, created: None }),
        });
    }
    entries
}

/// Finds the layers of a result among those of the image, by position: two of them may be the same.
fn place(chain: &[Digest], image: &[Digest]) -> Option<ResultLayers> {
    let top = chain.len().checked_sub(1)?;
    if image.starts_with(chain) {
        return Some(ResultLayers::Top(top));
    }
    let positions = chain.iter().map(|diff_id| image.iter().position(|layer| layer == diff_id));
    positions.collect::<Option<Vec<_>>>().map(ResultLayers::Chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_in_the_image() {
        let [a, b, c] = ["a", "b", "c"].map(Digest::of);
        let image = [a, b, b, c];
        assert_eq!(place(&[a, b, b], &image), Some(ResultLayers::Top(2)));
        assert_eq!(place(&[a, b], &image), Some(ResultLayers::Top(1)));
        assert_eq!(place(&[b, c], &image), Some(ResultLayers::Chain(vec![1, 3])));
        assert_eq!(place(&[a, Digest::of("d")], &image), None);
        assert_eq!(place(&[], &image), None);
    }
}
