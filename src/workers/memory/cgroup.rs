//! How much more memory this process's control group may take (`cgroups(7)`), in both versions of the
//! hierarchy.

use std::path::Path;

use crate::files;

/// The files of one version of the memory controller.
struct Version {
    /// Where its hierarchy is, below the folder of all hierarchies.
    folder: &'static str,
    /// The name of its controller in `/proc/self/cgroup`; none in the unified hierarchy.
    controller: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// What a name in `memory.stat` begins with where it counts the groups below too.
    prefix: &'static str,
    /// Mapped pages of files, in `memory.stat`.
    mapped: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        folder: "",
        controller: "",
        limit: "memory.max",
        usage: "memory.current",
        prefix: "",
        mapped: "file_mapped",
    },
    Version {
        folder: "memory",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        prefix: "total_",
        mapped: "mapped_file",
    },
];

/// How many more bytes this process's group may take; `None` where nothing limits it.
pub(super) fn headroom() -> Option<u64> {
    let groups = files::read_text("/proc/self/cgroup").unwrap_or_default();
    headroom_of(Path::new("/sys/fs/cgroup"), &groups)
}

/// The same, for the hierarchies in `mount` and the contents of `/proc/self/cgroup`.
fn headroom_of(mount: &Path, groups: &str) -> Option<u64> {
    VERSIONS.iter().filter_map(|version| version.headroom(mount, groups)).min()
}

impl Version {
    /// The least headroom of the group and its ancestors. In a container the group's path may be the one
    /// outside it: then the folder of the hierarchy is the group itself.
    fn headroom(&self, mount: &Path, groups: &str) -> Option<u64> {
        let group = groups.lines().find_map(|line| self.group(line)).unwrap_or("/");
        let hierarchy = mount.join(self.folder);
        let own = hierarchy.join(group.trim_start_matches('/'));
        let folders = own.ancestors().take_while(|folder| folder.starts_with(&hierarchy));
        folders.filter_map(|folder| self.headroom_in(folder)).min()
    }

    /// The group that a line of `/proc/self/cgroup` names, if the line is of this version.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        controllers.split(',').any(|controller| controller == self.controller).then_some(group)
    }

    fn headroom_in(&self, folder: &Path) -> Option<u64> {
        let text = |name: &str| files::read_text(folder.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let (limit, used) = (number(self.limit)?, number(self.usage)?);
        let stat = text("memory.stat").unwrap_or_default();
        Some(limit.saturating_sub(used.saturating_sub(self.reclaimable(&stat))))
    }

    /// Bytes that the kernel drops when the group needs them: pages of files that no process maps, and
    /// caches of the kernel's own.
    fn reclaimable(&self, stat: &str) -> u64 {
        let count = |name: &str| -> u64 {
            let count = |line: &str| {
                line.strip_prefix(self.prefix)?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()
            };
            stat.lines().find_map(count).unwrap_or(0)
        };
        let files = count("inactive_file").saturating_add(count("active_file"));
        files.saturating_sub(count(self.mapped)).saturating_add(count("slab_reclaimable"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files of a group.
    fn group(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_group_with_the_least_headroom_counts_and_unmapped_files_are_free() {
        let mount = tempfile::tempdir().unwrap();
        let stat =
            "anon 1\nfile 350\nfile_mapped 50\ninactive_file 100\nactive_file 150\nslab_reclaimable 7\n";
        let limited = [("memory.max", "1000\n"), ("memory.current", "900\n"), ("memory.stat", stat)];
        group(&mount.path().join("a"), &limited);
        group(&mount.path().join("a/b"), &[("memory.max", "max\n"), ("memory.current", "900\n")]);
        assert_eq!(headroom_of(mount.path(), "0::/a/b\n"), Some(1000 - (900 - 207)));
        assert_eq!(headroom_of(mount.path(), "0::/c\n"), None);
    }

    #[test]
    fn the_limit_of_version_1_counts() {
        const UNLIMITED: &str = "9223372036854771712\n";
        let mount = tempfile::tempdir().unwrap();
        let memory = mount.path().join("memory");
        let stat = "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 20\ntotal_mapped_file 20\n";
        let files = |limit| {
            [("memory.limit_in_bytes", limit), ("memory.usage_in_bytes", "500\n"), ("memory.stat", stat)]
        };
        group(&memory, &files(UNLIMITED));
        group(&memory.join("docker/x"), &files("600\n"));
        let groups = "12:cpu,cpuacct:/other\n5:memory:/docker/x\n1:name=systemd:/y\n0::/z\n";
        assert_eq!(headroom_of(mount.path(), groups), Some(200));
        // Within the container the hierarchy's own folder is the group.
        group(&memory, &files("550\n"));
        assert_eq!(headroom_of(mount.path(), "5:memory:/docker/unseen\n"), Some(150));
    }

    #[test]
    fn a_machine_without_groups_has_no_limit() {
        let mount = tempfile::tempdir().unwrap();
        assert_eq!(headroom_of(mount.path(), ""), None);
        assert_eq!(headroom_of(&mount.path().join("missing"), "0::/\n"), None);
    }
}
