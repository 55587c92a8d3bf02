//! The ids that the administrator has set aside for a user, in `/etc/subuid` and `/etc/subgid`.

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first inside.
    pub inside: u32,
    /// The first outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// Returns the id outside that is `id` inside, if that is in this range.
    pub fn outside_of(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside).filter(|offset| *offset < self.count)?;
        self.outside.checked_add(offset)
    }
}

/// Returns the ranges (first, count) that `text` (`name:first:count` in each line) gives to a user of this name or number.
pub fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (owner == number || Some(owner) == name).then_some(range)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Returns the mapping that makes `own` the first id inside and lays `ranges` out after it.
pub fn layout(own: u32, ranges: &[(u32, u32)]) -> Vec<Range> {
    let mut map = vec![Range { inside: 0, outside: own, count: 1 }];
    let mut next = 1u32;
    for (outside, count) in ranges {
        // What would go beyond the last number there is, is left out.
        let Some(end) = next.checked_add(*count) else { break };
        map.push(Range { inside: next, outside: *outside, count: *count });
        next = end;
    }
    map
}

/// Returns the name of a user in the text of `/etc/passwd`.
pub fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_number() {
        let text = "ann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:bad:3\nann:1\nann:5:0\n";
        assert_eq!(ranges(text, 1000, Some("ann")), [(100_000, 65536), (300_000, 10)]);
        assert_eq!(ranges(text, 1001, None), []);
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000), Some("ann"));
        assert_eq!(name_of(passwd, 7), None);
    }

    #[test]
    fn ranges_follow_each_other_after_the_own_id() {
        let map = layout(1000, &[(100_000, 65536), (300_000, 10)]);
        assert_eq!(map.iter().map(|range| range.inside).collect::<Vec<_>>(), [0, 1, 65537]);
        assert_eq!(map[0].outside_of(0), Some(1000));
        assert_eq!(map[1].outside_of(1), Some(100_000));
        assert_eq!(map[1].outside_of(65537), None);
        assert_eq!(layout(1, &[(0, u32::MAX)]).len(), 1);
    }
}
