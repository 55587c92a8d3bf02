//! A container of an image, started by runc from a bundle that umoci unpacked.
//!
//! It shares the machine's network, so that a test can ask a server in it; the port is
//! given to it in the variable `PORT`.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Image, free_port, get, host};

/// A prepared or running container; it ends with this value.
#[derive(Debug)]
pub struct Container {
    folder: tempfile::TempDir,
    name: String,
    port: u16,
    process: Option<Child>,
}

impl Container {
    /// Unpacks an image.
    ///
    /// # Panics
    /// When umoci cannot.
    #[track_caller]
    pub fn of(image: &Image) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        image.unpack(&folder.path().join("bundle"));
        let name = format!(
            "kiln-test-{}-{}",
            std::process::id(),
            folder.path().file_name().map_or_else(String::new, |name| {
                name.to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect()
            })
        );
        let container = Self { folder, name, port: free_port(), process: None };
        container.adapt();
        container
    }

    /// Where the image's files are.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.path().join("bundle/rootfs")
    }

    /// Replaces the command of the image.
    ///
    /// # Panics
    /// When the bundle is broken.
    #[must_use]
    pub fn command(self, words: &[&str]) -> Self {
        self.edit(|config| config["process"]["args"] = json!(words));
        self
    }

    /// Runs the command to its end and returns its stdout.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn output(&mut self) -> String {
        let output = self.runc(&["run", "--bundle"]).arg(self.bundle()).arg(&self.name).output().expect("runc");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the container ended with {}: {said}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts the command, waits until it serves HTTP, and returns its answer to `path`.
    ///
    /// # Panics
    /// When it does not answer within half a minute.
    #[track_caller]
    pub fn answer(&mut self, path: &str) -> String {
        let log = self.folder.path().join("log");
        if self.process.is_none() {
            let file = fs::File::create(&log).expect("a log");
            let mut command = self.runc(&["run", "--bundle"]);
            command.arg(self.bundle()).arg(&self.name);
            command.stdout(file.try_clone().expect("a file")).stderr(file);
            self.process = Some(command.spawn().expect("runc"));
        }
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok((200, body)) = get(&format!("127.0.0.1:{}", self.port), path) {
                return body;
            }
            let ended = self.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || Instant::now() > end {
                panic!("no answer to {path}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn runc(&self, words: &[&str]) -> Command {
        let mut command = Command::new(host().tool("runc").unwrap_or_else(|| "runc".into()));
        command.arg("--root").arg(self.folder.path().join("runc")).args(words).stdin(Stdio::null());
        command
    }

    /// No terminal, the machine's network, and the port.
    fn adapt(&self) {
        let port = self.port;
        self.edit(|config| {
            config["process"]["terminal"] = json!(false);
            if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
                namespaces.retain(|namespace| namespace["type"] != "network");
            }
            if let Some(variables) = config["process"]["env"].as_array_mut() {
                variables.retain(|variable| !variable.as_str().is_some_and(|text| text.starts_with("PORT=")));
                variables.push(json!(format!("PORT={port}")));
            }
        });
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("umoci wrote it")).expect("it is JSON");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("a file");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = self.runc(&["delete", "--force", &self.name]).output();
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DockerRegistry, Need, Source, flatten};

    #[test]
    fn a_base_is_fetched_read_and_run() {
        let tools = ["docker-registry", "setpriv", "skopeo", "umoci", "runc", "mmdebstrap"].map(Need::Tool);
        if host().lacks(&[&[Need::Root], &tools[..]].concat()) {
            return;
        }
        let registry = DockerRegistry::with_bases();
        let image = Image::fetch(&Source::Registry(registry.name("busybox:latest")));
        assert!(flatten(&image.layers()).contains_key("bin/busybox"));
        let mut echo = Container::of(&image).command(&["/bin/sh", "-c", "echo $PORT from $(id -u)"]);
        assert_eq!(echo.output(), format!("{} from 0\n", echo.port));
        let mut server = Container::of(&image).command(&[
            "/bin/sh",
            "-c",
            "mkdir /www && echo page > /www/index.html && exec httpd -f -p $PORT -h /www",
        ]);
        assert_eq!(server.answer("/"), "page\n");
        let port = server.port;
        drop(server);
        assert!(get(&format!("127.0.0.1:{port}"), "/").is_err(), "the server is still there");
    }
}
