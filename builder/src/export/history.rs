//! Completing the history of an image (spec: oci-image.md §4.2): as many entries with a layer
//! as there are layers, and a time for each.

use kiln_oci::{History, rfc3339};

/// What is known of the layers of a history.
pub struct Times<'a> {
    /// How many layers the image has.
    pub layers: usize,
    /// How many entries came with the base image.
    pub base: usize,
    /// For each new entry with a layer, in order: when that was made, nanoseconds.
    pub new: &'a [Option<u64>],
    /// SOURCE_DATE_EPOCH, seconds: no new entry is later.
    pub epoch: Option<i64>,
}

/// Completes a history.
pub fn complete(history: &mut Vec<History>, times: &Times) {
    fit_layers(history, times.layers);
    let mut layer_times = times.new.iter();
    for entry in history.iter_mut().skip(times.base).filter(|entry| !entry.empty_layer) {
        let made = layer_times.next().copied().flatten();
        if entry.created.is_none() {
            entry.created = made.map(at);
        }
    }
    // What stands before the first new layer happened in this build, too.
    let first_new = times.new.iter().flatten().next().copied().map(at);
    let mut previous: Option<String> = None;
    let mut has_new_layer = false;
    for (index, entry) in history.iter_mut().enumerate() {
        if entry.created.is_none() {
            entry.created = if has_new_layer || first_new.is_none() { previous.clone() } else { first_new.clone() };
        }
        has_new_layer |= index >= times.base && !entry.empty_layer;
        previous.clone_from(&entry.created);
    }
    if let Some(epoch) = times.epoch {
        let epoch = rfc3339(epoch, 0);
        for entry in history.iter_mut().skip(times.base) {
            // Texts of one form and zone compare as times do, up to the second.
            if entry
                .created
                .as_deref()
                .is_none_or(|created| created.trim_end_matches('Z') > epoch.trim_end_matches('Z'))
            {
                entry.created = Some(epoch.clone());
            }
        }
    }
}

/// Writes nanoseconds since 1970.
fn at(nanoseconds: u64) -> String {
    rfc3339((nanoseconds / 1_000_000_000) as i64, (nanoseconds % 1_000_000_000) as u32)
}

/// Trusts the layers: entries without a layer left are empty, layers without an entry get one.
fn fit_layers(history: &mut Vec<History>, layers: usize) {
    let mut left = layers;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        match left.checked_sub(1) {
            Some(less) => left = less,
            None => entry.empty_layer = true,
        }
    }
    for _ in 0..left {
        history.push(History { comment: "kiln.exporter.image.v0".to_owned(), ..History::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(by: &str, empty_layer: bool) -> History {
        History { created_by: by.to_owned(), empty_layer, ..History::default() }
    }

    #[test]
    fn every_entry_gets_a_time() {
        let mut history = vec![
            History { created: Some("2020-01-01T00:00:00Z".to_owned()), ..entry("base", false) },
            entry("ENV", true),
            entry("RUN", false),
            entry("CMD", true),
        ];
        complete(&mut history, &Times { layers: 2, base: 1, new: &[Some(1_000_000_000)], epoch: None });
        let times: Vec<_> = history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
        let new = "1970-01-01T00:00:01Z";
        assert_eq!(times, ["2020-01-01T00:00:00Z", new, new, new]);
    }

    #[test]
    fn entries_and_layers_agree() {
        let mut history = vec![entry("a", false), entry("b", false)];
        complete(&mut history, &Times { layers: 1, base: 0, new: &[], epoch: None });
        assert!(history[1].empty_layer);
        complete(&mut history, &Times { layers: 3, base: 0, new: &[], epoch: None });
        assert_eq!(history.iter().filter(|entry| !entry.empty_layer).count(), 3);
    }

    #[test]
    fn an_epoch_is_a_ceiling_for_new_entries() {
        let mut history = vec![
            History { created: Some("2030-01-01T00:00:00Z".to_owned()), ..entry("base", false) },
            entry("RUN", false),
        ];
        complete(&mut history, &Times { layers: 2, base: 1, new: &[Some(u64::MAX)], epoch: Some(7) });
        assert_eq!(history[0].created.as_deref(), Some("2030-01-01T00:00:00Z"));
        assert_eq!(history[1].created.as_deref(), Some("1970-01-01T00:00:07Z"));
    }
}
