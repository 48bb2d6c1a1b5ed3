//! What a server's processes have used so far, as `/proc` tells it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// Processor time and memory of some processes and their descendants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time in user mode.
    pub(crate) user: Duration,
    /// Time in the kernel.
    pub(crate) system: Duration,
    /// Resident memory, summed.
    pub(crate) resident_kib: u64,
    /// How many processes were found.
    pub(crate) processes: usize,
}

/// One line of `/proc/<pid>/stat`.
struct Process {
    pid: u32,
    parent: u32,
    user: Duration,
    system: Duration,
}

impl Usage {
    /// What `roots` and their descendants have used since they began.
    pub(crate) fn of(roots: &[u32]) -> Self {
        let processes = processes();
        let mut family: BTreeSet<u32> = roots.iter().copied().collect();
        loop {
            let before = family.len();
            let born = processes.iter().filter(|process| family.contains(&process.parent));
            let born: Vec<u32> = born.map(|process| process.pid).collect();
            family.extend(born);
            if family.len() == before {
                break;
            }
        }
        processes.iter().filter(|process| family.contains(&process.pid)).fold(
            Self::default(),
            |sum, process| Self {
                user: sum.user + process.user,
                system: sum.system + process.system,
                resident_kib: sum.resident_kib + resident_kib(process.pid),
                processes: sum.processes + 1,
            },
        )
    }
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| process(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// Fields are counted from behind the command, which may itself hold spaces and parentheses.
fn process(pid: u32, stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)?
            .parse()
            .ok()
            .map(|ticks: u64| TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)))
    };
    Some(Process { pid, parent: fields.get(1)?.parse().ok()?, user: ticks(11)?, system: ticks(12)? })
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Linux tells processor time in hundredths of a second on every architecture that Rust's standard library supports.
const TICK: Duration = Duration::from_millis(10);
