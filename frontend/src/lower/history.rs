//! What the history of an image says about an instruction.

use kiln_oci::Healthcheck;

use crate::dockerfile::duration::Nanoseconds;
use crate::dockerfile::quote::go_quote;

/// The comment of every entry, by which other tools know how to read it.
pub(super) const COMMENT: &str = "buildkit.dockerfile.v0";

/// Renders an argument vector as Go's `%q` does: `["a" "b c"]`.
pub(super) fn quoted_list<T: AsRef<str>>(items: &[T]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| go_quote(item.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

/// Renders a list as Go's `%v` does: `[a b c]`.
pub(super) fn plain_list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(" "))
}

/// Renders a HEALTHCHECK as Go prints its structure.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        Nanoseconds(check.interval),
        Nanoseconds(check.timeout),
        Nanoseconds(check.start_period),
        Nanoseconds(check.start_interval),
        check.retries
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_go_does() {
        assert_eq!(quoted_list::<&str>(&[]), "[]");
        assert_eq!(quoted_list(&["a", "b \"c\""]), r#"["a" "b \"c\""]"#);
        assert_eq!(plain_list(&["a", "b c"]), "[a b c]");
    }
}
