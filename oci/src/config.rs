//! The image config: what to run, and how the layers came about.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::manifest::null_is_empty;
use crate::{Digest, Platform};

/// The config of one image (OCI image spec, config.md, with Docker's additions).
///
/// Members that kiln does not know are kept in `other` and written back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What it runs on; the five platform members stand at the top level.
    #[serde(flatten)]
    pub platform: Platform,
    /// What to run.
    #[serde(default)]
    pub config: RunConfig,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry for each instruction.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What a container of the image runs, and with what. Members are left out when empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `uid`, `uid:gid`, or names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`, …
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The program, with its fixed arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The arguments that a user may replace.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Paths that get storage of their own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Value>,
    /// Where the program starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// What ends the program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// A Windows relic that other builders set after every CMD.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// How to see that it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions to run in builds on top of this image.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub on_build: Vec<String>,
    /// The shell of shell forms, when not the default.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub shell: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A health check. Durations are nanoseconds; zero means the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Before failures count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The layers of an image, lowest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// The digests of the uncompressed layers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// What one instruction did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// With what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

fn layers() -> String {
    "layers".to_owned()
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_members_survive() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"MemorySwap":3},"rootfs":{"type":"layers","diff_ids":null},"x.y":{"a":1}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.platform.to_string(), "linux/amd64");
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["x.y"]["a"], 1);
        assert_eq!(written["config"]["MemorySwap"], 3);
        assert_eq!(written["rootfs"]["diff_ids"], serde_json::json!([]));
        assert!(written["config"].get("Env").is_none());
    }
}
