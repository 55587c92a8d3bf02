//! Definition digests.
