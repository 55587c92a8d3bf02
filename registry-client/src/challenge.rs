//! `WWW-Authenticate`: what a registry wants to see before it answers.
//!
//! One header may hold several challenges, and there may be several headers (RFC 9110 §11.6.1).

use std::collections::BTreeMap;

/// The challenge to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from a token server.
    Bearer {
        /// Its address.
        realm: String,
        /// What to ask for a token for.
        service: String,
        /// The scopes that were missing, as text.
        scope: String,
        /// `insufficient_scope`, `invalid_token`, or nothing.
        error: String,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// Picks the best challenge of a response: a token before a password.
    pub(crate) fn pick<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, mut parameters) in headers.into_iter().flat_map(parse) {
            let mut take = |name: &str| parameters.remove(name).unwrap_or_default();
            match &*scheme {
                "bearer" => {
                    let realm = take("realm");
                    if !realm.is_empty() {
                        let (service, scope, error) = (take("service"), take("scope"), take("error"));
                        return Some(Self::Bearer { realm, service, scope, error });
                    }
                }
                "basic" => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

/// Splits a header into schemes and their parameters, names in lower case.
fn parse(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '"')).unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        let after = rest[end..].trim_start();
        if word.is_empty() {
            // Something that is neither: step over it.
            let mut chars = rest.chars();
            if chars.next().is_none() {
                return found;
            }
            rest = chars.as_str();
        } else if let Some(value) = after.strip_prefix('=').filter(|_| !found.is_empty()) {
            let (value, left) = read_value(value.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.entry(word).or_insert(value);
            }
            rest = left;
        } else {
            found.push((word, BTreeMap::new()));
            rest = after;
        }
    }
}

/// Reads a token or a quoted string with its escapes; returns what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.into(),
            error: String::new(),
        })
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let header = r#"Basic realm="a, b", bEARER realm="https://t/x",service="r", scope="repository:a:pull,push""#;
        assert_eq!(Challenge::pick([header]), bearer("https://t/x", "r", "repository:a:pull,push"));
        assert_eq!(Challenge::pick(["Basic realm=x", "Bearer realm=https://t/x"]), bearer("https://t/x", "", ""));
    }

    #[test]
    fn quotes_may_hold_escapes_and_commas() {
        let header = r#"Bearer realm="https://t/\"q\"", service="a,b=c""#;
        assert_eq!(Challenge::pick([header]), bearer("https://t/\"q\"", "a,b=c", ""));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in ["", ",,,", "=", "\"", "Bearer", "Bearer realm", "Negotiate abc==", "Bearer realm=\"", "é=\"é"]
        {
            assert_eq!(Challenge::pick([header]), None, "{header:?}");
        }
        assert_eq!(Challenge::pick(["Basic"]), Some(Challenge::Basic));
    }
}
