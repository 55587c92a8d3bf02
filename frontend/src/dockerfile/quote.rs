//! Quoting of text in messages and history: as Go's `%q` does it.

use std::fmt::Write as _;

/// Quotes a text: `a"b` becomes `"a\"b"`.
pub fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            ' '..='~' => quoted.push(c),
            c if is_printable(c) => quoted.push(c),
            c => escape(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

fn escape(quoted: &mut String, c: char) {
    let code = u32::from(c);
    let written = match code {
        0..0x80 => write!(quoted, "\\x{code:02x}"),
        0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
        _ => write!(quoted, "\\U{code:08x}"),
    };
    written.expect("a string takes every write");
}

/// Whether a character can be shown: letters, marks, numbers, punctuation, symbols; the only blank is the ASCII one.
fn is_printable(c: char) -> bool {
    if c.is_control() {
        return false;
    }
    // The standard library has the tables, behind `escape_debug`. A combining mark is escaped at the start of a text
    // only, hence the letter in front.
    let mut text = String::from("a");
    text.push(c);
    !text.escape_debug().skip(1).any(|escaped| escaped == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_does() {
        assert_eq!(go_quote("a b"), r#""a b""#);
        assert_eq!(go_quote("a\"\\\n\u{1}\u{7f}"), r#""a\"\\\n\x01\x7f""#);
        assert_eq!(
            go_quote("é\u{301}日\u{a0}\u{200b}\u{feff}😀\u{e0001}"),
            "\"é\u{301}日\\u00a0\\u200b\\ufeff😀\\U000e0001\""
        );
    }
}
