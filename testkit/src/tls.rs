//! Certificates of our own, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What servers on loopback are called.
const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// One who signs certificates, whom nobody knows yet.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder") };
        authority.make("ca", "/CN=kiln test authority", &["-x509"]);
        authority
    }

    /// Returns the file with the certificate that makes one trust it.
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Makes a certificate for a server on loopback, signed by this authority.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub fn server(&self) -> Arc<ServerConfig> {
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-x509", "-addext", "basicConstraints=critical,CA:FALSE"];
        self.make("server", "/CN=server", &[&signed[..], &["-addext", NAMES]].concat());
        self.config("server")
    }

    /// Makes a certificate for a server on loopback that nobody but itself has signed.
    ///
    /// # Panics
    /// When `openssl` fails.
    pub fn self_signed(&self) -> Arc<ServerConfig> {
        self.make("alone", "/CN=alone", &["-x509", "-addext", NAMES]);
        self.config("alone")
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make(&self, name: &str, subject: &str, arguments: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
        openssl.args(["-subj", subject, "-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
        let output = openssl.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn config(&self, name: &str) -> Arc<ServerConfig> {
        let certificate = CertificateDer::from_pem_file(self.path(format!("{name}.pem"))).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.path(format!("{name}.key"))).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS");
        Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they fit"))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
