//! How fast a worker's output gets through us, what that costs in processor time and memory, beside
//! the worker writing straight into the same pipe (the ceiling) and the peers that are installed.
//! Prints one table; it must never be a test, for its numbers are the machine's as much as ours.
//!
//! `cargo bench --bench log_throughput` builds and runs it; results are kept in bench/results/.
//! The worker is this program again, and copies a file in memory as `cat` does. It notes what its
//! parent, the program under measure, has used up when it begins to write and when it has written
//! all.

#[path = "machine.rs"]
mod machine;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpid, getppid, pipe2};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOCKETMASTER: &str = env!("CARGO_BIN_EXE_socketmaster");
/// What the worker writes, in bytes.
const AMOUNT: usize = 200_000_000;
/// What it writes for a peer that takes minutes for that.
const LITTLE: usize = 20_000_000;
/// Lines of so many bytes, their newline included.
const LENGTHS: [usize; 3] = [20, 100, 4096];
/// Each measurement is taken so often, in turn with the others.
const ROUNDS: usize = 7;
/// How much of that the file holds; it is read again and again.
const FILE: usize = 20_000_000;
/// What is read and written at once, by `cat` too.
const CHUNK: usize = 128 * 1024;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<OsString> = env::args_os().collect();
    let text = |n: usize| words.get(n).and_then(|word| word.to_str());
    match text(1) {
        Some("copy") => {
            let amount = text(3).and_then(|word| word.parse().ok());
            let (Some(file), Some(amount), Some(notes)) = (text(2), amount, text(4)) else {
                return Err("copy FILE AMOUNT NOTES".into());
            };
            copy(Path::new(file), amount, Path::new(notes))
        }
        // A part of the measurements, by their names.
        Some(only) if !only.starts_with('-') => measure_all(only),
        _ => measure_all(""),
    }
}

// ---- the worker ----

fn copy(file: &Path, amount: usize, notes: &Path) -> Result<()> {
    let mut file = File::open(file)?;
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut chunk = vec![0; CHUNK];
    let (parent, own) = (getppid().as_raw(), getpid().as_raw());
    let begun = (now()?, processor(parent)?, processor(own)?);
    let mut left = amount;
    while left > 0 {
        let wanted = left.min(CHUNK);
        let read = file.read(&mut chunk[..wanted])?;
        if read == 0 {
            file.rewind()?;
        }
        out.write_all(&chunk[..read])?;
        left -= read;
    }
    let (used, used_here) = (processor(parent)? - begun.1, processor(own)? - begun.2);
    let (begun, ended, peak) = (begun.0, now()?, peak(parent)?);
    let text = format!("{begun} {ended} {used} {used_here} {peak}");
    fs::write(notes, text)?;
    Ok(())
}

/// The file that is copied: whole lines of that length.
fn prepare(file: &Path, length: usize) -> Result<()> {
    let mut line = b"GET /static/app.js 200 ".repeat(length / 20 + 1);
    line.truncate(length - 1);
    line.push(b'\n');
    fs::write(file, line.repeat(FILE / length))?;
    Ok(())
}

/// Nanoseconds of CLOCK_MONOTONIC, the same for all processes.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(time).as_nanos())?)
}

/// Processor time of a process, all its threads together, in nanoseconds.
fn processor(pid: i32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or("").parse::<u64>()?;
    }
    Ok(sum)
}

/// The most memory that it has had resident, in kB.
fn peak(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no VmHWM")?.parse()?)
}

// ---- what is measured ----

/// Where the log goes.
#[derive(Clone, Copy, PartialEq)]
enum Sink {
    Null,
    Pipe,
}

/// One way for the lines to go.
struct Way {
    name: &'static str,
    sink: Sink,
    amount: usize,
    /// The program and its words; `WRITER` stands for the worker's.
    words: Vec<String>,
    /// It goes on when its worker has ended.
    stays: bool,
}

/// What one run has shown.
#[derive(Clone, Copy)]
struct Run {
    megabytes_per_second: f64,
    /// In seconds for each gigabyte.
    processor: f64,
    /// The same of all that take part, the worker and the reader too.
    processor_of_all: f64,
    peak_megabytes: f64,
    /// The same as the ceiling of its round.
    of_the_ceiling: f64,
}

