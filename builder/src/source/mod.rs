//! Where things come from: images, layouts, directories of the client.

pub mod image;
pub mod layout;
pub mod local;
