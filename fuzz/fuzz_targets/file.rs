//! Any text as a Dockerfile: read, written as JSON, checked, and lowered as far as it goes without images.
#![no_main]

use kiln_frontend::dockerfile::{dump, parse};
use kiln_frontend::lower::{Facts, Request, lower, targets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (file, diagnostics) = parse(text);
    dump::file(&file, &diagnostics);
    for instruction in &file.instructions {
        assert!(text.get(instruction.span.start..instruction.span.end).is_some(), "{:?}", instruction.span);
        assert!(instruction.lines.first <= instruction.lines.last && instruction.lines.last <= file.line_count);
    }
    for found in &diagnostics {
        assert!(kiln_frontend::dockerfile::code::meaning(found.code).is_some(), "{}", found.code);
        assert!(found.spans.iter().all(|span| text.get(span.start..span.end).is_some()), "{found:?}");
    }
    let _ = targets(&file);
    let request = Request { check: true, parsed: diagnostics, ..Request::default() };
    if let Err(found) = lower(&file, &request, &Facts::default()) {
        assert!(found.iter().any(|found| found.is_error()));
    }
});
