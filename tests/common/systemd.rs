//! A real systemd as PID 1 of private namespaces (tests/systemd/systemd-box), owned by the test
//! that started it. It must never touch the machine's own systemd, nor leave a box behind.

#![allow(dead_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/systemd-box");

/// The units that the tests share.
pub const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/units");

/// How long a fact may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A running systemd with a state directory, a network (lo only), a /run, a /tmp and a journal of
/// its own, over the machine's files; what is written there is lost. Dropping it shuts it down.
pub struct SystemdBox {
    state: PathBuf,
}

impl SystemdBox {
    /// Boots the machine's own systemd with the units of a directory. None, and says why, where
    /// that cannot be; panics where it should have been.
    pub fn start(units: impl AsRef<Path>) -> Option<SystemdBox> {
        SystemdBox::start_version(units, None)
    }

    /// The same with another systemd: a directory of its .deb files (tests/systemd/systemd-debs).
    pub fn start_version(units: impl AsRef<Path>, debs: Option<&Path>) -> Option<SystemdBox> {
        if let Some(reason) = missing() {
            eprintln!("skipped: {reason}");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("socketmaster-box-{}-{number}", std::process::id());
        let systemd = SystemdBox {
            state: std::env::temp_dir().join(name),
        };
        let mut start = systemd.script("start");
        if let Some(debs) = debs {
            start.env("SYSTEMD_BOX_DEBS", debs);
        }
        let output = start.arg(units.as_ref()).output().expect("bash is there");
        assert!(output.status.success(), "systemd did not boot: {output:?}");
        Some(systemd)
    }

    /// Runs a command inside and waits for it.
    pub fn exec(&self, words: &[&str]) -> Output {
        let command = self.command(words).stdin(Stdio::null()).output();
        command.expect("bash is there")
    }

    /// Runs a command inside that has to succeed; what it printed, without the last newline.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.exec(words);
        assert!(output.status.success(), "{words:?} failed: {output:?}");
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .trim_end()
            .to_owned()
    }

    /// A command that will run inside.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.script("exec");
        command.args(words);
        command
    }

    /// Copies a program of the machine to a path inside.
    pub fn install(&self, program: impl AsRef<Path>, path: &str) {
        let file = File::open(program.as_ref())
            .unwrap_or_else(|error| panic!("{}: {error}", program.as_ref().display()));
        let output = format!("of={path}");
        let copied = self
            .command(&["dd", "status=none", "bs=1M", &output])
            .stdin(file)
            .status();
        assert!(
            copied.expect("bash is there").success(),
            "cannot copy to {path}"
        );
        self.run(&["chmod", "755", path]);
    }

    /// One property of a unit, as systemctl shows it.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", property, unit])
    }

    /// Waits until a property of a unit satisfies; shows the unit's journal when it never does.
    pub fn wait_for(&self, unit: &str, property: &str, is_it: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let value = self.show(unit, property);
            if is_it(&value) {
                return value;
            }
            let late = start.elapsed() > LIMIT;
            assert!(
                !late,
                "{unit}: {property} is {value:?}\n{}",
                self.journal(unit)
            );
        }
    }

    /// What a unit and systemd about it have logged, one message a line.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--sync"]);
        self.run(&["journalctl", "--unit", unit, "--no-pager", "--output=cat"])
    }

    /// The major version that runs.
    pub fn version(&self) -> u32 {
        let text = self.run(&["systemctl", "--version"]);
        let number = text
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("a systemd without a version: {text}"))
    }

    fn script(&self, word: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .arg(SCRIPT)
            .arg(word)
            .env("SYSTEMD_BOX_STATE", &self.state);
        command
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        match self.script("stop").output() {
            Ok(output) if output.status.success() => {}
            wrong => eprintln!(
                "the box at {} was not stopped: {wrong:?}",
                self.state.display()
            ),
        }
    }
}

/// Directories of other systemds' .deb files, from `SYSTEMD_DEBS=one:two`: each is tested too.
pub fn other_versions() -> Vec<PathBuf> {
    std::env::var_os("SYSTEMD_DEBS")
        .map(|paths| std::env::split_paths(&paths).collect())
        .unwrap_or_default()
}

/// Why no systemd can be booted here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("booting a systemd needs root".to_owned());
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Some("no systemd is installed".to_owned());
    }
    for tool in ["bash", "unshare", "nsenter", "setpriv", "findmnt"] {
        let found = Command::new(tool).arg("--version").output();
        if found.is_err() {
            return Some(format!(
                "booting a systemd needs {tool}, which is not installed"
            ));
        }
    }
    let unshared = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "true"])
        .output();
    if !unshared.is_ok_and(|output| output.status.success()) {
        return Some("booting a systemd needs the right to make namespaces".to_owned());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts
        .lines()
        .any(|mount| mount.split(' ').nth(2) == Some("cgroup2"))
    {
        return Some("booting a systemd needs cgroup2, which is not mounted".to_owned());
    }
    None
}
