//! Trees of files as machines of each kind have them, and groups made by hand where the kernel lets us.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

use super::*;
use std::{fs, process::Command};

const MIB: u64 = 1 << 20;
/// Version 1's word for no limit.
const NONE_V1: &str = "9223372036854771712\n";
/// Mounts that have nothing to do with it.
const OTHERS: &str = "\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
24 22 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw
";
const UNIFIED: &str =
    "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A recorded tree.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(groups: &str, mounts: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.with("/proc/self/cgroup", groups).with("/proc/self/mountinfo", format!("{OTHERS}{mounts}"))
    }

    fn with(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = below(self.0.path(), Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// The limits, without files; and nothing to complain of.
    fn values(&self) -> (Option<u64>, Option<u64>) {
        let Limits { memory, processors, complaints } = find_limits(self.0.path());
        assert_eq!(complaints, Vec::<String>::new());
        (memory.map(|limit| limit.value), processors.map(|limit| limit.value))
    }

    fn complaints(&self) -> Vec<String> {
        find_limits(self.0.path()).complaints
    }
}

/// Mounts of version 1 that show this group, each controller's.
fn mounts_v1(group: &str) -> String {
    format!(
        "31 25 0:27 {group} /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd\n\
         34 25 0:30 {group} /sys/fs/cgroup/cpu,cpuacct rw,nosuid master:10 propagate_from:2 - cgroup cgroup rw,cpu,cpuacct\n\
         35 25 0:31 {group} /sys/fs/cgroup/memory rw,nosuid master:11 - cgroup cgroup rw,memory\n"
    )
}

fn groups_v1(group: &str) -> String {
    format!("12:cpuset:/\n9:memory:{group}\n4:cpu,cpuacct:{group}\n1:name=systemd:{group}\n0::{group}\n")
}

#[test]
fn a_systemd_unit_has_its_own_limits_and_those_of_its_slice() {
    let tree = Tree::new("0::/system.slice/roundhouse.service\n", UNIFIED)
        .with("/sys/fs/cgroup/system.slice/roundhouse.service/memory.max", "2147483648\n")
        .with("/sys/fs/cgroup/system.slice/roundhouse.service/memory.high", "max\n")
        .with("/sys/fs/cgroup/system.slice/roundhouse.service/cpu.max", "150000 100000\n")
        .with("/sys/fs/cgroup/system.slice/memory.max", "max\n")
        .with("/sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
    assert_eq!(tree.values(), (Some(2048 * MIB), Some(2)));
    let found = find_limits(tree.0.path());
    let file = Path::new("/sys/fs/cgroup/system.slice/roundhouse.service/memory.max");
    assert_eq!(found.memory.unwrap().file, file, "the file is named as this process sees it");
    // MemoryHigh, and a limit of the slice that is lower.
    let tree = tree
        .with("/sys/fs/cgroup/system.slice/roundhouse.service/memory.high", "1610612736\n")
        .with("/sys/fs/cgroup/system.slice/cpu.max", "80000 100000\n");
    assert_eq!(tree.values(), (Some(1536 * MIB), Some(1)));
}

/// Kubernetes sets the pod's limit above the container's, and a container without a limit has the pod's alone.
#[test]
fn a_pods_limit_holds_for_a_container_without_one() {
    let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1c2d.slice";
    let container = format!("{pod}/cri-containerd-0f1e.scope");
    let at = |group: &str, file: &str| format!("/sys/fs/cgroup{group}/{file}");
    let tree = Tree::new(&format!("0::{container}\n"), UNIFIED)
        .with(&at(&container, "memory.max"), "max\n")
        .with(&at(&container, "cpu.max"), "max 100000\n")
        .with(&at(pod, "memory.max"), "805306368\n")
        .with(&at(pod, "cpu.max"), "400000 100000\n")
        .with(&at("/kubepods.slice", "memory.max"), "8589934592\n");
    assert_eq!(tree.values(), (Some(768 * MIB), Some(4)));
}

#[test]
fn version_1_is_walked_up_in_each_controllers_own_hierarchy() {
    let tree = Tree::new(&groups_v1("/batch/job"), &mounts_v1("/"))
        .with("/sys/fs/cgroup/memory/batch/job/memory.limit_in_bytes", NONE_V1)
        .with("/sys/fs/cgroup/memory/batch/memory.limit_in_bytes", "1073741824\n")
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", NONE_V1)
        .with("/sys/fs/cgroup/cpu,cpuacct/batch/job/cpu.cfs_quota_us", "-1\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/batch/job/cpu.cfs_period_us", "100000\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "50000\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "20000\n");
    assert_eq!(tree.values(), (Some(1024 * MIB), Some(3)));
}

/// The container sees its own group at the mount's root, and its name as the host has it.
#[test]
fn a_container_with_the_hosts_namespace_and_version_1_finds_its_group_at_the_mounts_root() {
    let id = "/docker/5ac8e1f0";
    let tree = Tree::new(&groups_v1(id), &mounts_v1(id))
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n")
        .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    assert_eq!(tree.values(), (Some(512 * MIB), Some(2)));
    // A group that the program in it made.
    let tree = Tree::new(&groups_v1(&format!("{id}/inner")), &mounts_v1(id))
        .with("/sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "268435456\n")
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
    assert_eq!(tree.values(), (Some(256 * MIB), None));
}

#[test]
fn a_container_with_a_namespace_of_its_own_is_at_the_root_of_all_that_it_sees() {
    let tree = Tree::new("0::/\n", UNIFIED)
        .with("/sys/fs/cgroup/memory.max", "536870912\n")
        .with("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_eq!(tree.values(), (Some(512 * MIB), Some(2)));
    let tree = Tree::new(&groups_v1("/"), &mounts_v1("/"))
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
    assert_eq!(tree.values(), (Some(256 * MIB), None));
}

/// `--cgroupns=host` with version 2: all of the host's groups are there, and the root's files are not ours.
#[test]
fn a_container_with_the_hosts_namespace_and_version_2_is_somewhere_below() {
    let tree = Tree::new("0::/system.slice/docker-5ac8e1f0.scope\n", UNIFIED)
        .with("/sys/fs/cgroup/memory.max", "123\n")
        .with("/sys/fs/cgroup/system.slice/docker-5ac8e1f0.scope/memory.max", "536870912\n")
        .with("/sys/fs/cgroup/system.slice/docker-other.scope/memory.max", "1048576\n");
    assert_eq!(tree.values().0, Some(123), "what is above holds too");
    let tree = tree.with("/sys/fs/cgroup/memory.max", "max\n");
    assert_eq!(tree.values().0, Some(512 * MIB), "a neighbour's limit does not");
}

#[test]
fn a_system_container_under_its_own_systemd_has_the_limit_of_all_of_it() {
    let tree = Tree::new("0::/system.slice/roundhouse.service\n", UNIFIED)
        .with("/sys/fs/cgroup/system.slice/roundhouse.service/memory.max", "max\n")
        .with("/sys/fs/cgroup/memory.max", "4294967296\n");
    assert_eq!(tree.values().0, Some(4096 * MIB));
    // Without a namespace of control groups, with version 1.
    let own = "/lxc/prover-1";
    let tree = Tree::new(&groups_v1(&format!("{own}/init.scope")), &mounts_v1(own))
        .with("/sys/fs/cgroup/memory/init.scope/memory.limit_in_bytes", NONE_V1)
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4294967296\n");
    assert_eq!(tree.values().0, Some(4096 * MIB));
}

/// Both versions at once: a controller is in one of them.
#[test]
fn where_both_versions_are_each_controller_is_read_where_it_is() {
    let unified = "42 25 0:38 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    let memory = "35 25 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n";
    let tree = Tree::new("0::/c\n9:memory:/a\n1:name=systemd:/b\n", &format!("{unified}{memory}"))
        .with("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912\n")
        .with("/sys/fs/cgroup/unified/c/memory.max", "1\n")
        .with("/sys/fs/cgroup/unified/c/cpu.max", "300000 100000\n");
    assert_eq!(tree.values(), (Some(512 * MIB), Some(3)));
}

#[test]
fn version_1_also_tells_of_groups_that_are_not_shown() {
    let stat = format!("cache 0\nrss 4096\nhierarchical_memory_limit {}\ntotal_cache 0\n", 300 * MIB);
    let tree = Tree::new(&groups_v1("/docker/1"), &mounts_v1("/docker/1"))
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", NONE_V1)
        .with("/sys/fs/cgroup/memory/memory.stat", stat);
    assert_eq!(tree.values().0, Some(300 * MIB));
}

#[test]
fn of_two_mounts_the_one_that_shows_more_is_walked_and_the_later_one_hides_the_other() {
    let own = "/docker/1";
    let all = "50 22 0:31 / /host/memory ro - cgroup cgroup rw,memory\n";
    let tree = Tree::new(&groups_v1(own), &format!("{}{all}", mounts_v1(own)))
        .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")
        .with("/host/memory/docker/1/memory.limit_in_bytes", "536870912\n")
        .with("/host/memory/docker/memory.limit_in_bytes", "268435456\n");
    assert_eq!(tree.values().0, Some(256 * MIB));
    let later = "51 22 0:26 / /elsewhere rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("0::/\n", &format!("{UNIFIED}{later}")).with("/elsewhere/memory.max", "1048576\n");
    assert_eq!(tree.values().0, Some(MIB));
}

#[test]
fn paths_with_any_characters_are_followed() {
    let mounts = "30 24 0:26 / /sys/fs/control\\040groups\\134 rw - cgroup2 cgroup2 rw\n";
    let tree =
        Tree::new("0::/a:b/c d\n", mounts).with("/sys/fs/control groups\\/a:b/c d/memory.max", "1048576\n");
    assert_eq!(tree.values().0, Some(MIB));
}

#[test]
fn files_larger_than_a_page_are_read_to_their_end() {
    let mounts = format!("{}{UNIFIED}", "60 22 0:40 / /mnt/volume rw - overlay overlay rw\n".repeat(400));
    let groups: String = (20..400).map(|number| format!("{number}:name=other{number}:/\n")).collect();
    let long = "/deep".repeat(200);
    let tree = Tree::new(&format!("{groups}0::{long}\n"), &mounts)
        .with(&format!("/sys/fs/cgroup{long}/memory.max"), "1048576\n");
    assert!(fs::metadata(below(tree.0.path(), Path::new("/proc/self/cgroup"))).unwrap().len() > 4096);
    assert_eq!(tree.values().0, Some(MIB));
    let stat = format!("{}hierarchical_memory_limit 2097152\n", "workingset_refault 0\n".repeat(400));
    let tree = Tree::new(&groups_v1("/"), &mounts_v1("/")).with("/sys/fs/cgroup/memory/memory.stat", stat);
    assert_eq!(tree.values().0, Some(2 * MIB));
}

#[test]
fn what_is_not_there_is_no_limit() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(find_limits(empty.path()), Limits::default());
    assert_eq!(Tree::new("", "").values(), (None, None));
    assert_eq!(Tree::new("0::/gone\n", UNIFIED).values(), (None, None));
    assert_eq!(Tree::new("0::/\n", "").values(), (None, None), "nothing is mounted");
    assert_eq!(Tree::new(&groups_v1("/a"), UNIFIED).values(), (None, None), "the other version is");
    let rubbish = Tree::new("::\n:\n7\n\0\u{7}\n0:memory\n", "- cgroup2\n1 2 3 - cgroup\n - - -\n\\0\n");
    assert_eq!(rubbish.values(), (None, None));
}

#[test]
fn a_value_that_is_none_is_told_with_its_file_and_the_others_hold() {
    let max = "/sys/fs/cgroup/memory.max";
    for garbage in ["", "12 MiB\n", "-5\n", "99999999999999999999999\n", "\u{0}\u{ff}\n"] {
        let tree = Tree::new("0::/unit\n", UNIFIED)
            .with(max, garbage)
            .with("/sys/fs/cgroup/unit/memory.max", "1048576\n");
        let found = find_limits(tree.0.path());
        assert_eq!(found.memory.unwrap().value, MIB);
        assert!(matches!(&found.complaints[..], [one] if one.contains(max)), "{:?}", found.complaints);
    }
    for garbage in ["100000\n", "max\n", "100000 0\n", "-1 100000\n", "one two\n"] {
        let complaints = Tree::new("0::/\n", UNIFIED).with("/sys/fs/cgroup/cpu.max", garbage).complaints();
        assert!(matches!(&complaints[..], [one] if one.contains("/cpu.max")), "{garbage:?}: {complaints:?}");
    }
    let folder = "/sys/fs/cgroup/cpu,cpuacct";
    let complaints = Tree::new(&groups_v1("/"), &mounts_v1("/"))
        .with(&format!("{folder}/cpu.cfs_quota_us"), "100000\n")
        .with(&format!("{folder}/cpu.cfs_period_us"), "0\n")
        .complaints();
    assert!(matches!(&complaints[..], [one] if one.contains("/cpu.cfs_period_us")), "{complaints:?}");
    // A folder in its place cannot be read.
    let complaints = Tree::new("0::/\n", UNIFIED).with(&format!("{max}/file"), "").complaints();
    assert!(matches!(&complaints[..], [one] if one.contains(max)), "{complaints:?}");
}

/// A process that was moved, or a namespace that was entered without mounting anew: names then lead above what is mounted.
#[test]
fn a_group_that_is_not_below_what_is_mounted_is_told_and_what_is_mounted_holds() {
    for (group, of) in [("/", "/.."), ("/../sibling", "/"), ("/docker/2", "/docker/1")] {
        let mount = format!("30 24 0:26 {of} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let tree = Tree::new(&format!("0::{group}\n"), &mount)
            .with("/sys/fs/cgroup/memory.max", "1048576\n")
            .with("/sys/fs/sibling/memory.max", "1\n");
        let found = find_limits(tree.0.path());
        assert_eq!(found.memory.unwrap().value, MIB, "{group} in {of}");
        let told = format!("memory group {group} is not below {of}, which is what /sys/fs/cgroup shows");
        assert!(found.complaints[0].contains(&told), "{:?}", found.complaints);
    }
}

/// Where a controller lets groups be made: its mount, the file of its limit, and what else to write first.
fn place(controller: Controller) -> Option<(PathBuf, bool)> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let mounts: Vec<Mount> = lines(&mounts).filter_map(mount).collect();
    let v1 = mounts.iter().find(|mount| !mount.is_unified && names(&mount.controllers, controller));
    if let Some(mount) = v1 {
        return Some((mount.at.clone(), false));
    }
    let at = &mounts.iter().find(|mount| mount.is_unified)?.at;
    fs::write(at.join("cgroup.subtree_control"), format!("+{}", controller.name())).ok()?;
    Some((at.clone(), true))
}

/// Groups made for a test, removed with it: one in the other.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn make(controller: Controller) -> Option<(Self, bool)> {
        let (at, is_unified) = place(controller)?;
        let outer = at.join(format!("roundhouse-test-{}-{}", controller.name(), std::process::id()));
        let inner = outer.join("inner");
        fs::create_dir(&outer).ok()?;
        let mut groups = Self(vec![outer.clone()]);
        if is_unified {
            fs::write(outer.join("cgroup.subtree_control"), format!("+{}", controller.name())).ok()?;
        }
        fs::create_dir(&inner).ok()?;
        groups.0.push(inner);
        Some((groups, is_unified))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.0.iter().rev() {
            let _ = fs::remove_dir(group);
        }
    }
}

/// In real groups: a limit of the group above, and a weaker one of the process's own, found by a process that is moved there. Runs this
/// test's own binary once more as that process.
#[test]
fn a_process_finds_the_limits_of_the_real_groups_that_it_is_moved_into() {
    const TEST: &str =
        "control_groups::tests::a_process_finds_the_limits_of_the_real_groups_that_it_is_moved_into";
    if std::env::var_os("IN_THE_GROUPS").is_some() {
        println!("found {:?}", find_limits(Path::new("/")));
        return;
    }
    for (controller, v1, v2) in [
        (
            Controller::Memory,
            ("memory.limit_in_bytes", "536870912", "1073741824"),
            ("memory.max", "536870912", "1073741824"),
        ),
        (
            Controller::Cpu,
            ("cpu.cfs_quota_us", "50000", "40000"),
            ("cpu.max", "50000 100000", "40000 100000"),
        ),
    ] {
        let Some((groups, is_unified)) = Groups::make(controller) else {
            println!("LEFT OUT: no group of {} can be made here", controller.name());
            continue;
        };
        let [outer, inner] = &groups.0[..] else { unreachable!() };
        let (file, above, own) = if is_unified { v2 } else { v1 };
        fs::write(outer.join(file), above).unwrap();
        fs::write(inner.join(file), own).unwrap();
        let output = Command::new("/bin/sh")
            .args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$@\""])
            .arg(inner)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env("IN_THE_GROUPS", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let found = match controller {
            Controller::Memory => {
                format!("memory: Some({:?})", Limit { value: 512 * MIB, file: outer.join(file) })
            }
            Controller::Cpu => format!("processors: Some({:?})", Limit { value: 1, file: inner.join(file) }),
        };
        assert!(text.contains(&found), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("complaints: []"), "{text}");
        println!("tested in {}", inner.display());
    }
}
