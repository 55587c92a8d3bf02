//! The test bed: everything that the tests of several crates share, and nothing that ships.
//!
//! A [`Bed`] is one test's own world: a state directory, a home, a folder to work in, and a
//! way to run the `kiln` program in them. [`DockerRegistry`] is a real registry on loopback
//! that already holds the base images of [`bases`]. What was built is looked at with other
//! people's readers: [`Image`] fetches with skopeo and reads layers with the `tar` crate,
//! [`Container`] unpacks with umoci and starts with runc.
//!
//! A test asks [`host`] for what it needs and says so when that is missing. Nothing here
//! outlives a test: processes are killed, mounts are undone, folders are removed.

mod bases;
mod bed;
mod busybox;
mod container;
pub mod context;
mod docker_registry;
pub mod git;
mod host;
mod http;
mod image;
mod layer;
mod leftovers;
pub mod registry;
mod server;
pub mod tls;
mod user;
mod wire;

pub use bases::{Bases, bases};
pub use bed::{Bed, Kiln, Outcome, Running};
pub use busybox::busybox;
pub use container::Container;
pub use docker_registry::{DockerRegistry, Login};
pub use host::{Host, Need, host};
pub use http::{free_port, get};
pub use image::{Image, Source};
pub use layer::{Entry, Kind, Layer, differences, flatten};
pub use leftovers::leftovers;
pub use server::Server;
pub use user::{Ordinary, etc};
pub use wire::{Manner, Request, Response};
