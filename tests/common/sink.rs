//! A log that is stuck, and what must hold while it is: used by all tests of the log. It must never
//! keep a flood, only count it.

use super::terminal::Terminal;
use super::{Daemon, Run, TempDir, facts};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The program needs about a quarter of that, most of it for the queue.
pub const MEMORY_KB: u64 = 2048;

/// What a sink has taken: a flood's lines only counted, all else kept.
#[derive(Clone, Default)]
pub struct Text(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    kept: Vec<u8>,
    /// By the pid of the worker, as the log says it.
    flood: BTreeMap<Vec<u8>, u64>,
}

impl Text {
    /// Adds a line with its newline.
    fn push(&self, line: &[u8]) {
        let mut taken = self.0.lock().expect("nobody panics here");
        match flooding(line) {
            Some(worker) => *taken.flood.entry(worker.to_vec()).or_default() += 1,
            None => taken.kept.extend(line),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("nobody panics here").kept.clone()
    }

    /// Without the carriage returns that a terminal adds.
    pub fn get(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).replace('\r', "")
    }

    pub fn flood(&self) -> u64 {
        self.floods().into_iter().sum()
    }

    /// How many lines each worker's flood had.
    pub fn floods(&self) -> Vec<u64> {
        let taken = self.0.lock().expect("nobody panics here");
        taken.flood.values().copied().collect()
    }

    /// Takes all that comes, until there is no more.
    pub fn read(self, from: impl Read + Send + 'static) {
        let mut from = BufReader::with_capacity(65536, from);
        thread::spawn(move || {
            let mut line = Vec::new();
            while let Ok(1..) = from.read_until(b'\n', &mut line) {
                self.push(&line);
                line.clear();
            }
        });
    }
}

/// How the lines of `worker flood` and `worker lines` end.
const FLOOD: &[u8] = b" of a worker that has much to say";

/// The worker that a line of a flood is from.
fn flooding(line: &[u8]) -> Option<&[u8]> {
    // A terminal adds a carriage return.
    if !line.trim_ascii_end().ends_with(FLOOD) {
        return None;
    }
    let end = line.windows(7).position(|window| window == b"] line ")?;
    let start = line[..end].iter().rposition(|byte| *byte == b'[')?;
    Some(&line[start + 1..end])
}

/// A place for the log that takes nothing before it is freed.
pub struct Stuck {
    pub stderr: Option<Stdio>,
    flags: Vec<String>,
    environment: Option<(&'static str, OsString)>,
    opening: Option<Box<dyn FnOnce(Text)>>,
    pub text: Text,
    _dir: Option<TempDir>,
}

impl Stuck {
    pub fn stderr(stderr: impl Into<Stdio>, opening: impl FnOnce(Text) + 'static) -> Stuck {
        Stuck {
            stderr: Some(stderr.into()),
            flags: Vec::new(),
            environment: None,
            opening: Some(Box::new(opening)),
            text: Text::default(),
            _dir: None,
        }
    }

    pub fn pipe() -> Stuck {
        let (end, start) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        Stuck::stderr(start, |text| text.read(File::from(end)))
    }

    /// Somebody typed ^S, and will type ^Q.
    pub fn terminal() -> Stuck {
        let mut terminal = Terminal::new();
        let stderr = terminal.open();
        terminal.master.write_all(b"\x13").expect("it is ours");
        Stuck::stderr(stderr, |text| {
            let mut master = terminal.master;
            master.write_all(b"\x11").expect("it is ours");
            text.read(master);
        })
    }

    /// The stream that systemd gives to a service.
    pub fn journal() -> Stuck {
        let (theirs, ours) = UnixStream::pair().expect("a pair");
        let theirs = File::from(OwnedFd::from(theirs));
        let meta = theirs.metadata().expect("it is open");
        let named = format!("{}:{}", meta.dev(), meta.ino());
        let mut stuck = Stuck::stderr(theirs, |text| text.read(ours));
        stuck.environment = Some(("JOURNAL_STREAM", named.into()));
        stuck
    }

    /// A syslog daemon that takes nothing off its socket.
    pub fn syslog() -> Stuck {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.join("log")).expect("the directory is ours");
        let mut stuck = Stuck::stderr(Stdio::null(), |text| {
            thread::spawn(move || {
                let mut message = [0; 65536];
                while let Ok(n) = socket.recv(&mut message) {
                    text.push(&[&message[..n], b"\n"].concat());
                }
            });
        });
        stuck.flags = vec![
            "-syslog".into(),
            format!("-syslog-socket={}", dir.word("log")),
        ];
        stuck._dir = Some(dir);
        stuck
    }

    pub fn start(&mut self, flags: &[&str], words: &[&str]) -> Daemon {
        let own: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let mut run = Run::worker(&[&own[..], flags].concat(), words);
        if let Some((name, value)) = self.environment.take() {
            run = run.env(name, value);
        }
        run.start_with_stderr(self.stderr.take().expect("it is started once"))
    }

    pub fn free(&mut self) {
        let open = self.opening.take().expect("it is freed once");
        open(self.text.clone());
    }
}

/// It does not run, and holds little memory, while nothing can be written.
pub fn rests(daemon: &Daemon) {
    daemon.wait_until_idle();
    is_small(daemon);
}

pub fn is_small(daemon: &Daemon) {
    let kilobytes = facts::anonymous(daemon.real_pid());
    assert!(kilobytes <= MEMORY_KB, "{kilobytes} kB");
}

/// SIGUSR1 and SIGHUP do what they do otherwise; all workers are new then.
pub fn acts(daemon: &Daemon) {
    for _ in 0..2 {
        let old = daemon.workers();
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until("a new worker, and it alone", || {
            let now = daemon.workers();
            now.len() == 1 && !old.contains(&now[0])
        });
    }
    is_small(daemon);
}

pub fn stops(daemon: &Daemon) {
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
}

pub fn first_worker(daemon: &Daemon) -> i32 {
    daemon.wait_for("the first worker", || daemon.workers().first().copied())
}

/// The numbers of `line N of …`, in the order in which they were logged.
pub fn numbers(log: &str) -> Vec<u64> {
    log.lines()
        .filter_map(|line| {
            line.split_once("] line ")?
                .1
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect()
}

/// How many lines were lost, by all that the log says about it.
pub fn lost(log: &str) -> u64 {
    let number = |line: &str| {
        let (before, _) = line
            .split_once(" lines were lost:")
            .or_else(|| line.split_once(" line was lost:"))?;
        before.rsplit([' ', '>']).next()?.parse::<u64>().ok()
    };
    log.lines().filter_map(number).sum()
}

/// `line 0 of it` to `line N-1 of it` in a file.
pub fn numbered(dir: &TempDir, count: u64) -> PathBuf {
    let text: String = (0..count).map(|n| format!("line {n} of it\n")).collect();
    dir.write("numbered", text)
}

/// Lines are dropped at a rate, not as fast as they come: 256 KiB in 10 ms at most, which a slow
/// machine only makes less.
pub fn reads_at_a_bounded_rate(daemon: &Daemon) {
    const BYTES_A_SECOND: f64 = 256.0 * 1024.0 * 100.0;
    let pid = daemon.real_pid();
    daemon.stays_up_for(Duration::from_millis(500));
    let begun = Instant::now();
    let before = facts::bytes_read(pid);
    daemon.stays_up_for(Duration::from_secs(2));
    let read = facts::bytes_read(pid) - before;
    let most = BYTES_A_SECOND * begun.elapsed().as_secs_f64() * 1.2;
    assert!((read as f64) < most, "{read} bytes, more than {most:.0}");
    is_small(daemon);
}
