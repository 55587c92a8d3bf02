//! The environment of the command: what was asked for, each name once, and the two variables every command has.

use std::collections::HashMap;

/// The search path of an image that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the environment with PATH and HOME. Of several entries for one name the last counts, at the place of the first.
pub fn complete(entries: &[String], home: &str) -> Vec<String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut complete: Vec<String> = Vec::with_capacity(entries.len() + 2);
    for entry in entries {
        let name = entry.split('=').next().unwrap_or("");
        if let Some(place) = places.get(name) {
            complete[*place].clone_from(entry);
        } else {
            places.insert(name, complete.len());
            complete.push(entry.clone());
        }
    }
    if !places.contains_key("PATH") {
        complete.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !places.contains_key("HOME") {
        complete.push(format!("HOME={home}"));
    }
    complete
}

/// Returns the value of a variable.
pub fn get<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts_and_what_is_set_stays() {
        let entries = ["A=1", "PATH=", "B=2", "A=3"].map(str::to_owned);
        assert_eq!(complete(&entries, "/root"), ["A=3", "PATH=", "B=2", "HOME=/root"]);
        assert_eq!(complete(&[], "/"), [format!("PATH={DEFAULT_PATH}"), "HOME=/".to_owned()]);
        assert_eq!(get(&entries, "B"), Some("2"));
        assert_eq!(get(&entries, "C"), None);
    }
}
