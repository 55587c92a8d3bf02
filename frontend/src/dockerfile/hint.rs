//! What to try: a sentence for each mistake that people often make.

use super::ast::Word;
use super::duration::DurationError;
use super::expand::ExpandCause;
use super::mount::MountError;

/// The form of an instruction, for one that has too few or too many arguments.
pub(super) fn form(keyword: &str) -> String {
    let form = match keyword {
        "ADD" => "ADD SOURCE… DESTINATION",
        "ARG" => "ARG NAME[=DEFAULT]",
        "COPY" => "COPY SOURCE… DESTINATION",
        "ENV" => "ENV NAME=VALUE …",
        "EXPOSE" => "EXPOSE PORT[/PROTOCOL] …",
        "FROM" => "FROM IMAGE [AS NAME]",
        "HEALTHCHECK" => "HEALTHCHECK [--interval=30s …] CMD COMMAND` or `HEALTHCHECK NONE",
        "LABEL" => "LABEL NAME=VALUE …",
        "MAINTAINER" => "MAINTAINER NAME",
        "ONBUILD" => "ONBUILD INSTRUCTION …",
        "SHELL" => "SHELL [\"PROGRAM\", \"ARGUMENT\", …]",
        "STOPSIGNAL" => "STOPSIGNAL SIGNAL",
        "USER" => "USER NAME[:GROUP]",
        "VOLUME" => "VOLUME PATH …",
        "WORKDIR" => "WORKDIR PATH",
        _ => keyword,
    };
    match keyword {
        "ADD" | "COPY" => format!("the form is `{form}`; the destination may be `.`, the working directory"),
        _ => format!("the form is `{form}`"),
    }
}

/// For words that were not meant as arguments, but as a comment behind them.
pub(super) fn comment(words: &[Word]) -> Option<&'static str> {
    words.iter().any(|word| is_comment(&word.text)).then_some(COMMENT)
}

/// For a word that starts with `#`.
pub const COMMENT: &str = "a comment has a line of its own: `#` behind an instruction is one of its arguments";

/// Whether a word looks like the start of a comment.
pub fn is_comment(word: &str) -> bool {
    word.starts_with('#')
}

/// For words that were cut out of a reference: blanks end a word, also inside of braces.
pub(super) fn cut_reference(words: &[Word]) -> bool {
    words.iter().any(|word| word.text.rfind("${").is_some_and(|at| !word.text[at..].contains('}')))
}

/// For FROM with neither one nor three arguments.
pub(super) fn from(words: &[Word]) -> String {
    let is_as = |word: &Word| word.text.eq_ignore_ascii_case("as");
    match words {
        words if comment(words).is_some() => COMMENT.to_owned(),
        words if cut_reference(words) => {
            "FROM takes the image as one word: a `${…}` in it can have no blanks, not even in quotes".to_owned()
        }
        [_, keyword] if is_as(keyword) => "name the stage behind AS".to_owned(),
        [_, keyword, ..] if is_as(keyword) => "the name of a stage is one word, without blanks".to_owned(),
        _ => form("FROM"),
    }
}

/// For an instruction that there is not, and that is like no other.
pub(super) fn unknown(keyword: &str) -> &'static str {
    match keyword {
        "<<<<<<<" | "=======" | ">>>>>>>" | "|||||||" => "this is a mark of a merge conflict that nobody has resolved",
        _ if keyword.ends_with(':') => "this looks like YAML; `-f` names the build file",
        "&&" | "||" | "|" | ";" => CONTINUED,
        _ if keyword.starts_with('-') => CONTINUED,
        _ if !keyword.chars().any(char::is_uppercase) => {
            "a command stands behind RUN; a line that goes on with the one above needs a `\\` at the end of that"
        }
        _ => {
            "an instruction is one of ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, FROM, HEALTHCHECK, LABEL, ONBUILD, RUN, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR"
        }
    }
}

const CONTINUED: &str = "a line that goes on with the one above needs a `\\` at the end of that";

