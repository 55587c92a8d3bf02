//! parser.json and directives.json: files into instructions.

use kiln_frontend::dockerfile::{
    File, InstructionKind, MAX_MISTAKES, Phase,
    ast::{Heredoc, Node},
    diagnostic::{Diagnostic, first_error},
    directive::{detect_check, detect_syntax},
    parse,
};
use serde_json::{Map, Value, json};

use crate::vectors::{run, same, text};

/// A node as it is recorded.
fn node(node: &Node) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("instruction".to_owned(), json!(node.keyword.text));
    let arguments = match &node.nested {
        Some(nested) => vec![Value::Object(self::node(nested))],
        None => node.arguments.iter().map(|word| json!(word.text)).collect(),
    };
    fields.insert("args".to_owned(), Value::Array(arguments));
    if !node.flags.is_empty() {
        fields.insert("flags".to_owned(), node.flags.iter().map(|word| json!(word.text)).collect());
    }
    if node.json {
        fields.insert("json".to_owned(), Value::Bool(true));
    }
    fields
}

fn heredoc(heredoc: &Heredoc) -> Value {
    json!({
        "chomp": heredoc.chomp,
        "content": heredoc.content,
        "expand": heredoc.expand,
        "fd": heredoc.file_descriptor,
        "name": heredoc.name,
    })
}

fn nodes(file: &File) -> Vec<Value> {
    let nodes = file.instructions.iter().map(|instruction| {
        let mut fields = node(&instruction.node);
        fields.insert("line_start".to_owned(), json!(instruction.lines.first));
        fields.insert("line_end".to_owned(), json!(instruction.lines.last));
        if !instruction.heredocs.is_empty() {
            fields.insert("heredocs".to_owned(), instruction.heredocs.iter().map(heredoc).collect());
        }
        if !instruction.comments.is_empty() {
            let comments = instruction.comments.iter().map(|comment| json!(comment.text));
            fields.insert("comments".to_owned(), comments.collect());
        }
        Value::Object(fields)
    });
    nodes.collect()
}

fn lines(diagnostic: &Diagnostic) -> Value {
    diagnostic.reported_lines().iter().map(|lines| json!([lines.first, lines.last])).collect()
}

#[test]
fn files_are_read_as_recorded() {
    run("parser", |case| {
        let (file, diagnostics) = parse(text(case, "dockerfile"));
        let error = first_error(&diagnostics);
        if let Some(expected) = case["error"].as_str() {
            let error = error.ok_or_else(|| format!("no error, expected {expected}"))?;
            same("error", &*error.full_text(), expected)?;
            same("phase", error.phase, Phase::Syntax)?;
            return same("lines", &lines(error), &case["error_lines"]);
        }
        same("escape", file.escape.to_string().as_str(), text(case, "escape"))?;
        same("nodes", &nodes(&file), case["nodes"].as_array().ok_or("no nodes")?)?;
        let warnings = diagnostics.iter().filter(|diagnostic| !diagnostic.is_error());
        let warnings = warnings.map(|warning| json!({"line": warning.lines[0].first, "text": warning.message}));
        let recorded = case["warnings"].as_array().cloned().unwrap_or_default();
        same("warnings", warnings.collect(), recorded)?;
        match (error, case["instruction_error"].as_str()) {
            (None, None) => Ok(()),
            (Some(error), Some(expected)) => {
                same("error", &*error.full_text(), expected)?;
                same("phase", error.phase, Phase::Instruction)?;
                same("lines", &lines(error), &case["error_lines"])
            }
            (error, expected) => Err(format!("error is {error:?}, not {expected:?}")),
        }
    });
}

#[test]
fn directives_are_read_as_recorded() {
    run("directives", |case| {
        let source = text(case, "file");
        let syntax = detect_syntax(source)
            .map(|syntax| json!({"ref": syntax.reference, "cmdline": syntax.command_line, "line": syntax.line}));
        same("syntax", &syntax.unwrap_or_default(), &case["syntax"])?;
        let check = detect_check(source).map(|directive| {
            let value = directive.value.text;
            json!({"first_word": value.split(' ').next(), "value": value})
        });
        same("check", &check.unwrap_or_default(), &case["check"])?;
        let (file, diagnostics) = parse(source);
        let error = first_error(&diagnostics).filter(|error| error.phase == Phase::Syntax);
        same("error", error.map(|error| error.text()).as_deref(), case["parse_error"].as_str())?;
        match case["escape"].as_str() {
            Some(escape) => same("escape", &*file.escape.to_string(), escape),
            None => Ok(()),
        }
    });
}

