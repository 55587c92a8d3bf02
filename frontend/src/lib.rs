//! Dockerfile text to build graph. Pure: no file system, no network, no clock.
//!
//! ```text
//! text ── dockerfile::parse ──▶ File (instructions with spans) + diagnostics
//!                                 │ lower::lower (arguments, platform, facts)
//!                                 ▼
//!                               Lowered: a graph with image config, or what is still needed
//! ```

pub mod check;
pub mod dockerfile;
pub mod dockerignore;
pub mod graph;
pub mod lower;
