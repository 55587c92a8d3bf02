//! The variables that a stage sees: an ordered list, last writer wins.

use std::collections::HashMap;

/// Names and values in the order in which they were last set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment {
    /// What was set again later is gone from its old place.
    variables: Vec<Option<(String, String)>>,
    /// Where each name stands. Only looked up, never walked: its order is not ours.
    places: HashMap<String, usize>,
}

impl Environment {
    /// Reads `NAME=value` entries; one without `=` is a name without value.
    pub(super) fn from_config(entries: &[String]) -> Self {
        let mut environment = Self::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        environment
    }

    /// Returns a variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.variables[*self.places.get(name)?].as_ref()?;
        Some(value)
    }

    /// Sets a variable and moves it to the end.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.places.insert(name.to_owned(), self.variables.len());
        self.variables.push(Some((name.to_owned(), value.to_owned())));
        // Each place that was left costs whoever walks the list.
        if self.variables.len() > 2 * self.places.len() + 16 {
            self.variables.retain(Option::is_some);
            let names = self.variables.iter().flatten().enumerate();
            self.places = names.map(|(place, (name, _))| (name.clone(), place)).collect();
        }
    }

    /// Removes a variable.
    pub(super) fn unset(&mut self, name: &str) {
        if let Some(place) = self.places.remove(name) {
            self.variables[place] = None;
        }
    }

    /// Returns the names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().flatten().map(|(name, _)| &**name)
    }

    /// Returns `NAME=value` entries, in order.
    pub(super) fn entries(&self) -> Vec<String> {
        self.variables.iter().flatten().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Returns about how many bytes a copy takes.
    pub(super) fn size(&self) -> usize {
        self.variables.iter().flatten().map(|(name, value)| 2 * name.len() + value.len()).sum()
    }
}

/// Returns where each variable first stands in the environment of an image config.
pub(super) fn index_config(entries: &[String]) -> HashMap<String, usize> {
    let mut index = HashMap::new();
    for (place, entry) in entries.iter().enumerate() {
        let name = entry.split_once('=').map_or(&**entry, |(name, _)| name);
        index.entry(name.to_owned()).or_insert(place);
    }
    index
}

/// Sets a variable in the environment of an image config: in place, or at the end.
pub(super) fn set_in_config(entries: &mut Vec<String>, index: &mut HashMap<String, usize>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match index.get(name).and_then(|&place| entries.get_mut(place)) {
        Some(known) => *known = entry,
        None => {
            index.insert(name.to_owned(), entries.len());
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_moves_to_the_end() {
        let mut environment = Environment::from_config(&["A=1".to_owned(), "B=2".to_owned(), "C".to_owned()]);
        environment.set("A", "3");
        environment.unset("B");
        assert_eq!(environment.entries(), ["C=", "A=3"]);
        assert_eq!((environment.get("A"), environment.get("B")), (Some("3"), None));
    }

    #[test]
    fn setting_again_and_again_leaves_no_gaps() {
        let mut environment = Environment::default();
        for number in 0..1_000 {
            environment.set(["A", "B", "C"][number % 3], &number.to_string());
        }
        assert!(environment.variables.len() < 30);
        assert_eq!(environment.entries(), ["B=997", "C=998", "A=999"]);
        assert_eq!(environment.get("B"), Some("997"));
    }

    #[test]
    fn a_config_keeps_the_place() {
        let mut entries = vec!["A=1".to_owned(), "B=2".to_owned(), "A=9".to_owned()];
        let mut index = index_config(&entries);
        set_in_config(&mut entries, &mut index, "A", "3");
        set_in_config(&mut entries, &mut index, "C", "4");
        set_in_config(&mut entries, &mut index, "C", "5");
        assert_eq!(entries, ["A=3", "B=2", "A=9", "C=5"]);
    }
}
