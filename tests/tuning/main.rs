//! `tuning/` from outside: `tuning/apply` on made-up trees of kernel keys, the profiles' own form, and the exit status
//! of `gannet doctor`. Nothing here touches this host's keys.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TUNING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning");
const STATE: &str = "var/lib/gannet/sysctl.state";
const INSTALLED: &str = "etc/sysctl.d/60-gannet.conf";

/// A key of a profile: `-key = value` with the comment above it.
struct Key {
    name: String,
    value: String,
    optional: bool,
    comment: String,
}

fn profile(name: &str) -> Vec<Key> {
    let text = fs::read_to_string(format!("{TUNING}/sysctl.d/{name}.conf")).unwrap();
    let (mut keys, mut comment) = (Vec::new(), String::new());
    for line in text.lines() {
        match line.split_once(" = ") {
            Some((key, value)) if !line.starts_with('#') => {
                let name = key.trim_start_matches('-').to_owned();
                let optional = key.starts_with('-');
                keys.push(Key { name, value: value.to_owned(), optional, comment: std::mem::take(&mut comment) });
            }
            _ if line.is_empty() => comment.clear(),
            _ => comment += &format!("{line}\n"),
        }
    }
    keys
}

/// A root directory with every key of both profiles at 7; gone when the test ends.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Root {
        let root = Root(std::env::temp_dir().join(format!("gannet-tuning-{}-{name}", std::process::id())));
        for key in profile("edge").iter().chain(&profile("bench")) {
            root.set(&key.name, "7");
        }
        root.set("net.ipv4.ip_local_port_range", "32768\t60999");
        root
    }

    fn file(&self, key: &str) -> PathBuf {
        self.0.join("proc/sys").join(key.replace('.', "/"))
    }

    fn set(&self, key: &str, value: &str) {
        fs::create_dir_all(self.file(key).parent().unwrap()).unwrap();
        fs::write(self.file(key), format!("{value}\n")).unwrap();
    }

    fn get(&self, key: &str) -> String {
        fs::read_to_string(self.file(key)).unwrap().trim().to_owned()
    }

    fn all(&self) -> Vec<(String, String)> {
        let names: BTreeSet<String> = profile("edge").into_iter().chain(profile("bench")).map(|key| key.name).collect();
        names.into_iter().map(|name| (name.clone(), self.get(&name))).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// Exit status, and both outputs as one text.
    fn apply(&self, arguments: &str) -> (i32, String) {
        run(Command::new(format!("{TUNING}/apply")).arg("--root").arg(&self.0).args(arguments.split_whitespace()))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The line of a key.
fn line<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap_or_else(|| panic!("{key}:\n{text}"))
}

#[test]
fn every_key_says_what_it_does_since_when_and_what_it_costs() {
    for name in ["edge", "bench"] {
        let keys = profile(name);
        assert!(keys.len() > 10, "{name}");
        for Key { name, comment, .. } in keys {
            assert!(comment.contains("Since: ") && comment.contains("Costs: "), "{name}: {comment}");
            let rule = comment.lines().last().and_then(|line| line.strip_prefix("# Rule: "));
            assert!(matches!(rule, Some("raise" | "lower" | "set")), "{name}: {comment}");
            assert!(comment.len() > 120, "{name}: {comment}");
        }
    }
}

#[test]
fn it_shows_and_changes_nothing_unless_told() {
    let root = Root::new("show");
    let before = root.all();
    for arguments in ["", "edge", "bench", "bench --dry-run"] {
        let (status, text) = root.apply(arguments);
        assert_eq!(status, 0, "{text}");
        assert!(line(&text, "net.core.somaxconn").ends_with(" 7 -> 65535"), "{text}");
        assert!(text.contains("nothing was changed"), "{text}");
    }
    assert!(line(&root.apply("bench").1, "net.ipv4.ip_local_port_range").ends_with("32768 60999 -> 1024 65535"));
    assert_eq!((root.all(), root.has(STATE), root.has("etc")), (before, false, false));
}

#[test]
fn it_finds_its_profiles_from_wherever_it_is_linked() {
    let root = Root::new("linked");
    let link = root.0.join("apply");
    std::os::unix::fs::symlink(format!("{TUNING}/apply"), &link).unwrap();
    let relative = root.0.join("again");
    std::os::unix::fs::symlink("apply", &relative).unwrap();
    for program in [link, relative] {
        let (status, text) = run(Command::new(program).arg("--root").arg(&root.0).current_dir("/"));
        assert_eq!(status, 0, "{text}");
        assert!(line(&text, "net.core.somaxconn").ends_with(" 7 -> 65535"), "{text}");
    }
}

#[test]
fn a_key_without_a_value_is_set_and_is_without_one_again() {
    let (root, key) = (Root::new("empty"), "net.core.somaxconn");
    for nothing in ["", "\n"] {
        fs::write(root.file(key), nothing).unwrap();
        let (status, text) = root.apply("edge --write");
        assert_eq!((status, &*root.get(key)), (0, "65535"), "{text}");
        let (status, text) = root.apply("--revert");
        assert_eq!((status, &*root.get(key)), (0, ""), "{text}");
        assert!(!root.has(STATE), "{text}");
    }
}

#[test]
fn it_writes_and_reverts() {
    let root = Root::new("write");
    root.set("fs.nr_open", "9223372036854775807");
    let before = root.all();
    let (status, text) = root.apply("edge --write");
    assert_eq!(status, 0, "{text}");
    for key in profile("edge") {
        let low = key.comment.contains("Rule: lower");
        let wanted = if low { "7" } else { &key.value };
        let wanted = if key.name == "fs.nr_open" { "9223372036854775807" } else { wanted };
        assert_eq!(root.get(&key.name), wanted, "{}", key.name);
    }
    assert!(line(&text, "fs.nr_open").contains("kept: above 2097152"), "{text}");
    assert!(line(&text, "net.ipv4.tcp_fin_timeout").contains("kept: below 20"), "{text}");
    // A second time, and the other profile: the values of before the first time are not forgotten.
    assert!(root.apply("edge --write").1.contains("\n0 changed"));
    assert_eq!(root.apply("bench --write").0, 0);
    assert_eq!(root.get("fs.file-max"), "8388608");
    let (status, text) = root.apply("--revert");
    assert_eq!(status, 0, "{text}");
    let normal =
        |all: Vec<(String, String)>| all.into_iter().map(|(k, v)| (k, v.replace('\t', " "))).collect::<Vec<_>>();
    assert_eq!(normal(root.all()), normal(before));
    assert!(!root.has(STATE));
    assert!(root.apply("--revert").1.starts_with("nothing to undo"));
}

#[test]
fn what_others_changed_since_is_left_unless_forced() {
    let root = Root::new("since");
    assert_eq!(root.apply("--write").0, 0);
    root.set("net.core.somaxconn", "1000");
    let (status, text) = root.apply("--revert");
    assert_eq!((status, root.get("net.core.somaxconn").as_str()), (1, "1000"), "{text}");
    assert!(line(&text, "net.core.somaxconn").contains("somebody set 1000 since (we: 65535, before: 7)"), "{text}");
    assert_eq!(root.get("fs.file-max"), "7");
    let (status, text) = root.apply("--revert --force");
    assert_eq!((status, root.get("net.core.somaxconn").as_str(), root.has(STATE)), (0, "7", false), "{text}");
}

#[test]
fn missing_and_read_only_keys_are_said_and_skipped() {
    let root = Root::new("skip");
    for key in profile("edge").iter().filter(|key| key.optional) {
        fs::remove_file(root.file(&key.name)).unwrap();
    }
    let (status, text) = root.apply("");
    assert_eq!(status, 0, "optional keys may be missing: {text}");
    assert!(line(&text, "net.netfilter.nf_conntrack_max").contains(" skipped: this kernel"), "{text}");

    fs::set_permissions(root.file("fs.nr_open"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::remove_file(root.file("net.ipv4.tcp_notsent_lowat")).unwrap();
    for arguments in ["", "--write"] {
        let (status, text) = root.apply(arguments);
        assert_eq!(status, 1, "{text}");
        assert!(line(&text, "fs.nr_open").contains(" SKIPPED: read-only here; is 7, should be 2097152"), "{text}");
        assert!(line(&text, "net.ipv4.tcp_notsent_lowat").contains(" SKIPPED: this kernel"), "{text}");
    }
    assert_eq!((root.get("fs.nr_open").as_str(), root.get("fs.file-max").as_str()), ("7", "4194304"));
    let state = fs::read_to_string(root.0.join(STATE)).unwrap();
    assert!(state.contains("fs.file-max=7=4194304\n") && !state.contains("nr_open"), "{state}");
}

#[test]
fn it_installs_what_is_in_force_and_takes_it_away() {
    let root = Root::new("persist");
    root.set("fs.nr_open", "1073741816");
    fs::remove_file(root.file("net.netfilter.nf_conntrack_buckets")).unwrap();
    assert_eq!(root.apply("edge --persist").0, 0);
    let installed = fs::read_to_string(root.0.join(INSTALLED)).unwrap();
    for part in
        ["\nfs.nr_open = 1073741816\n", "\nfs.file-max = 4194304\n", "\n-net.netfilter.nf_conntrack_max = 2097152\n"]
    {
        assert!(installed.contains(part), "{installed}");
    }
    assert!(!installed.contains("conntrack_buckets"), "{installed}");
    let (status, text) = root.apply("--revert");
    assert!(status == 0 && text.contains("removed: ") && !root.has(INSTALLED), "{text}");
}

#[test]
fn wrong_use_is_told() {
    let root = Root::new("use");
    let before = root.all();
    let wrong =
        ["fast", "edge bench", "--revert --write", "--revert edge", "--force", "--write --state", "--persist --revert"];
    for arguments in wrong {
        let (status, text) = root.apply(arguments);
        assert!(status == 2 && text.starts_with("apply: ") && text.lines().count() == 1, "{arguments}: {text}");
    }
    assert_eq!(root.all(), before);
    let (status, text) = root.apply("--help");
    assert!(status == 0 && text.contains("Examples:") && text.contains("--revert"), "{text}");
    let nowhere = run(Command::new(format!("{TUNING}/apply")).args(["--root", "/nowhere"]));
    assert_eq!(nowhere.0, 2);
}

#[test]
fn the_state_may_be_elsewhere() {
    let root = Root::new("state");
    let state = root.0.join("elsewhere/of-mine");
    let with = |arguments: &str| root.apply(&format!("{arguments} --state {}", state.display()));
    assert_eq!(with("--write").0, 0);
    assert!(state.exists() && !root.has(STATE));
    assert_eq!((with("--revert").0, state.exists(), root.get("fs.file-max").as_str()), (0, false, "7"));
}

#[test]
fn the_doctor_s_exit_status_says_whether_they_fit() {
    let root = Root::new("doctor");
    let folder = root.0.join("proc/self");
    fs::create_dir_all(&folder).unwrap();
    let doctor = |root: &Path, more: &[&str]| {
        run(Command::new(env!("CARGO_BIN_EXE_gannet")).args(["doctor", "--root"]).arg(root).args(more))
    };
    let (status, text) = doctor(&root.0, &[]);
    assert!(status == 2 && text.starts_with("error: cannot read "), "{text}");
    fs::write(folder.join("limits"), "Max open files 1024 65536 files\n").unwrap();
    for key in ["fs.file-max", "fs.nr_open", "fs.epoll.max_user_watches"] {
        root.set(key, "1048576");
    }
    assert_eq!(doctor(&root.0, &["--clients", "50000"]).0, 0);
    assert_eq!(doctor(&root.0, &["--clients", "70000"]).0, 1);
    assert_eq!(doctor(&root.0, &["--clients", "50000", "--client.connection_limit", "10"]).0, 1);
    assert_eq!(doctor(&root.0, &["--clients", "0"]).0, 2);
}
