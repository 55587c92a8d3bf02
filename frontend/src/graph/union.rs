//! Several graphs as one: what is the same in two of them is done once.

use std::collections::HashMap;

use kiln_oci::Digest;

use super::{Edge, Graph, LocalSource, Op, Source, Vertex, VertexId, op_digest};

/// Several graphs, put into one.
#[derive(Debug, Default)]
pub struct Union {
    graph: Graph,
    /// Vertices by what they do and to what.
    known: HashMap<(Digest, Vec<Option<Edge>>), VertexId>,
    /// The directories of the client: of each there is one, with every path that a graph uses.
    locals: HashMap<String, VertexId>,
}

impl Union {
    /// Adds a graph; returns which vertex of the union each of its own is now. Of equal ones the
    /// first keeps its name.
    pub fn add(&mut self, graph: Graph) -> Vec<VertexId> {
        let mut places: Vec<VertexId> = Vec::with_capacity(graph.vertices.len());
        for mut vertex in graph.vertices {
            for edge in vertex.inputs.iter_mut().flatten() {
                edge.vertex = places[edge.vertex.0 as usize];
            }
            places.push(self.place(vertex));
        }
        places
    }

    /// Returns the graph.
    pub fn into_graph(self) -> Graph {
        self.graph
    }

    fn place(&mut self, vertex: Vertex) -> VertexId {
        if let Op::Source(Source::Local(local)) = &vertex.op {
            if let Some(id) = self.locals.get(&local.name) {
                if let Op::Source(Source::Local(known)) = &mut self.graph.vertices[id.0 as usize].op {
                    widen(known, local);
                }
                return *id;
            }
            let name = local.name.clone();
            let id = self.graph.push(vertex).vertex;
            self.locals.insert(name, id);
            return id;
        }
        let key = (op_digest(&vertex), vertex.inputs.clone());
        if let Some(id) = self.known.get(&key) {
            self.graph.vertices[id.0 as usize].ignore_cache |= vertex.ignore_cache;
            return *id;
        }
        let id = self.graph.push(vertex).vertex;
        self.known.insert(key, id);
        id
    }
}

/// Adds the paths that `other` uses. No paths stand for all of them.
fn widen(known: &mut LocalSource, other: &LocalSource) {
    if known.follow_paths.is_empty() || other.follow_paths.is_empty() {
        known.follow_paths.clear();
        return;
    }
    known.follow_paths.extend(other.follow_paths.iter().cloned());
    known.follow_paths.sort();
    known.follow_paths.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(op: Op, inputs: Vec<Option<Edge>>, name: &str) -> Vertex {
        Vertex { op, inputs, platform: None, name: name.to_owned(), stage: None, location: None, ignore_cache: false }
    }

    fn local(paths: &[&str]) -> Op {
        let follow_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Op::Source(Source::Local(LocalSource { name: "context".to_owned(), follow_paths }))
    }

    fn http(url: &str) -> Op {
        Op::Source(Source::Http { url: url.to_owned(), filename: "f".to_owned(), checksum: None })
    }

    #[test]
    fn what_is_equal_is_there_once() {
        let graph = |url: &str, path: &str| {
            let mut graph = Graph::default();
            let shared = graph.push(vertex(http("http://a"), vec![], "shared"));
            let own = graph.push(vertex(http(url), vec![], "own"));
            let context = graph.push(vertex(local(&[path]), vec![], "context"));
            graph.push(vertex(Op::Merge, vec![Some(shared), Some(own), Some(context)], "merge"));
            graph
        };
        let mut union = Union::default();
        let first = union.add(graph("http://b", "x"));
        let second = union.add(graph("http://c", "y"));
        let third = union.add(graph("http://b", "x"));
        assert_eq!((first[0], first[2]), (second[0], second[2]));
        assert!(first[1] != second[1] && first[3] != second[3]);
        assert_eq!(first, third);
        let graph = union.into_graph();
        assert_eq!(graph.vertices.len(), 6);
        assert_eq!(graph.vertex(first[2]).op, local(&["x", "y"]));
        let merge = graph.vertex(second[3]);
        let inputs: Vec<_> = merge.inputs.iter().flatten().map(|edge| edge.vertex).collect();
        assert_eq!(inputs, &second[..3]);
    }

    #[test]
    fn a_directory_that_is_wanted_whole_stays_whole() {
        let mut union = Union::default();
        for paths in [&["x"][..], &[], &["y"]] {
            let mut graph = Graph::default();
            graph.push(vertex(local(paths), vec![], "context"));
            union.add(graph);
        }
        assert_eq!(union.into_graph().vertices[0].op, local(&[]));
    }
}
