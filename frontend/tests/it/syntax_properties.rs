//! Properties of the parser, the expansion and the ignore rules on generated input.

use kiln_frontend::{
    dockerfile::{
        InstructionKind, expand::Expander, git, heredoc, mode::FileMode, mount, parse, parse_trigger, signal, size,
    },
    dockerignore,
};
use proptest::{collection::vec, prelude::*, sample::select};

/// An instruction of a generated file: the parts it is printed from.
#[derive(Debug, Clone)]
struct Printed {
    keyword: &'static str,
    flags: Vec<String>,
    arguments: Vec<String>,
    json: bool,
    heredoc: Option<(String, Vec<String>)>,
}

fn word() -> impl Strategy<Value = String> {
    // A word that begins with two dashes would be a flag.
    "([a-zA-Z0-9_./@:$%+é][a-zA-Z0-9_./@:$%+é-]{0,5})?[a-z]"
}

fn instruction() -> impl Strategy<Value = Printed> {
    let plain = |keyword, flags, arguments, json| Printed { keyword, flags, arguments, json, heredoc: None };
    prop_oneof![
        (vec(word(), 1..4), any::<bool>()).prop_map(move |(words, json)| {
            let words = if json { words } else { vec![words.join(" ")] };
            plain("RUN", vec!["--network=none".to_owned()], words, json)
        }),
        (select(vec!["COPY", "ADD"]), vec(word(), 2..5), any::<bool>()).prop_map(move |(keyword, words, json)| {
            plain(keyword, vec!["--chown=a:b".to_owned(), "--link".to_owned()], words, json)
        }),
        vec(word(), 1..3).prop_map(move |words| plain("VOLUME", vec![], words, false)),
        (vec(word(), 1..3)).prop_map(move |words| plain("SHELL", vec![], words, true)),
        (select(vec!["WORKDIR", "USER", "STOPSIGNAL"]), word()).prop_map(move |(keyword, word)| plain(
            keyword,
            vec![],
            vec![word],
            false
        )),
        ("[A-Z]{1,8}", vec("[a-z <&$#\\t\\\\]{0,12}", 0..4)).prop_map(|(name, body)| Printed {
            keyword: "COPY",
            flags: vec![],
            arguments: vec![format!("<<{name}"), "/x".to_owned()],
            json: false,
            heredoc: Some((name, body)),
        }),
    ]
}

