//! Memory: whether the machine, or the control group that this process is in, has any left.

use crate::base::limits;
use crate::operate::{Trouble, View};
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Where control groups are: the second version's, and the first version's for memory.
const GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];

/// What was seen of it.
pub struct MemoryLook(Trouble);

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    free: u64,
    all: u64,
}

impl MemoryLook {
    pub fn new(view: &View) -> MemoryLook {
        MemoryLook(Trouble::new(&view.board, "memory"))
    }

    pub fn look(&mut self) {
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        let scarce = |memory: &Memory| memory.free < limits::MEMORY_SCARCE.min(memory.all / 8);
        let mib = |bytes: u64| bytes >> 20;
        if let Some(Memory { free, .. }) = of_machine(&meminfo).filter(scarce) {
            self.0.warn(&format!("memory: {} MiB are left on this machine: end what takes it", mib(free)));
        } else if let Some(Memory { free, all }) = of_groups(&groups).find(scarce) {
            let (free, all) = (mib(free), mib(all));
            self.0.warn(&format!(
                "memory: {free} MiB are left of the {all} MiB that the control group of this daemon may take: allow more (MemoryMax, --memory)"
            ));
        } else {
            self.0.forget();
        }
    }
}

/// `meminfo`: of `/proc`.
fn of_machine(meminfo: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some(Memory { free: kib("MemAvailable:")? << 10, all: kib("MemTotal:")? << 10 })
}

/// The groups with a bound that this process is in. `groups`: its `/proc/self/cgroup`.
fn of_groups(groups: &str) -> impl Iterator<Item = Memory> {
    place(groups).into_iter().flat_map(|(root, dir)| {
        let above: Vec<PathBuf> =
            dir.ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_path_buf).collect();
        above.into_iter().filter_map(|dir| of_group(&dir))
    })
}

/// The root of the groups for memory, and the directory of this process's group.
fn place(groups: &str) -> Option<(&'static str, PathBuf)> {
    let [second, first] = GROUPS;
    let entry = |line: &str| -> Option<(&'static str, String)> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let of_memory = controllers.split(',').any(|controller| controller == "memory");
        match (controllers, of_memory) {
            (_, true) => Some((first, path.to_owned())),
            ("", _) => Some((second, path.to_owned())),
            _ => None,
        }
    };
    // A machine with both versions has memory in the first one.
    let (root, path) = groups.lines().filter_map(entry).max_by_key(|(root, _)| *root == first)?;
    let dir = Path::new(root).join(path.trim_start_matches('/'));
    // Inside a container the path may be the one outside.
    Some((root, if dir.exists() { dir } else { root.into() }))
}

/// `None`: without a bound, or no group.
fn of_group(dir: &Path) -> Option<Memory> {
    let number = |names: [&str; 2]| {
        let text = names.iter().find_map(|name| read_to_string(dir.join(name)).ok())?;
        text.trim().parse::<u64>().ok()
    };
    let all = number(["memory.max", "memory.limit_in_bytes"])?;
    // The first version's way to say that there is no bound.
    if all > 1 << 60 {
        return None;
    }
    let taken = number(["memory.current", "memory.usage_in_bytes"])?;
    let stat = read_to_string(dir.join("memory.stat")).unwrap_or_default();
    Some(Memory { free: all.saturating_sub(taken.saturating_sub(of_files(&stat))), all })
}

/// What the kernel keeps of files, and gives up when somebody needs it. The first version counts what is in groups below with `total_`.
fn of_files(stat: &str) -> u64 {
    let of = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|bytes| bytes.parse::<u64>().ok())
    };
    let sum =
        |prefix: &str| Some(of(&format!("{prefix}inactive_file"))? + of(&format!("{prefix}active_file"))?);
    sum("total_").or_else(|| sum("")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    #[test]
    fn the_machine_says_what_is_left() {
        let meminfo = "MemTotal:  1024 kB\nMemFree:  1 kB\nMemAvailable:     12 kB\n";
        assert_eq!(of_machine(meminfo), Some(Memory { free: 12 << 10, all: 1 << 20 }));
        assert_eq!(of_machine("junk"), None);
        assert!(of_machine(&read_to_string("/proc/meminfo").unwrap()).is_some());
    }

    #[test]
    fn the_group_is_that_for_memory() {
        let of = |groups| place(groups).map(|(root, _)| root);
        assert_eq!(of("0::/x\n"), Some(GROUPS[0]));
        assert_eq!(of("4:memory:/x\n1:cpu:/\n0::/\n"), Some(GROUPS[1]));
        assert_eq!((of(""), of("1:cpu:/\n")), (None, None));
    }

    #[test]
    fn a_group_of_either_version_says_what_is_left() {
        let scratch = Scratch::new("lookout-memory");
        let write = |name: &str, text: &str| std::fs::write(scratch.path(name), text).unwrap();
        assert_eq!(of_group(scratch.dir()), None);
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.usage_in_bytes", "70\n");
        assert_eq!(of_group(scratch.dir()), None);
        write("memory.limit_in_bytes", "100\n");
        write("memory.stat", "inactive_file 1\nactive_file 2\ntotal_inactive_file 5\ntotal_active_file 6\n");
        assert_eq!(of_group(scratch.dir()), Some(Memory { free: 41, all: 100 }));
        write("memory.max", "max\n");
        assert_eq!(of_group(scratch.dir()), None);
        write("memory.max", "200\n");
        write("memory.current", "150\n");
        write("memory.stat", "anon 9\ninactive_file 10\nactive_file 20\n");
        assert_eq!(of_group(scratch.dir()), Some(Memory { free: 80, all: 200 }));
    }
}
