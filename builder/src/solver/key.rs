//! Cache keys (spec: cache-keys.md §2.1): one from how the inputs were made, one from what
//! is in them.

use kiln_oci::{Digest, Hasher};

/// Returns the definition key of a step: its op and the classes of all inputs.
pub fn definition(op: &Digest, classes: &[Digest]) -> Digest {
    let mut hasher = Hasher::domain("kiln.def.v1");
    hasher.digest(op).number(classes.len() as u64);
    for class in classes {
        hasher.digest(class);
    }
    hasher.finish()
}

/// Returns the content key of a step: its op, the class of its base, and what it takes from
/// each of its other inputs, in order.
pub fn content(op: &Digest, base: &Digest, prints: &[Digest]) -> Digest {
    let mut hasher = Hasher::domain("kiln.con.v1");
    hasher.digest(op).digest(base).number(prints.len() as u64);
    for print in prints {
        hasher.digest(print);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_kind_matter() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        assert_ne!(definition(&a, &[a, b]), definition(&a, &[b, a]));
        assert_ne!(definition(&a, &[a, b]), content(&a, &a, &[b]));
        assert_ne!(content(&a, &a, &[]), content(&a, &a, &[b]));
    }
}
