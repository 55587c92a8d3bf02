//! Build files are UTF-8 text. Other bytes do no harm in comments, and are a mistake everywhere else.
//!
//! BuildKit carries such bytes along; what becomes of them then depends on who reads the result. Nothing that is written
//! may be changed in silence, so an instruction that has them is refused.

use std::borrow::Cow;

use super::ast::{File, Lines, Span};
use super::diagnostic::{Diagnostic, Phase};

/// Reads a Dockerfile of any bytes. Places are those in the text with U+FFFD for what is not UTF-8, as
/// [`String::from_utf8_lossy`] makes it.
pub fn parse_bytes(bytes: &[u8]) -> (File, Vec<Diagnostic>) {
    let text = String::from_utf8_lossy(bytes);
    let (file, mut diagnostics) = super::parse(&text);
    if [&b"\xff\xfe"[..], b"\xfe\xff"].iter().any(|mark| bytes.starts_with(mark)) {
        // Every line is nonsense; one sentence about all of them is enough.
        let found = Diagnostic::error(Phase::Syntax, "encoding", "the file is UTF-16 text, and a build file is UTF-8");
        diagnostics = vec![found.hint("save it as UTF-8; in PowerShell: `Out-File -Encoding utf8`")];
    } else if let Cow::Owned(text) = &text {
        diagnostics.extend(mistakes(bytes, text, &file));
        diagnostics.sort_by_key(|found| found.lines.first().map_or(0, |lines| lines.first));
    }
    (file, diagnostics)
}

/// Finds the lines of instructions that are not UTF-8; of each instruction the first.
fn mistakes(bytes: &[u8], text: &str, file: &File) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut instructions = file.instructions.iter().peekable();
    let mut start = 0;
    for (index, (raw, line)) in bytes.split(|byte| *byte == b'\n').zip(text.split('\n')).enumerate() {
        let number = index + 1;
        let span = Span::new(start, start + line.len());
        start += line.len() + 1;
        while instructions.next_if(|instruction| instruction.lines.last < number).is_some() {}
        let Some(instruction) = instructions.peek().filter(|instruction| instruction.lines.first <= number) else {
            continue;
        };
        let in_body = |span: Span| {
            instruction.heredocs.iter().any(|heredoc| heredoc.span.start <= span.start && span.start < heredoc.span.end)
        };
        let is_comment = line.trim_start().starts_with('#') && !in_body(span);
        if !is_comment && std::str::from_utf8(raw).is_err() {
            let column = 1 + line.find('\u{fffd}').map_or(0, |at| line[..at].chars().count());
            let message =
                format!("line {number} is not UTF-8 text: column {column} has a byte that no character begins with");
            found.push(
                Diagnostic::error(Phase::Syntax, "encoding", message)
                    .at(Lines::single(number), span)
                    .hint("save the file as UTF-8; only comments may have other bytes"),
            );
            instructions.next();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &[(usize, usize)]) {
        let (_, diagnostics) = parse_bytes(bytes);
        let places: Vec<_> = diagnostics.iter().map(|found| (found.lines[0].first, found.spans[0].start)).collect();
        assert_eq!(places, expected, "{diagnostics:?}");
        assert!(diagnostics.iter().all(|found| found.code == "encoding"), "{diagnostics:?}");
    }

    #[test]
    fn comments_may_have_any_bytes() {
        check(b"# caf\xe9\nFROM scratch\n# \xff\n", &[]);
        check(b"FROM scratch\nENV a=b \\\n  # caf\xe9\n  c=d\n", &[]);
        check("FROM scratch\nENV a=\u{fffd}\n".as_bytes(), &[]);
    }

    #[test]
    fn an_instruction_of_other_bytes_is_a_mistake() {
        check(b"# \xe9\nFROM scratch\nENV a=\xe9 \\\n b=\xe9\nENV c=\xe9\n", &[(3, 19), (5, 38)]);
        check(b"FROM scratch\nCOPY <<A /x\n# \xe9\nA\n", &[(3, 25)]);
        check(b"FROM scratch\nENV a=b \\\n# \xe9\n c=\xe9", &[(4, 29)]);
        let (_, diagnostics) = parse_bytes(b"\xff\xfeF\0R\0O\0M\0");
        assert!(diagnostics.len() == 1 && diagnostics[0].message.contains("UTF-16"), "{diagnostics:?}");
    }
}
