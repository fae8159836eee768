//! What this process may use of its machine: memory and processors, by the machine and by the control groups that the process is in.
//!
//! It is read once, when it is first asked for. A limit that changes while the process runs counts from its next start.

use crate::control_groups::{Limits, find_limits};
use std::{env, fs, path::Path, sync::LazyLock, thread::available_parallelism};

/// What this process may use.
static MACHINE: LazyLock<Machine> = LazyLock::new(|| {
    let machine = Machine::of(Path::new("/"), allowed_processors());
    for complaint in &machine.complaints {
        tracing::warn!("{complaint}");
    }
    machine
});

/// Memory that a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// How much, in bytes.
    pub bytes: u64,
    /// What allows no more: the machine, or a control group's file.
    pub limited_by: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Machine {
    memory: Option<Memory>,
    threads: usize,
    complaints: Vec<String>,
}

impl Machine {
    /// By the files below `root`, for a process that may run on so many processors.
    fn of(root: &Path, allowed: usize) -> Self {
        let Limits { memory, processors, complaints } = find_limits(root);
        let group =
            memory.map(|limit| Memory { bytes: limit.value, limited_by: limit.file.display().to_string() });
        let all = total_bytes(root).map(|bytes| Memory { bytes, limited_by: "the machine".to_owned() });
        let quota = processors.and_then(|limit| usize::try_from(limit.value).ok());
        Self {
            memory: all.into_iter().chain(group).min_by_key(|memory| memory.bytes),
            threads: allowed.min(quota.unwrap_or(usize::MAX)),
            complaints,
        }
    }
}

/// The memory that this process may use: the machine's, or the least that a control group allows; `None` where the system does not tell.
#[must_use]
pub fn machine_memory() -> Option<&'static Memory> {
    MACHINE.memory.as_ref()
}

/// The threads that keep busy what processors this process may use: those that it may run on (`taskset`, cpusets), or the least time that
/// its control groups allow, in processors. Of part of a processor one more thread makes use.
#[must_use]
pub fn machine_threads() -> usize {
    MACHINE.threads
}

/// How many threads a pool should get that its own count would give another number; `None` where it counts the same, or the user said it
/// in the pool's variable. The standard library sees most quotas, and rounds down: of 1.9 processors it would leave 0.9 idle.
pub(crate) fn threads_beside_its_own_count(variable: &str) -> Option<usize> {
    let is_told = env::var_os(variable).is_some();
    let counted = available_parallelism().map_or(1, usize::from);
    Some(machine_threads()).filter(|threads| !is_told && *threads != counted)
}

/// Gives the pool that proof systems share their work among as many threads as this process may use. To be called before its first use.
pub fn size_thread_pool() {
    let Some(threads) = threads_beside_its_own_count("RAYON_NUM_THREADS") else { return };
    if let Err(e) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        tracing::warn!("proving does not get {threads} threads, as it should: {e}");
    }
}

/// All memory of the machine, by the kernel's word.
fn total_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// The processors that this process may run on, whatever share of their time it has.
fn allowed_processors() -> usize {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return usize::try_from(set.count()).unwrap_or(1).max(1);
    }
    available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A machine of 4 GiB with one group, of version 2, with these limits.
    fn machine(memory: &str, cpu: &str, allowed: usize) -> Machine {
        let root = tempfile::tempdir().unwrap();
        let (own, group) = (root.path().join("proc/self"), root.path().join("sys/fs/cgroup"));
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(&group).unwrap();
        fs::write(own.join("cgroup"), "0::/\n").unwrap();
        fs::write(own.join("mountinfo"), "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").unwrap();
        fs::write(root.path().join("proc/meminfo"), "MemTotal:        4194304 kB\nMemFree: 1 kB\n").unwrap();
        fs::write(group.join("memory.max"), memory).unwrap();
        fs::write(group.join("cpu.max"), cpu).unwrap();
        Machine::of(root.path(), allowed)
    }

    #[test]
    fn the_smaller_of_machine_and_group_holds_and_says_which_it_is() {
        let memory = |group: &str| machine(group, "max 100000", 1).memory.unwrap();
        let file = "/sys/fs/cgroup/memory.max";
        assert_eq!(memory("1073741824\n"), Memory { bytes: 1 << 30, limited_by: file.to_owned() });
        for none in ["max\n", "9223372036854771712\n"] {
            assert_eq!(memory(none), Memory { bytes: 4 << 30, limited_by: "the machine".to_owned() });
        }
    }

    #[test]
    fn threads_are_those_of_the_processors_or_of_the_quota_a_part_counting_as_one() {
        let threads = |cpu: &str, allowed| machine("max\n", cpu, allowed).threads;
        assert_eq!(threads("max 100000\n", 8), 8);
        assert_eq!(threads("250000 100000\n", 8), 3);
        assert_eq!(threads("1000 100000\n", 8), 1);
        assert_eq!(threads("800000 100000\n", 2), 2);
    }

    #[test]
    fn a_machine_that_tells_nothing_limits_nothing() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(
            Machine::of(empty.path(), 3),
            Machine { memory: None, threads: 3, complaints: Vec::new() }
        );
    }

    #[test]
    fn this_machine_has_memory_and_a_processor() {
        assert!(machine_memory().is_some_and(|memory| memory.bytes > 1 << 20));
        assert!(machine_threads() >= 1 && machine_threads() <= allowed_processors());
    }
}
