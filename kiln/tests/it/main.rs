//! The whole program, end to end, on real parts: base images from Debian packages, Debian's
//! docker-registry on loopback, real namespaces; results are read by skopeo, umoci, runc,
//! podman and tar.

mod attacks;
mod caches;
mod checks;
mod chroot;
mod commands;
mod contexts;
mod damage;
mod emulated;
mod exports;
mod fixture;
mod flags;
mod forbidden;
mod git;
mod go_between;
mod hostile;
mod incremental;
mod inline_cache;
mod inside;
mod interrupted;
mod language;
mod limits;
mod network;
mod owners;
mod platforms;
mod projects;
mod rights;
mod rungs;
mod sandbox;
mod secrets;
mod shell;
mod ssh;
mod variables;
mod web;
mod wrong;
