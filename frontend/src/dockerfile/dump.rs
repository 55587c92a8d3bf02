//! A Dockerfile as JSON: what the parser made of it, for people and tools that want to look.
//!
//! ```json
//! {"keyword": "RUN", "kind": "RUN", "span": [12, 20], "lines": [2, 2], "arguments": [{"text": "make", "span": [16, 20]}]}
//! ```
//!
//! Spans are byte ranges, the end excluded; lines are counted from 1, the last included. Members that say nothing are
//! left out. What has a form of its own stands in `parsed`.

use serde_json::{Map, Value, json};

use super::ast::{
    Add, Argument, CommandLine, Copy, File, From, Healthcheck, Instruction, InstructionKind, Lines, Node, Pairs, Run,
    RunCommand, RunNetwork, Security, Sources, Span, Word,
};
use super::diagnostic::{Diagnostic, Phase, Severity};

/// Writes a file and what is wrong with it.
pub fn file(file: &File, diagnostics: &[Diagnostic]) -> Value {
    let directives = file.directives.iter().map(
        |directive| json!({"name": directive.name.as_str(), "value": word(&directive.value), "line": directive.line}),
    );
    json!({
        "escape": file.escape.to_string(),
        "lines": file.line_count,
        "directives": directives.collect::<Vec<_>>(),
        "instructions": file.instructions.iter().map(instruction).collect::<Vec<_>>(),
        "diagnostics": diagnostics.iter().map(diagnostic).collect::<Vec<_>>(),
    })
}

/// Writes a diagnostic.
pub fn diagnostic(found: &Diagnostic) -> Value {
    object([
        ("severity", json!(if found.severity == Severity::Error { "error" } else { "warning" })),
        ("code", json!(found.code)),
        ("phase", json!(phase(found.phase))),
        ("message", json!(found.message)),
        ("suggestion", json!(found.suggestion)),
        ("hint", json!(found.hint)),
        ("lines", found.lines.iter().copied().map(lines).collect()),
        ("spans", found.spans.iter().copied().map(span).collect()),
    ])
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Syntax => "syntax",
        Phase::Instruction => "instruction",
        Phase::Lower => "lower",
    }
}

fn instruction(found: &Instruction) -> Value {
    let comments = found
        .comments
        .iter()
        .map(|comment| json!({"text": comment.text, "span": span(comment.span), "line": comment.line}));
    let heredocs = found.heredocs.iter().map(|heredoc| {
        object([
            ("name", json!(heredoc.name)),
            ("content", json!(heredoc.content)),
            ("span", span(heredoc.span)),
            ("expand", flag(heredoc.expand)),
            ("chomp", flag(heredoc.chomp)),
            ("fd", if heredoc.file_descriptor == 0 { Value::Null } else { json!(heredoc.file_descriptor) }),
        ])
    });
    let Value::Object(mut node) = node(&found.node) else { return Value::Null };
    let mut all = Map::new();
    all.insert("kind".to_owned(), json!(found.kind.name().unwrap_or("invalid")));
    all.insert("span".to_owned(), span(found.span));
    all.insert("lines".to_owned(), lines(found.lines));
    all.insert("original".to_owned(), json!(found.original));
    all.append(&mut node);
    for (key, list) in [("heredocs", heredocs.collect::<Vec<_>>()), ("comments", comments.collect())] {
        if !list.is_empty() {
            all.insert(key.to_owned(), Value::Array(list));
        }
    }
    let parsed = kind(&found.kind);
    if !parsed.is_null() {
        all.insert("parsed".to_owned(), parsed);
    }
    Value::Object(all)
}

/// The line, split but not interpreted. What is nested in ONBUILD cannot be an ONBUILD, so this ends.
fn node(found: &Node) -> Value {
    let nested = found.nested.as_deref().map_or(Value::Null, |inner| {
        object([
            ("keyword", word(&inner.keyword)),
            ("flags", words(&inner.flags)),
            ("arguments", words(&inner.arguments)),
            ("json", flag(inner.json)),
        ])
    });
    object([
        ("keyword", word(&found.keyword)),
        ("flags", words(&found.flags)),
        ("arguments", words(&found.arguments)),
        ("json", flag(found.json)),
        ("nested", nested),
    ])
}

fn kind(kind: &InstructionKind) -> Value {
    match kind {
        InstructionKind::From(found) => from(found),
        InstructionKind::Run(found) => run(found),
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => command_line(command),
        InstructionKind::Shell(list) | InstructionKind::Volume(list) | InstructionKind::Expose(list) => words(list),
        InstructionKind::Env(found) | InstructionKind::Label(found) => pairs(found),
        InstructionKind::Arg(found) => found.iter().map(argument).collect(),
        InstructionKind::Copy(found) => copy(found),
        InstructionKind::Add(found) => add(found),
        InstructionKind::Workdir(found)
        | InstructionKind::User(found)
        | InstructionKind::Stopsignal(found)
        | InstructionKind::Maintainer(found) => word(found),
        InstructionKind::Healthcheck(found) => healthcheck(found),
        InstructionKind::Onbuild(found) => json!({"trigger": found.trigger}),
        InstructionKind::Invalid => Value::Null,
    }
}

fn from(found: &From) -> Value {
    object([
        ("image", word(&found.image)),
        ("platform", option(&found.platform)),
        ("as", option(&found.as_keyword)),
        ("name", option(&found.name)),
    ])
}