fn print(file: &[Printed], continued: bool) -> String {
    let blank = if continued { " \\\n# a comment\n  " } else { " " };
    let mut text = "FROM scratch\n".to_owned();
    for instruction in file {
        text.push_str(instruction.keyword);
        for flag in &instruction.flags {
            text.push_str(blank);
            text.push_str(flag);
        }
        text.push_str(blank);
        match instruction.json {
            true => text.push_str(&serde_json::to_string(&instruction.arguments).expect("texts are JSON")),
            false => text.push_str(&instruction.arguments.join(blank)),
        }
        text.push('\n');
        if let Some((name, body)) = &instruction.heredoc {
            body.iter().for_each(|line| text.push_str(&format!("{line}\n")));
            text.push_str(&format!("{name}\n"));
        }
    }
    text
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(file in vec(instruction(), 0..8), continued: bool) {
        let text = print(&file, continued);
        let (parsed, _) = parse(&text);
        prop_assert_eq!(parsed.instructions.len(), file.len() + 1, "{}", text);
        for (printed, read) in file.iter().zip(&parsed.instructions[1..]) {
            prop_assert_eq!(printed.keyword, &read.keyword.text);
            let flags: Vec<&str> = read.node.flags.iter().map(|word| &*word.text).collect();
            prop_assert_eq!(&printed.flags, &flags);
            let arguments: Vec<&str> = read.node.arguments.iter().map(|word| &*word.text).collect();
            prop_assert_eq!(&printed.arguments, &arguments, "{}", text);
            prop_assert_eq!(printed.json, read.node.json);
            let bodies: Vec<&str> = read.heredocs.iter().map(|heredoc| &*heredoc.content).collect();
            let printed: Vec<String> =
                printed.heredoc.iter().map(|(_, body)| body.iter().map(|line| format!("{line}\n")).collect()).collect();
            prop_assert_eq!(printed, bodies);
        }
    }

    #[test]
    fn any_text_is_read(text in "(?s)[ \\t\\n\\r\\\\`#<>\"'\\[\\]{},=$A-Za-z0-9é\\u{feff}-]{0,200}") {
        let (file, diagnostics) = parse(&text);
        for instruction in &file.instructions {
            prop_assert!(instruction.lines.first <= instruction.lines.last);
            prop_assert!(text.get(instruction.span.start..instruction.span.end).is_some());
            for word in instruction.node.arguments.iter().chain(&instruction.node.flags) {
                prop_assert!(text.get(word.span.start..word.span.end).is_some(), "{:?} in {:?}", word, text);
            }
        }
        for diagnostic in &diagnostics {
            prop_assert!(!diagnostic.spans.is_empty());
            prop_assert!(diagnostic.spans.iter().all(|span| text.get(span.start..span.end).is_some()));
        }
        parse_trigger(&text);
        heredoc::announcements(&text);
    }

    #[test]
    fn keywords_with_any_arguments_are_read(
        lines in vec((select(kiln_frontend::dockerfile::KEYWORDS.to_vec()), "[ -~]{0,30}"), 0..12),
    ) {
        let text: String = lines.iter().map(|(keyword, rest)| format!("{keyword} {rest}\n")).collect();
        let (file, diagnostics) = parse(&text);
        let invalid = file.instructions.iter().filter(|instruction| instruction.kind == InstructionKind::Invalid);
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        prop_assert!(errors >= invalid.count());
    }

    #[test]
    fn expansion_never_panics(word in "(?s)[${}:+?#%/*'\"\\\\`<a-c -]{0,40}", value in "[a-c*\\\\]{0,6}") {
        let lookup = |name: &str| (name == "a").then_some(&*value);
        for escape in ['\\', '`'] {
            let expander = Expander::new(escape, &lookup);
            let one = expander.process_word_with_matches(&word);
            prop_assert_eq!(one.map(|one| one.text), expander.process_word(&word));
            let _ = Expander::for_display(escape, &lookup).process_word(&word);
        }
        let _ = Expander::for_heredoc(&lookup).process_word(&word);
    }

    #[test]
    fn values_never_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<FileMode>();
        let _ = text.parse::<kiln_frontend::dockerfile::duration::Nanoseconds>();
        let _ = size::parse(&text);
        let _ = signal::parse(&text);
        let _ = git::parse(&text);
        let _ = git::parse(&format!("https://h/r.git{text}"));
        let _ = mount::parse(&text, |value| Ok(value.to_owned()));
    }

    #[test]
    fn durations_are_read_as_they_are_printed(nanoseconds: i64) {
        let time = kiln_frontend::dockerfile::duration::Nanoseconds(nanoseconds);
        prop_assert_eq!(time.to_string().parse(), Ok(time));
    }

    #[test]
    fn verdicts_equal_a_naive_model(
        short in vec("!?[ab*?]{1,2}(/(\\*\\*|[ab*?]{1,2})){0,2}", 0..6),
        // So long a list is not looked through.
        long in vec("!?(\\*\\*/|\\*\\*)?[ab*?]{1,2}(/(\\*\\*|[ab*?]{1,2})){0,2}", 70..90),
        paths in vec("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..10),
    ) {
        for patterns in [&short, &long] {
            let list = dockerignore::parse(&patterns.join("\n")).expect("the patterns are well formed");
            for path in &paths {
                let found = list.verdict_of(path).matched;
                prop_assert_eq!(found, naive::verdict(patterns, path), "{} by {:?}", path, patterns);
            }
        }
        let patterns = &short;
        let list = dockerignore::parse(&patterns.join("\n")).expect("the patterns are well formed");
        // What is pruned is ignored as a whole.
        for path in &paths {
            for (slash, _) in path.match_indices('/') {
                if list.verdict_of(&path[..slash]).matched && list.can_prune(&path[..slash]) {
                    prop_assert!(list.verdict_of(path).matched, "{} by {:?}", path, patterns);
                }
            }
        }
    }
}

/// The rules of ignore files as they are written down, without anything clever.
mod naive {
    pub fn verdict(patterns: &[String], path: &str) -> bool {
        let mut up = vec![false; patterns.len()];
        let mut verdict = false;
        let ends: Vec<usize> = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]).collect();
        for end in ends {
            verdict = false;
            let mut hits = vec![false; patterns.len()];
            for (index, pattern) in patterns.iter().enumerate() {
                let (pattern, is_exception) = match pattern.strip_prefix('!') {
                    Some(rest) => (rest, true),
                    None => (&**pattern, false),
                };
                if !up[index] && is_exception != verdict {
                    continue;
                }
                if up[index] || is_match(pattern, &path[..end]) {
                    hits[index] = true;
                    verdict = !is_exception;
                }
            }
            up = hits;
        }
        verdict
    }

    fn is_match(pattern: &str, path: &str) -> bool {
        if let Some(suffix) = pattern.strip_prefix("**")
            && !suffix.contains(['*', '?'])
        {
            return path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path);
        }
        let pattern: Vec<char> = pattern.chars().collect();
        let path: Vec<char> = path.chars().collect();
        glob(&pattern, &path)
    }

    fn glob(pattern: &[char], path: &[char]) -> bool {
        match pattern {
            [] => path.is_empty(),
            ['*', '*'] | ['*', '*', '/'] => true,
            ['*', '*', rest @ ..] => {
                let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
                glob(rest, path) || (0..path.len()).any(|at| path[at] == '/' && glob(rest, &path[at + 1..]))
            }
            ['*', rest @ ..] => {
                glob(rest, path) || path.first().is_some_and(|c| *c != '/') && glob(pattern, &path[1..])
            }
            ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && glob(rest, &path[1..]),
            [c, rest @ ..] => path.first() == Some(c) && glob(rest, &path[1..]),
        }
    }
}