/// For a word of ENV or LABEL without `=`.
pub(super) fn pair(word: &str, before: Option<&str>) -> &'static str {
    let is_cut = before.is_some_and(|before| before.contains("${") && !before.contains('}'));
    match word {
        _ if is_comment(word) => COMMENT,
        _ if is_cut => "blanks end a value, also inside of `${…}`: put the whole value in quotes",
        _ => "put a value with blanks in it in quotes",
    }
}

/// For a word that cannot be expanded.
pub(crate) fn expansion(cause: &ExpandCause) -> Option<&'static str> {
    Some(match cause {
        ExpandCause::Unterminated(_) => {
            "close the quote; a quote that is meant as a character is written with the escape character before it"
        }
        ExpandCause::MissingBrace | ExpandCause::MissingSlash => {
            "close the `${…}`; a `$` that is meant as a character is written with the escape character before it"
        }
        ExpandCause::BadSubstitution => {
            "a name follows `${`; a `$` that is meant as a character is written with the escape character before it"
        }
        ExpandCause::UnsupportedModifier(modifier) if modifier == "\u{fffd}" => {
            "close the `${…}`; a `$` that is meant as a character is written with the escape character before it"
        }
        ExpandCause::UnsupportedModifier(modifier) if modifier.ends_with('=') => {
            "nothing can be assigned here: `${name:-default}` takes a default, and `ARG name=default` sets one"
        }
        ExpandCause::UnsupportedModifier(_) => {
            "there are `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`; a shell knows more, in RUN"
        }
        ExpandCause::Required { .. } => {
            "give it a value before this line; one that an ARG declares can have it from `--build-arg`"
        }
        ExpandCause::Pattern { .. } => "in a pattern a backslash stands before `*`, `?`, `\\`, `}` or `/`",
        ExpandCause::TooDeep | ExpandCause::TooLong => return None,
    })
}

/// For a time of HEALTHCHECK.
pub(super) fn duration(error: &DurationError) -> String {
    const UNITS: &str = "the units are `h`, `m`, `s`, `ms`, `us` and `ns`";
    match error {
        DurationError::MissingUnit(text) => format!("did you mean `{text}s`? {UNITS}"),
        DurationError::UnknownUnit { unit, text } => {
            let known = match &*unit.to_lowercase() {
                "sec" | "secs" | "second" | "seconds" | "s" => Some("s"),
                "min" | "mins" | "minute" | "minutes" | "m" => Some("m"),
                "hour" | "hours" | "hr" | "hrs" | "h" => Some("h"),
                "msec" | "millis" | "milliseconds" => Some("ms"),
                _ => None,
            };
            let meant = known.map(|known| format!("did you mean `{}`? ", text.replace(unit, known)));
            format!("{}{UNITS}", meant.unwrap_or_default())
        }
        DurationError::Invalid(_) => format!("write a number and a unit, such as `30s` or `1m30s`; {UNITS}"),
    }
}

/// For a mount that cannot be read.
pub(crate) fn mount(error: &MountError) -> Option<String> {
    Some(match error {
        MountError::Field(field) if field.is_empty() => {
            "the options stand together, with a comma and no blank between them".to_owned()
        }
        MountError::Field(_) => "an option is `key=value`; `ro`, `rw` and `required` stand alone, too".to_owned(),
        MountError::Number { key: "mode", .. } => "a mode has octal digits, such as `0755`".to_owned(),
        MountError::Number { .. } => "it is a number".to_owned(),
        MountError::Kind { .. } => "the types are `bind`, `cache`, `tmpfs`, `secret` and `ssh`".to_owned(),
        MountError::Sharing { .. } => "use `shared`, `private` or `locked`".to_owned(),
        MountError::Boolean { .. } => "use `true` or `false`".to_owned(),
        MountError::Size { .. } => "write a number of bytes, or one with `k`, `m` or `g` behind it".to_owned(),
        MountError::FromVariable => {
            "name a stage: `FROM image-with-$VARIABLE AS name`, and `from=name` in the mount".to_owned()
        }
        MountError::Expand(error) => return expansion(&error.cause).map(str::to_owned),
        _ => return None,
    })
}
