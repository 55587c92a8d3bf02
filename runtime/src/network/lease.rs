//! What private networks share: the subnets in use, and whether the host forwards packets because of us.
//!
//! ```text
//! /run/kiln/network-<namespace>/    of the host's network namespace, by its number
//!   lock                            held while anything here changes
//!   10.143.0.0                      a subnet in use; the user holds a lock on it
//!   forwarding                      what `net.ipv4.ip_forward` was before us; there only if we changed it
//! ```
//!
//! Who dies loses the lock: the next one removes the file, and puts forwarding back when nobody is left.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::address::Subnet;

const STATE: &str = "/run/kiln";
const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARDING: &str = "forwarding";

/// A subnet that is ours until dropped, on a host that forwards.
pub struct Lease {
    directory: PathBuf,
    path: PathBuf,
    /// Locked.
    _file: File,
    /// The subnet.
    pub subnet: Subnet,
    /// Whether the host forwards only because of us.
    pub guards_host: bool,
}

impl Lease {
    /// Takes a subnet that overlaps with none of `routes`, and switches forwarding on.
    pub fn take(routes: &[(Ipv4Addr, u8)]) -> io::Result<Self> {
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
        let mut lease = Self { directory, path, _file: file, subnet, guards_host: false };
        lease.forward()?;
        Ok(lease)
    }

    fn forward(&mut self) -> io::Result<()> {
        let saved = self.directory.join(FORWARDING);
        let value = fs::read_to_string(SWITCH)?;
        if value.trim() == "0" {
            // First what it was: who dies in between has changed nothing.
            fs::write(&saved, value)?;
            fs::write(SWITCH, "1")?;
        }
        self.guards_host = saved.exists();
        Ok(())
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
    if !directory.join(FORWARDING).exists() {
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
    let saved = directory.join(FORWARDING);
    match fs::read(&saved) {
        Ok(value) => {
            fs::write(SWITCH, value)?;
            fs::remove_file(saved)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
