//! strace(1) around the program alone, never around its workers: system calls of the program fail, or
//! a signal arrives at one of them. strace must never outlive its test.

use super::{Run, skip};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// A test that needs strace asks here first. Where SOCKETMASTER_REQUIRE names strace, it must be
/// installed.
pub fn strace_or_skip() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_here = env::split_paths(&path).any(|dir| dir.join("strace").is_file());
    let required = env::var("SOCKETMASTER_REQUIRE").unwrap_or_default();
    let is_required = required.split([',', ' ']).any(|name| name == "strace");
    assert!(is_here || !is_required, "strace is required and missing");
    if !is_here {
        skip("strace is not installed");
    }
    is_here
}

/// The program below strace with these faults (`kill:error=EPERM:when=1`), each a list of calls and
/// what becomes of them, from its first system call on. `None` where strace is not installed. The
/// program is our child, and strace its grandchild, which ends with it.
pub fn injected(run: Run, faults: &[&str]) -> Option<Run> {
    let calls: Vec<&str> = faults
        .iter()
        .filter_map(|it| it.split(':').next())
        .collect();
    let mut words = ["strace", "-D", "-o", "/dev/null"]
        .map(str::to_owned)
        .to_vec();
    words.push(format!("-etrace={}", calls.join(",")));
    words.extend(faults.iter().map(|fault| format!("-einject={fault}")));
    strace_or_skip().then(|| run.through(&words))
}

/// The same for the calls only that concern the file at this path.
pub fn injected_at(run: Run, path: &str, faults: &[&str]) -> Option<Run> {
    Some(injected(run, faults)?.through(&["-P", path]))
}

/// A strace that is attached to a running process. Dropped, it lets go of it.
pub struct Attached {
    strace: Child,
    /// It has a last word when it lets go.
    _stderr: BufReader<ChildStderr>,
}

impl Attached {
    /// `None`: we may not trace.
    pub fn to(pid: i32, words: &[&str]) -> Option<Attached> {
        let mut command = Command::new("strace");
        command.args(words).args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut strace = command.spawn().expect("strace can be started");
        let mut stderr = BufReader::new(strace.stderr.take().expect("stderr is a pipe"));
        let mut line = String::new();
        // `strace: Process 12 attached`, or why not.
        let read = stderr.read_line(&mut line);
        let attached = Attached {
            strace,
            _stderr: stderr,
        };
        (read.is_ok() && line.contains("attached")).then_some(attached)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = signal::kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGTERM);
        let _ = self.strace.wait();
    }
}
