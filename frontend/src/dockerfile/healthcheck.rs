//! HEALTHCHECK: how often a container is asked how it is, and by which command.

use super::ast::{Healthcheck, Probe, Word};
use super::duration::Nanoseconds;
use super::flags;
use super::hint;
use super::instruction::Builder;
use super::quote::go_quote;

/// The least time a health check may wait.
const MIN_INTERVAL: Nanoseconds = Nanoseconds(1_000_000);

impl Builder<'_> {
    pub(super) fn healthcheck(&mut self) -> Option<Healthcheck> {
        self.at_least_one("HEALTHCHECK")?;
        let (kind, arguments) = self.node.arguments.split_first()?;
        let name = kind.text.to_uppercase();
        if name == "NONE" {
            if arguments.is_empty() {
                return Some(Healthcheck::None);
            }
            self.problem("arguments", "HEALTHCHECK NONE takes no arguments", self.place());
            return None;
        }
        let before = self.problems.len();
        let flags = self.flags(flags::HEALTHCHECK);
        if name != "CMD" {
            // Behind a flag that lacks its value stands most likely that.
            if self.problems.len() == before {
                let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quote(&name));
                let command = self.node.arguments.iter().map(|word| &*word.text).collect::<Vec<_>>().join(" ");
                self.hinted("healthcheck", message, kind.span, format!("write `HEALTHCHECK CMD {command}`"));
            }
            return None;
        }
        if arguments.is_empty() {
            let message = "Missing command after HEALTHCHECK CMD";
            self.hinted("healthcheck", message, kind.span, hint::form("HEALTHCHECK"));
        }
        let mut interval = |name: &str| self.interval(name, flags.text(name));
        let (interval, timeout) = (interval("interval"), interval("timeout"));
        let start_period = self.interval("start-period", flags.text("start-period"));
        let start_interval = self.interval("start-interval", flags.text("start-interval"));
        let retries = flags.non_empty("retries").map_or(0, |word| self.retries(&word));
        let command = self.command_line(arguments);
        Some(Healthcheck::Cmd(Probe { command, interval, timeout, start_period, start_interval, retries }))
    }

    fn interval(&mut self, name: &str, value: Option<Word>) -> Nanoseconds {
        let none = Nanoseconds(0);
        let Some(word) = value.filter(|word| !word.text.is_empty()) else { return none };
        match word.text.parse::<Nanoseconds>() {
            Ok(time) if time == none || time >= MIN_INTERVAL => time,
            Ok(_) => {
                let message = format!("Interval {} cannot be less than {MIN_INTERVAL}", go_quote(name));
                self.hinted("duration", message, word.span, "0 leaves it to whoever runs the container");
                none
            }
            Err(error) => {
                self.hinted("duration", error.to_string(), word.span, hint::duration(&error));
                none
            }
        }
    }

    fn retries(&mut self, word: &Word) -> u32 {
        let hint = "give a number; 0 leaves it to whoever runs the container";
        match parse_number(&word.text) {
            Ok(number) => u32::try_from(number).unwrap_or_else(|_| {
                self.hinted("retries", format!("--retries cannot be negative ({number})"), word.span, hint);
                0
            }),
            Err(reason) => {
                let message = format!("strconv.ParseInt: parsing {}: {reason}", go_quote(&word.text));
                self.hinted("retries", message, word.span, hint);
                0
            }
        }
    }
}

/// Reads a signed number of 32 bits, in decimal.
fn parse_number(text: &str) -> Result<i32, &'static str> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "value out of range")
}
