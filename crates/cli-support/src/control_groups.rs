//! What the control groups of a process allow it: its own group's limits, and those of every group above it that it can see.
//!
//! A limit at the mount's root is seldom this process's: a systemd unit, a Kubernetes pod, or a container with the host's namespace is in
//! a group somewhere below. `/proc/self/cgroup` says which group, and `/proc/self/mountinfo` which part of the hierarchy is mounted where:
//! the mount's root is another group than the hierarchy's when a container is given its own part alone. Both versions are read, each
//! controller from the one that has it, as machines have both at a time.
//!
//! A file that is not there is no limit: the root of a hierarchy has none, and neither has a group whose controller is off. What is there and
//! cannot be understood is told.

use std::{
    ffi::OsStr,
    fmt, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// A limit, and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes of memory, or processors, of which a part counts as a whole.
    pub(crate) value: u64,
    /// As this process sees it.
    pub(crate) file: PathBuf,
}

/// The least of what all groups allow; `None` where none sets a limit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In bytes. Version 1 says more than any machine has where there is no limit, which is none as a number, too.
    pub(crate) memory: Option<Limit>,
    /// Processors, at least one.
    pub(crate) processors: Option<Limit>,
    /// What could not be read or understood, and so sets no limit here: each names its file.
    pub(crate) complaints: Vec<String>,
}

/// The hierarchies that limit something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// A part of a hierarchy that is mounted.
#[derive(Debug)]
struct Mount {
    /// Which group of the hierarchy is mounted.
    group: PathBuf,
    /// Where.
    at: PathBuf,
    /// Of version 2.
    is_unified: bool,
    /// The controllers of version 1.
    controllers: Vec<u8>,
}

/// The limits of this process, by the files below `root`: `/`, or a recorded tree.
pub(crate) fn find_limits(root: &Path) -> Limits {
    let mut search = Search { root, limits: Limits::default() };
    let Some(groups) = search.read(Path::new("/proc/self/cgroup")) else { return search.limits };
    let mounts = search.read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount> = lines(&mounts).filter_map(mount).collect();
    for controller in [Controller::Memory, Controller::Cpu] {
        search.walk(controller, &groups, &mounts);
    }
    search.limits
}

/// What is found on the way.
struct Search<'a> {
    root: &'a Path,
    limits: Limits,
}

impl Search<'_> {
    /// The content of a file, if it is there. These are the kernel's own files, of a few kilobytes; a machine with thousands of mounts has a
    /// list of them of some megabytes.
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        match std::fs::read(below(self.root, path)) {
            Ok(content) => Some(content),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(e) => {
                self.complain(path, &e);
                None
            }
        }
    }

    fn complain(&mut self, file: &Path, why: &dyn fmt::Display) {
        let file = file.display();
        self.limits.complaints.push(format!(
            "the limit in {file} is not kept to, as it cannot be read: {why}; --max-allocation and RAYON_NUM_THREADS set limits of your own"
        ));
    }

    /// Looks at this process's group and at all above it that are mounted.
    fn walk(&mut self, controller: Controller, groups: &[u8], mounts: &[Mount]) {
        let Some((group, is_unified)) = own_group(controller, groups) else { return };
        let has_it = |mount: &&Mount| {
            mount.is_unified == is_unified && (is_unified || names(&mount.controllers, controller))
        };
        // Of several mounts, the one that shows most of what is above; of two in one place, the later one hides the other.
        let shown =
            mounts.iter().rev().filter(has_it).filter_map(|mount| Some((mount, beneath(mount, &group)?)));
        let best = shown.min_by_key(|(mount, _)| mount.group.components().count());
        let (at, beneath) = match (best, mounts.iter().find(has_it)) {
            (Some((mount, beneath)), _) => (&mount.at, beneath),
            // Our group is not below what is mounted, as far as the names tell: a group above, or the one that a container was given.
            (None, Some(mount)) => {
                let (group, of) = (group.display(), mount.group.display());
                self.limits.complaints.push(format!(
                    "this process's {} group {group} is not below {of}, which is what {} shows: only the limits there are known",
                    controller.name(),
                    mount.at.display()
                ));
                (&mount.at, PathBuf::new())
            }
            (None, None) => return,
        };
        let own = at.join(&beneath);
        for folder in own.ancestors().take_while(|folder| folder.starts_with(at)) {
            match (controller, is_unified) {
                (Controller::Memory, true) => {
                    self.memory(folder.join("memory.max"), number_or_max);
                    // Beyond this the kernel takes memory back and slows the group down, until nothing moves.
                    self.memory(folder.join("memory.high"), number_or_max);
                }
                (Controller::Memory, false) => {
                    self.memory(folder.join("memory.limit_in_bytes"), number_or_minus_one);
                }
                (Controller::Cpu, true) => self.quota(folder),
                (Controller::Cpu, false) => self.quota_and_period(folder),
            }
        }
        if controller == Controller::Memory && !is_unified {
            // It has the least of all groups above, also of those that this mount does not show.
            self.memory(own.join("memory.stat"), hierarchical_limit);
        }
    }

    fn memory(&mut self, file: PathBuf, parse: fn(&str) -> Result<Option<u64>, String>) {
        let Some(bytes) = self.parsed(&file, parse).flatten() else { return };
        least(&mut self.limits.memory, Limit { value: bytes, file });
    }

    /// `cpu.max`: microseconds, or `max`, and the period in microseconds.
    fn quota(&mut self, folder: &Path) {
        let file = folder.join("cpu.max");
        let parse = |text: &str| {
            let (quota, period) =
                text.split_once(' ').ok_or_else(|| wrong(text, "max or a number, and a number"))?;
            processors(number_or_max(quota)?, number(period)?)
        };
        let Some(value) = self.parsed(&file, parse).flatten() else { return };
        least(&mut self.limits.processors, Limit { value, file });
    }

    /// The same in two files, where -1 is no limit.
    fn quota_and_period(&mut self, folder: &Path) {
        let (file, beside) = (folder.join("cpu.cfs_quota_us"), folder.join("cpu.cfs_period_us"));
        let Some(quota) = self.parsed(&file, number_or_minus_one).flatten() else { return };
        let Some(value) = self.parsed(&beside, |text| processors(Some(quota), number(text)?)).flatten()
        else {
            return;
        };
        least(&mut self.limits.processors, Limit { value, file });
    }

    fn parsed<T>(&mut self, file: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let content = self.read(file)?;
        let text = String::from_utf8_lossy(&content);
        match parse(text.trim_end()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.complain(file, &why);
                None
            }
        }
    }
}

