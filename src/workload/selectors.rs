//! Which workload a caller is: by every selector that the workload states, and if it is none, why not.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::id::WorkloadId;
use crate::workload::attest::{Caller, Depth};
use crate::workload::process::Executable;

/// What a caller must be. Every selector that is stated must match; what is not stated does not matter.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selectors {
    /// The effective user.
    pub uid: Option<u32>,
    /// The effective group; supplementary groups do not count.
    pub gid: Option<u32>,
    /// The file that it runs, by the name that leads to it from here.
    pub executable: Option<PathBuf>,
    /// The systemd unit, with its suffix.
    pub unit: Option<String>,
    /// This cgroup or one below it.
    pub cgroup: Option<String>,
}

/// A selector that a caller did not meet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mismatch {
    /// It is in another cgroup.
    Cgroup {
        /// What the workload states.
        wanted: String,
        /// What the caller is, if known.
        found: Option<String>,
    },
    /// It runs another file, or one that is not the file of that name any more.
    Executable {
        /// What the workload states.
        wanted: PathBuf,
        /// What the caller is, if known.
        found: Option<Executable>,
    },
    /// It is of another group.
    Gid {
        /// What the workload states.
        wanted: u32,
        /// What the caller is, if known.
        found: Option<u32>,
    },
    /// It is of another user.
    Uid {
        /// What the workload states.
        wanted: u32,
        /// What the caller is.
        found: u32,
    },
    /// It belongs to another unit.
    Unit {
        /// What the workload states.
        wanted: String,
        /// What the caller is, if known.
        found: Option<String>,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup { wanted, found } => write!(f, "cgroup is {}, not {wanted}", Known(found)),
            Self::Executable { wanted, found } => {
                write!(f, "executable is {}, not {}", Known(found), wanted.display())
            }
            Self::Gid { wanted, found } => write!(f, "gid is {}, not {wanted}", Known(found)),
            Self::Uid { wanted, found } => write!(f, "uid is {found}, not {wanted}"),
            Self::Unit { wanted, found } => write!(f, "unit is {}, not {wanted}", Known(found)),
        }
    }
}

struct Known<'a, T>(&'a Option<T>);

impl<T: fmt::Display> fmt::Display for Known<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

/// Which selectors the caller does not meet; none means that it is the workload.
///
/// An executable that was replaced on disk since the caller was started does not match, whatever its name was.
#[must_use]
pub fn missing(selectors: &Selectors, caller: &Caller) -> Vec<Mismatch> {
    let mut missing = Vec::new();
    if let Some(wanted) = selectors.uid
        && caller.uid != wanted
    {
        missing.push(Mismatch::Uid { wanted, found: caller.uid });
    }
    if let Some(wanted) = selectors.gid
        && caller.gid != Some(wanted)
    {
        missing.push(Mismatch::Gid { wanted, found: caller.gid });
    }
    if let Some(wanted) = &selectors.executable
        && !matches!(&caller.executable, Some(Executable::Present(path)) if path == wanted)
    {
        missing.push(Mismatch::Executable { wanted: wanted.clone(), found: caller.executable.clone() });
    }
    if let Some(wanted) = &selectors.unit
        && caller.unit.as_ref() != Some(wanted)
    {
        missing.push(Mismatch::Unit { wanted: wanted.clone(), found: caller.unit.clone() });
    }
    if let Some(wanted) = &selectors.cgroup
        && !caller.cgroup.as_ref().is_some_and(|cgroup| is_within(cgroup, wanted))
    {
        missing.push(Mismatch::Cgroup { wanted: wanted.clone(), found: caller.cgroup.clone() });
    }
    missing
}

