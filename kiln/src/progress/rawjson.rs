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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_builder::BuildFile;
use kiln_builder::progress::{Event, EventKind, OutputStream};
use kiln_frontend::check;
use kiln_frontend::dockerfile::Diagnostic;
use kiln_oci::Digest;
use kiln_oci::base64::encode as base64;
use serde_json::{Value, json};

use crate::answer::Location;
use crate::message::warning_line;

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
                let vertex = vertex.digest.to_string();
                json!({"statuses": [{"id": text, "vertex": vertex, "timestamp": now, "started": now, "completed": now}]})
            }
            EventKind::Warning { warning, file } => json!({"warnings": [warning_json(vertex, warning, file)]}),
            EventKind::Cached => vertex.over(&now, "cached", json!(true)),
            EventKind::Done => vertex.over(&now, "completed", json!(now)),
            EventKind::Failed { message } => vertex.over(&now, "error", json!(message)),
            EventKind::Cancelled => vertex.over(&now, "error", json!("context canceled")),
        }
    }

    fn time(&self, at: Duration) -> String {
        let since = (self.begun + at).duration_since(UNIX_EPOCH).unwrap_or_default();
        kiln_oci::rfc3339(since.as_secs() as i64, since.subsec_nanos())
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

/// A build file of more bytes is not repeated in each of its warnings.
const LARGEST_SOURCE: usize = 64 << 10;

/// Returns a warning in the shape of BuildKit's, build file and all.
fn warning_json(vertex: &Vertex, warning: &Diagnostic, file: &BuildFile) -> Value {
    let mut source = json!({"filename": file.name, "language": "Dockerfile"});
    if file.text.len() <= LARGEST_SOURCE {
        source["data"] = json!(base64(&file.text));
    }
    let mut value = json!({
        "vertex": vertex.digest.to_string(), "level": 1, "short": base64(warning_line(warning).as_bytes()),
        "sourceInfo": source,
    });
    if let Some(location) = Location::of(&warning.lines) {
        value["range"] = json!(location.ranges);
    }
    if let Some(rule) = check::rule(warning.code) {
        value["detail"] = json!([base64(rule.description.as_bytes())]);
        if let Some(url) = rule.url() {
            value["url"] = json!(url);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insta::assert_snapshot;
    use kiln_builder::progress::StepId;
    use kiln_frontend::dockerfile::{Lines, Phase, Span};

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
        {"vertexes":[{"digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00Z"}]}
        {"logs":[{"data":"bWFkZQo=","stream":2,"timestamp":"1970-01-01T00:00:00.001Z","vertex":"DIGEST"}]}
        {"statuses":[{"completed":"1970-01-01T00:00:00.002Z","current":1,"id":"x","started":"1970-01-01T00:00:00.002Z","timestamp":"1970-01-01T00:00:00.002Z","total":2,"vertex":"DIGEST"}]}
        {"vertexes":[{"cached":true,"completed":"1970-01-01T00:00:00.003Z","digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.004Z","digest":"DIGEST","name":"[2/2] RUN make","started":"1970-01-01T00:00:00Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.005Z","digest":"DIGEST","error":"no\nway","name":"[2/2] RUN make","started":"1970-01-01T00:00:00Z"}]}
        {"vertexes":[{"completed":"1970-01-01T00:00:00.006Z","digest":"DIGEST","error":"context canceled","name":"[2/2] RUN make","started":"1970-01-01T00:00:00Z"}]}
        "#);
    }

    #[test]
    fn a_warning_has_the_shape_that_buildkit_gives_it() {
        let mut json = RawJson::new(UNIX_EPOCH);
        let warning =
            Diagnostic::warning(Phase::Lower, "from-as-casing", "casing").at(Lines::new(2, 3), Span::default());
        let kind = |text: &[u8]| EventKind::Warning {
            warning: warning.clone(),
            file: Arc::new(BuildFile { name: "app.Dockerfile".to_owned(), text: text.to_vec() }),
        };
        let mut print = |text: &[u8]| {
            let text = json.event(&Event { at: Duration::ZERO, step: StepId(1), kind: kind(text) });
            text.replace(&Digest::of("1").to_string(), "DIGEST")
        };
        assert_snapshot!(print(b"FROM"), @r#"
        {"warnings":[{"detail":["VGhlICdhcycga2V5d29yZCBzaG91bGQgbWF0Y2ggdGhlIGNhc2Ugb2YgdGhlICdmcm9tJyBrZXl3b3Jk"],"level":1,"range":[{"end":{"line":2},"start":{"line":2}},{"end":{"line":3},"start":{"line":3}}],"short":"RnJvbUFzQ2FzaW5nOiBjYXNpbmcgKGxpbmUgMik=","sourceInfo":{"data":"RlJPTQ==","filename":"app.Dockerfile","language":"Dockerfile"},"url":"https://docs.docker.com/go/dockerfile/rule/from-as-casing/","vertex":"DIGEST"}]}
        "#);
        assert!(!print(&[b'x'; LARGEST_SOURCE + 1]).contains("\"data\""));
    }
}