fn least(limit: &mut Option<Limit>, other: Limit) {
    if limit.as_ref().is_none_or(|limit| other.value < limit.value) {
        *limit = Some(other);
    }
}

/// A path of this machine in the tree that is looked at.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n')
}

/// The group that this process is in for a controller, by `/proc/self/cgroup`, and whether that is of version 2. A line is
/// `number:controllers:group`; version 2 has no controllers there, and has those that version 1 does not name.
fn own_group(controller: Controller, groups: &[u8]) -> Option<(PathBuf, bool)> {
    let of = |line: &[u8]| {
        let mut fields = line.splitn(3, |byte| *byte == b':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let is_its = controllers.is_empty() || names(controllers, controller);
        is_its.then(|| (PathBuf::from(OsStr::from_bytes(group)), controllers.is_empty()))
    };
    lines(groups).filter_map(of).min_by_key(|(_, is_unified)| *is_unified)
}

/// Whether a list with commas has the controller.
fn names(list: &[u8], controller: Controller) -> bool {
    list.split(|byte| *byte == b',').any(|name| name == controller.name().as_bytes())
}

/// A line of `/proc/self/mountinfo`, if it is a mount of control groups: number, parent, device, root, mount point, options, any number of
/// other fields, a dash, type, source, options of the file system.
fn mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let kind = *fields.get(dash + 1)?;
    let is_unified = kind == b"cgroup2";
    (is_unified || kind == b"cgroup").then_some(())?;
    Some(Mount {
        group: unescaped(fields.get(3)?),
        at: unescaped(fields.get(4)?),
        is_unified,
        controllers: fields.get(dash + 3)?.to_vec(),
    })
}

/// A path in which the kernel wrote space, tab, newline and backslash as three octal digits after a backslash.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Where a group is beneath the one that a mount shows; `None` where it is not, or the names do not tell: seen from within a namespace,
/// a group above it is `/..`.
fn beneath(mount: &Mount, group: &Path) -> Option<PathBuf> {
    let beneath = group.strip_prefix(&mount.group).ok()?;
    let is_plain = beneath.components().all(|part| matches!(part, Component::Normal(_)));
    is_plain.then(|| beneath.to_owned())
}

fn wrong(text: &str, wanted: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("it has {shown:?} where it should have {wanted}")
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| wrong(text, "a number"))
}

fn number_or_max(text: &str) -> Result<Option<u64>, String> {
    if text == "max" { Ok(None) } else { number(text).map(Some) }
}

fn number_or_minus_one(text: &str) -> Result<Option<u64>, String> {
    if text == "-1" { Ok(None) } else { number(text).map(Some) }
}

/// Of `memory.stat`, whose lines are a name and a number.
fn hierarchical_limit(text: &str) -> Result<Option<u64>, String> {
    let line = text.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "));
    line.map(number).transpose()
}

/// Time of processors in a period of time, as processors: part of one keeps a thread busy for part of the time.
fn processors(quota: Option<u64>, period: u64) -> Result<Option<u64>, String> {
    if period == 0 {
        return Err(wrong("0", "a period above 0"));
    }
    Ok(quota.map(|quota| quota.div_ceil(period).max(1)))
}

#[cfg(test)]
#[path = "control_groups_tests.rs"]
mod tests;