#[test]
fn spans_point_at_the_source() {
    let source = "\u{feff}FROM  a  AS b\nRUN \\\n  --network=none \\\n  make\nENV k=\"v w\" \\\n  # c\n  x=y\n";
    let (file, diagnostics) = parse(source);
    assert_eq!(diagnostics, []);
    let text = |index: usize| file.instructions[index].span.text(source);
    assert_eq!(text(0), "FROM  a  AS b");
    assert_eq!(text(1), "RUN \\\n  --network=none \\\n  make");
    let InstructionKind::From(from) = &file.instructions[0].kind else { panic!("not a FROM") };
    assert_eq!(from.image.span.text(source), "a");
    assert_eq!(from.name.as_ref().map(|name| name.span.text(source)), Some("b"));
    let InstructionKind::Env(env) = &file.instructions[2].kind else { panic!("not an ENV") };
    assert_eq!(env.pairs[0].value.span.text(source), "\"v w\"");
    assert_eq!(env.pairs[1].key.span.text(source), "x");
}

#[test]
fn every_mistake_is_reported() {
    let source = "FROM a b\nRUNN x\nCOPY --chow=a --x=1 a\nENV a\nCMD [1]\nFROM ok\nUSER\n";
    let (file, diagnostics) = parse(source);
    assert_eq!(file.instructions.len(), 7);
    let found: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.full_text()).collect();
    assert_eq!(
        found,
        [
            "dockerfile parse error on line 1: FROM requires either one or three arguments",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            "dockerfile parse error on line 3: COPY requires at least two arguments, but only one was provided. \
             Destination could not be determined",
            "dockerfile parse error on line 3: unknown flag: --chow (did you mean chown?)",
            "dockerfile parse error on line 3: unknown flag: --x",
            "ENV must have two arguments",
            "when using JSON array syntax, arrays must be comprised of strings only",
            "dockerfile parse error on line 7: USER requires exactly one argument",
        ]
    );
}

#[test]
fn a_json_object_asks_for_its_frontend() {
    let asked = |text: &str| detect_syntax(text).map(|syntax| syntax.command_line);
    for text in
        ["{\"syntax\":\"a\"}", "\u{feff} {\"x\":[1], \"Syntax\":\"a\"}\n", "#!/x\n{\"syntax\":\"b\",\"syntax\":\"a\"}"]
    {
        assert_eq!(asked(text).as_deref(), Some("a"), "{text}");
    }
    for text in
        ["{\"syntax\":1}", "{\"syntax\":\"\"}", "{\"syntax\":\"a\"} x", "{\"x\":{\"syntax\":\"a\"}}", "#!/x", "{}"]
    {
        assert_eq!(asked(text), None, "{text}");
    }
}

#[test]
fn of_several_mistakes_in_an_instruction_the_first_that_buildkit_sees_comes_first() {
    for (line, expected) in [
        ("SHELL --x", "unknown flag: --x"),
        ("ENV --x", "unknown flag: --x"),
        ("USER --x", "USER requires exactly one argument"),
        (
            "ADD --x a",
            "ADD requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("HEALTHCHECK --retries=x --timeout=y --interval=z CMD a", "time: invalid duration \"z\""),
        ("RUN --mount=from=$a --device=a,b x", "invalid field 'b' must be a key=value pair"),
        ("RUN --network=q --mount= x", "failed to parse csv mounts: EOF"),
    ] {
        let (_, diagnostics) = parse(&format!("FROM x\n{line}\n"));
        let found = first_error(&diagnostics).map(|error| error.full_text());
        assert_eq!(found, Some(format!("dockerfile parse error on line 2: {expected}")), "{line}");
    }
}

#[test]
fn a_file_of_mistakes_alone_is_not_read_to_its_end() {
    let (file, diagnostics) = parse(&"X\n".repeat(200_000));
    assert_eq!((file.instructions.len(), diagnostics.len()), (MAX_MISTAKES, MAX_MISTAKES + 1));
    let last = diagnostics.last().expect("there are some");
    assert_eq!((last.code, last.lines[0].first), ("too-many-mistakes", MAX_MISTAKES));
    // Warnings are none.
    let (file, diagnostics) = parse(&format!("FROM x\n{}", "RUN a \\\n\n b\n".repeat(20_000)));
    assert_eq!((file.instructions.len(), diagnostics.len()), (20_001, 20_000));
}
