//! Debian's docker-registry on a loopback port, with storage of its own.
//!
//! A registry that holds the base images gets a copy of the prepared storage in which the
//! blobs are hard links (blobs are only ever added) and the small files, which the registry
//! rewrites in place, are copies. So every test has a registry of its own within
//! milliseconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{free_port, get};

/// The one user of a registry that demands a login.
#[derive(Debug, Clone, Copy)]
pub struct Login;

impl Login {
    /// The name.
    pub const USER: &str = "tester";
    /// The password.
    pub const PASSWORD: &str = "correct horse";
    // bcrypt of the password with the least cost: the registry reads nothing weaker.
    const LINE: &str = "tester:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";
}

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl DockerRegistry {
    /// Starts a registry with nothing in it.
    ///
    /// # Panics
    /// When it does not answer within half a minute.
    pub fn empty() -> Self {
        Self::start(None, false)
    }

    /// Starts a registry that holds the base images.
    ///
    /// # Panics
    /// When it does not answer within half a minute, or the images cannot be made.
    pub fn with_bases() -> Self {
        Self::start(Some(&crate::bases().registry), false)
    }

    /// Starts a registry with the base images that asks everybody for [`Login`].
    ///
    /// # Panics
    /// As [`DockerRegistry::with_bases`].
    pub fn behind_login() -> Self {
        Self::start(Some(&crate::bases().registry), true)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Returns the file that holds the blob `digest` (`sha256:…`), for a test that spoils it.
    /// Its content is shared with other tests, so replace the file, never write into it.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    fn start(seed: Option<&Path>, login: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the registry");
        let data = folder.path().join("data");
        match seed {
            Some(seed) => clone(seed, &data).expect("a copy of the registry with the base images"),
            None => fs::create_dir(&data).expect("a folder for the registry's data"),
        }
        let mut auth = String::new();
        if login {
            let users = folder.path().join("htpasswd");
            fs::write(&users, Login::LINE).expect("the registry's users");
            auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", users.display());
        }
        // Somebody else may take the port between our look and the registry's bind: try again.
        for _ in 0..5 {
            let port = free_port();
            let config = folder.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"127.0.0.1:{port}\"}}\n{auth}",
                data.display()
            );
            fs::write(&config, text).expect("the registry's configuration");
            let log = fs::File::create(folder.path().join("log")).expect("the registry's log");
            // setpriv: the registry ends even when the test is killed.
            let mut process = Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("setpriv and docker-registry");
            if answers(&mut process, port) {
                return Self { process, folder, port };
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("the registry did not start:\n{log}");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn answers(process: &mut Child, port: u16) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        // 401 is an answer as well: the registry wants a login.
        if get(&format!("127.0.0.1:{port}"), "/v2/").is_ok_and(|(status, _)| status == 200 || status == 401) {
            return matches!(process.try_wait(), Ok(None));
        }
        if !matches!(process.try_wait(), Ok(None)) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn clone(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            clone(&entry.path(), &target)?;
        } else if entry.file_name() != "data" || fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, host};

    #[test]
    fn two_registries_stand_side_by_side_and_end() {
        if host().lacks(&[Need::Tool("docker-registry"), Need::Tool("setpriv")]) {
            return;
        }
        let (one, other) = (DockerRegistry::empty(), DockerRegistry::empty());
        assert_ne!(one.address(), other.address());
        let address = one.address();
        drop(one);
        assert!(get(&address, "/v2/").is_err());
        assert_eq!(get(&other.address(), "/v2/_catalog").expect("an answer").1.trim(), r#"{"repositories":[]}"#);
    }
}
