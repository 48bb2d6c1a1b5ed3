//! What is different between two snapshots, in a line or two.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::registry::Snapshot;

/// How many things of each sort have come, gone and changed, with the first of them by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes(Vec<(&'static str, &'static str, Names)>);

/// How many there are, and the first of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Names {
    count: usize,
    first: Vec<String>,
}

impl Changes {
    /// What is different in `new`.
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut changes = Self::default();
        changes.add("developers", old.developers(), new.developers(), |one| one.id.as_str());
        changes.add("products", old.products(), new.products(), |one| one.id.as_str());
        changes.add("apps", old.apps(), new.apps(), |one| one.id.as_str());
        changes.add("credentials", old.credentials(), new.credentials(), |one| one.id.as_str());
        changes
    }

    fn add<'s, T: PartialEq + 's>(
        &mut self,
        sort: &'static str,
        old: impl Iterator<Item = &'s Arc<T>>,
        new: impl Iterator<Item = &'s Arc<T>>,
        id: impl Fn(&'s T) -> &'s str,
    ) {
        let mut known: BTreeMap<&str, &Arc<T>> = old.map(|one| (id(one), one)).collect();
        let (mut added, mut changed, mut removed) = (Names::default(), Names::default(), Names::default());
        for one in new {
            match known.remove(id(one)) {
                None => added.note(id(one)),
                Some(before) if before != one => changed.note(id(one)),
                Some(_) => (),
            }
        }
        known.keys().for_each(|gone| removed.note(gone));
        let found = [("added", added), ("changed", changed), ("removed", removed)];
        self.0.extend(
            found.into_iter().filter(|(_, names)| names.count > 0).map(|(how, names)| (sort, how, names)),
        );
    }
}

impl Names {
    fn note(&mut self, name: &str) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(name.to_owned());
        }
    }
}

impl fmt::Display for Changes {
    /// `apps: 1 added (ledger); credentials: 12 changed (a, b, c and 9 more)`; `nothing that counts` for a new comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing that counts");
        }
        for (number, (sort, how, names)) in self.0.iter().enumerate() {
            let more = match names.count - names.first.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let sep = if number > 0 { "; " } else { "" };
            write!(f, "{sep}{sort}: {} {how} ({}{more})", names.count, names.first.join(", "))?;
        }
        Ok(())
    }
}

/// As many things of each sort are named.
const NAMED: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Source, parse};

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

        let text = Changes::between(&old, &new).to_string();

        let apps = "apps: 7 added (a2, a3, a4, a5, a6 and 2 more); apps: 1 removed (a0)";
        assert_eq!(text, format!("{apps}; credentials: 1 added (a8-cert-1)"));
        assert_eq!(Changes::between(&new, &new).to_string(), "nothing that counts");
    }
}