fn measure_all(only: &str) -> Result<()> {
    let scratch = Scratch::new()?;
    println!("{}\n", machine::text());
    println!(
        "| lines of | way | MB/s | of the ceiling | its processor s per GB | all processes' | \
         peak MB |\n|---|---|---|---|---|---|---|"
    );
    for length in LENGTHS {
        prepare(&scratch.file(), length)?;
        let ways = ways(&scratch)?;
        let mut runs: Vec<Vec<Run>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            let mut ceiling = None;
            for (way, runs) in ways.iter().zip(&mut runs) {
                if !(way.name.contains(only) || way.name == CEILING) {
                    continue;
                }
                match scratch.measure(way) {
                    Ok(mut run) => {
                        let ceiling = *ceiling.get_or_insert(run.megabytes_per_second);
                        run.of_the_ceiling = run.megabytes_per_second / ceiling;
                        runs.push(run);
                    }
                    Err(error) => eprintln!("{}: {error}", way.name),
                }
            }
        }
        for (way, runs) in ways.iter().zip(&runs) {
            row(length, way, runs);
        }
    }
    println!(
        "\nMedians of {ROUNDS} rounds. At the end: {}.",
        machine::text()
    );
    Ok(())
}

const CEILING: &str = "straight into the pipe (the ceiling)";

fn ways(scratch: &Scratch) -> Result<Vec<Way>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let own = format!("{SOCKETMASTER} -listen=tcp://127.0.0.1:0 -start=0");
    let way = |name, sink, text: &str| Way {
        name,
        sink,
        amount: AMOUNT,
        words: words(text),
        stays: false,
    };
    let command = "-command WRITER";
    let mut all = vec![
        way(CEILING, Sink::Pipe, "WRITER"),
        way(
            "socketmaster into the pipe",
            Sink::Pipe,
            &format!("{own} {command}"),
        ),
        way(
            "socketmaster into /dev/null",
            Sink::Null,
            &format!("{own} {command}"),
        ),
        way(
            "socketmaster -output=inherit into the pipe",
            Sink::Pipe,
            &format!("{own} -output=inherit {command}"),
        ),
        way(
            "s6-log (time stamps) into the pipe",
            Sink::Pipe,
            "PIPED s6-log T 1",
        ),
        way(
            "logger (as to syslog) into the pipe",
            Sink::Pipe,
            "PIPED logger --socket-errors=off --no-act -s -t app",
        ),
    ];
    all[5].amount = LITTLE;
    all.push(Way {
        name: "circusd (StdoutStream) into the pipe",
        sink: Sink::Pipe,
        amount: LITTLE,
        words: vec![
            "circusd".into(),
            scratch.0.join("circus.ini").to_string_lossy().into_owned(),
        ],
        stays: true,
    });
    Ok(all)
}

/// A directory of our own, gone with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new() -> Result<Scratch> {
        // Memory; or else whatever there is.
        let memory = Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir());
        let dir = memory.unwrap_or_else(env::temp_dir);
        let dir = dir.join(format!("sm-bench-{}", process::id()));
        fs::create_dir(&dir)?;
        Ok(Scratch(dir))
    }

    fn notes(&self) -> PathBuf {
        self.0.join("notes")
    }

    fn file(&self) -> PathBuf {
        self.0.join("lines")
    }

    /// The words that run the worker.
    fn writer(&self, amount: usize) -> Result<Vec<String>> {
        let words = [
            env::current_exe()?,
            "copy".into(),
            self.file(),
            amount.to_string().into(),
            self.notes(),
        ];
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        Ok(words.iter().map(text).collect())
    }

    fn measure(&self, way: &Way) -> Result<Run> {
        let _ = fs::remove_file(self.notes());
        let writer = self.writer(way.amount)?;
        if way.stays {
            self.write_circus(&writer)?;
        }
        let (reader, sink) = match way.sink {
            Sink::Pipe => {
                let (reader, sink) = pipe2(OFlag::O_CLOEXEC)?;
                (Some(reader), sink)
            }
            Sink::Null => (
                None,
                OwnedFd::from(File::options().write(true).open("/dev/null")?),
            ),
        };
        await_quiet()?;
        let here = getpid().as_raw();
        let before = processor(here)?;
        let started = Started::new(way, &writer, sink)?;
        let last = reader.map(|reader| drain(reader, way.stays.then_some(way.amount)));
        let last = last.transpose()?;
        let reading = processor(here)? - before;
        let used = started.end()?;
        let notes = fs::read_to_string(self.notes())?;
        let numbers: Vec<u64> = notes
            .split(' ')
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        let &[begun, ended, by_parent, writing, peak] = &numbers[..] else {
            return Err("the worker's notes are not whole".into());
        };
        let (used, peak) = match (way.name == CEILING, used) {
            (true, _) => (0, 0),
            (false, Some(used)) => (used, 0),
            (false, None) => (by_parent, peak),
        };
        let per_gigabyte = |nanos: u64| nanos as f64 / way.amount as f64;
        let seconds = (last.unwrap_or(ended) - begun) as f64 / 1e9;
        Ok(Run {
            megabytes_per_second: way.amount as f64 / 1e6 / seconds,
            processor: per_gigabyte(used),
            processor_of_all: per_gigabyte(used + writing + reading),
            peak_megabytes: peak as f64 / 1024.0,
            of_the_ceiling: 0.0,
        })
    }

    /// circusd takes its worker from a file.
    fn write_circus(&self, writer: &[String]) -> Result<()> {
        let text = format!(
            "[circus]\nendpoint = tcp://127.0.0.1:{}\npubsub_endpoint = tcp://127.0.0.1:{}\n\
             [watcher:w]\ncmd = {}\nargs = {}\nrespawn = False\n\
             stdout_stream.class = StdoutStream\n",
            free_port()?,
            free_port()?,
            writer[0],
            writer[1..].join(" ")
        );
        Ok(fs::write(self.0.join("circus.ini"), text)?)
    }
}

