//! One fault and what comes of it: the program is brought into a phase in which a system call
//! fails, and must either not start, leaving nothing behind, or go on serving; when the fault is
//! over it must be what it was. Every wait has a limit.

use crate::cases::{Case, Which};
use crate::common::strace::Attached;
use crate::common::{Daemon, Run, TempDir, facts, worker};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// A part of the program's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From main to the first generation's readiness.
    Start,
    Reload,
    /// Of a worker.
    Death,
    Stop,
}

/// How its workers become ready, and what else goes with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// With a service manager, pipes for the output and a control socket.
    Notify,
    /// With none of these.
    Timer,
}

/// Where one program runs, and what it must not leave behind.
pub struct Trial {
    pub dir: TempDir,
    gate: Gate,
    /// A service manager that reads nothing.
    _manager: UnixDatagram,
}

impl Trial {
    pub fn new(gate: Gate) -> Trial {
        let dir = TempDir::new();
        fs::create_dir(dir.join("run")).expect("the directory is ours");
        let manager = UnixDatagram::bind(dir.join("notify")).expect("the directory is ours");
        Trial {
            dir,
            gate,
            _manager: manager,
        }
    }

    /// With everything that makes system calls of its own.
    pub fn run(&self) -> Run {
        let run = Run::bare()
            .arg(format!("-listen=unix://{}", self.dir.word("run/web")))
            .arg("-listen=tcp://127.0.0.1:0")
            .arg(format!("-pidfile={}", self.dir.word("run/pid")))
            .args(&["-workers=2", "-respawn", "-stop=1500"])
            .arg(format!("-command={}", worker()));
        match self.gate {
            Gate::Notify => run
                .env("NOTIFY_SOCKET", self.dir.join("notify"))
                .arg(format!("-control={}", self.dir.word("run/control")))
                .args(&["-ready=notify", "-start=2500", "--", "http-ready"]),
            Gate::Timer => run
                .args(&["-start=200", "-output=inherit", "-die-with-parent"])
                .args(&["--", "http"]),
        }
    }

    pub fn live(&self) -> Daemon {
        let daemon = self.run().start();
        daemon.wait_until_live();
        daemon
    }

    pub fn begin(&self, phase: Phase, daemon: &Daemon) {
        match phase {
            Phase::Start => {}
            Phase::Reload => daemon.signal(Signal::SIGHUP),
            Phase::Death => kill(daemon.workers()[0]),
            Phase::Stop => daemon.signal(Signal::SIGTERM),
        }
    }

    /// Of a phase in which nothing fails.
    pub fn await_end(&self, phase: Phase, daemon: &Daemon) {
        match phase {
            Phase::Start => daemon.wait_until_live(),
            Phase::Reload => {
                daemon.wait_until("a verdict", || daemon.verdicts() == 1);
                daemon.wait_until("the old ones to leave", || daemon.workers().len() == 2);
            }
            Phase::Death => daemon.wait_for_count(" is ready", 3),
            Phase::Stop => drop(daemon.wait_for_exit()),
        }
    }

    /// What has come of the fault, in a few words; what must not happen panics.
    pub fn prove(&self, case: &Case) -> String {
        match case.phase {
            Phase::Start => self.prove_start(case),
            _ => self.prove_later(case),
        }
    }

    fn trace(&self, case: &Case) -> [String; 6] {
        let (trace, calls) = (format!("trace={}", case.call), self.dir.word("calls"));
        ["-o", &calls, "-e", &trace, "-e", &case.injection()].map(str::to_owned)
    }

    fn is_injected(&self) -> bool {
        let calls = fs::read_to_string(self.dir.join("calls"));
        calls.is_ok_and(|calls| calls.contains("(INJECTED)"))
    }

