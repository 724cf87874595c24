//! How long until a worker's main runs: at a start (from the supervisor's fork and exec) and at a
//! reload (from the SIGHUP), beside a bare fork and exec and the peers that are installed. Prints
//! one table; it must never be a test, for its numbers are the machine's as much as ours.
//!
//! `cargo bench --bench start_reload` builds and runs it; results are kept in bench/results/.
//! Each worker is this program again: the first thing that its main does is to send the time.

#[path = "machine.rs"]
mod machine;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::Duration;

const SOCKETMASTER: &str = env!("CARGO_BIN_EXE_socketmaster");
/// No start takes longer.
const LIMIT: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<OsString> = env::args_os().collect();
    match words.get(1) {
        Some(word) if word == "stamp" => stamp(words.get(2).map(Path::new)),
        _ => measure_all(),
    }
}

/// The worker: says when it began, then stays.
fn stamp(address: Option<&Path>) -> Result<()> {
    let now = now()?;
    UnixDatagram::unbound()?.send_to(&now.to_ne_bytes(), address.ok_or("stamp ADDRESS")?)?;
    loop {
        std::thread::park();
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, the same for all processes.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
}

/// Where the workers send their time.
struct Clock {
    socket: UnixDatagram,
    dir: PathBuf,
}

impl Clock {
    fn new() -> Result<Clock> {
        let dir = env::temp_dir().join(format!("sm-bench-{}", process::id()));
        fs::create_dir(&dir)?;
        let socket = UnixDatagram::bind(dir.join("clock"))?;
        Ok(Clock { socket, dir })
    }

    /// The words that run the worker.
    fn worker(&self) -> Result<[OsString; 3]> {
        Ok([
            env::current_exe()?.into(),
            "stamp".into(),
            self.dir.join("clock").into(),
        ])
    }

    /// When the next worker began.
    fn next(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.socket.set_read_timeout(Some(LIMIT))?;
        self.socket.recv(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Lets a peer's own waiting time pass.
    fn pause(&self, time: Duration) -> Result<()> {
        self.socket.set_read_timeout(Some(time))?;
        match self.socket.recv(&mut [0; 8]) {
            Ok(_) => Err("a worker that nobody asked for".into()),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Something that starts workers.
struct Peer {
    name: &'static str,
    /// The program and its words, up to the worker's.
    words: Vec<String>,
    starts: usize,
    reloads: usize,
    /// How long it must be left alone after a start or a reload.
    rest: Duration,
}

fn measure_all() -> Result<()> {
    let clock = Clock::new()?;
    println!("{}\n", machine::text());
    println!("| who | what | runs | median ms | 95 % ms |\n|---|---|---|---|---|");
    let bare = bare(&clock, 300)?;
    row("fork and exec", "start", bare);
    for peer in peers() {
        match measure(&clock, &peer) {
            Ok((starts, reloads)) => {
                row(peer.name, "start", starts);
                row(peer.name, "reload", reloads);
            }
            Err(error) => println!("| {} | not measured: {error} | | | |", peer.name),
        }
    }
    circus(&clock).unwrap_or_else(|error| println!("| circusd | not measured: {error} | | | |"));
    Ok(())
}

fn peers() -> Vec<Peer> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let port = free_port().unwrap_or(0);
    vec![
        Peer {
            name: "socketmaster",
            words: words(&format!(
                "{SOCKETMASTER} -listen=tcp://127.0.0.1:0 -start=0 -command"
            )),
            starts: 100,
            reloads: 300,
            rest: Duration::from_millis(5),
        },
        Peer {
            name: "tini (no reload)",
            words: words("tini -s --"),
            starts: 100,
            reloads: 0,
            rest: Duration::ZERO,
        },
        Peer {
            name: "start_server (Perl)",
            words: words(&format!(
                "start_server --port=127.0.0.1:{port} --interval=1 --"
            )),
            starts: 20,
            reloads: 15,
            rest: Duration::from_millis(1500),
        },
    ]
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn quiet(command: &mut Command) -> std::io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Asks it to stop and waits until it has.
fn end(mut child: Child) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    child.wait()?;
    Ok(())
}

fn bare(clock: &Clock, runs: usize) -> Result<Vec<u64>> {
    let [program, words @ ..] = clock.worker()?;
    let mut taken = Vec::new();
    for _ in 0..runs {
        let before = now()?;
        let child = quiet(Command::new(&program).args(&words))?;
        taken.push(clock.next()? - before);
        end(child)?;
    }
    Ok(taken)
}

/// The latencies of starts and of reloads.
fn measure(clock: &Clock, peer: &Peer) -> Result<(Vec<u64>, Vec<u64>)> {
    let worker = clock.worker()?;
    let start = || {
        quiet(
            Command::new(&peer.words[0])
                .args(&peer.words[1..])
                .args(&worker),
        )
    };
    let mut starts = Vec::new();
    for _ in 0..peer.starts {
        let before = now()?;
        let child = start()?;
        starts.push(clock.next()? - before);
        end(child)?;
    }
    let mut reloads = Vec::new();
    if peer.reloads > 0 {
        let child = start()?;
        clock.next()?;
        reloads = measure_reloads(clock, &child, peer.reloads, peer.rest)?;
        end(child)?;
    }
    Ok((starts, reloads))
}

fn measure_reloads(clock: &Clock, child: &Child, runs: usize, rest: Duration) -> Result<Vec<u64>> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut taken = Vec::new();
    for _ in 0..runs {
        clock.pause(rest)?;
        let before = now()?;
        kill(pid, Signal::SIGHUP)?;
        taken.push(clock.next()? - before);
    }
    clock.pause(rest)?;
    Ok(taken)
}

/// circusd takes its worker from a file. Its SIGHUP stops the old worker before the new one is
/// started.
fn circus(clock: &Clock) -> Result<()> {
    let [program, words @ ..] = clock.worker()?;
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let file = clock.dir.join("circus.ini");
    let (endpoint, pubsub) = (free_port()?, free_port()?);
    let text = format!(
        "[circus]\nendpoint = tcp://127.0.0.1:{endpoint}\npubsub_endpoint = \
         tcp://127.0.0.1:{pubsub}\n[watcher:w]\ncmd = {}\nargs = {}\nsend_hup = False\n",
        program.to_string_lossy(),
        words.join(" ")
    );
    fs::write(&file, text)?;
    let mut starts = Vec::new();
    for _ in 0..5 {
        let before = now()?;
        let child = quiet(Command::new("circusd").arg(&file))?;
        starts.push(clock.next()? - before);
        clock.pause(Duration::from_millis(500))?;
        end(child)?;
    }
    row("circusd", "start", starts);
    let child = quiet(Command::new("circusd").arg(&file))?;
    clock.next()?;
    let reloads = measure_reloads(clock, &child, 10, Duration::from_millis(1500));
    end(child)?;
    row("circusd", "reload", reloads?);
    Ok(())
}

fn row(who: &str, what: &str, mut taken: Vec<u64>) {
    taken.sort_unstable();
    let (Some(median), Some(high)) = (
        taken.get(taken.len() / 2),
        taken.get(taken.len() * 95 / 100),
    ) else {
        return;
    };
    let millis = |nanos: &u64| Duration::from_nanos(*nanos).as_secs_f64() * 1e3;
    let (median, high, runs) = (millis(median), millis(high), taken.len());
    println!("| {who} | {what} | {runs} | {median:.2} | {high:.2} |");
}
