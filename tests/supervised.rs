//! Under s6 and runit: started, reloaded and stopped by them, its lines in their loggers, and
//! nothing left behind.

mod common;
#[allow(dead_code)]
#[path = "servers/need.rs"]
mod need;

use common::{Address, LIMIT, TempDir, example, facts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The two families: their supervisor of a directory, their logger, their way to give orders.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    S6,
    Runit,
}

/// A supervisor with one service, `web`, and its logger. Dropping it takes all of it down.
struct Supervisor {
    family: Family,
    dir: TempDir,
    child: Child,
}

impl Family {
    fn programs(self) -> [&'static str; 3] {
        match self {
            Family::S6 => ["s6-svscan", "s6-svc", "s6-log"],
            Family::Runit => ["runsvdir", "sv", "svlogd"],
        }
    }
}

impl Supervisor {
    /// Starts the service with these flags, and the worker with these words; None without the
    /// family's programs.
    fn start(family: Family, flags: &str, words: &str) -> Option<Supervisor> {
        if !need::all_there(&family.programs().map(need::Need::Program)) {
            return None;
        }
        let dir = TempDir::new();
        for name in ["scan/web/log", "logs"] {
            fs::create_dir_all(dir.join(name)).expect("the directory is ours");
        }
        let (program, worker) = (common::SOCKETMASTER, example("worker"));
        let command = format!("{program} {flags} -start=0 -command={}", worker.display());
        let run = format!("exec 2>&1\nexec {command} -- {words}");
        let logger = match family {
            Family::S6 => format!("exec s6-log n3 {}", dir.word("logs")),
            Family::Runit => format!("exec svlogd {}", dir.word("logs")),
        };
        script(&dir, "scan/web/run", &run);
        script(&dir, "scan/web/log/run", &logger);
        let finish = format!("echo \"$1\" >>{}", dir.word("ends"));
        script(&dir, "scan/web/finish", &finish);
        let child = Command::new(family.programs()[0])
            .arg(dir.join("scan"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the supervisor can be started");
        Some(Supervisor { family, dir, child })
    }

    /// An order in the words of s6-svc(1) or sv(8).
    fn order(&self, s6: &[&str], runit: &[&str]) {
        let (program, words) = match self.family {
            Family::S6 => ("s6-svc", s6),
            Family::Runit => ("sv", runit),
        };
        let service = self.dir.join("scan/web");
        let output = Command::new(program).args(words).arg(&service).output();
        let output = output.expect("it is installed");
        assert!(output.status.success(), "{program} {words:?}: {output:?}");
    }

    fn reload(&self) {
        self.order(&["-h"], &["hup"]);
    }

    fn down(&self) {
        self.order(&["-wD", "-T30000", "-d"], &["-w", "30", "down"]);
    }

    fn up(&self) {
        self.order(&["-u"], &["up"]);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("logs/current")).unwrap_or_default()
    }

    /// Waits for the nth line with the text, from 1.
    fn wait_for_line(&self, text: &str, n: usize) -> String {
        self.wait_for(&format!("{n} lines with {text:?}"), || {
            let log = self.log();
            let mut found = log.lines().filter(|line| line.contains(text));
            found.nth(n - 1).map(str::to_owned)
        })
    }

    fn wait_for<T>(&self, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = fact() {
                return found;
            }
            assert!(
                start.elapsed() < *LIMIT,
                "waited for {what}; log:\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The socketmaster that runs.
    fn pid(&self) -> i32 {
        let program = fs::canonicalize(common::SOCKETMASTER).expect("it exists");
        self.wait_for("the program below its supervisor", || {
            let below = facts::descendants(self.child.id() as i32).into_iter();
            below
                .into_iter()
                .find(|pid| facts::program(*pid).as_deref() == Some(&program))
        })
    }

    /// The exit statuses that the finish script was told.
    fn ends(&self) -> String {
        fs::read_to_string(self.dir.join("ends")).unwrap_or_default()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let below = facts::descendants(pid.as_raw());
        // Both take their services down with them on this.
        let farewell = match self.family {
            Family::S6 => Signal::SIGTERM,
            Family::Runit => Signal::SIGHUP,
        };
        let _ = kill(pid, farewell);
        let start = Instant::now();
        let mut is_up = || {
            let up = matches!(self.child.try_wait(), Ok(None));
            up || below.iter().any(|pid| facts::alive(*pid))
        };
        while is_up() && start.elapsed() < *LIMIT {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        for pid in below.into_iter().filter(|pid| facts::alive(*pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(dir: &TempDir, name: &str, text: &str) {
    let path = dir.write(name, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

/// `Listening on URI`
fn address(line: &str) -> Address {
    let (_, uri) = line.split_once("Listening on ").expect("it says where");
    Address::parse(uri.trim())
}

fn lives_a_whole_life_under(family: Family) {
    let flags = "-listen=tcp://127.0.0.1:0 -output=inherit";
    let Some(supervisor) = Supervisor::start(family, flags, "http") else {
        return;
    };
    let address = address(&supervisor.wait_for_line("Listening on", 1));
    // The worker's lines come to the logger as they are, beside ours.
    let line = supervisor.wait_for_line("up, version", 1);
    assert!(line.starts_with("up, version"), "{line}");
    let pid = supervisor.pid();
    let first = address.answering_pid();

    supervisor.reload();
    supervisor.wait_for_line("reload 2: generation 2 is live", 1);
    let second = supervisor.wait_for("the new worker alone", || {
        let workers = facts::live_children(pid);
        (workers.len() == 1 && workers[0] != first).then(|| workers[0])
    });
    assert_eq!(address.answering_pid(), second);
    assert_eq!(supervisor.pid(), pid);

    supervisor.down();
    assert!(!facts::alive(pid) && !facts::alive(second));
    supervisor.wait_for("the finish script", || {
        (supervisor.ends() == "0\n").then_some(())
    });
    supervisor.wait_for_line("draining 0", 2);
    supervisor.up();
    supervisor.wait_for_line("generation 1: live", 2);
    assert_ne!(supervisor.pid(), pid);
}

#[test]
fn s6_starts_reloads_stops_and_logs_us() {
    lives_a_whole_life_under(Family::S6);
}

#[test]
fn runit_starts_reloads_stops_and_logs_us() {
    lives_a_whole_life_under(Family::Runit);
}

/// They have no cgroup to clean up in, so a killed socketmaster leaves its workers; with
/// -die-with-parent they finish and make room for the next.
fn comes_back_after_a_kill_under(family: Family) {
    let (port, words) = (free_port(), "http");
    let flags = format!("-listen=tcp://127.0.0.1:{port} -output=inherit -die-with-parent");
    let Some(supervisor) = Supervisor::start(family, &flags, words) else {
        return;
    };
    supervisor.wait_for_line("generation 1: live", 1);
    let (pid, worker) = (supervisor.pid(), facts::live_children(supervisor.pid()));
    supervisor.order(&["-k"], &["kill"]);
    supervisor.wait_for("the worker's end", || {
        (!facts::alive(worker[0])).then_some(())
    });
    supervisor.wait_for_line("generation 1: live", 2);
    assert_ne!(supervisor.pid(), pid);
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    assert_eq!(
        vec![address.answering_pid()],
        facts::live_children(supervisor.pid())
    );
}

/// Free a moment ago; nobody else here binds it by number.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("it is bound").port()
}

#[test]
fn s6_brings_us_back_after_a_kill() {
    comes_back_after_a_kill_under(Family::S6);
}

#[test]
fn runit_brings_us_back_after_a_kill() {
    comes_back_after_a_kill_under(Family::Runit);
}

/// nginx and php-fpm finish what they have begun on QUIT: s6's down-signal file, runit's quit.
fn a_quit_ends_it_under(family: Family) {
    let flags = "-listen=tcp://127.0.0.1:0";
    let Some(supervisor) = Supervisor::start(family, flags, "up") else {
        return;
    };
    supervisor.wait_for_line("] up", 1);
    match family {
        Family::S6 => {
            supervisor.dir.write("scan/web/down-signal", "SIGQUIT\n");
            supervisor.order(&["-wD", "-T30000", "-d"], &[]);
        }
        Family::Runit => {
            supervisor.order(&[], &["once"]);
            supervisor.order(&[], &["quit"]);
        }
    }
    supervisor.wait_for("the finish script", || {
        (supervisor.ends() == "0\n").then_some(())
    });
    supervisor.wait_for_line("SIGQUIT: forwarding it to 1 worker", 1);
}

#[test]
fn s6_stops_us_by_quit() {
    a_quit_ends_it_under(Family::S6);
}

#[test]
fn runit_stops_us_by_quit() {
    a_quit_ends_it_under(Family::Runit);
}
