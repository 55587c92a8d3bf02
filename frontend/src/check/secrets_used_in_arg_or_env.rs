//! SecretsUsedInArgOrEnv: What ARG and ENV set can be read from the image.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    code: "secrets-used-in-arg-or-env",
    description: "Sensitive data should not be used in the ARG or ENV commands",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Words that say that a value is confidential.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Words that say that it is not after all.
const PUBLIC: [&str; 3] = ["public", "file", "version"];

/// Looks at the name of a variable.
pub(crate) fn check(instruction: &Instruction, name: &str, reporter: &mut Reporter) {
    if is_secret(name) {
        let keyword = instruction.keyword.text.to_uppercase();
        let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        reporter.report(&RULE, message, instruction);
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let has = |words: &[&str]| name.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn whole_words_count() {
        for name in ["API_KEY", "key", "My_Password_2", "auth"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["AUTHOR", "SECRETKEY", "no_secrets", "PUBLIC_KEY", "TOKEN_FILE", "monkey"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
