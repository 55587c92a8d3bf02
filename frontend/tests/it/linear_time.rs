//! Hostile text is read in time proportional to its length.

use std::{collections::BTreeMap, time::Duration};

use kiln_frontend::dockerfile::{expand::Expander, parse};
use kiln_frontend::dockerignore;
use kiln_frontend::lower::{Facts, Request, lower};
use kiln_oci::Platform;
use rustix::time::{ClockId, clock_gettime};

/// Runs the same on a text and on one that is sixteen times as long. Linear work takes sixteen times as long, quadratic
/// work 256 times; the bound lies between and leaves room for a busy machine. The long text is so long that even what
/// goes over all of it as fast as memory is read shows, if it does so for every few bytes.
#[track_caller]
fn check(make: impl Fn(usize) -> String, work: impl Fn(&str)) {
    check_sizes(1 << 13, make, work);
}

#[track_caller]
fn check_sizes(size: usize, make: impl Fn(usize) -> String, work: impl Fn(&str)) {
    let time = |length: usize| {
        let text = make(length);
        let start = processor_time();
        work(&text);
        processor_time() - start
    };
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    for _ in 0..4 {
        // The least is what other work on the machine has disturbed the least.
        (short, long) = (short.min(time(size)), long.min(time(16 * size)));
        if long < short * 40 + Duration::from_millis(5) {
            return;
        }
    }
    panic!("{:?}…: {short:?}, {long:?}", make(40));
}

/// How long this thread has been on a processor: other work on the machine does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
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
fn a_line_of_many_pieces_is_read_in_linear_time() {
    for (start, unit) in
        [("RUN ", "a\\\n"), ("ENV ", "a=b \\\n#\n"), ("COPY ", "<<A \\\n"), ("ONBUILD RUN ", "a\\\n\n")]
    {
        check_sizes(1 << 15, |length| format!("FROM x\n{start}{}\n", repeat(unit, length)), |text| drop(parse(text)));
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

/// Parses and lowers.
fn whole(text: &str) {
    let (file, parsed) = parse(text);
    let build_platform = Platform::new("linux", "amd64");
    let _ = lower(&file, &Request { parsed, build_platform, ..Request::default() }, &Facts::default());
}

/// Many things that all have names of their own, each of which could be compared with all the others.
#[test]
fn many_different_things_are_lowered_in_linear_time() {
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<String>();
    let line = |head: &str, count: usize, item: &str| format!("{head} {}", list(count, &|i| format!("{item}{i} \\\n")));
    let cases: [(&str, &dyn Fn(usize) -> String); 12] = [
        ("used", &|n| {
            format!(
                "ENV {}z=z\nLABEL {}z=z\n",
                list(n, &|i| format!("v{i}=x \\\n")),
                list(n, &|i| format!("l=$v{i} \\\n"))
            )
        }),
        ("warnings", &|n| "MAINTAINER a\n".repeat(n)),
        ("names of stages", &|n| {
            list(n, &|i| format!("FROM scratch AS s{i}\n")) + &list(n, &|i| format!("COPY --from=s{i} / /\n"))
        }),
        ("here-documents", &|n| format!("{}/d/\n{}", line("COPY", n, "<<a"), list(n, &|i| format!("a{i}\n")))),
        ("addresses", &|n| line("ADD", n, "http://a/") + "/d/\n"),
        ("sources", &|n| line("COPY", n, "a") + "/d/\n"),
        ("descriptions", &|n| list(n, &|i| format!("# b{i} c\n")) + &line("ARG", n, "a") + "\n"),
        ("mounts", &|n| line("RUN", n, "--mount=type=cache,target=/a") + "x\n"),
        ("variables", &|n| line("ENV", n, "a=").replace("a=", "a=b c") + "\n"),
        ("set again", &|n| "ENV a=b\nRUN x\n".repeat(n)),
        ("undefined", &|n| list(n, &|i| format!("ENV known{i}=\n")) + &list(n, &|i| format!("LABEL a=$nkown{i}\n"))),
        ("stages", &|n| {
            list(n, &|i| format!("FROM scratch AS s{i}\n")) + &list(n, &|i| format!("COPY --from={i} / /\n"))
        }),
    ];
    for (name, make) in cases {
        check_sizes(400, |count| format!("# {name}\nFROM scratch\n{}", make(count)), whole);
    }
}

#[test]
fn values_of_the_command_line_are_read_in_linear_time() {
    for unit in ["a", "/", "a/", ",", "linux/amd64,", "(", "\u{e9}", "$", "${a:-"] {
        check(|length| repeat(unit, length), |text| drop(text.parse::<Platform>()));
        check(
            |length| repeat(unit, length),
            |text| {
                let (file, parsed) = parse("ARG a\nFROM scratch\nARG a\nENV b=$a c=${a#x*} d=${a//x/y}\nRUN $a\n");
                let build_args = BTreeMap::from([("a".to_owned(), text.to_owned())]);
                let request = Request { parsed, build_args, ..Request::default() };
                drop(lower(&file, &request, &Facts::default()));
            },
        );
    }
    let many = |count: usize| (0..count).map(|number| format!("name{number} ")).collect();
    check_sizes(1_000, many, |text| {
        let (file, parsed) = parse("FROM scratch\nARG nmae1\n");
        let build_args = text.split(' ').map(|name| (name.to_owned(), String::new())).collect();
        drop(lower(&file, &Request { parsed, build_args, ..Request::default() }, &Facts::default()));
    });
}

#[test]
fn an_ignore_file_is_read_and_asked_in_linear_time() {
    for unit in ["a\n", "!a\n", "**/\n", "*\n", "a/", "../", "[a", "\\", "#\n", "\n", "?", "a*\n", "!\n"] {
        check_sizes(
            1 << 10,
            |length| repeat(unit, length),
            |text| {
                if let Ok(patterns) = dockerignore::parse(text) {
                    patterns.verdict(&patterns.root(), "some/path/of/a/file");
                }
            },
        );
    }
}

#[test]
fn many_paths_are_held_against_many_patterns_in_linear_time() {
    // Of each pattern one and of each path one; all of them would be compared with all.
    for make in [
        |number: usize| (format!("**/x{number}"), format!("d/y{number}")),
        |number: usize| (format!("x{number}/**"), format!("y{number}/f")),
        |number: usize| (format!("*.x{number}"), format!("f.y{number}")),
        |number: usize| (format!("x{number}/*/a"), format!("y{number}/b/c")),
        |number: usize| (format!("a/x{number}"), format!("a/y{number}")),
        |_: usize| ("**/x".to_owned(), "d/x".to_owned()),
    ] {
        check_sizes(
            500,
            |count| (0..count).map(|number| make(number).0 + "\n").collect(),
            |text| {
                let patterns = dockerignore::parse(text).expect("the patterns are well formed");
                let root = patterns.root();
                for number in 0..text.lines().count() {
                    patterns.verdict(&root, &make(number).1);
                }
            },
        );
    }
}
