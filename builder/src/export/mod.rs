//! What is made of a result: an image in the store or a registry, archives, files.

pub mod archive;
pub mod cache;
pub mod files;
pub mod history;
pub mod image;
pub mod output;
pub mod push;
