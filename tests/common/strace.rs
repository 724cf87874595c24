//! strace(1) around the program alone, never around its workers: to make a system call of the
//! program fail. It must never outlive its test.

use super::{Run, skip};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// A test that needs strace asks here first.
pub fn strace_or_skip() -> bool {
    let mut command = Command::new("strace");
    let version = command.arg("--version").stdout(Stdio::null()).status();
    let is_here = version.is_ok_and(|status| status.success());
    let promised = env::var("SOCKETMASTER_REQUIRE").unwrap_or_default();
    let is_promised = promised.split([',', ' ']).any(|name| name == "strace");
    assert!(is_here || !is_promised, "strace is promised and missing");
    if !is_here {
        skip("strace is not installed");
    }
    is_here
}

/// The program with an injection (`kill:error=EPERM:when=1`), from its first system call on. It is
/// our child: strace is its grandchild, and ends with it.
pub fn injected(run: Run, injection: &str) -> Run {
    let call = injection.split(':').next().unwrap_or_default();
    let trace = format!("trace={call}");
    let inject = format!("inject={injection}");
    run.through(&[
        "strace",
        "-D",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ])
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
