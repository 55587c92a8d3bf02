//! The JSON form of arguments: an array of strings, and nothing else.

use std::ops::Range;

/// What a text is, read as the JSON form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JsonForm {
    /// An array of strings, each with its place.
    Strings(Vec<(String, Range<usize>)>),
    /// An array, but not of strings only.
    OtherArray,
    /// Not a JSON array; the text means something else.
    No,
}

/// Reads a text as the JSON form.
pub(super) fn parse(text: &str) -> JsonForm {
    if !text.trim_start().starts_with('[') {
        return JsonForm::No;
    }
    let mut reader = Reader { text, position: 0 };
    if let Some(strings) = reader.array() {
        return JsonForm::Strings(strings);
    }
    match serde_json::from_str::<Vec<serde::de::IgnoredAny>>(text) {
        Ok(_) => JsonForm::OtherArray,
        Err(_) => JsonForm::No,
    }
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        let rest = &self.text[self.position..];
        self.position += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn take(&mut self, expected: char) -> Option<()> {
        self.blanks();
        self.text[self.position..].starts_with(expected).then(|| self.position += expected.len_utf8())
    }

    fn array(&mut self) -> Option<Vec<(String, Range<usize>)>> {
        // Blanks that JSON does not know may stand in front; they have been trimmed off for everybody else.
        self.position = self.text.len() - self.text.trim_start().len();
        self.take('[')?;
        let mut strings = Vec::new();
        if self.take(']').is_none() {
            loop {
                self.blanks();
                let start = self.position;
                let string = self.string()?;
                strings.push((string, start..self.position));
                if self.take(',').is_none() {
                    self.take(']')?;
                    break;
                }
            }
        }
        self.blanks();
        (self.position == self.text.len()).then_some(strings)
    }

    fn string(&mut self) -> Option<String> {
        self.take('"')?;
        let mut string = String::new();
        loop {
            let c = self.next()?;
            match c {
                '"' => return Some(string),
                '\\' => string.push(self.escape()?),
                '\0'..=' ' if c != ' ' => return None,
                c => string.push(c),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.text[self.position..].chars().next()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.next()? {
            c @ ('"' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = self.unit()?;
                match char::from_u32(unit) {
                    Some(c) => c,
                    None => self.surrogate(unit),
                }
            }
            _ => return None,
        })
    }

    /// The second half of a pair; a half alone stands for the replacement character.
    fn surrogate(&mut self, first: u32) -> char {
        let start = self.position;
        if first < 0xdc00
            && self.text[start..].starts_with("\\u")
            && let Some(second @ 0xdc00..0xe000) = {
                self.position += 2;
                self.unit()
            }
        {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        self.position = start;
        char::REPLACEMENT_CHARACTER
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.position..self.position + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.position += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}
