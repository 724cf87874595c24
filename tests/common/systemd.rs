//! A real systemd as PID 1 of private namespaces (tests/systemd/systemd-box), owned by the test
//! that started it. It must never touch the machine's own systemd, nor leave a box behind.

#![allow(dead_code)]

use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
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
        // As `systemd-box exec` does it, without a shell's time.
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init()));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(["--root", "--wdns=/", "--"]).args(words);
        command
    }

    /// The host's number of the box's PID 1.
    fn init(&self) -> i32 {
        let text = fs::read_to_string(self.state.join("pid")).expect("the box is up");
        text.trim().parse().expect("systemd-box writes a pid")
    }

    /// A file inside, as the machine sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init()))
    }

    /// Writes a file inside, in one step for who reads it.
    pub fn write(&self, inside: &str, text: &str) {
        let (path, draft) = (self.path(inside), self.path(&format!("{inside}.draft")));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).expect("the box has a file system");
        }
        fs::write(&draft, text).expect("the box has a file system");
        fs::rename(&draft, &path).expect("the box has a file system");
    }

    pub fn remove(&self, inside: &str) {
        let path = self.path(inside);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes a unit file and makes systemd read all of them again.
    pub fn unit(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{name}"), text);
        self.run(&["systemctl", "daemon-reload"]);
    }

    /// Copies a program of the machine to a path inside, in the place of what may be running there.
    /// `cp` does it: a descriptor open for writing here could leak into a fork of another test.
    pub fn install(&self, program: impl AsRef<Path>, inside: &str) {
        let (path, draft) = (self.path(inside), self.path(&format!("{inside}.draft")));
        let copied = Command::new("cp")
            .arg(program.as_ref())
            .arg(&draft)
            .status();
        assert!(
            copied.expect("cp is there").success(),
            "cannot copy to {inside}"
        );
        fs::rename(&draft, &path).expect("the box has a file system");
    }

    /// The same with a shell script.
    pub fn install_script(&self, script: &str, inside: &str) {
        let text = format!("#!/bin/sh\n{script}\n");
        self.run(&[
            "sh",
            "-c",
            "printf %s \"$1\" >\"$2.draft\" && chmod 755 \"$2.draft\" && mv \"$2.draft\" \"$2\"",
            "sh",
            &text,
            inside,
        ]);
    }

    /// Does something as a client in the box's network.
    pub fn visit<T: Send>(&self, visit: impl FnOnce() -> T + Send) -> T {
        let network = self.network();
        thread::scope(|scope| {
            let visitor = scope.spawn(move || {
                enter(&network);
                visit()
            });
            visitor.join().expect("the visitor does not panic")
        })
    }

    /// The box's network, for [`enter`].
    pub fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.init())).expect("the box is up")
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

    /// Waits until the unit's journal has a line with the text, and returns the first.
    pub fn wait_for_line(&self, unit: &str, text: &str) -> String {
        self.wait_for_lines(unit, text, 1)
    }

    /// The nth line with the text, from 1.
    pub fn wait_for_lines(&self, unit: &str, text: &str, n: usize) -> String {
        let start = Instant::now();
        loop {
            let journal = self.journal(unit);
            let mut lines = journal.lines().filter(|line| line.contains(text));
            if let Some(line) = lines.nth(n - 1) {
                return line.to_owned();
            }
            let late = start.elapsed() > LIMIT;
            assert!(
                !late,
                "{unit}: not {n} lines with {text:?} in its journal\n{journal}"
            );
        }
    }

    /// Sends a signal to a unit's main process.
    pub fn signal(&self, unit: &str, signal: &str) {
        let signal = format!("--signal={signal}");
        self.run(&["systemctl", "kill", "--kill-whom=main", &signal, unit]);
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

/// Moves this thread, and what it starts, into a box's network.
pub fn enter(network: &File) {
    setns(network, CloneFlags::CLONE_NEWNET).expect("root may enter a network of its own");
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = self.exec(&[
                "journalctl",
                "--no-pager",
                "--lines=100",
                "--output=short-precise",
            ]);
            eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
        }
        match self.script("stop").output() {
            Ok(output) if output.status.success() => {}
            wrong => eprintln!(
                "the box at {} was not stopped: {wrong:?}",
                self.state.display()
            ),
        }
    }
}

/// Boots the machine's own systemd and each other version that is there, those since `oldest`, one
/// after the other, with our programs in /usr/local/bin, and plays the scenario in each.
pub fn in_each_since(oldest: u32, scenario: impl Fn(&SystemdBox)) {
    let others = other_versions();
    let others = others.iter().map(|debs| Some(debs.as_path()));
    let mut played = 0;
    for debs in std::iter::once(None).chain(others) {
        let Some(systemd) = SystemdBox::start_version(UNITS, debs) else {
            return;
        };
        if systemd.version() >= oldest {
            play(&systemd, &scenario);
            played += 1;
        }
    }
    if played == 0 {
        eprintln!("skipped: needs systemd {oldest}, and SYSTEMD_DEBS names none");
    }
}

pub fn in_each(scenario: impl Fn(&SystemdBox)) {
    in_each_since(0, scenario);
}

/// The same with the machine's own systemd only, for what no version does differently.
pub fn in_own(scenario: impl Fn(&SystemdBox)) {
    if let Some(systemd) = SystemdBox::start(UNITS) {
        play(&systemd, &scenario);
    }
}

fn play(systemd: &SystemdBox, scenario: &impl Fn(&SystemdBox)) {
    println!("with systemd {}", systemd.version());
    systemd.install(crate::common::SOCKETMASTER, "/usr/local/bin/socketmaster");
    for name in ["server", "worker"] {
        let program = crate::common::example(name);
        systemd.install(program, &format!("/usr/local/bin/{name}"));
    }
    scenario(systemd);
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
