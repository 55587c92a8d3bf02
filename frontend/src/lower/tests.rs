//! Recorded conversions, and what the graph looks like.

mod epoch;
mod graph;
mod hints;
mod outline;
mod several_errors;
mod undeclared;
mod vectors;

use std::collections::BTreeMap;

use super::*;
use crate::dockerfile::diagnostic::first_error;

/// A base image with one layer, as the config says.
fn image(config: &str) -> ImageFact {
    ImageFact::Found { digest: Digest::of(config), config: Box::new(serde_json::from_str(config).unwrap()) }
}

/// A request for the platform that tests build on.
fn request() -> Request {
    Request { build_platform: Platform::new("linux", "amd64"), ..Request::default() }
}

/// What came of a file, and which images were looked up.
struct Outcome {
    result: Result<Plan, Diagnostic>,
    warnings: Vec<Diagnostic>,
    resolved: Vec<String>,
}

/// Lowers a text, answering questions about images from `images`.
fn lower_text(text: &str, request: &Request, images: &BTreeMap<String, String>) -> Outcome {
    let (file, parsed) = crate::dockerfile::parse(text);
    let mut resolved = Vec::new();
    if !text.is_empty()
        && let Some(found) = first_error(&parsed)
    {
        let mut reporter = Reporter::new(check::Options::of(&file, None).unwrap_or_default());
        check::file(&file, &parsed, &mut reporter);
        return Outcome { result: Err(found.clone()), warnings: reporter.into_warnings(), resolved };
    }
    let request = Request { parsed, ..request.clone() };
    let mut facts = Facts::default();
    for _ in 0..10 {
        match lower(&file, &request, &facts) {
            Ok(Lowered::Done(plan)) => {
                let warnings = plan.warnings.clone();
                return Outcome { result: Ok(*plan), warnings, resolved };
            }
            Ok(Lowered::Needs(needs)) => {
                for source in needs.times {
                    facts.times.push((source, Some(7)));
                }
                for query in needs.images {
                    let ImageName::Reference(name) = &query.image else { panic!("unexpected {query:?}") };
                    resolved.push(format!("{name} {}", query.platform));
                    let fact = match images.get(name) {
                        Some(config) => image(config),
                        None => ImageFact::Missing(format!("{name}: not found")),
                    };
                    assert!(facts.images.insert(query, fact).is_none(), "asked twice");
                }
            }
            Err(found) => {
                let (errors, warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(Diagnostic::is_error);
                let first = errors.into_iter().next().expect("a failure has an error");
                return Outcome { result: Err(first), warnings, resolved };
            }
        }
    }
    panic!("lowering asks and asks");
}
