//! The log into the syslog daemons that people run, while they stall, die, stay away and come
//! back, on the real program. Each test runs with rsyslogd and with busybox's syslogd, as far as
//! they are installed.

mod common;

use common::sink::{acts, first_worker, numbered, numbers, rests};
use common::{Daemon, Run, TempDir, root_or_skip, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Rsyslogd,
    Busybox,
}

/// A syslog daemon of our own: its socket is `log` in the directory, its file `messages`.
struct Syslogd {
    kind: Kind,
    dir: TempDir,
    process: Option<Child>,
}

impl Syslogd {
    /// None where it is not installed or cannot be run apart from the machine's own.
    fn start(kind: Kind) -> Option<Syslogd> {
        let program = match kind {
            Kind::Rsyslogd => "rsyslogd",
            Kind::Busybox => "busybox",
        };
        let found = Command::new("sh")
            .args([
                "-c",
                &format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}"),
            ])
            .stdout(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            skip(&format!("{program} is not installed"));
            return None;
        }
        let dir = TempDir::new();
        let mut syslogd = Syslogd {
            kind,
            dir,
            process: None,
        };
        syslogd.run();
        Some(syslogd)
    }

    /// Starts it, again if it has been ended, and waits until it listens.
    fn run(&mut self) {
        let dir = self.dir.path().display();
        let script = match self.kind {
            Kind::Rsyslogd => {
                let config = format!(
                    "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
                     input(type=\"imuxsock\" Socket=\"{dir}/log\" RateLimit.Interval=\"0\")\n\
                     template(name=\"t\" type=\"string\" string=\"%syslogfacility-text%.\
                     %syslogseverity-text% %syslogtag%%msg%\\n\")\n\
                     action(type=\"omfile\" file=\"{dir}/messages\" template=\"t\")\n"
                );
                let config = self.dir.write("config", config);
                format!(
                    "PATH=$PATH:/usr/sbin:/sbin exec rsyslogd -n -i NONE -f {}",
                    config.display()
                )
            }
            // Its socket is always /dev/log; so this is its /dev, in a namespace of its own.
            Kind::Busybox => format!(
                "exec unshare --mount sh -c 'mount --bind {dir} /dev && \
                 exec busybox syslogd -n -O {dir}/messages'"
            ),
        };
        let process = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn();
        self.process = Some(process.expect("there is a shell"));
        let deadline = Instant::now() + *common::LIMIT;
        let probe = UnixDatagram::unbound().expect("a socket");
        while probe.connect(self.dir.join("log")).is_err() {
            assert!(
                Instant::now() < deadline,
                "waited for {:?} to listen",
                self.kind
            );
            std::thread::yield_now();
        }
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill(Pid::from_raw(process.id() as i32), signal).expect("it is our child");
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn messages(&self) -> String {
        let bytes = fs::read(self.dir.join("messages")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn flags(&self) -> [String; 2] {
        [
            "-syslog".into(),
            format!("-syslog-socket={}", self.dir.word("log")),
        ]
    }
}

impl Drop for Syslogd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let messages = self.messages();
            let last: Vec<&str> = messages.lines().rev().take(50).collect();
            eprintln!(
                "--- the last messages of {:?}, newest first: {last:#?}",
                self.kind
            );
        }
        if self.process.is_some() {
            self.signal(Signal::SIGCONT);
        }
        self.kill();
    }
}

fn with_each(test: impl Fn(Syslogd)) {
    for kind in [Kind::Rsyslogd, Kind::Busybox] {
        if !root_or_skip() {
            return;
        }
        if let Some(syslogd) = Syslogd::start(kind) {
            test(syslogd);
        }
    }
}

fn start(syslogd: &Syslogd, words: &[&str]) -> Daemon {
    let flags = syslogd.flags();
    Run::worker(&[&flags[0], &flags[1], "-start=0"], words).start()
}