    fn prove_start(&self, case: &Case) -> String {
        let run = self.run().through(&["strace", "-D", "-I2"]);
        let daemon = run.through(&self.trace(case)).start();
        let comes_up = || daemon.count("generation 1: live") > 0;
        let gives_in = || daemon.count("died: starting another") > 3;
        daemon.wait_until("an end or a beginning", || {
            comes_up() || gives_in() || daemon.exit_status().is_some()
        });
        if daemon.exit_status().is_some() && !comes_up() {
            return self.prove_refusal(&daemon, case);
        }
        // The last calls of the phase follow the line in the log.
        let begun = Instant::now();
        daemon.wait_until("the fault", || {
            self.is_injected() || begun.elapsed() > Duration::from_millis(500)
        });
        let outcome = match (self.is_injected(), comes_up()) {
            (false, _) => "not reached",
            (true, true) => "up",
            (true, false) => "up when it is over",
        };
        detach(&daemon);
        daemon.wait_until_live();
        self.is_well(&daemon);
        self.stops(&daemon);
        outcome.to_owned()
    }

    /// It has not started: it says why, in one line or in the verdict on its first generation, and
    /// leaves nothing.
    fn prove_refusal(&self, daemon: &Daemon, case: &Case) -> String {
        assert_eq!(daemon.exit_code(), 1);
        assert_eq!(self.left(), [""; 0], "it leaves nothing behind");
        let log = daemon.log();
        if log.is_empty() && case.call == "write" {
            return "exit 1, with a log that cannot be written".to_owned();
        }
        let verdict = log
            .lines()
            .find(|line| line.contains("generation 1 failed"));
        let routine = ["Listening on", "Starting /", "; going on without"];
        let is_routine = |line: &&str| routine.iter().any(|it| line.contains(it));
        let said: Vec<&str> = log.lines().filter(|line| !is_routine(line)).collect();
        let reason = verdict.unwrap_or_else(|| {
            assert_eq!(said.len(), 1, "one line says why: {log}");
            said[0]
        });
        assert!(
            case.is_named_in(reason),
            "without the system's word: {reason}"
        );
        assert!(!reason.contains("(os error"), "{reason}");
        format!("exit 1: {}", self.without_numbers(reason))
    }

    fn prove_later(&self, case: &Case) -> String {
        let daemon = self.live();
        let before = daemon.workers();
        let words = self.trace(case);
        let attached = Attached::to(daemon.pid(), &words.each_ref().map(String::as_str));
        let attached = attached.expect("we could trace a moment ago");
        self.begin(case.phase, &daemon);
        let outcome = match case.phase {
            Phase::Reload => self.prove_reload(&daemon, &before, case, attached),
            Phase::Death => self.prove_death(&daemon, &before, case, attached),
            _ => self.prove_stop(&daemon, &before),
        };
        if case.phase != Phase::Stop {
            self.is_well(&daemon);
            self.stops(&daemon);
        }
        match self.is_injected() {
            true => outcome,
            false => "not reached".to_owned(),
        }
    }

    /// Exactly one verdict, and clients are answered whatever it is.
    fn prove_reload(
        &self,
        daemon: &Daemon,
        before: &[i32],
        case: &Case,
        attached: Attached,
    ) -> String {
        let mut attached = Some(attached);
        if case.call == "write" && case.which == Which::All {
            // The log shows nothing before that is over.
            daemon.wait_until("others instead of all", || {
                let now = daemon.workers();
                now.len() == 2 && !now.iter().any(|pid| before.contains(pid))
            });
            attached = None;
        }
        daemon.wait_until("a verdict", || daemon.verdicts() > 0);
        self.serves(daemon);
        if case.which != Which::All {
            daemon.wait_until("two workers", || daemon.workers().len() == 2);
        }
        drop(attached);
        assert_eq!(daemon.verdicts(), 1);
        let log = daemon.log();
        let is_verdict = |line: &&str| line.contains(" reload 2") && !line.contains(": starting");
        let verdict = log.lines().find(is_verdict).expect("there was one");
        // A worker is not blamed for what it could not help.
        let is_deaf = ["recvmsg", "read"].contains(&&*case.call) && case.which == Which::All;
        let is_right = verdict.contains("is live") || case.is_named_in(verdict) || is_deaf;
        assert!(is_right, "without the system's word: {verdict}");
        self.without_numbers(verdict)
    }

