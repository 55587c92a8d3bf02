use super::*;

#[track_caller]
fn check(file: &str, ignored: &[&str], kept: &[&str]) {
    let patterns = parse(file).expect("the file is well formed");
    for path in ignored {
        assert!(patterns.verdict_of(path).matched, "{path} is not ignored by {file:?}");
    }
    for path in kept {
        assert!(!patterns.verdict_of(path).matched, "{path} is ignored by {file:?}");
    }
}

#[test]
fn the_last_pattern_decides() {
    check("*.md\n!README.md\n", &["a.md"], &["README.md", "a.txt"]);
    check("!README.md\n*.md\n", &["a.md", "README.md"], &[]);
}

#[test]
fn a_pattern_that_was_not_looked_at_does_not_count_below() {
    check("a/b\n!a\n", &["a/b"], &["a", "a/c"]);
}

#[test]
fn an_escaped_suffix_is_a_whole_name() {
    check("**/\\*x\n", &["*x", "a/*x"], &["y*x", "a/y*x"]);
}

#[test]
fn a_verdict_names_the_pattern() {
    let patterns = parse("# logs\n*.log\n\n!keep.log\n").expect("well formed");
    let line = |path: &str| patterns.verdict_of(path).decided_by.map(|index| patterns.patterns()[index].line);
    assert_eq!(line("a.log"), Some(2));
    assert_eq!(line("keep.log"), Some(4));
    assert_eq!(line("other"), None);
}

#[test]
fn a_directory_is_pruned_unless_something_below_may_come_back() {
    let patterns = parse("*\n!src/lib/*\n").expect("well formed");
    assert!(!patterns.can_prune("src"));
    assert!(!patterns.can_prune("src/lib"));
    assert!(patterns.can_prune("sr"));
    assert!(patterns.can_prune("target"));
    assert!(!parse("*\n!**/keep\n").expect("well formed").can_prune("target"));
}

#[test]
fn mistakes_name_their_line() {
    assert_eq!(parse("a\nb[\n").map_err(|error| error.line()).err(), Some(2));
    assert_eq!(parse("a\n\n!\n").map_err(|error| error.line()).err(), Some(3));
    let long = "x".repeat(MAX_LINE + 1);
    assert_eq!(parse(&long).err(), Some(PatternError::LineTooLong { line: 1 }));
}

#[test]
fn many_wildcards_are_an_error_or_work() {
    let stars = "*?".repeat(30_000);
    let _ = parse(&stars);
    let nested = "**/a/".repeat(5_000);
    let _ = parse(&nested);
}

#[test]
fn wildcards_at_the_end_of_an_exception_keep_what_is_below_from_being_pruned() {
    let patterns = parse("*\n!a/*/**\n").expect("the file is well formed");
    assert!(!patterns.can_prune("a") && !patterns.can_prune("a/a") && patterns.can_prune("b"));
    check("*\n!a/*/**\n", &["a", "a/a", "b/a/a"], &["a/a/a"]);
}
