//! Any text as a word with variables in it, with both escape characters.
#![no_main]

use kiln_frontend::dockerfile::expand::Expander;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| match name {
        "a" => Some("value"),
        "b" => Some("x*y/$a \"q\""),
        "e" => Some(""),
        _ => None,
    };
    for escape in ['\\', '`'] {
        let expander = Expander::new(escape, &lookup);
        let whole = expander.process_word(text);
        let matched = expander.process_word_with_matches(text);
        assert_eq!(whole.is_ok(), matched.is_ok());
        if let (Ok(whole), Ok(matched)) = (whole, matched) {
            assert_eq!(whole, matched.text);
            assert!(matched.matched.is_disjoint(&matched.unmatched));
        }
    }
});
