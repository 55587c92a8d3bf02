//! The files of a stage, from the indexes of its layers.

use kiln_cache::tree::{Kind, Meta, Node, Tree};
use kiln_oci::Digest;

use super::files::{FileKind, FileMeta, FileNode, Inode, Origin};

/// Returns a file's metadata.
pub fn meta(node: &Node) -> FileMeta {
    let Meta { kind, mode, uid, gid, mtime, size, link, device, xattrs, content: _ } = &node.meta;
    FileMeta {
        kind: match kind {
            Kind::File => FileKind::Regular,
            Kind::Directory => FileKind::Directory,
            Kind::Symlink => FileKind::Symlink,
            Kind::Char => FileKind::Char,
            Kind::Block => FileKind::Block,
            Kind::Fifo => FileKind::Fifo,
        },
        mode: *mode,
        uid: *uid,
        gid: *gid,
        mtime: *mtime,
        size: *size,
        target: link.clone(),
        device: *device,
        xattrs: xattrs.clone(),
    }
}

/// Returns where a file's bytes are; `path` is where it stands in the tree.
pub fn origin(chain: &[Digest], node: &Node, path: &[u8]) -> Origin {
    match chain.get(node.layer) {
        Some(diff_id) if node.meta.kind == Kind::File => Origin::Layer(*diff_id, node.place(path).into()),
        _ => Origin::None,
    }
}

/// Returns all files of a stage as something to copy from.
pub fn files(chain: &[Digest], tree: &Tree) -> FileNode {
    let mut groups = std::collections::HashMap::new();
    convert(chain, tree.root(), &mut Vec::new(), &mut groups)
}

type Groups<'a> = std::collections::HashMap<(usize, &'a [u8]), Inode>;

fn convert<'a>(chain: &[Digest], node: &'a Node, path: &mut Vec<u8>, groups: &mut Groups<'a>) -> FileNode {
    let mut converted = FileNode::leaf(meta(node), origin(chain, node, path));
    converted.content = node.meta.content;
    if let Some(first) = &node.links {
        let next = (0, groups.len() as u64);
        converted.link_group = Some(*groups.entry((node.layer, first)).or_insert(next));
    }
    for (name, child) in &node.children {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        converted.children.insert(name.clone(), convert(chain, child, path, groups));
        path.truncate(length);
    }
    converted
}