    /// The other worker serves on, and the dead one has a successor, at the latest when the fault
    /// is over.
    fn prove_death(
        &self,
        daemon: &Daemon,
        before: &[i32],
        case: &Case,
        attached: Attached,
    ) -> String {
        let is_replaced = || {
            let now = daemon.workers();
            now.len() == 2 && now.iter().any(|pid| !before.contains(pid))
        };
        match case.which {
            Which::All => daemon.wait_until("the fault", || self.is_injected() || is_replaced()),
            Which::Nth(_) => self.await_end(Phase::Death, daemon),
        }
        self.serves(daemon);
        drop(attached);
        daemon.wait_until("two workers, one of them new", is_replaced);
        "replaced".to_owned()
    }

    fn prove_stop(&self, daemon: &Daemon, before: &[i32]) -> String {
        let code = daemon.exit_code();
        let log = daemon.log();
        let mut outcome = format!("exit {code}");
        for pid in before {
            let named = log.contains(&format!("giving up worker {pid}"));
            if facts::alive(*pid) {
                assert!(named, "worker {pid} is left behind, and nobody says so");
                outcome += ", a worker left behind and named";
                kill(*pid);
            }
            assert!(named || code == 0, "exit {code} for no reason");
        }
        for name in self.left() {
            let named = log
                .lines()
                .any(|line| line.contains("cannot remove") && line.contains(&format!("{name}:")));
            assert!(named, "{name} is left behind, and nobody says so: {log}");
            outcome += ", a path left behind and named";
        }
        outcome
    }

    /// No fault any more: it serves, reaps, reloads.
    fn is_well(&self, daemon: &Daemon) {
        self.serves(daemon);
        daemon.wait_until("a live set of two", || {
            let is_zombie = |pid: &i32| facts::state(*pid).as_deref() == Some("Z");
            let children = facts::children(daemon.pid());
            children.len() == 2 && !children.iter().any(is_zombie)
        });
        let reloads = daemon.verdicts();
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("one more verdict", || daemon.verdicts() > reloads);
        let log = daemon.log();
        let last = log.lines().rfind(|line| line.contains(" reload "));
        assert!(
            last.is_some_and(|line| line.contains("is live")),
            "{last:?}"
        );
        self.serves(daemon);
    }

    fn stops(&self, daemon: &Daemon) {
        let workers = facts::descendants(daemon.pid());
        assert_eq!(daemon.stop(), 0);
        assert!(!workers.iter().any(|pid| facts::alive(*pid)));
        assert_eq!(self.left(), [""; 0]);
    }

    /// A client of each socket is answered.
    fn serves(&self, daemon: &Daemon) {
        for number in [0, 1] {
            let address = daemon.address_number(number);
            let answer = address.get();
            assert!(answer.is_ok(), "{address:?}: {answer:?}");
        }
    }

    /// What is left in the directory.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("run")).expect("the directory is ours");
        let mut left: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        left.sort();
        left
    }

    /// The same for each run: without the header, our directory, pids and times.
    fn without_numbers(&self, line: &str) -> String {
        let text = match line.starts_with("socketmaster[") {
            true => line.splitn(4, ' ').nth(3).unwrap_or(line),
            false => line,
        };
        let text = text.replace(&self.dir.word("run"), "DIR");
        let text = text.replace(&worker(), "WORKER");
        let words = text.split(' ').map(|word| {
            let number = word.trim_end_matches([',', ';', ':']);
            let is_long = number.len() > 2 && number.chars().all(|c| c.is_ascii_digit());
            if is_long {
                word.replace(number, "N")
            } else {
                word.to_owned()
            }
        });
        let text = words.collect::<Vec<_>>().join(" ");
        let end = text.find("; its last lines").unwrap_or(text.len());
        let text = text[..end].split(" after ").next().unwrap_or_default();
        text.to_owned()
    }
}

fn kill(pid: i32) {
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Ends the strace that has started the program.
fn detach(daemon: &Daemon) {
    let tracer = || {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("TracerPid:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    daemon.wait_until("strace to let go", || {
        let pid = tracer();
        if pid != 0 {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        pid == 0
    });
}
