//! Platforms: `os/arch/variant`, read, normalised, printed and matched as containerd does.
//!
//! ```text
//! specifier = os ["(" [version] ("+" feature)* ")"] ["/" arch ["/" variant]]
//! ```
//!
//! One component alone is an operating system or an architecture; the host gives the other.
//! Versions and features are percent-encoded where they hold anything else than letters,
//! digits, `_`, `.` and `-`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and a processor.
///
/// Read with [`str::parse`] a platform is as written; [`Platform::normalized`] gives the
/// form to compare and to print.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64`, `arm64`, …, as Go names them.
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// A Windows build.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows features.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlatformError(pub String);

impl Platform {
    /// Makes a platform from its two necessary parts.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.to_owned(), architecture: architecture.to_owned(), ..Self::default() }
    }

    /// Returns the platform this program runs on.
    pub fn host() -> Self {
        Self::new("linux", host_architecture())
    }

    /// Returns the form to compare and to print: lower case, one name per system and
    /// architecture, no variant that the architecture implies.
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normal_architecture(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Self { architecture, os: normal_os(&self.os), os_version: self.os_version.clone(), os_features, variant }
    }

    /// Prints the platform with the version and the features of its system:
    /// `windows(10.0.17763+win32k)/amd64`.
    pub fn format_all(&self) -> String {
        let mut text = self.os.clone();
        if !self.os_version.is_empty() || !self.os_features.is_empty() {
            text.push('(');
            encode(&self.os_version, &mut text);
            for feature in &self.os_features {
                text.push('+');
                encode(feature, &mut text);
            }
            text.push(')');
        }
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                text.push('/');
                text.push_str(part);
            }
        }
        text
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The pattern that error messages quote for the first component.
const SYSTEM_PATTERN: &str = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$";

/// The pattern that error messages quote for the other components.
const COMPONENT_PATTERN: &str = "^[A-Za-z0-9_.-]+$";

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text.contains('*') {
            return Err(PlatformError(format!("{text:?}: wildcards not yet supported: invalid argument")));
        }
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let Some((os, os_version, os_features)) = system(parts[0]) else {
            return Err(PlatformError(format!(
                "{:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match \
                 \"{SYSTEM_PATTERN}\": invalid argument",
                parts[0]
            )));
        };
        for part in &parts[1..] {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
                return Err(PlatformError(format!(
                    "{part:?} is an invalid component of {text:?}: platform specifier component must match \
                     \"{COMPONENT_PATTERN}\": invalid argument"
                )));
            }
        }
        let platform = Self { os: normal_os(os), os_version, os_features, ..Self::default() };
        match parts[..] {
            [only] => platform.complete(only),
            [_, architecture] => {
                let (architecture, variant) = written_architecture(architecture);
                Ok(Self { architecture, variant, ..platform })
            }
            [_, architecture, variant] => {
                let (architecture, mut variant) = normal_architecture(architecture, variant);
                if architecture == "arm64" && variant.is_empty() {
                    "v8".clone_into(&mut variant);
                }
                Ok(Self { architecture, variant, ..platform })
            }
            _ => Err(PlatformError(format!("{text:?}: cannot parse platform specifier: invalid argument"))),
        }
    }
}

impl Platform {
    /// Fills in what a single component leaves open.
    fn complete(mut self, only: &str) -> Result<Self, PlatformError> {
        if SYSTEMS.contains(&&*self.os) {
            host_architecture().clone_into(&mut self.architecture);
            return Ok(self);
        }
        let (architecture, variant) = written_architecture(only);
        if !ARCHITECTURES.contains(&&*architecture) {
            return Err(PlatformError(format!("{only:?}: unknown operating system or architecture: invalid argument")));
        }
        Ok(Self { os: "linux".to_owned(), architecture, variant, ..self })
    }
}

/// The operating systems that may stand alone.
const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// The architectures that may stand alone.
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Splits `os(version+feature…)`.
fn system(text: &str) -> Option<(&str, String, Vec<String>)> {
    let (os, options) = match text.split_once('(') {
        Some((os, rest)) => (os, Some(rest.strip_suffix(')')?)),
        None => (text, None),
    };
    if os.is_empty() || !os.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
        return None;
    }
    let mut parts = options.unwrap_or_default().split('+');
    let version = decode(parts.next().unwrap_or_default())?;
    let mut features = Vec::new();
    for part in parts {
        features.push(decode(part).filter(|feature| !feature.is_empty())?);
    }
    Some((os, version, features))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            _ if byte.is_ascii_alphanumeric() || b"_.-".contains(&byte) => byte,
            _ => return None,
        });
    }
    String::from_utf8(bytes).ok()
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase() {
        os if os == "macos" => "darwin".to_owned(),
        os => os,
    }
}

