//! A logical line into keyword, flags and arguments, by the grammar of its keyword.

use std::ops::Range;

use super::{
    ast::{Node, Word},
    diagnostic::Problem,
    hint,
    json::{self, JsonForm},
    lines::Joined,
    quote::go_quote,
    words,
};

/// How deep `ONBUILD ONBUILD …` is looked into. (More than one is a mistake anyway.)
const MAX_ONBUILD: usize = 3;

/// Splits a logical line.
pub(super) fn split(line: &Joined, escape: char, problems: &mut Vec<Problem>) -> Node {
    let whole = words::trim(&line.text, 0..line.text.len());
    Splitter { line, escape, problems }.node(whole, 0)
}

/// Whether here-documents on the line belong to this instruction.
pub(super) fn takes_heredocs(node: &Node) -> bool {
    let node = match &node.nested {
        Some(nested) if node.keyword.text.eq_ignore_ascii_case("onbuild") => nested,
        _ => node,
    };
    let keyword = &node.keyword.text;
    !node.json && ["add", "copy", "run"].iter().any(|name| keyword.eq_ignore_ascii_case(name))
}

struct Splitter<'a> {
    line: &'a Joined,
    escape: char,
    problems: &'a mut Vec<Problem>,
}

impl Splitter<'_> {
    fn node(&mut self, range: Range<usize>, depth: usize) -> Node {
        let text = &self.line.text;
        let (keyword, rest) = words::split_once(text, range.clone());
        let (flags, arguments) = words::flags(text, rest.unwrap_or(range.end..range.end), self.escape);
        let arguments = words::trim(text, arguments);
        let mut node = Node {
            keyword: self.line.word(keyword),
            flags: flags.into_iter().map(|flag| Word::new(flag.text, self.line.span(flag.range))).collect(),
            rest: self.line.span(arguments.clone()),
            ..Node::default()
        };
        let name = node.keyword.text.to_ascii_lowercase();
        match &*name {
            "run" | "cmd" | "entrypoint" | "shell" => self.command(&mut node, arguments),
            "add" | "copy" | "volume" => {
                if !self.json(&mut node, arguments.clone()) {
                    self.words(&mut node, arguments);
                }
            }
            "from" | "expose" => self.words(&mut node, arguments),
            "env" | "label" => self.pairs(&mut node, arguments, &name.to_ascii_uppercase()),
            "arg" => {
                let words = words::name_value_words(text, arguments, self.escape);
                node.arguments = words.into_iter().map(|range| self.line.word(range)).collect();
            }
            "healthcheck" => self.healthcheck(&mut node, arguments),
            "maintainer" | "stopsignal" | "user" | "workdir" => self.text(&mut node, arguments),
            "onbuild" => {
                if !arguments.is_empty() && depth < MAX_ONBUILD {
                    node.nested = Some(Box::new(self.node(arguments, depth + 1)));
                }
            }
            _ => node.arguments.push(Word::new("", node.rest)),
        }
        node
    }

    fn text(&self, node: &mut Node, range: Range<usize>) {
        if !range.is_empty() {
            node.arguments.push(self.line.word(range));
        }
    }

    fn words(&self, node: &mut Node, range: Range<usize>) {
        let words = words::split(&self.line.text, range);
        node.arguments.extend(words.into_iter().map(|range| self.line.word(range)));
    }

    fn command(&mut self, node: &mut Node, range: Range<usize>) {
        if !self.json(node, range.clone()) {
            self.text(node, range);
        }
    }

    /// Takes the arguments as JSON, if they are; otherwise they mean something else.
    fn json(&mut self, node: &mut Node, range: Range<usize>) -> bool {
        match json::parse(&self.line.text[range.clone()]) {
            JsonForm::Strings(strings) => {
                node.json = true;
                let word = |(text, place): (String, Range<usize>)| {
                    Word::new(text, self.line.span(range.start + place.start..range.start + place.end))
                };
                node.arguments.extend(strings.into_iter().map(word));
                true
            }
            JsonForm::OtherArray => {
                let message = "when using JSON array syntax, arrays must be comprised of strings only";
                self.problems.push(
                    Problem::syntax("json-strings", message, self.line.span(range))
                        .hint("put every item in double quotes, numbers too"),
                );
                true
            }
            JsonForm::No => false,
        }
    }

    fn healthcheck(&mut self, node: &mut Node, range: Range<usize>) {
        let part = &self.line.text[range.clone()];
        let length = part.find(char::is_whitespace).unwrap_or(part.len());
        if length == 0 {
            return;
        }
        let kind = range.start..range.start + length;
        node.arguments.push(self.line.word(kind.clone()));
        self.command(node, words::trim(&self.line.text, kind.end..range.end));
    }

    fn pairs(&mut self, node: &mut Node, range: Range<usize>, keyword: &str) {
        let text = &self.line.text;
        let words = words::name_value_words(text, range.clone(), self.escape);
        let Some(first) = words.first() else { return };
        let separator = |text: &str, at: usize| Word::new(text, self.line.span(at..at + text.len()));
        if !text[first.clone()].contains('=') {
            let (key, value) = words::split_once(text, range.clone());
            let Some(value) = value else {
                let message = format!("{keyword} must have two arguments");
                self.problems.push(
                    Problem::syntax("pair-form", message, self.line.span(range))
                        .hint(format!("write `{keyword} name=value`")),
                );
                return;
            };
            let at = key.end;
            node.arguments.extend([self.line.word(key), self.line.word(value), separator("", at)]);
            return;
        }
        let mut before = None;
        for word in words {
            let written = &text[word.clone()];
            let Some(equals) = written.find('=') else {
                let message =
                    format!("Syntax error - can't find = in {}. Must be of the form: name=value", go_quote(written));
                self.problems.push(
                    Problem::syntax("pair-form", message, self.line.span(word)).hint(hint::pair(written, before)),
                );
                // The next words most likely belong to this one.
                return;
            };
            before = Some(written);
            let at = word.start + equals;
            node.arguments.extend([
                self.line.word(word.start..at),
                self.line.word(at + 1..word.end),
                separator("=", at),
            ]);
        }
    }
}
