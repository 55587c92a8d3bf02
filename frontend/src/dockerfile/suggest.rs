//! "Did you mean": the known name closest to an unknown one.

/// Names at this distance or further are not suggested.
const TOO_FAR: usize = 3;

/// Names longer than this, in bytes, are not compared.
const MAX_NAME: usize = 256;

/// Returns the candidate with the smallest edit distance to `name`, if that is below three. Of several at the same
/// distance one with two neighbouring letters exchanged is taken (`RNU` is rather RUN than ENV), else the first; nothing
/// is suggested for a name that is a candidate itself.
pub fn closest<'a, S>(name: &str, candidates: impl IntoIterator<Item = &'a S>) -> Option<&'a str>
where
    S: AsRef<str> + ?Sized + 'a,
{
    Suggestions { budget: usize::MAX }.closest(name, candidates)
}

/// Returns a suggestion as it is said at the end of a message.
pub(crate) fn hint(suggestion: &Option<&str>) -> String {
    suggestion.map(|suggestion| format!(" (did you mean {suggestion}?)")).unwrap_or_default()
}

/// Looks for close names where both the names and the candidates may be many. When that has taken long enough, nothing
/// is suggested any more.
#[derive(Debug, Clone)]
pub struct Suggestions {
    /// How many pairs of characters may still be compared.
    budget: usize,
}

impl Default for Suggestions {
    fn default() -> Self {
        Self { budget: 50_000_000 }
    }
}

impl Suggestions {
    /// Does what [`closest`] does.
    pub fn closest<'a, S>(&mut self, name: &str, candidates: impl IntoIterator<Item = &'a S>) -> Option<&'a str>
    where
        S: AsRef<str> + ?Sized + 'a,
    {
        let mut best = None;
        let mut smallest = (TOO_FAR, false);
        for candidate in candidates {
            let candidate = candidate.as_ref();
            if candidate == name {
                return None;
            }
            self.budget = self.budget.checked_sub(cost(name, candidate))?;
            let distance = distance(name, candidate);
            let rank = (distance, distance == 2 && !is_swap(name, candidate));
            if rank < smallest {
                smallest = rank;
                best = Some(candidate);
            }
        }
        best
    }
}

/// Returns about how many pairs of characters [`distance`] looks at.
fn cost(left: &str, right: &str) -> usize {
    let is_far = left.len().max(right.len()) > MAX_NAME || left.len().abs_diff(right.len()) > 4 * TOO_FAR;
    if is_far { 10 } else { 10 + left.len() * right.len() }
}

/// Whether two texts differ in the order of two neighbouring characters only.
fn is_swap(left: &str, right: &str) -> bool {
    let differences: Vec<_> = left.chars().zip(right.chars()).enumerate().filter(|(_, (a, b))| a != b).collect();
    match differences[..] {
        [(first, (a, b)), (second, (c, d))] => second == first + 1 && (a, b) == (d, c) && left.len() == right.len(),
        _ => false,
    }
}

/// Returns the number of insertions, deletions and substitutions that make one text the other; 3 stands for more.
fn distance(left: &str, right: &str) -> usize {
    if left.len() > MAX_NAME || right.len() > MAX_NAME {
        return TOO_FAR;
    }
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    if left.len().abs_diff(right.len()) >= TOO_FAR {
        return TOO_FAR;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        let mut least = row[0];
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(a != b)).min(above + 1).min(row[j] + 1);
            diagonal = above;
            least = least.min(row[j + 1]);
        }
        if least >= TOO_FAR {
            return TOO_FAR;
        }
    }
    row[right.len()].min(TOO_FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_suggested() {
        assert_eq!(closest("copyy", ["add", "copy"]), Some("copy"));
        assert_eq!(closest("form", ["from", "for"]), Some("for"));
        assert_eq!(closest("copy", ["copx", "copy"]), None);
        assert_eq!(closest("zzzzzz", ["copy"]), None);
        assert_eq!(closest("x", ["d"]), Some("d"));
    }

    #[test]
    fn exchanged_letters_are_nearer_than_others() {
        assert_eq!(closest("rnu", ["env", "run"]), Some("run"));
        assert_eq!(closest("rnu", ["ru", "run"]), Some("ru"));
        assert_eq!(closest("abcd", ["abxy", "badc", "abdc"]), Some("abdc"));
        assert_eq!(closest("abc", ["cba", "xyc"]), Some("cba"));
    }

    #[test]
    fn many_names_and_candidates_cost_little() {
        let candidates: Vec<String> = (0..10_000).map(|number| format!("candidate{number}")).collect();
        let mut suggestions = Suggestions::default();
        assert_eq!(suggestions.closest("cnadidate1", &candidates), Some("candidate1"));
        let found = (0..1_000).filter(|_| suggestions.closest("candidate", &candidates).is_some()).count();
        assert!((1..100).contains(&found), "{found}");
    }

    #[test]
    fn a_long_name_costs_nothing() {
        assert_eq!(closest(&"a".repeat(1 << 20), [&"a".repeat((1 << 20) - 20)]), None);
    }
}
