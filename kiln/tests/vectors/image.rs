//! What is compared of an image.

use kiln_oci::{Digest, rfc3339};
use serde_json::{Value, json};

use crate::archive::Archive;
use crate::base::base;
use crate::case::Object;
use crate::files::{Tree, Whiteouts, apply, list};
use crate::play::Result;

/// Reads an archive: the members of one image, or `platforms` with those of each.
pub fn observe(archive: &Archive, since: i64) -> Result<Object> {
    let mut manifests = archive.manifests()?;
    if manifests.len() == 1 {
        let (_, manifest) = manifests.remove(0);
        return observe_one(archive, &manifest, since);
    }
    let one = |(platform, manifest): (String, Value)| -> Result<(String, Value)> {
        let mut seen = observe_one(archive, &manifest, since)?;
        seen.remove("diff_ids");
        Ok((platform, seen.into()))
    };
    let platforms = manifests.into_iter().map(one).collect::<Result<Object>>()?;
    Ok(Object::from_iter([("platforms".to_owned(), platforms.into())]))
}

fn observe_one(archive: &Archive, manifest: &Value, since: i64) -> Result<Object> {
    let base = base();
    let config = archive.json(&manifest["config"])?;
    let empty = Vec::new();
    let layers = manifest["layers"].as_array().unwrap_or(&empty);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap_or(&empty);
    if layers.len() != diff_ids.len() {
        return Err(format!("{} layers but {} diff_ids", layers.len(), diff_ids.len()).into());
    }
    let on_base = diff_ids.starts_with(base.diff_ids());
    let inherited = if on_base { base.diff_ids().len() } else { 0 };
    let mut tree = if on_base { base.tree.clone() } else { Tree::new() };
    let mut names = Vec::new();
    for (layer, diff_id) in layers.iter().zip(diff_ids).skip(inherited) {
        let plain = archive.layer(layer)?;
        if *diff_id != Digest::of(&plain).to_string() {
            return Err(format!("layer {} does not match its diff_id", layer["digest"]).into());
        }
        names.push(apply(&mut tree, &plain, Whiteouts::Meant)?);
    }
    let bottom = Tree::new();
    let mut seen = Object::new();
    seen.insert("tree".into(), list(&tree, if on_base { &base.tree } else { &bottom }, since));
    seen.insert("image".into(), members(&config, since).into());
    seen.insert("config".into(), config.get("config").filter(|config| !config.is_null()).cloned().unwrap_or(json!({})));
    seen.insert("history".into(), history(&config, layers.len(), on_base, since)?);
    seen.insert("layers".into(), names.into());
    seen.insert("diff_ids".into(), diff_ids[inherited..].to_vec().into());
    Ok(seen)
}

fn members(config: &Value, since: i64) -> Object {
    let keys = ["architecture", "os", "variant", "os.version", "author"];
    let mut members = pick(config, &keys);
    if let Some(created) = config["created"].as_str().filter(|created| !is_now(created, since)) {
        members.insert("created".into(), created.into());
    }
    members
}

fn history(config: &Value, layers: usize, on_base: bool, since: i64) -> Result<Value> {
    let keys = ["created_by", "comment", "empty_layer", "author", "created"];
    let entries = |config: &Value| -> Vec<Object> {
        config["history"].as_array().into_iter().flatten().map(|entry| pick(entry, &keys)).collect()
    };
    let mut history = entries(config);
    let full = history.iter().filter(|entry| !entry.contains_key("empty_layer")).count();
    if full != layers {
        return Err(format!("{layers} layers but {full} non-empty history entries").into());
    }
    let inherited = entries(&base().config);
    if on_base && history.starts_with(&inherited) {
        history.drain(..inherited.len());
    }
    for entry in &mut history {
        if entry.get("created").and_then(Value::as_str).is_some_and(|created| is_now(created, since)) {
            entry.remove("created");
        }
    }
    Ok(json!(history))
}

/// The members of an object that say something.
fn pick(object: &Value, keys: &[&str]) -> Object {
    let says = |value: &&Value| !matches!(value, Value::Null | Value::Bool(false)) && **value != json!("");
    keys.iter().filter_map(|key| Some(((*key).to_owned(), object.get(*key).filter(says)?.clone()))).collect()
}

fn is_now(created: &str, since: i64) -> bool {
    // Texts of one form and zone compare as times do.
    created >= rfc3339(since, 0).trim_end_matches('Z')
}
