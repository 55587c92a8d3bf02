//! The sandbox from outside: real namespaces, as root, with a static busybox as the image.

mod bed;
mod end;
mod hostile;
mod inside;
mod layers;
mod limits;
mod mounts;
mod network;
