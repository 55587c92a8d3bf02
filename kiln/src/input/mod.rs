//! What the user hands in, checked and turned into what the engine takes: the build file, contexts, outputs, secrets,
//! ssh agents, and the values of flags.

pub mod build_arg;
pub mod build_file;
pub mod cache;
pub mod context;
pub mod origin;
pub mod output;
pub mod resources;
pub mod results;
pub mod secret;
pub mod ssh;
pub mod stdin;
pub mod value;
