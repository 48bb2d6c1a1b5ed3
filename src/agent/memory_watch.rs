//! Looks at how much memory the agent uses, now and then, and shows the data plane whether that is too much.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::director::InForce;
use crate::proxy::{Ceiling, Gauge, Pressure};
use crate::telemetry::Metrics;

/// Memory is looked at this often: less than it takes to fill what lies between refusing connections and refusing requests.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Looks for as long as the agent runs.
pub(super) async fn watch(in_force: Arc<ArcSwap<InForce>>, gauge: Gauge, metrics: Arc<Metrics>) {
    let whole = memory_given();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(resident) = resident() else { continue };
        metrics.resident_memory.set(i64::try_from(resident).unwrap_or(i64::MAX));
        let ceiling = ceiling(in_force.load().config.limits.memory, whole);
        let before = gauge.get();
        let pressure = ceiling.map_or(Pressure::None, |ceiling| Pressure::of(resident, ceiling, before));
        if pressure == before {
            continue;
        }
        gauge.set(pressure);
        metrics.memory_pressure.set(match pressure {
            Pressure::None => 0,
            Pressure::Connections => 1,
            Pressure::Requests => 2,
        });
        match pressure {
            Pressure::None => tracing::info!(resident, "memory is below its ceiling again"),
            Pressure::Connections => {
                tracing::warn!(resident, ?ceiling, "memory is above its ceiling: no new connections");
            }
            Pressure::Requests => {
                tracing::warn!(resident, ?ceiling, "memory is above its ceiling: no new requests");
            }
        }
    }
}

/// So many bytes, where there is a ceiling.
fn ceiling(setting: Ceiling, whole: Option<u64>) -> Option<u64> {
    match setting {
        Ceiling::Bytes(bytes) => Some(bytes),
        Ceiling::Share(share) => whole.map(|whole| whole / 100 * u64::from(share)),
        Ceiling::Unlimited => None,
    }
}

/// Bytes of memory that the agent has.
fn resident() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What there is to be had: what the machine has, or what a control group around the agent may have.
fn memory_given() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kibibytes(&text, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(of_groups(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// The bounds of the control groups (version 2) that the agent is in, from its own to the outermost.
fn of_groups(root: &Path, groups: &str) -> Vec<u64> {
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    for name in Path::new(path) {
        let inner = folders.last().map(|outer| outer.join(name));
        folders.extend(inner);
    }
    let bound =
        |folder: &PathBuf| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok();
    folders.iter().filter_map(bound).collect()
}

/// The number that follows `name`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_there_is() {
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t   1234 kB\n", "VmRSS:"), Some(1234 * 1024));
        assert!(resident().is_some_and(|resident| resident > 1024 * 1024));
        assert!(memory_given().is_some_and(|given| given > 64 * 1024 * 1024));
    }

    #[test]
    fn the_narrowest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        std::fs::create_dir_all(&inner).unwrap();
        let put = |folder: &Path, text: &str| {
            std::io::Write::write_all(
                &mut std::fs::File::create(folder.join("memory.max")).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
        };
        put(&inner, "max\n");
        put(&root.path().join("outer"), "1000\n");

        assert_eq!(of_groups(root.path(), "0::/outer/inner\n"), [1000]);
        assert!(of_groups(root.path(), "1:memory:/outer\n").is_empty());
    }

    #[test]
    fn a_share_is_one_of_what_there_is() {
        assert_eq!(ceiling(Ceiling::Share(80), Some(1000)), Some(800));
        assert_eq!(ceiling(Ceiling::Share(80), None), None);
        assert_eq!(ceiling(Ceiling::Bytes(5), Some(1000)), Some(5));
        assert_eq!(ceiling(Ceiling::Unlimited, Some(1000)), None);
    }
}