#[test]
fn real_daemons_see_our_tag_facility_and_levels() {
    with_each(|syslogd| {
        let daemon = start(&syslogd, &["exit", "3"]);
        assert_eq!(daemon.exit_code(), 3);
        let said = |level: &str, text: &str| {
            let tag = format!("socketmaster[{}]: ", daemon.pid());
            daemon.wait_until(&format!("{level} {text} in {:?}", syslogd.kind), || {
                syslogd
                    .messages()
                    .lines()
                    .any(|line| line.contains(level) && line.contains(&tag) && line.contains(text))
            });
        };
        said("daemon.info", "Starting ");
        said("daemon.info", " exit status 3");
        said("daemon.warn", " is not replaced");
        assert_eq!(daemon.log(), "");
    });
}

#[test]
fn a_daemon_that_stalls_holds_the_worker_and_loses_nothing() {
    with_each(|syslogd| {
        let path = numbered(&syslogd.dir, 20_000);
        syslogd.signal(Signal::SIGSTOP);
        let daemon = start(&syslogd, &["cat", path.to_str().expect("UTF-8")]);
        daemon.wait_until_blocked(first_worker(&daemon));
        rests(&daemon);
        syslogd.signal(Signal::SIGCONT);
        daemon.wait_until("the last line", || {
            syslogd.messages().contains("] line 19999 of it\n")
        });
        assert!(numbers(&syslogd.messages()).into_iter().eq(0..20_000));
        assert!(!syslogd.messages().contains(" lost: "));
        assert_eq!(daemon.stop(), 0);
    });
}

#[test]
fn signals_act_while_the_daemon_stalls() {
    with_each(|syslogd| {
        let daemon = start(&syslogd, &["flood"]);
        daemon.wait_until("the flood", || {
            syslogd.messages().contains("] line 99 of a worker")
        });
        syslogd.signal(Signal::SIGSTOP);
        daemon.wait_until_blocked(first_worker(&daemon));
        rests(&daemon);
        acts(&daemon);
        assert_eq!(daemon.stop(), 0);
    });
}

#[test]
fn a_daemon_that_was_killed_is_followed_when_it_is_back() {
    with_each(|mut syslogd| {
        let daemon = start(&syslogd, &["flood"]);
        daemon.wait_until("the flood", || {
            syslogd.messages().contains("] line 99 of a worker")
        });
        syslogd.kill();
        let first = first_worker(&daemon);
        daemon.wait_until_blocked(first);
        rests(&daemon);
        acts(&daemon);
        daemon.wait_until_blocked(first_worker(&daemon));
        rests(&daemon);
        syslogd.run();
        let tag = format!("socketmaster[{}]: ", daemon.pid());
        for text in [
            " lines were lost",
            &format!("{tag}{first} signal: terminated"),
        ] {
            daemon.wait_until(&format!("{text:?} in {:?}", syslogd.kind), || {
                syslogd.messages().lines().any(|line| line.contains(text))
            });
        }
        acts(&daemon);
        assert_eq!(daemon.stop(), 0);
    });
}

#[test]
fn a_daemon_that_stays_away_stalls_no_stop() {
    with_each(|mut syslogd| {
        let daemon = start(&syslogd, &["flood"]);
        first_worker(&daemon);
        syslogd.kill();
        let _ = fs::remove_file(syslogd.dir.join("log"));
        daemon.wait_until_blocked(first_worker(&daemon));
        rests(&daemon);
        acts(&daemon);
        assert_eq!(daemon.stop(), 0);
    });
}

#[test]
fn a_restart_between_two_lines_loses_neither() {
    with_each(|mut syslogd| {
        let dir = TempDir::new();
        let script = format!(
            "echo before; until [ -e {} ]; do sleep 0.1; done; echo after; exec sleep 100",
            dir.word("go")
        );
        let daemon = Run::bare()
            .args(&syslogd.flags())
            .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh"])
            .args(&["--", "-c", &script])
            .start();
        daemon.wait_until("the first line", || {
            syslogd.messages().contains("] before\n")
        });
        syslogd.kill();
        syslogd.run();
        dir.write("go", "");
        daemon.wait_until("the second line", || {
            syslogd.messages().contains("] after\n")
        });
        assert!(!syslogd.messages().contains(" lost: "));
        assert_eq!(daemon.stop(), 0);
    });
}
