//! Where things come from: images, layouts, directories of the client, web servers, git.

pub mod context;
pub mod follow;
pub mod git;
pub mod http;
pub mod image;
pub mod layout;
pub mod local;
pub mod remote;
mod walk;
