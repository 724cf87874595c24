//! What a reload costs when the workers are many: time until all new ones are ready, the
//! supervisor's CPU, memory and descriptors for each; and what a client notices of 20 reloads in a
//! row. Prints two tables; it must never be a test, for its numbers are the machine's as much as
//! ours.
//!
//! `cargo bench --bench reload_many` builds and runs it; results are kept in bench/results/. Each
//! worker is this program again: it reports itself ready and sleeps, or serves.

#[allow(dead_code)]
#[path = "../tests/workers/server.rs"]
mod server;

#[path = "machine.rs"]
mod machine;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SOCKETMASTER: &str = env!("CARGO_BIN_EXE_socketmaster");
const WORKERS: [usize; 4] = [1, 10, 100, 1000];

/// Clients of the second table; each sends a request whenever its turn comes, answered or not.
const CLIENTS: u32 = 2;
const TURN: Duration = Duration::from_millis(2);
const RELOADS: u32 = 20;
const BETWEEN_RELOADS: Duration = Duration::from_millis(300);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("sleep") => {
            notify()?;
            loop {
                thread::park();
            }
        }
        Some("serve") => {
            notify()?;
            Ok(server::serve("1")?)
        }
        _ => measure(),
    }
}

/// sd_notify(3) `READY=1` to an abstract address.
fn notify() -> Result<()> {
    let name = env::var("NOTIFY_SOCKET")?;
    let name = name.strip_prefix('@').ok_or("not an abstract address")?;
    let address = UnixAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

fn measure() -> Result<()> {
    println!("{}\n", machine::text());
    println!(
        "| workers | reload ms | CPU µs/worker | memory kB | kB/worker | descriptors | at most |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut alone = None;
    for workers in WORKERS {
        let cost = reload_cost(workers)?;
        let base = *alone.get_or_insert(cost.memory);
        let each = (cost.memory - base) as f64 / (workers - 1).max(1) as f64;
        println!(
            "| {workers} | {:.1} | {:.0} | {} | {each:.1} | {} | {} |",
            cost.time.as_secs_f64() * 1e3,
            cost.cpu.as_secs_f64() * 1e6 / workers as f64,
            cost.memory,
            cost.descriptors,
            cost.peak,
        );
    }
    println!("\n| {CLIENTS} clients | requests | lost | median ms | 99 % ms | slowest ms |");
    println!("|---|---|---|---|---|---|");
    load_row("without a reload", false)?;
    load_row(&format!("during {RELOADS} reloads"), true)?;
    Ok(())
}

/// The supervisor, with its log read only when something is waited for.
struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(workers: usize, worker: &str) -> Result<Daemon> {
        let mut child = Command::new(SOCKETMASTER)
            .args(["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=60000"])
            .arg(format!("-workers={workers}"))
            .arg("-command")
            .arg(env::current_exe()?)
            .arg(worker)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        Ok(Daemon { child, log })
    }

    /// The next line with the text.
    fn line(&mut self, text: &str) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.log.read_line(&mut line)? == 0 {
                return Err(format!("it ended before it said {text:?}").into());
            }
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        while self.log.read_line(&mut String::new())? > 0 {}
        self.child.wait()?;
        Ok(())
    }

    /// Time on a processor (Documentation/scheduler/sched-stats, /proc/PID/schedstat).
    fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid()))?;
        let nanos = text.split(' ').next().unwrap_or_default().parse()?;
        Ok(Duration::from_nanos(nanos))
    }

    /// kB of memory that it shares with nobody.
    fn memory(&self) -> Result<i64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("no RssAnon")?.parse()?)
    }

    fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

/// Of one reload, the median of several.
struct Cost {
    time: Duration,
    cpu: Duration,
    memory: i64,
    descriptors: usize,
    /// Descriptors while old and new workers live.
    peak: usize,
}

fn reload_cost(workers: usize) -> Result<Cost> {
    let mut daemon = Daemon::start(workers, "sleep")?;
    daemon.line("generation 1: live")?;
    let runs = if workers == 1000 { 5 } else { 15 };
    let (mut times, mut cpus, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let (start, cpu) = (Instant::now(), daemon.cpu()?);
        daemon.signal(Signal::SIGHUP)?;
        daemon.line(" is live")?;
        times.push(start.elapsed());
        peak = peak.max(daemon.descriptors()?);
        for _ in 0..workers {
            daemon.line("signal: terminated")?;
        }
        cpus.push(daemon.cpu()? - cpu);
    }
    let (memory, descriptors) = (daemon.memory()?, daemon.descriptors()?);
    daemon.stop()?;
    let (time, cpu) = (median(times), median(cpus));
    Ok(Cost {
        time,
        cpu,
        memory,
        descriptors,
        peak,
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn load_row(what: &str, reloads: bool) -> Result<()> {
    let mut daemon = Daemon::start(1, "serve")?;
    let line = daemon.line("Listening on tcp://")?;
    let (_, address) = line.split_once("tcp://").ok_or("no address")?;
    let address: SocketAddr = address.trim().parse()?;
    daemon.line("generation 1: live")?;
    let end = AtomicBool::new(false);
    let seen: Vec<Option<Duration>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client(address, &end)))
            .collect();
        let rolled = roll(&mut daemon, reloads);
        end.store(true, Ordering::Relaxed);
        let seen = clients.into_iter().map(|client| client.join());
        let seen = seen.map(|seen| seen.map_err(|_| "a client failed".into()));
        let seen: Result<Vec<Vec<_>>> = seen.collect();
        rolled.and(seen).map(|seen| seen.concat())
    })?;
    daemon.stop()?;
    let lost = seen.iter().filter(|taken| taken.is_none()).count();
    let mut taken: Vec<Duration> = seen.iter().copied().flatten().collect();
    taken.sort_unstable();
    let millis = |index: usize| taken[index].as_secs_f64() * 1e3;
    let (all, last) = (seen.len(), taken.len() - 1);
    let (median, high, slowest) = (
        millis(last / 2),
        millis(taken.len() * 99 / 100),
        millis(last),
    );
    println!("| {what} | {all} | {lost} | {median:.2} | {high:.2} | {slowest:.2} |");
    Ok(())
}

/// The same time with and without the reloads.
fn roll(daemon: &mut Daemon, reloads: bool) -> Result<()> {
    let start = Instant::now();
    for n in 1..=RELOADS {
        if reloads {
            daemon.signal(Signal::SIGHUP)?;
            daemon.line(" is live")?;
        }
        thread::sleep((BETWEEN_RELOADS * n).saturating_sub(start.elapsed()));
    }
    Ok(())
}

/// How long each request took from the moment when its turn came; `None` if it was lost.
fn client(address: SocketAddr, end: &AtomicBool) -> Vec<Option<Duration>> {
    let start = Instant::now();
    let mut seen = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let turn = start + TURN * seen.len() as u32;
        thread::sleep(turn.saturating_duration_since(Instant::now()));
        let answer = ask(address);
        seen.push(answer.ok().map(|()| turn.elapsed()));
    }
    seen
}

fn ask(address: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") && answer.ends_with('\n') {
        true => Ok(()),
        false => Err("not a whole answer".into()),
    }
}
