//! An order in which everything comes after what it needs.

/// Orders the numbers below `count` so that each comes after those it needs; `needs` has pairs of
/// one and what it needs. `None` when some need each other.
///
/// Works without recursion: what comes from elsewhere may be a chain of a million.
pub fn needed_first(count: usize, needs: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut missing = vec![0_usize; count];
    // Where those that need a number begin in `users`.
    let mut begin = vec![0_usize; count + 1];
    for (user, needed) in needs {
        missing[*user] += 1;
        begin[needed + 1] += 1;
    }
    for number in 0..count {
        begin[number + 1] += begin[number];
    }
    let mut next = begin.clone();
    let mut users = vec![0_usize; needs.len()];
    for (user, needed) in needs {
        users[next[*needed]] = *user;
        next[*needed] += 1;
    }
    let mut order: Vec<usize> = (0..count).filter(|number| missing[*number] == 0).collect();
    let mut done = 0;
    while let Some(number) = order.get(done).copied() {
        done += 1;
        for user in &users[begin[number]..begin[number + 1]] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                order.push(*user);
            }
        }
    }
    (order.len() == count).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first() {
        assert_eq!(needed_first(4, &[(0, 1), (1, 3), (0, 3), (0, 3)]), Some(vec![2, 3, 1, 0]));
        assert_eq!(needed_first(0, &[]), Some(vec![]));
        for circle in [&[(0, 0)][..], &[(0, 1), (1, 0)], &[(2, 0), (0, 1), (1, 2)]] {
            assert_eq!(needed_first(3, circle), None);
        }
    }
}
