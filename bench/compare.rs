//! Whether this build is as fast as another one: start, reload of 1, 10 and 100 workers, and the log.
//! Both are measured in one run, in turn, so that the machine's noise meets both alike. Prints one
//! table of medians with their spread and ratio; it must never be a test.
//!
//! `SOCKETMASTER_OTHER=/path/to/socketmaster cargo bench --bench compare`; results are kept in
//! bench/results/. Each worker is this program again.

#[path = "machine.rs"]
mod machine;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

const THIS: &str = env!("CARGO_BIN_EXE_socketmaster");
const ROUNDS: usize = 31;
const LOG_ROUNDS: usize = 11;
/// What a worker writes for the log, in bytes.
const AMOUNT: usize = 100_000_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().collect();
    match words.get(1).map(String::as_str) {
        Some("sleep") => {
            let name = env::var("NOTIFY_SOCKET")?;
            let name = name.strip_prefix('@').ok_or("not an abstract address")?;
            let address = SocketAddr::from_abstract_name(name)?;
            UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
            loop {
                std::thread::park();
            }
        }
        Some("write") => write_lines(words[2].parse()?),
        _ => compare(),
    }
}

fn write_lines(length: usize) -> Result<()> {
    let line = [vec![b'x'; length - 1], vec![b'\n']].concat();
    let chunk = line.repeat(128 * 1024 / length);
    let mut out = io::stdout().lock();
    for _ in 0..AMOUNT / chunk.len() {
        out.write_all(&chunk)?;
    }
    Ok(())
}

/// Measures both, in turn; each gives milliseconds.
fn row(name: &str, rounds: usize, mut measure: impl FnMut(usize) -> Result<f64>) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..2 * rounds {
        // The first of a pair has the colder machine: they take turns at that, too.
        let which = (round + round / 2) % 2;
        times[which].push(measure(which)?);
    }
    let [this, other] = times.map(|mut all| {
        all.sort_by(f64::total_cmp);
        let at = |part: usize| all[(all.len() - 1) * part / 4];
        (at(2), at(1), at(3))
    });
    let text = |(median, low, high)| format!("{median:.2} ({low:.2} to {high:.2})");
    let ratio = this.0 / other.0;
    println!("| {name} | {} | {} | {ratio:.2} |", text(this), text(other));
    Ok(())
}

fn compare() -> Result<()> {
    let other = env::var("SOCKETMASTER_OTHER").map_err(|_| "SOCKETMASTER_OTHER is not set")?;
    let both = [THIS, other.as_str()];
    println!("{}\n", machine::text());
    println!("| ms, median (quartiles) | this build | the other | ratio |");
    println!("|---|---|---|---|");
    row("start until ready", ROUNDS, |which| {
        let began = Instant::now();
        let mut daemon = Daemon::start(both[which], 1)?;
        daemon.wait_for("generation 1: live")?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    })?;
    for workers in [1, 10, 100] {
        let mut daemons = [
            Daemon::start(both[0], workers)?,
            Daemon::start(both[1], workers)?,
        ];
        for daemon in &mut daemons {
            daemon.wait_for("generation 1: live")?;
        }
        row(&format!("reload of {workers}"), ROUNDS, |which| {
            let began = Instant::now();
            daemons[which].signal(Signal::SIGHUP)?;
            daemons[which].wait_for(" is live")?;
            let took = began.elapsed().as_secs_f64() * 1e3;
            for _ in 0..workers {
                daemons[which].wait_for("signal: terminated")?;
            }
            Ok(took)
        })?;
    }
    for length in [20, 100, 4096] {
        let name = format!("{} MB of {length}-byte lines", AMOUNT / 1_000_000);
        row(&name, LOG_ROUNDS, |which| log(both[which], length))?;
    }
    Ok(())
}

fn log(program: &str, length: usize) -> Result<f64> {
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(["-listen=tcp://127.0.0.1:0", "-start=0", "-command"])
        .arg(env::current_exe()?)
        .args(["--", "write", &length.to_string()])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = child.stderr.take().ok_or("no log")?;
    let mut chunk = vec![0; 1 << 20];
    while stderr.read(&mut chunk)? > 0 {}
    child.wait()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(program: &str, workers: usize) -> Result<Daemon> {
        let mut child = Command::new(program)
            .args(["-listen=tcp://127.0.0.1:0", "-ready=notify", "-start=60000"])
            .arg(format!("-workers={workers}"))
            .arg("-command")
            .arg(env::current_exe()?)
            .arg("sleep")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        Ok(Daemon { child, log })
    }

    fn wait_for(&mut self, text: &str) -> Result<()> {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            if self.log.read_line(&mut line)? == 0 {
                return Err(format!("it ended before {text:?}").into());
            }
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGTERM);
        let _ = io::copy(&mut self.log, &mut io::sink());
        let _ = self.child.wait();
    }
}