/// Why a set of workloads cannot be told apart, or one of them never recognised.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSelectors {
    /// One caller could be either, with equal right.
    #[error(
        "a caller can match both `{first}` and `{second}`, which state as many selectors; add one to the narrower of them"
    )]
    Ambiguous {
        /// One of them.
        first: WorkloadId,
        /// The other.
        second: WorkloadId,
    },
    /// No cgroup is written like this.
    #[error("cgroup `{cgroup}` of workload `{workload}` is no path like `/system.slice/ledger.service`")]
    Cgroup {
        /// Whose.
        workload: WorkloadId,
        /// As it was written.
        cgroup: String,
    },
    /// It would be everybody.
    #[error("workload `{workload}` states no selector, so that every process would be it")]
    Empty {
        /// Which.
        workload: WorkloadId,
    },
    /// The kernel never gives an executable this name.
    #[error("executable `{}` of workload `{workload}` is not an absolute path without `.` and `..`", executable.display())]
    Executable {
        /// Whose.
        workload: WorkloadId,
        /// As it was written.
        executable: PathBuf,
    },
    /// No unit has this name.
    #[error("unit `{unit}` of workload `{workload}` is not written with its suffix, as in `ledger.service`")]
    Unit {
        /// Whose.
        workload: WorkloadId,
        /// As it was written.
        unit: String,
    },
}

/// All workloads of this host, and how each is recognised.
///
/// **Invariant:** no caller can match two workloads that state the same number of selectors.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Directory(Vec<(WorkloadId, Selectors)>);

impl Directory {
    /// A directory of these workloads, or everything that is wrong with them.
    pub fn build(
        workloads: impl IntoIterator<Item = (WorkloadId, Selectors)>,
    ) -> Result<Self, Vec<InvalidSelectors>> {
        let mut workloads = workloads.into_iter().collect::<Vec<_>>();
        workloads.sort_by_key(|(_, selectors)| std::cmp::Reverse(count(selectors)));
        let mut problems = Vec::new();
        for (index, (workload, selectors)) in workloads.iter().enumerate() {
            check(workload, selectors, &mut problems);
            for (other, rivals) in workloads.iter().skip(index.saturating_add(1)) {
                if count(selectors) == count(rivals) && can_both_match(selectors, rivals) {
                    problems
                        .push(InvalidSelectors::Ambiguous { first: workload.clone(), second: other.clone() });
                }
            }
        }
        if problems.is_empty() { Ok(Self(workloads)) } else { Err(problems) }
    }

    /// How much must be known of a caller to resolve it: a directory that goes by users alone needs no walk over `/proc`.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let by_user_alone = |(_, selectors): &(WorkloadId, Selectors)| {
            *selectors == Selectors { uid: selectors.uid, ..Selectors::default() }
        };
        if self.0.iter().all(by_user_alone) { Depth::Ids } else { Depth::Process }
    }

    /// Which workload the caller is. Of several that match, the one that states most is meant.
    pub fn resolve(&self, caller: &Caller) -> Result<&WorkloadId, NoWorkload> {
        let mut misses = Vec::new();
        for (workload, selectors) in &self.0 {
            let missing = missing(selectors, caller);
            if missing.is_empty() {
                return Ok(workload);
            }
            misses.push((workload.clone(), missing));
        }
        Err(NoWorkload { misses })
    }
}

/// The caller is none of the workloads of this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoWorkload {
    /// Of every workload, what the caller lacked to be it.
    pub misses: Vec<(WorkloadId, Vec<Mismatch>)>,
}

impl fmt::Display for NoWorkload {
    /// Names the workload that the caller came closest to, and all that it lacked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((workload, missing)) = self.misses.iter().min_by_key(|(_, missing)| missing.len()) else {
            return f.write_str("no workload is configured");
        };
        write!(f, "the caller is no workload; nearest is `{workload}`: ")?;
        for (index, mismatch) in missing.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{mismatch}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoWorkload {}

fn count(selectors: &Selectors) -> usize {
    let Selectors { uid, gid, executable, unit, cgroup } = selectors;
    let stated = [uid.is_some(), gid.is_some(), executable.is_some(), unit.is_some(), cgroup.is_some()];
    stated.into_iter().filter(|stated| *stated).count()
}

/// Whether nothing in the two rules one caller out from being both.
fn can_both_match(one: &Selectors, other: &Selectors) -> bool {
    let cgroups = match (&one.cgroup, &other.cgroup) {
        (Some(one), Some(other)) => is_within(one, other) || is_within(other, one),
        (None, _) | (_, None) => true,
    };
    cgroups
        && compatible(&one.uid, &other.uid)
        && compatible(&one.gid, &other.gid)
        && compatible(&one.executable, &other.executable)
        && compatible(&one.unit, &other.unit)
}

