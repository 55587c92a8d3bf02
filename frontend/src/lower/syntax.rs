//! Which frontend a file asks for. There is one, it is built in, and it reads what the published ones of Docker read.

use kiln_oci::Reference;

use super::stages::error;
use super::{File, Request};
use crate::dockerfile::directive::{SyntaxRequest, detect_syntax};
use crate::dockerfile::{Diagnostic, Lines};

/// Returns what is wrong with a text that is written for another frontend; asked before the text is parsed, which makes
/// no sense of another language. BUILDKIT_SYNTAX has the last word.
pub fn foreign_frontend(text: &str, request: &Request) -> Option<Diagnostic> {
    foreign(detect_syntax(text).as_ref(), request)
}

/// Refuses a file that is written for another frontend.
pub(super) fn check(file: &File, request: &Request) -> Result<(), Diagnostic> {
    foreign(file.frontend.as_ref(), request).map_or(Ok(()), Err)
}

fn foreign(asked: Option<&SyntaxRequest>, request: &Request) -> Option<Diagnostic> {
    let given = request.build_args.get("BUILDKIT_SYNTAX").filter(|reference| !reference.is_empty());
    let reference = match (given, asked) {
        (Some(given), _) => given.split(' ').next().unwrap_or_default(),
        (None, Some(asked)) => &asked.reference,
        (None, None) => return None,
    };
    if is_built_in(reference) {
        return None;
    }
    let message = format!(
        "the file is written for the frontend `{reference}`, and kiln has only its own, which stands for `docker/dockerfile`"
    );
    let found = error("foreign-frontend", message)
        .hint("if it is an ordinary Dockerfile, build it with `--build-arg BUILDKIT_SYNTAX=docker/dockerfile:1`");
    Some(match asked.filter(|_| given.is_none()) {
        Some(asked) => found.at(Lines::single(asked.line.max(1)), asked.span),
        None => found,
    })
}

/// Whether the language of a frontend is the one that is built in: that of `docker/dockerfile`, in any version, and what
/// BuildKit calls its own, `dockerfile.v0`.
fn is_built_in(reference: &str) -> bool {
    if reference == "dockerfile.v0" {
        return true;
    }
    let Ok(reference) = reference.parse::<Reference>() else { return false };
    ["docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"].contains(&reference.name().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(text: &str, syntax: Option<&str>) -> Result<(), String> {
        let (file, _) = crate::dockerfile::parse(text);
        let mut request = Request::default();
        request.build_args.extend(syntax.map(|syntax| ("BUILDKIT_SYNTAX".to_owned(), syntax.to_owned())));
        check(&file, &request).map_err(|found| found.message)
    }

    #[test]
    fn every_version_of_the_dockerfile_frontend_is_built_in() {
        for syntax in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile:1",
            "docker/dockerfile-upstream:master",
            "dockerfile.v0",
        ] {
            assert_eq!(lowered(&format!("# syntax={syntax}\nFROM scratch\n"), None), Ok(()));
        }
        assert_eq!(lowered("FROM scratch\n", None), Ok(()));
    }

    #[test]
    fn another_frontend_is_refused_unless_the_request_knows_better() {
        let text = "# syntax=registry.example.com/earthly:1\nFROM scratch\n";
        assert!(lowered(text, None).unwrap_err().contains("`registry.example.com/earthly:1`"));
        assert_eq!(lowered(text, Some("docker/dockerfile:1")), Ok(()));
        assert!(lowered("FROM scratch\n", Some("tonistiigi/other")).is_err());
        assert!(lowered("# syntax=::\nFROM scratch\n", None).is_err());
    }

    #[test]
    fn a_file_in_another_language_is_refused_for_that() {
        for text in ["// syntax=example/go\nint main() {}\n", "{\"syntax\": \"example/json\"}"] {
            let found = foreign_frontend(text, &Request::default()).unwrap();
            assert_eq!((found.code, found.lines[0]), ("foreign-frontend", Lines::single(1)));
        }
        assert_eq!(foreign_frontend("FROM scratch\n", &Request::default()), None);
    }
}
