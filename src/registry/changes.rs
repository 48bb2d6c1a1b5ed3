//! What is different between two snapshots, in a line or two.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::shard_map::ShardMap;

/// How many things of each sort have come, gone and changed, with the first of them by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes(Vec<Change>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    /// What became of some things of a sort: how many there are, and the first of them.
    Named { sort: &'static str, how: &'static str, count: usize, first: Vec<String> },
    /// There was too much to compare: so many of a sort there were, and there are.
    Counted { sort: &'static str, before: usize, after: usize },
}

impl Changes {
    /// Adds what is different between two sets of things of one sort. What both share is not looked at.
    pub(super) fn add<K, T>(
        &mut self,
        sort: &'static str,
        old: &ShardMap<K, Arc<T>>,
        new: &ShardMap<K, Arc<T>>,
    ) where
        K: Clone + Eq + Hash + Ord + fmt::Display,
        T: PartialEq,
    {
        let (ours, theirs) = old.apart(new);
        let mut known: HashMap<&K, &Arc<T>> = ours.take(MOST_COMPARED).map(|(id, one)| (id, one)).collect();
        let theirs: Vec<_> = theirs.take(MOST_COMPARED).collect();
        if known.len() == MOST_COMPARED || theirs.len() == MOST_COMPARED {
            self.0.push(Change::Counted { sort, before: old.len(), after: new.len() });
            return;
        }
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for (id, one) in theirs {
            match known.remove(id) {
                None => added.push(id),
                Some(before) if !Arc::ptr_eq(before, one) && before != one => changed.push(id),
                Some(_) => (),
            }
        }
        let removed = known.into_keys().collect();
        for (how, mut ids) in [("added", added), ("changed", changed), ("removed", removed)] {
            ids.sort_unstable();
            let first = ids.iter().take(NAMED).map(ToString::to_string).collect();
            if !ids.is_empty() {
                self.0.push(Change::Named { sort, how, count: ids.len(), first });
            }
        }
    }
}

impl fmt::Display for Changes {
    /// `apps: 1 added (ledger); credentials: 12 changed (a, b, c and 9 more)`; `nothing that counts` for a new comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing that counts");
        }
        for (number, change) in self.0.iter().enumerate() {
            f.write_str(if number > 0 { "; " } else { "" })?;
            match change {
                Change::Named { sort, how, count, first } => {
                    let more = match count - first.len() {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    write!(f, "{sort}: {count} {how} ({}{more})", first.join(", "))?;
                }
                Change::Counted { sort, before, after } => {
                    write!(f, "{sort}: all read again ({before} before, {after} now)")?;
                }
            }
        }
        Ok(())
    }
}

/// As many things of each sort are named.
const NAMED: usize = 5;

/// As many things of each sort are compared at most, within some tens of milliseconds. It is more than lies apart when a few
/// files of a registry of millions change.
const MOST_COMPARED: usize = 100_000;

#[cfg(test)]
mod tests {
    use crate::registry::{Snapshot, Source, parse};

    fn snapshot(text: &str) -> Snapshot {
        parse(&[Source { path: "a.toml".into(), text: text.to_owned() }]).unwrap()
    }

    #[test]
    fn what_is_different_is_counted_and_the_first_are_named() {
        let team = "[[developer]]\nid = 'team'\n";
        let app = |id: usize| format!("[[app]]\nid = 'a{id}'\ndeveloper = 'team'\n");
        let old = snapshot(&format!("{team}{}{}", app(0), app(1)));
        let many: String = (1..9).map(app).collect();
        let new = snapshot(&format!("{team}{many}[[app.certificate]]\nsha256 = '{}'\n", "ab".repeat(32)));

        let text = old.changes_to(&new).to_string();

        let apps = "apps: 7 added (a2, a3, a4, a5, a6 and 2 more); apps: 1 removed (a0)";
        assert_eq!(text, format!("{apps}; credentials: 1 added (a8-cert-1)"));
        assert_eq!(new.changes_to(&new).to_string(), "nothing that counts");
    }
}
