//! A recipe put into a directory and on an address of its own, started, and rolled while clients
//! ask without a pause. One server runs at a time.

use super::client::Fetch;
use super::need;
use super::recipes::Recipe;
use crate::common::{Address, Daemon, LIMIT, Run, TempDir, facts, net};
use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{process, thread};

/// Clients that ask over a new connection each time.
const CLIENTS: usize = 3;

/// The load takes at least this long, however fast the reloads are.
const LOAD: Duration = Duration::from_secs(2);

static TURN: Mutex<()> = Mutex::new(());

/// Held while a server runs.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Which kind of socket takes the place of the recipe's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Unix,
}

/// A recipe's files in a directory, its paths and its address changed to ours.
pub struct Site {
    pub dir: TempDir,
    pub address: Address,
    words: Vec<String>,
}

impl Site {
    pub fn new(recipe: &Recipe, kind: Kind) -> Site {
        Site::with_line(recipe, recipe.line, kind)
    }

    /// The same, started in another way.
    pub fn with_line(recipe: &Recipe, line: &str, kind: Kind) -> Site {
        let dir = TempDir::new();
        let socket = dir.word("s");
        let place = |text: &str| {
            let text = match kind {
                Kind::Tcp => text.to_owned(),
                Kind::Unix => text
                    .replace("tcp://127.0.0.1:8080", &format!("unix://{socket}"))
                    .replace("listen 127.0.0.1:8080", &format!("listen unix:{socket}"))
                    .replace("127.0.0.1:8080", &socket),
            };
            let dir = dir.path().to_str().expect("temporary paths are UTF-8");
            text.replace("/srv/app", dir).replace("/run", dir)
        };
        let (address, port) = match kind {
            Kind::Unix => (Address::Path(socket.clone().into()), 0),
            Kind::Tcp => {
                let port = free_port();
                (Address::parse(&format!("tcp://127.0.0.1:{port}")), port)
            }
        };
        let place =
            |text: &str| place(text).replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
        for (name, text) in recipe.files {
            dir.write(name, place(text));
        }
        (recipe.build)(&dir);
        let words = line.split_whitespace().skip(1);
        let words = words.map(|word| place(&installed(word))).collect();
        Site {
            dir,
            address,
            words,
        }
    }

    /// Starts it; a shorter wait than the default lets the tests end sooner. Returns when it answers.
    pub fn start(&self) -> Daemon {
        let run = Run::bare().dir(self.dir.path()).env("PATH", need::path());
        let run = match self.words.iter().any(|word| word == "-ready=notify") {
            true => run,
            false => run.arg("-start=700"),
        };
        let daemon = run.args(&self.words).start();
        daemon.wait_until_live();
        daemon
    }
}

/// `-command` with the name that the program has here.
fn installed(word: &str) -> String {
    let name = word.strip_prefix("-command=");
    match name.and_then(|name| need::find(name)?.file_name()?.to_str().map(str::to_owned)) {
        Some(name) => format!("-command={name}"),
        None => word.to_owned(),
    }
}

/// Below the ports that the kernel hands out, so that nobody is given it before the server has it.
pub fn free_port() -> u16 {
    let start = 12_000 + (process::id() % 10_000) as u16;
    (start..start + 10_000)
        .step_by(7)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of many ports is free")
}

/// What the clients saw, and the log.
#[derive(Default)]
pub struct Seen {
    pub requests: usize,
    /// Each with how often it was.
    pub failures: BTreeMap<String, usize>,
    pub slowest: Duration,
    /// The longest time that one client met nothing but failures.
    pub gap: Duration,
    pub log: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, slowest) = (self.failed(), self.slowest);
        write!(f, "{failed} of {} requests failed, ", self.requests)?;
        write!(f, "the slowest took {slowest:.0?}")?;
        if failed > 0 {
            write!(f, ", the longest gap was {:.1?}", self.gap)?;
        }
        for (failure, count) in &self.failures {
            write!(f, "\n  {count} times {failure}")?;
        }
        Ok(())
    }
}

/// Rolls it at least so many times under load, looking each time at who answers, and stops it.
pub fn roll(site: &Site, fetch: Fetch, reloads: usize) -> Seen {
    let daemon = site.start();
    serving(&daemon, &site.address, fetch);
    let mut seen = under_load(&site.address, fetch, || {
        let enough = Instant::now() + LOAD;
        for n in 0.. {
            if n >= reloads && Instant::now() > enough {
                break;
            }
            let verdict = daemon.reload();
            assert!(verdict.contains("is live"), "{verdict}");
            serving(&daemon, &site.address, fetch);
        }
    });
    assert!(seen.requests > 10 * reloads, "hardly any load: {seen}");
    assert_eq!(daemon.stop(), 0);
    seen.log = daemon.log();
    seen
}

/// Waits until one worker is left; it, or a child of its, must be who answers.
pub fn serving(daemon: &Daemon, address: &Address, fetch: Fetch) -> i32 {
    let worker = daemon.wait_for("the old worker to leave", || match daemon.workers()[..] {
        [worker] => Some(worker),
        _ => None,
    });
    daemon.wait_until("the answer of the only worker", || {
        let body = match fetch(address) {
            Ok(body) => body,
            // A path that its old worker has just removed and that is linked back in a moment: the
            // clients count those, here one only means to look again.
            Err(error) if error.to_string().contains("No such file") => return false,
            Err(error) => panic!("{address:?}: {error}"),
        };
        let pid = net::pid_in(&body);
        pid == worker || facts::descendants(worker).contains(&pid)
    });
    worker
}

/// Does the work while clients ask; every one of their failures counts.
pub fn under_load(address: &Address, fetch: Fetch, work: impl FnOnce()) -> Seen {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client(address, fetch, &end)))
            .collect();
        // However the work ends, the clients must: the scope waits for them.
        let done = catch_unwind(AssertUnwindSafe(work));
        end.store(true, Ordering::Relaxed);
        let seen = clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .fold(Seen::default(), Seen::and);
        if let Err(panic) = done {
            eprintln!("{seen}");
            resume_unwind(panic);
        }
        seen
    })
}

impl Seen {
    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn and(mut self, other: Seen) -> Seen {
        self.requests += other.requests;
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
        self.gap = self.gap.max(other.gap);
        self
    }
}

fn client(address: &Address, fetch: Fetch, end: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut fine_until = Instant::now();
    while !end.load(Ordering::Relaxed) && seen.slowest < *LIMIT {
        let start = Instant::now();
        seen.requests += 1;
        match fetch(address) {
            Ok(_) => fine_until = Instant::now(),
            Err(error) => {
                *seen.failures.entry(error.to_string()).or_default() += 1;
                seen.gap = seen.gap.max(fine_until.elapsed());
            }
        }
        seen.slowest = seen.slowest.max(start.elapsed());
    }
    seen
}
