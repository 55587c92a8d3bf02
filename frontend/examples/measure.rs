//! Measures how long a Dockerfile takes from text to graph, checks included, and how long hostile texts take.
//!
//! `cargo run --release -p kiln-frontend --example measure [WORD]`; with a WORD only the texts that have it in their name.
//! The times are processor times of this thread, so that other work on the machine disturbs them little.

use std::fmt::Write as _;
use std::time::Duration;

use kiln_frontend::dockerfile::parse;
use kiln_frontend::lower::{Facts, Lowered, Request, lower};
use kiln_oci::Platform;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    println!("ordinary files: parsed, lowered, checked");
    for count in [1_000, 10_000, 100_000] {
        report(&format!("{count} instructions"), 1_000_000 / count, || ordinary(count));
    }
    println!("hostile files of 1 MiB and 4 MiB");
    for (name, unit) in [
        ("nested ${", "${a:-"),
        ("backslashes", "\\"),
        ("<<A", "<<A "),
        ("commas", ","),
        ("quotes", "\""),
        ("brackets", "["),
    ] {
        for size in [1 << 20, 1 << 22] {
            report(&format!("RUN and {name}, {size}"), 3, || continued("RUN", unit, size));
            report(&format!("ENV and {name}, {size}"), 3, || continued("ENV a=b", unit, size));
            report(&format!("COPY and {name}, {size}"), 3, || continued("COPY a b", unit, size));
        }
    }
    for (name, unit) in [("lines", "\n"), ("comments", "#\n"), ("stages", "FROM a\n"), ("here-documents", "RUN <<A\n")]
    {
        for size in [1 << 20, 1 << 22] {
            report(&format!("{name}, {size}"), 3, || format!("FROM scratch\n{}", unit.repeat(size / unit.len())));
        }
    }
    report("a million lines", 3, || format!("FROM scratch\n{}", "LABEL a=b\n".repeat(1_000_000)));
}

/// Prints the mean time of some rounds, after one that pays for the memory.
fn report(name: &str, rounds: usize, text: impl FnOnce() -> String) {
    if std::env::args().nth(1).is_some_and(|word| !name.contains(&word)) {
        return;
    }
    let text = text();
    let outcome = whole(&text);
    let read = milliseconds(mean(rounds, || drop(parse(&text))));
    let all = milliseconds(mean(rounds, || {
        whole(&text);
    }));
    println!("{name:>40}: {all:8.2} ms, of it parsing {read:8.2} ms; {outcome}");
}

/// Goes all the way, and says how far it came.
fn whole(text: &str) -> &'static str {
    let (file, parsed) = parse(text);
    let is_wrong = parsed.iter().any(|found| found.is_error());
    let build_platform = Platform::new("linux", "amd64");
    let request = Request { parsed, build_platform, ..Request::default() };
    match lower(&file, &request, &Facts::default()) {
        _ if is_wrong => "has mistakes",
        Ok(Lowered::Done(_)) => "a graph",
        Ok(Lowered::Needs(_)) => "needs images",
        Err(_) => "is refused",
    }
}

fn mean(rounds: usize, mut work: impl FnMut()) -> Duration {
    let start = processor_time();
    (0..rounds).for_each(|_| work());
    (processor_time() - start) / rounds as u32
}

/// How long this thread has been on a processor, as the kernel counts it: every few milliseconds.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with schedstat");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok()).expect("the first field is a time");
    Duration::from_nanos(nanoseconds)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A file as people write them, only longer.
fn ordinary(count: usize) -> String {
    let mut text = String::from("ARG VERSION=1\n");
    for number in 1..count {
        let _ = match number % 10 {
            1 if number % 100 == 1 => writeln!(text, "FROM scratch AS stage{number}"),
            1 => writeln!(text, "WORKDIR /src/part{number}"),
            2 => writeln!(text, "ARG OPTION{}=${{VERSION:-none}}", number % 100),
            3 => writeln!(text, "ENV NAME{}=\"value $OPTION{} of it\"", number % 100, number % 100 - 1),
            4 => writeln!(text, "COPY --chown=1:1 a{number}.txt b*/ ./target/"),
            5 => {
                writeln!(text, "RUN --mount=type=cache,target=/cache make \\\n    part{number} && \\\n    make install")
            }
            6 => writeln!(text, "RUN [\"program\", \"argument {number}\"]"),
            7 => writeln!(text, "LABEL org.example.part=\"{number}\""),
            8 => writeln!(text, "EXPOSE {}/tcp", 1024 + number % 60_000),
            9 => writeln!(text, "# a comment\nRUN <<EOF\nset -e\nmake {number}\nEOF"),
            _ => writeln!(text, "CMD [\"program\", \"{number}\"]"),
        };
    }
    text
}

/// Physical lines have a limit, so a long logical line is made from many.
fn continued(start: &str, unit: &str, size: usize) -> String {
    let line = format!("{}\\\n", unit.repeat(1000 / unit.len()));
    format!("FROM scratch\n{start} {}\n", line.repeat(size / line.len()))
}
