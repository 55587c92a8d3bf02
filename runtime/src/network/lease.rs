//! What private networks share: the subnets in use, and whether the host forwards packets because of us.
//!
//! ```text
//! /run/kiln/network-<namespace>/    of the host's network namespace, by its number
//!   lock                            held while anything here changes
//!   10.143.0.0                      a subnet in use; the user holds a lock on it
//!   forwarding                      what `net.ipv4.ip_forward` was before us; there only if we changed it
//!   forwarding-ipv6                 the same of `net.ipv6.conf.all.forwarding`
//! ```
//!
//! Who dies loses the lock: the next one removes the file, and puts forwarding back when nobody is left.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::address::{Family, Subnet};
use super::link::Route;

const STATE: &str = "/run/kiln";

impl Family {
    /// What lets the host forward its packets.
    fn switch(self) -> &'static str {
        match self {
            Self::Ipv4 => "/proc/sys/net/ipv4/ip_forward",
            Self::Ipv6 => "/proc/sys/net/ipv6/conf/all/forwarding",
        }
    }

    /// The file with what that was before us.
    fn saved(self) -> &'static str {
        match self {
            Self::Ipv4 => "forwarding",
            Self::Ipv6 => "forwarding-ipv6",
        }
    }

    /// Says whether the host forwards its packets; an error where there are none of this kind.
    pub fn is_forwarded(self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.switch())?.trim() != "0")
    }
}

/// A subnet that is ours until dropped.
pub struct Lease {
    directory: PathBuf,
    path: PathBuf,
    /// Locked.
    _file: File,
    /// The subnet.
    pub subnet: Subnet,
}

impl Lease {
    /// Takes a subnet that overlaps with none of `routes`.
    pub fn take(routes: &[Route<Ipv4Addr>]) -> io::Result<Self> {
        let directory = directory()?;
        DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
        let _guard = lock(&directory)?;
        let taken = live(&directory)?;
        if taken.is_empty() {
            restore(&directory)?;
        }
        let subnet = Subnet::free(&taken, routes)?;
        let path = directory.join(subnet.first().to_string());
        let file = File::create(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { directory, path, _file: file, subnet })
    }

    /// Has the host forward packets while anybody has a lease. Returns whether it does so only because of us.
    pub fn forward(&self, family: Family) -> io::Result<bool> {
        let _guard = lock(&self.directory)?;
        let saved = self.directory.join(family.saved());
        if !family.is_forwarded()? {
            // First what it was: who dies in between has changed nothing.
            fs::write(&saved, "0\n")?;
            fs::write(family.switch(), "1")?;
        }
        Ok(saved.exists())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let released = lock(&self.directory).and_then(|_guard| {
            fs::remove_file(&self.path)?;
            if live(&self.directory)?.is_empty() { restore(&self.directory) } else { Ok(()) }
        });
        if let Err(error) = released {
            tracing::debug!(%error, "the next build puts forwarding back");
        }
    }
}

/// Puts forwarding back where a killed process left it on.
pub fn sweep() -> io::Result<()> {
    let directory = directory()?;
    if ![Family::Ipv4, Family::Ipv6].iter().any(|family| directory.join(family.saved()).exists()) {
        return Ok(());
    }
    let _guard = lock(&directory)?;
    if live(&directory)?.is_empty() { restore(&directory) } else { Ok(()) }
}

fn directory() -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/self/ns/net")?.ino();
    Ok(Path::new(STATE).join(format!("network-{namespace}")))
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::create(directory.join("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Returns the subnets in use, and removes the files of those who are gone.
fn live(directory: &Path) -> io::Result<Vec<Subnet>> {
    let mut live = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(subnet) = entry.file_name().to_str().and_then(Subnet::parse) else { continue };
        match flock(&File::open(entry.path())?, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => fs::remove_file(entry.path())?,
            Err(_) => live.push(subnet),
        }
    }
    Ok(live)
}

fn restore(directory: &Path) -> io::Result<()> {
    for family in [Family::Ipv4, Family::Ipv6] {
        let saved = directory.join(family.saved());
        match fs::read(&saved) {
            Ok(value) => {
                fs::write(family.switch(), value)?;
                fs::remove_file(saved)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
