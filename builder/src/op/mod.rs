//! What the vertices of a graph do: commands, and copies of files.

pub mod archive;
pub mod content;
pub mod copy;
pub mod exec;
pub mod file;
pub mod files;
pub mod layer_files;
pub mod missing;
pub mod overlay;
pub mod owner;
pub mod suspect;
pub mod wildcard;
