//! URLs in messages, without what must not be shown.

use reqwest::Url;

/// Prints scheme, host and path; user, password, query and fragment may hold secrets.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let hidden = url.query().is_some();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot have a user in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut text = url.to_string();
    if hidden {
        text.push_str("?…");
    }
    text
}

/// Cuts what a server said to one printable line of bounded length, with a colon in front.
pub(crate) fn said(text: &str) -> String {
    const LONGEST: usize = 300;
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line = words.join(" ");
    if line.is_empty() {
        return line;
    }
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!(": {}…", &line[..at]),
        None => format!(": {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let url = Url::parse("https://me:pass@cdn.example/blob?X-Amz-Signature=abc#x").unwrap();
        assert_eq!(shown(&url), "https://cdn.example/blob?…");
    }

    #[test]
    fn one_short_line_without_control_characters() {
        assert_eq!(said("a\x1b[31m\n b"), ": a [31m b");
        assert_eq!(said(" \n"), "");
        assert!(said(&"é".repeat(5000)).len() < 700);
    }
}
