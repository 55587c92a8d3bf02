//! Chain ids: the identity of a stack of layers.

use crate::Digest;

/// Returns the ChainID of a stack of layers, lowest first (OCI image spec, config.md,
/// "Layer ChainID"); `None` for an empty stack.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(*first, |below, layer| Digest::of(format!("{below} {layer}"))))
}
