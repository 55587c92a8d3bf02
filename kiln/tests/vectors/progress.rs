//! What the program said: steps, their output, and the error.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::Object;

/// Everything on stderr, sorted.
#[derive(Debug, Default)]
pub struct Progress {
    /// What is no progress, line by line.
    text: Vec<String>,
    vertices: BTreeMap<String, Object>,
    logs: Vec<Value>,
    /// In the order in which they were first heard of.
    order: Vec<String>,
}

impl Progress {
    /// Reads what a build with `--progress=rawjson` wrote.
    pub fn read(stderr: &str) -> Self {
        let mut progress = Self::default();
        for line in stderr.lines() {
            match serde_json::from_str::<Object>(line) {
                Ok(event) if event.keys().all(|key| ["vertexes", "statuses", "logs", "warnings"].contains(&&**key)) => {
                    progress.take(event);
                }
                _ => progress.text.push(line.to_owned()),
            }
        }
        progress
    }

    fn take(&mut self, mut event: Object) {
        for vertex in event.get("vertexes").and_then(Value::as_array).into_iter().flatten() {
            let digest = vertex["digest"].as_str().unwrap_or_default().to_owned();
            if !self.vertices.contains_key(&digest) {
                self.order.push(digest.clone());
            }
            self.vertices.entry(digest).or_default().extend(vertex.as_object().cloned().unwrap_or_default());
        }
        if let Some(Value::Array(logs)) = event.remove("logs") {
            self.logs.extend(logs);
        }
    }

    /// What is no progress.
    pub fn text(&self) -> String {
        self.text.join("\n")
    }

    /// `{step: cached | ran | error | skipped}`; the second of a name has ` #2` appended.
    pub fn steps(&self) -> Value {
        let mut states: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for vertex in self.order.iter().map(|digest| &self.vertices[digest]) {
            let has =
                |key: &str| vertex.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
            let state = match () {
                () if has("error") => "error",
                () if has("cached") => "cached",
                () if has("completed") => "ran",
                () => "skipped",
            };
            if let Some(name) = step_name(vertex) {
                states.entry(name).or_default().push(state);
            }
        }
        let mut steps = Object::new();
        for (name, mut states) in lone(states) {
            states.sort_unstable();
            for (index, state) in states.into_iter().enumerate() {
                let name = if index == 0 { name.clone() } else { format!("{name} #{}", index + 1) };
                steps.insert(name, state.into());
            }
        }
        steps.into()
    }

    /// `{step: {"1": standard output, "2": standard error}}`.
    pub fn logs(&self) -> Value {
        let mut logs: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
        for log in &self.logs {
            let vertex = log["vertex"].as_str().and_then(|digest| self.vertices.get(digest));
            if let Some(name) = vertex.and_then(step_name) {
                let stream = log["stream"].as_u64().unwrap_or(1).to_string();
                let data = base64(log["data"].as_str().unwrap_or_default());
                logs.entry(name).or_default().entry(stream).or_default().extend(data);
            }
        }
        let text = |streams: BTreeMap<String, Vec<u8>>| -> Object {
            streams.into_iter().map(|(stream, data)| (stream, String::from_utf8_lossy(&data).into())).collect()
        };
        lone(logs).into_iter().map(|(name, streams)| (name, text(streams).into())).collect::<Object>().into()
    }

    /// `{message, lines}`: what was said last, and the lines marked in the excerpt.
    pub fn error(&self) -> Value {
        let start = self.text.iter().position(|line| line.starts_with("ERROR: "));
        let mut message = match start {
            Some(start) => self.text[start..].join("\n").split_off("ERROR: ".len()),
            None => self.text[self.text.len().saturating_sub(5)..].join("\n"),
        };
        for prefix in ["failed to build: ", "failed to solve: "] {
            if let Some(rest) = message.strip_prefix(prefix) {
                message = rest.to_owned();
            }
        }
        let mut lines: Vec<u64> = self.text.iter().filter_map(|line| marked(line)).collect();
        lines.sort_unstable();
        lines.dedup();
        let mut error = json!({"message": message.trim()});
        if !lines.is_empty() {
            error["lines"] = lines.into();
        }
        error
    }
}

/// The number of a line like `   4 | >>> RUN false`.
fn marked(line: &str) -> Option<u64> {
    let (number, rest) = line.split_once(" |")?;
    rest.trim_start().starts_with(">>>").then(|| number.trim().parse().ok())?
}

/// The name of a step without its numbers; none for sources, merges of `--link` and the like.
fn step_name(vertex: &Object) -> Option<String> {
    let name = vertex.get("name")?.as_str()?.strip_prefix('[')?;
    for (end, _) in name.match_indices("] ") {
        let (place, text) = (&name[..end], &name[end + 2..]);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
        if number.split_once('/').is_some_and(|(step, steps)| digits(step) && digits(steps)) {
            let stage = if stage.is_empty() { String::new() } else { format!("[{}] ", stage.trim_end()) };
            let hidden = text.starts_with("FROM ") || text.starts_with("LINK ");
            return (!hidden).then(|| stage + text);
        }
    }
    None
}

/// Drops `[stage-0]` where it is the only stage: whether it shows depends on how the base is found.
fn lone<T>(steps: BTreeMap<String, T>) -> BTreeMap<String, T> {
    if !steps.keys().all(|name| name.starts_with("[stage-0] ")) {
        return steps;
    }
    steps.into_iter().map(|(name, value)| (name["[stage-0] ".len()..].to_owned(), value)).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
