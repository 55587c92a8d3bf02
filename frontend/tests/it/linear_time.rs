//! Hostile text is read in time proportional to its length.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kiln_frontend::dockerfile::{expand::Expander, parse};

/// Runs the same on a text and on one eight times as long. Linear work takes eight times as long, quadratic work 64
/// times; the bound lies between and leaves room for a busy machine.
fn check(make: impl Fn(usize) -> String, work: impl Fn(&str)) {
    let time = |length: usize| {
        let text = make(length);
        let start = Instant::now();
        work(&text);
        start.elapsed()
    };
    let mut last = None;
    for _ in 0..3 {
        let (short, long) = (time(1 << 14), time(1 << 17));
        if long < short * 24 + Duration::from_millis(200) {
            return;
        }
        last = Some((short, long));
    }
    panic!("{:?}…: {last:?}", make(40));
}

fn repeat(unit: &str, length: usize) -> String {
    unit.repeat(length / unit.len())
}

/// Physical lines have a limit, so a long logical line is made from many.
fn continued(start: &str, unit: &str, length: usize) -> String {
    let line = format!("{}\\\n", repeat(unit, 1000));
    format!("FROM x\n{start} {}", line.repeat(length / line.len()))
}

#[test]
fn a_file_of_any_lines_is_read_in_linear_time() {
    for unit in [
        "RUN <<A\n",
        "FROM x\n",
        "\n",
        "\\\n",
        "#\n",
        "# check=\n",
        "ONBUILD ",
        "RUN a \\\n\n",
        "RUN <<A\n<<A\nA\n",
        "X\n",
        "ENV a\n",
    ] {
        check(|length| repeat(unit, length), |text| drop(parse(text)));
    }
}

#[test]
fn a_long_line_is_read_in_linear_time() {
    for (start, unit) in [
        ("RUN", "<<A "),
        ("RUN", "${"),
        ("RUN <<A", "${"),
        ("RUN", "\\"),
        ("RUN", ","),
        ("RUN", "--mount=a,from=b "),
        ("ONBUILD", "ONBUILD "),
        ("RUN", "'"),
        ("RUN", "["),
        ("CMD [", "[],"),
        ("CMD [", "\"a\","),
        ("ENV", "a=b "),
        ("ARG", "a "),
        ("COPY", "a "),
        ("EXPOSE", "80 "),
        ("LABEL", "\""),
        ("", "X"),
    ] {
        check(|length| continued(start, unit, length), |text| drop(parse(text)));
    }
}

#[test]
fn a_long_word_is_expanded_in_linear_time() {
    let variables = BTreeMap::from([("a", "bcd".to_owned())]);
    let lookup = |name: &str| variables.get(name).map(String::as_str);
    for unit in ["${", "${a:-", "${a:-}", "$a", "\\", "${a//b/${a}}", "${a#*}", "${x:-${a:-x}}", "\"", "'", "<<", "<< "]
    {
        check(|length| repeat(unit, length), |text| drop(Expander::new('\\', &lookup).process_word_with_matches(text)));
    }
}

#[test]
fn an_expansion_has_a_limit() {
    let variables = BTreeMap::from([("a", "b".repeat(1 << 20))]);
    let lookup = |name: &str| variables.get(name).map(String::as_str);
    let error = Expander::new('\\', &lookup).process_word(&"$a".repeat(100));
    assert!(error.is_err_and(|error| error.to_string().ends_with("is longer than 8388608 bytes")));
    let nested = format!("{}{}", "${a:-".repeat(101), "}".repeat(101));
    let error = Expander::new('\\', &lookup).process_word(&nested);
    assert!(error.is_err_and(|error| error.to_string().ends_with("nested more than 100 deep")));
}
