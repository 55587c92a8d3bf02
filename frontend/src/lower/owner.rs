//! `user[:group]` of `--chown`, and of USER where WORKDIR makes a directory.

use crate::graph::{Owner, Principal};

/// Reads an owner. Every text is one: what is no number is a name, whether anybody has it or not.
pub(super) fn parse(text: &str) -> Owner {
    match text.split_once(':') {
        None => Owner { user: principal(text), group: None },
        Some((user, group)) => Owner { user: principal(user), group: Some(principal(group)) },
    }
}

/// Numbers have 32 bits with a sign; one below zero is a name that nobody has. Nothing is root.
fn principal(text: &str) -> Principal {
    if text.is_empty() || text == "root" {
        return Principal::Id(0);
    }
    match text.parse::<i32>().map(u32::try_from) {
        Ok(Ok(id)) => Principal::Id(id),
        _ => Principal::Name(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        let id = Principal::Id;
        let name = |text: &str| Principal::Name(text.to_owned());
        for (text, user, group) in [
            ("12", id(12), None),
            ("root", id(0), None),
            ("sam:34", name("sam"), Some(id(34))),
            ("12:", id(12), Some(id(0))),
            (":34", id(0), Some(id(34))),
            ("1:2:3", id(1), Some(name("2:3"))),
            ("-1", name("-1"), None),
            ("2147483648", name("2147483648"), None),
        ] {
            assert_eq!(parse(text), Owner { user, group }, "{text}");
        }
    }
}