fn compatible<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    one.is_none() || other.is_none() || one == other
}

fn is_within(cgroup: &str, parent: &str) -> bool {
    cgroup.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check(workload: &WorkloadId, selectors: &Selectors, problems: &mut Vec<InvalidSelectors>) {
    let workload = || workload.clone();
    if count(selectors) == 0 {
        problems.push(InvalidSelectors::Empty { workload: workload() });
    }
    if let Some(executable) = &selectors.executable
        && !is_plain(executable)
    {
        let executable = executable.clone();
        problems.push(InvalidSelectors::Executable { workload: workload(), executable });
    }
    if let Some(unit) = &selectors.unit
        && !unit.rsplit_once('.').is_some_and(|(stem, suffix)| !stem.is_empty() && !suffix.is_empty())
    {
        problems.push(InvalidSelectors::Unit { workload: workload(), unit: unit.clone() });
    }
    if let Some(cgroup) = &selectors.cgroup
        && !(is_plain(Path::new(cgroup)) && cgroup.len() > 1)
    {
        problems.push(InvalidSelectors::Cgroup { workload: workload(), cgroup: cgroup.clone() });
    }
}

/// Absolute, and the shortest way to write itself.
fn is_plain(path: &Path) -> bool {
    let shortest = path.components().collect::<PathBuf>();
    path.is_absolute()
        && shortest.as_os_str() == path.as_os_str()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> WorkloadId {
        name.parse().unwrap()
    }

    fn uid(uid: u32) -> Selectors {
        Selectors { uid: Some(uid), ..Selectors::default() }
    }

    fn unit(unit: &str) -> Selectors {
        Selectors { unit: Some(unit.into()), ..Selectors::default() }
    }

    fn cgroup(cgroup: &str) -> Selectors {
        Selectors { cgroup: Some(cgroup.into()), ..Selectors::default() }
    }

    fn executable(path: &str) -> Selectors {
        Selectors { executable: Some(path.into()), ..Selectors::default() }
    }

    fn ledger() -> Caller {
        Caller {
            uid: 1000,
            gid: Some(100),
            pid: Some(4711),
            executable: Some(Executable::Present("/usr/bin/ledger".into())),
            cgroup: Some("/system.slice/ledger.service/worker".into()),
            unit: Some("ledger.service".into()),
        }
    }

    fn everything() -> Selectors {
        Selectors {
            uid: Some(1000),
            gid: Some(100),
            executable: Some("/usr/bin/ledger".into()),
            unit: Some("ledger.service".into()),
            cgroup: Some("/system.slice/ledger.service".into()),
        }
    }

    #[test]
    fn a_caller_that_meets_every_selector_is_the_workload() {
        let directory = Directory::build([(id("ledger"), everything())]).unwrap();

        assert_eq!(directory.resolve(&ledger()), Ok(&id("ledger")));
        assert_eq!(missing(&everything(), &ledger()), []);
    }

    #[test]
    fn each_selector_that_missed_is_named() {
        let stranger = Caller {
            uid: 0,
            gid: None,
            pid: None,
            executable: Some(Executable::Present("/usr/bin/nc".into())),
            cgroup: Some("/system.slice/ledger.service2".into()),
            unit: None,
        };

        let lines = missing(&everything(), &stranger).iter().map(ToString::to_string).collect::<Vec<_>>();

        assert_eq!(
            lines,
            [
                "uid is 0, not 1000",
                "gid is unknown, not 100",
                "executable is /usr/bin/nc, not /usr/bin/ledger",
                "unit is unknown, not ledger.service",
                "cgroup is /system.slice/ledger.service2, not /system.slice/ledger.service",
            ]
        );
    }

    #[test]
    fn a_replaced_or_unconfirmed_executable_never_matches_its_own_name() {
        let path = PathBuf::from("/usr/bin/ledger");

        for found in [Executable::Replaced(path.clone()), Executable::Unconfirmed(path.clone())] {
            let caller = Caller { executable: Some(found.clone()), ..ledger() };

            let missing = missing(&executable("/usr/bin/ledger"), &caller);

            assert_eq!(missing, [Mismatch::Executable { wanted: path.clone(), found: Some(found) }]);
        }
        let replaced = Mismatch::Executable { wanted: path.clone(), found: Some(Executable::Replaced(path)) };
        assert_eq!(
            replaced.to_string(),
            "executable is /usr/bin/ledger (replaced since it was started), not /usr/bin/ledger"
        );
    }

    #[test]
    fn what_is_unknown_matches_nothing() {
        let ids = Caller { gid: None, executable: None, cgroup: None, unit: None, ..ledger() };

        assert_eq!(missing(&everything(), &ids).len(), 4);
    }

    #[test]
    fn of_several_that_match_the_one_that_states_most_is_meant() {
        let by_unit = Selectors { uid: Some(1000), ..unit("ledger.service") };
        let directory = Directory::build([(id("anyone"), uid(1000)), (id("ledger"), by_unit)]).unwrap();

        assert_eq!(directory.resolve(&ledger()), Ok(&id("ledger")));
        let other = Caller { unit: None, ..ledger() };
        assert_eq!(directory.resolve(&other), Ok(&id("anyone")));
    }

    #[test]
    fn a_possible_tie_is_refused_at_load() {
        let tie = |one: Selectors, other: Selectors| {
            let result = Directory::build([(id("one"), one), (id("other"), other)]);
            result.is_err_and(|problems| {
                problems == [InvalidSelectors::Ambiguous { first: id("one"), second: id("other") }]
            })
        };

        assert!(tie(uid(1), uid(1)));
        assert!(tie(uid(1), unit("a.service")));
        assert!(tie(cgroup("/a"), cgroup("/a/b")));
        assert!(!tie(cgroup("/a"), cgroup("/ab")));
        assert!(!tie(uid(1), uid(2)));
        assert!(!tie(unit("a.service"), unit("b.service")));
        assert!(!tie(uid(1), Selectors { uid: Some(1), ..unit("a.service") }));
    }

    #[test]
    fn selectors_that_match_everybody_or_nobody_are_refused_at_load() {
        let count =
            |selectors| Directory::build([(id("ledger"), selectors)]).map_or_else(|all| all.len(), |_| 0);

        assert_eq!(count(Selectors::default()), 1);
        for path in ["ledger", "/usr/../bin/ledger", "/usr//bin/ledger", "/usr/bin/ledger/", ""] {
            assert_eq!(count(executable(path)), 1, "{path}");
        }
        for name in ["ledger", ".service", "ledger.", ""] {
            assert_eq!(count(unit(name)), 1, "{name}");
        }
        for path in ["/", "system.slice", "/a/", "/a/../b", ""] {
            assert_eq!(count(cgroup(path)), 1, "{path}");
        }
        assert_eq!(count(everything()), 0);
    }

    #[test]
    fn only_users_are_known_without_looking_at_the_process() {
        let depth = |selectors| Directory::build([(id("ledger"), selectors)]).unwrap().depth();

        assert_eq!(depth(uid(1)), Depth::Ids);
        assert_eq!(depth(unit("a.service")), Depth::Process);
        assert_eq!(depth(Selectors { gid: Some(1), ..uid(1) }), Depth::Process);
        assert_eq!(Directory::default().depth(), Depth::Ids);
    }

    #[test]
    fn the_refusal_names_the_nearest_workload() {
        let two = Selectors { uid: Some(1000), ..unit("orders.service") };
        let directory =
            Directory::build([(id("billing"), unit("billing.service")), (id("orders"), two)]).unwrap();
        let caller = Caller { uid: 7, ..ledger() };

        let refusal = directory.resolve(&caller).unwrap_err();

        assert_eq!(
            refusal.to_string(),
            "the caller is no workload; nearest is `billing`: unit is ledger.service, not billing.service"
        );
        assert_eq!(refusal.misses.len(), 2);
        let none = Directory::default().resolve(&caller).unwrap_err();
        assert_eq!(none.to_string(), "no workload is configured");
    }
}