fn run(found: &Run) -> Value {
    let devices = found.devices.iter().map(|device| json!({"name": device.name, "required": device.required}));
    let command = match &found.command {
        RunCommand::Shell(text) => json!({"shell": word(text)}),
        RunCommand::Exec(list) => json!({"exec": words(list)}),
        RunCommand::Script(script) => {
            json!({"script": {"name": script.name, "body": script.body, "program": script.is_program}})
        }
    };
    object([
        ("command", command),
        ("mounts", words(&found.mounts)),
        ("devices", devices.collect()),
        (
            "network",
            json!(found.network.map(|network| match network {
                RunNetwork::Default => "default",
                RunNetwork::None => "none",
                RunNetwork::Host => "host",
            })),
        ),
        ("security", if found.security == Security::Insecure { json!("insecure") } else { Value::Null }),
    ])
}

fn command_line(found: &CommandLine) -> Value {
    match found {
        CommandLine::Shell(text) => json!({"shell": word(text)}),
        CommandLine::Exec(list) => json!({"exec": words(list)}),
    }
}

fn pairs(found: &Pairs) -> Value {
    let list: Vec<Value> =
        found.pairs.iter().map(|pair| json!({"key": word(&pair.key), "value": word(&pair.value)})).collect();
    object([("pairs", json!(list)), ("legacy", flag(found.legacy))])
}

fn argument(found: &Argument) -> Value {
    object([
        ("name", word(&found.name)),
        ("default", option(&found.default)),
        ("description", json!(found.description)),
    ])
}

fn sources(found: &Sources) -> [(&'static str, Value); 7] {
    let inline = found
        .inline
        .iter()
        .map(|file| json!({"name": word(&file.name), "content": file.content, "expand": file.expand}));
    [
        ("sources", words(&found.paths)),
        ("inline", inline.collect()),
        ("destination", word(&found.destination)),
        ("chown", option(&found.chown)),
        ("chmod", option(&found.chmod)),
        ("link", flag(found.link)),
        ("excludes", words(&found.excludes)),
    ]
}

fn copy(found: &Copy) -> Value {
    let own = [("from", option(&found.from)), ("parents", flag(found.parents))];
    object(sources(&found.sources).into_iter().chain(own))
}

fn add(found: &Add) -> Value {
    let own = [
        ("checksum", option(&found.checksum)),
        ("keepGitDir", json!(found.keep_git_dir)),
        ("unpack", json!(found.unpack)),
    ];
    object(sources(&found.sources).into_iter().chain(own))
}

fn healthcheck(found: &Healthcheck) -> Value {
    match found {
        Healthcheck::None => json!("none"),
        Healthcheck::Cmd(probe) => json!({
            "command": command_line(&probe.command),
            "interval": probe.interval.0,
            "timeout": probe.timeout.0,
            "startPeriod": probe.start_period.0,
            "startInterval": probe.start_interval.0,
            "retries": probe.retries,
        }),
    }
}

/// An object without the members that say nothing.
fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let says_something = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    let members = members.into_iter().filter(|(_, value)| says_something(value));
    Value::Object(members.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn flag(set: bool) -> Value {
    if set { Value::Bool(true) } else { Value::Null }
}

fn option(found: &Option<Word>) -> Value {
    found.as_ref().map_or(Value::Null, word)
}

fn words(list: &[Word]) -> Value {
    list.iter().map(word).collect()
}

fn word(found: &Word) -> Value {
    json!({"text": found.text, "span": span(found.span)})
}

fn span(found: Span) -> Value {
    json!([found.start, found.end])
}

fn lines(found: Lines) -> Value {
    json!([found.first, found.last])
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn dumped(text: &str) -> serde_json::Value {
        let (file, diagnostics) = parse(text);
        super::file(&file, &diagnostics)
    }

    #[test]
    fn instructions_have_their_parts_and_places() {
        let value = dumped("# escape=\\\nFROM --platform=$P a AS b\nRUN --network=none <<E\nx\nE\nFOO\n");
        assert_eq!(value["directives"][0]["name"], "escape");
        let from = &value["instructions"][0];
        assert_eq!((&from["kind"], &from["lines"][0]), (&"FROM".into(), &2.into()));
        assert_eq!(from["parsed"]["name"], serde_json::json!({"text": "b", "span": [35, 36]}));
        let run = &value["instructions"][1];
        assert_eq!(run["parsed"]["command"]["script"]["body"], "x\n");
        assert_eq!((&run["parsed"]["network"], &run["lines"][1]), (&"none".into(), &5.into()));
        assert_eq!(value["instructions"][2]["kind"], "invalid");
        assert_eq!(value["diagnostics"][0]["code"], "unknown-instruction");
    }

    #[test]
    fn every_instruction_can_be_written() {
        let text = "ARG a=1 b\nFROM x\nCMD [\"a\"]\nENTRYPOINT b\nSHELL [\"c\"]\nENV a=b\nLABEL a b\nCOPY --from=x a b\nADD --unpack a /\n\
            WORKDIR /\nUSER u\nVOLUME a\nEXPOSE 1\nSTOPSIGNAL 9\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\nMAINTAINER m\nONBUILD RUN x\n";
        let value = dumped(text);
        let list = value["instructions"].as_array().unwrap();
        assert_eq!(list.len(), 18);
        assert!(list.iter().all(|found| !found["parsed"].is_null() && found["kind"] != "invalid"), "{value:#}");
    }
}
