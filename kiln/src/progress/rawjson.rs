//! Progress for programs: one JSON object per line, in the shape of BuildKit's solve status, as `buildx
//! --progress=rawjson` prints it.
//!
//! ```text
//! {"vertexes":[{"digest":"sha256:…","name":"[2/3] RUN make","started":"…"}]}
//! {"logs":[{"vertex":"sha256:…","stream":1,"data":"bWFkZQo=","timestamp":"…"}]}
//! {"statuses":[{"id":"sha256:12ab","vertex":"sha256:…","total":34,"current":12,"timestamp":"…","started":"…"}]}
//! ```
//!
//! The digest of a vertex is only a name for it within this one stream.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kiln_builder::progress::{Event, EventKind, OutputStream};
use kiln_oci::Digest;
use serde_json::{Value, json};

use crate::base64::encode as base64;
use crate::units::rfc3339;

/// Turns events into JSON lines.
#[derive(Debug)]
pub struct RawJson {
    begun: SystemTime,
    vertices: BTreeMap<u32, Vertex>,
}

#[derive(Debug)]
struct Vertex {
    digest: Digest,
    name: String,
    started: String,
    transfers: BTreeMap<String, String>,
}

impl RawJson {
    /// Makes one for a build that began at `begun`.
    pub fn new(begun: SystemTime) -> Self {
        Self { begun, vertices: BTreeMap::new() }
    }

    /// Takes an event and returns the line for it.
    pub fn event(&mut self, event: &Event) -> String {
        let mut line = self.object(event).to_string();
        line.push('\n');
        line
    }

    fn object(&mut self, event: &Event) -> Value {
        let now = self.time(event.at);
        let number = event.step.0;
        let vertex = self.vertices.entry(number).or_insert_with(|| Vertex {
            digest: Digest::of(number.to_string()),
            name: String::new(),
            started: now.clone(),
            transfers: BTreeMap::new(),
        });
        match &event.kind {
            EventKind::Started { name } => {
                vertex.name.clone_from(name);
                vertex.digest = Digest::of(format!("{number} {name}"));
                json!({"vertexes": [vertex.json()]})
            }
            EventKind::Output { stream, bytes } => {
                let stream = match stream {
                    OutputStream::Stdout => 1,
                    OutputStream::Stderr => 2,
                };
                let digest = vertex.digest.to_string();
                json!({"logs": [{"vertex": digest, "stream": stream, "data": base64(bytes), "timestamp": now}]})
            }
            EventKind::Progress { item, current, total, done } => {
                let started = vertex.transfers.entry(item.clone()).or_insert_with(|| now.clone()).clone();
                let mut status = json!({
                    "id": item, "vertex": vertex.digest.to_string(), "total": total.unwrap_or(0), "current": current,
                    "timestamp": now, "started": started,
                });
                if *done {
                    status["completed"] = json!(now);
                    vertex.transfers.remove(item);
                }
                json!({"statuses": [status]})
            }
            EventKind::Note { text } => {
                json!({"warnings": [{"vertex": vertex.digest.to_string(), "level": 1, "short": base64(text.as_bytes())}]})
            }
            EventKind::Cached => vertex.over(&now, "cached", json!(true)),
            EventKind::Done => vertex.over(&now, "completed", json!(now)),
            EventKind::Failed { message } => vertex.over(&now, "error", json!(message)),
            EventKind::Cancelled => vertex.over(&now, "error", json!("context canceled")),
        }
    }

    fn time(&self, at: Duration) -> String {
        rfc3339(self.begun + at)
    }
}

impl Vertex {
    fn json(&self) -> Value {
        json!({"digest": self.digest.to_string(), "name": self.name, "started": self.started})
    }

    fn over(&self, now: &str, key: &str, value: Value) -> Value {
        let mut vertex = self.json();
        vertex["completed"] = json!(now);
        vertex[key] = value;
        json!({"vertexes": [vertex]})
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use insta::assert_snapshot;
    use kiln_builder::progress::StepId;

    use super::*;

    #[test]
    fn every_event_is_one_line() {
        let mut json = RawJson::new(UNIX_EPOCH);
        let events = [
            EventKind::Started { name: "[2/2] RUN make".to_owned() },
            EventKind::Output { stream: OutputStream::Stderr, bytes: b"made\n".to_vec() },
            EventKind::Progress { item: "x".to_owned(), current: 1, total: Some(2), done: true },
            EventKind::Cached,
            EventKind::Done,
            EventKind::Failed { message: "no\nway".to_owned() },
            EventKind::Cancelled,
        ];
        let mut text = String::new();
        for (at, kind) in events.into_iter().enumerate() {
            text.push_str(&json.event(&Event { at: Duration::from_millis(at as u64), step: StepId(1), kind }));
        }
        let digest = Digest::of("1 [2/2] RUN make").to_string();
        assert_snapshot!(text.replace(&digest, "DIGEST"), @r#"
        {"vertexes":[{"digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00.000000000Z"}]}
        {"logs":[{"data":"bWFkZQo=","stream":2,"timestamp":"1970-01-01T00:00:00.001000000Z","vertex":"DIGEST"}]}
        {"statuses":[{"completed":"1970-01-01T00:00:00.002000000Z","current":1,"id":"x","started":"1970-01-01T00:00:00.002000000Z","timestamp":"1970-01-01T00:00:00.002000000Z","total":2,"vertex":"DIGEST"}]}
        {"vertexes":[{"cached":true,"completed":"1970-01-01T00:00:00.003000000Z","digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00.000000000Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.004000000Z","digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00.000000000Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.005000000Z","digest":"DIGEST","error":"no\nway","name":"[2/2] RUN make","started":"1970-01-01T00:00:00.000000000Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.006000000Z","digest":"DIGEST","error":"context canceled","name":"[2/2] RUN make","started":"1970-01-01T00:00:00.000000000Z"}]}
        "#);
    }
}