/// The running programs of one measurement.
struct Started {
    main: Child,
    /// Who writes into its stdin, where it does not start the worker itself.
    writer: Option<Child>,
    stays: bool,
}

impl Started {
    fn new(way: &Way, writer: &[String], sink: OwnedFd) -> Result<Started> {
        let mut words: Vec<String> = Vec::new();
        for word in &way.words {
            match word.as_str() {
                "WRITER" => words.extend_from_slice(writer),
                "PIPED" => {}
                _ => words.push(word.clone()),
            }
        }
        let piped = way.words[0] == "PIPED";
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(sink.try_clone()?);
        command.stdin(if piped { Stdio::piped() } else { Stdio::null() });
        // circusd says all that it does on stderr.
        command.stderr(if way.stays {
            Stdio::null()
        } else {
            sink.into()
        });
        let mut main = command.spawn()?;
        let writer = match main.stdin.take() {
            Some(stdin) => Some(
                Command::new(&writer[0])
                    .args(&writer[1..])
                    .stdout(stdin)
                    .spawn()?,
            ),
            None => None,
        };
        Ok(Started {
            main,
            writer,
            stays: way.stays,
        })
    }

    /// Waits for the end; the processor time of a program that is not the worker's parent.
    fn end(mut self) -> Result<Option<u64>> {
        let pid = i32::try_from(self.main.id())?;
        if let Some(mut writer) = self.writer.take() {
            writer.wait()?;
            let used = wait_as_zombie(pid)?;
            self.main.wait()?;
            return Ok(Some(used));
        }
        if self.stays {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        self.main.wait()?;
        Ok(None)
    }
}

/// Waits for the end of a child that stays a zombie; its processor time.
fn wait_as_zombie(pid: i32) -> Result<u64> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid)), flags)?;
    processor(pid)
}

/// Waits until others leave the machine nearly idle for a moment, for half a minute at most.
fn await_quiet() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        let before = idle_ticks()?;
        std::thread::sleep(Duration::from_millis(200));
        let idle = idle_ticks()? - before;
        // A tick is a hundredth of a second (proc(5)).
        if idle >= 18 * std::thread::available_parallelism()?.get() as u64 {
            return Ok(());
        }
    }
    Ok(())
}

/// Idle time of all processors together, in ticks.
fn idle_ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let idle = text.split_whitespace().nth(4).ok_or("no idle time")?;
    Ok(idle.parse()?)
}

/// Reads until the end, or so many bytes at least; says when the last byte came.
fn drain(reader: OwnedFd, least: Option<usize>) -> Result<u64> {
    let mut reader = File::from(reader);
    let mut chunk = vec![0; 128 * 1024];
    let mut count = 0;
    let mut last = now()?;
    loop {
        let n = reader.read(&mut chunk)?;
        if n == 0 {
            return Ok(last);
        }
        count += n;
        last = now()?;
        if least.is_some_and(|least| count >= least) {
            return Ok(last);
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

// ---- the table ----

fn row(length: usize, way: &Way, runs: &[Run]) {
    if runs.is_empty() {
        return;
    }
    let median = |field: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (speed, processor) = (median(|r| r.megabytes_per_second), median(|r| r.processor));
    let share = match way.sink {
        Sink::Pipe => format!("{:.2}", median(|r| r.of_the_ceiling)),
        Sink::Null => "-".to_owned(),
    };
    let peak = match median(|r| r.peak_megabytes) {
        0.0 => "-".to_owned(),
        peak => format!("{peak:.1}"),
    };
    println!(
        "| {length} | {} | {speed:.0} | {share} | {processor:.2} | {:.2} | {peak} |",
        way.name,
        median(|r| r.processor_of_all)
    );
}