/// Reads an architecture that has no variant of its own: `arm` stays without `v7`, which is
/// what an index entry would call it.
fn written_architecture(text: &str) -> (String, String) {
    match normal_architecture(text, "") {
        (architecture, variant) if architecture == "arm" && variant == "v7" => (architecture, String::new()),
        other => other,
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (&*architecture, &*variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Which platforms can stand in for a wanted one, and which of them is best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformMatcher {
    /// Normalised, best first.
    accepted: Vec<Platform>,
}

impl PlatformMatcher {
    /// Accepts `want` and everything that the same machine also runs: lesser variants, and
    /// the 32-bit architecture beside a 64-bit one.
    pub fn only(want: &Platform) -> Self {
        Self { accepted: runnable(want.normalized()) }
    }

    /// Accepts `want` and nothing else.
    pub fn strict(want: &Platform) -> Self {
        Self { accepted: vec![want.normalized()] }
    }

    /// Returns how well `candidate` matches, 0 being best, or `None` when it does not.
    pub fn rank(&self, candidate: &Platform) -> Option<usize> {
        let candidate = candidate.normalized();
        self.accepted.iter().position(|want| satisfies(&candidate, want))
    }

    /// Returns the indexes of the candidates that match, best first; equals keep their order.
    pub fn match_order<'a>(&self, candidates: impl IntoIterator<Item = &'a Platform>) -> Vec<usize> {
        let ranked = candidates.into_iter().enumerate();
        let mut ranked: Vec<_> = ranked.filter_map(|(i, platform)| Some((self.rank(platform)?, i))).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, i)| i).collect()
    }
}

fn satisfies(candidate: &Platform, want: &Platform) -> bool {
    candidate.os == want.os
        && candidate.architecture == want.architecture
        && candidate.variant == want.variant
        && (want.os != "windows" || same_build(&candidate.os_version, &want.os_version))
        && candidate.os_features.iter().all(|feature| want.os_features.contains(feature))
}

/// Whether two Windows versions are of one build: `10.0.17763.1` and `10.0.17763.973` are. A
/// version that is not given fits all.
fn same_build(one: &str, two: &str) -> bool {
    one.is_empty() || two.is_empty() || one.split('.').take(3).eq(two.split('.').take(3))
}

fn runnable(want: Platform) -> Vec<Platform> {
    let mut accepted = Vec::new();
    let mut add = |architecture: &str, variant: String| {
        let platform = Platform { architecture: architecture.to_owned(), variant, ..want.clone() };
        accepted.push(platform.normalized());
    };
    match &*want.architecture {
        "amd64" => {
            add("amd64", want.variant.clone());
            for n in (1..number(&want.variant).unwrap_or(1)).rev() {
                add("amd64", format!("v{n}"));
            }
            add("386", String::new());
        }
        "arm" => {
            add("arm", want.variant.clone());
            for n in (5..number(&want.variant).unwrap_or(5)).rev() {
                add("arm", format!("v{n}"));
            }
        }
        "arm64" => {
            // Armv9.x contains Armv8.(x+5).
            match arm_version(&want.variant) {
                Some((9, minor)) => {
                    (0..=minor).rev().for_each(|n| add("arm64", format!("v9.{n}")));
                    (0..=minor + 5).rev().for_each(|n| add("arm64", format!("v8.{n}")));
                }
                Some((_, minor)) => (0..=minor).rev().for_each(|n| add("arm64", format!("v8.{n}"))),
                None => add("arm64", want.variant.clone()),
            }
            (5..=8).rev().for_each(|n| add("arm", format!("v{n}")));
        }
        _ => add(&want.architecture, want.variant.clone()),
    }
    accepted
}

/// Reads `v3`. Larger numbers than any processor has are not versions.
fn number(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok().filter(|n| *n < 100)
}

fn arm_version(variant: &str) -> Option<(u32, u32)> {
    let text = if variant.is_empty() { "v8" } else { variant };
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let minor = minor.parse().ok().filter(|n| *n < 100)?;
    number(major).filter(|major| matches!(major, 8 | 9)).map(|major| (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_form_reads_back() {
        for text in ["windows(10.0.17763+win32k)/amd64", "linux/arm/v7", "linux/arm64", "plan9(a%2Fb)/386"] {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.normalized().format_all(), text);
        }
    }

    #[test]
    fn a_newer_arm_runs_what_the_older_ones_run() {
        let order = PlatformMatcher::only(&"linux/arm64/v9.1".parse().unwrap());
        let rank = |text: &str| order.rank(&text.parse().unwrap());
        assert!(rank("linux/arm64/v9.1") < rank("linux/arm64/v9"));
        assert!(rank("linux/arm64/v9") < rank("linux/arm64/v8.6"));
        assert_eq!(rank("linux/arm64/v8.7"), None);
    }

    #[test]
    fn windows_builds_match_by_their_first_three_numbers() {
        let order = PlatformMatcher::only(&"windows(10.0.17763.1)/amd64".parse().unwrap());
        assert_eq!(order.rank(&"windows(10.0.17763.973)/amd64".parse().unwrap()), Some(0));
        assert_eq!(order.rank(&"windows(10.0.20348.1)/amd64".parse().unwrap()), None);
    }

    #[test]
    fn a_huge_variant_is_only_a_name() {
        let order = PlatformMatcher::only(&"linux/arm64/v8.4294967295".parse().unwrap());
        assert_eq!(order.rank(&"linux/arm64/v8.4294967295".parse().unwrap()), Some(0));
    }
}
