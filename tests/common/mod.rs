//! What all tests of the real program share: a `Daemon` that is started, watched and ended by its
//! owner, and waits for facts with a limit. It must never sleep for a fixed time, never use a
//! fixed port or path, and never signal a process that it did not start.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod attacker;
pub mod clients;
pub mod control;
pub mod dir;
pub mod facts;
pub mod net;
pub mod report;
pub mod sink;
pub mod strace;
pub mod terminal;

pub use dir::TempDir;
pub use net::Address;
pub use report::Report;

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many times slower this machine is than usual: an emulator may say 10.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let text = std::env::var("SOCKETMASTER_TEST_SLOWNESS").unwrap_or_default();
    text.parse().unwrap_or(1).max(1)
});
/// How long a fact may take before the test fails; far more than it ever needs, also where forty
/// other processes want the processors and two Python workers have to import their libraries.
pub static LIMIT: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(120) * *SLOWNESS);
/// How long a fact may take when the program has ended.
static AFTERWARDS: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(10) * *SLOWNESS);
/// How often a fact is looked at that nothing announces.
const GLANCE: Duration = Duration::from_millis(10);

/// The program under test.
pub const SOCKETMASTER: &str = env!("CARGO_BIN_EXE_socketmaster");

/// The path of one of our example programs, which `cargo test` builds.
pub fn example(name: &str) -> PathBuf {
    let target = Path::new(SOCKETMASTER)
        .parent()
        .expect("a program is in a directory");
    let path = target.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --examples",
        path.display()
    );
    path
}

/// The path of the worker of many behaviours, as a word for `-command`.
pub fn worker() -> String {
    example("worker")
        .to_str()
        .expect("the target directory is UTF-8")
        .to_owned()
}

/// Says why a test cannot run here.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// A test that needs root asks here first.
pub fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// How to start the program.
pub struct Run {
    words: Vec<OsString>,
    wrapper: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Stdio,
}

impl Run {
    /// The program without arguments.
    pub fn bare() -> Run {
        Run {
            words: Vec::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            dir: None,
            stdin: Stdio::null(),
        }
    }

    /// On a free port of 127.0.0.1, with these flags and then the worker with these words.
    pub fn worker<F: AsRef<OsStr>, W: AsRef<OsStr>>(flags: &[F], words: &[W]) -> Run {
        Run::bare()
            .arg("-listen=tcp://127.0.0.1:0")
            .args(flags)
            .arg(format!("-command={}", worker()))
            .arg("--")
            .args(words)
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Run {
        self.words.push(word.as_ref().to_owned());
        self
    }

    pub fn args<W: AsRef<OsStr>>(mut self, words: &[W]) -> Run {
        self.words
            .extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Prefixes a program that becomes, or runs, the one under test.
    pub fn through<W: AsRef<OsStr>>(mut self, words: &[W]) -> Run {
        self.wrapper
            .extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Prefixes a piece of shell; it ends by `exec "$@"`, which this adds.
    pub fn after_shell(self, script: &str) -> Run {
        let script = format!("{script}\nexec \"$@\"");
        self.through(&["sh", "-c", &script, "sh"])
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Run {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory, and `$PWD` with it, as a shell does it.
    pub fn dir(mut self, dir: &Path) -> Run {
        self.dir = Some(dir.to_owned());
        self.env("PWD", dir)
    }

    pub fn stdin(mut self, stdin: Stdio) -> Run {
        self.stdin = stdin;
        self
    }

    fn command(self) -> Command {
        let mut all = self.wrapper;
        all.push(SOCKETMASTER.into());
        all.extend(self.words);
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).stdin(self.stdin);
        command.envs(self.environment);
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Starts it, its stderr read as it comes.
    pub fn start(self) -> Daemon {
        let mut daemon = self.start_unread();
        daemon.read_log();
        daemon
    }

    /// Starts it with a stderr that nobody reads until `read_log`.
    pub fn start_unread(self) -> Daemon {
        let mut command = self.command();
        let shown = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Daemon::new(command.spawn().expect("the program can be started"), shown)
    }

    /// Starts it with stderr as given (a file, a terminal, a socket): the log stays empty.
    pub fn start_with_stderr(self, stderr: Stdio) -> Daemon {
        let mut command = self.command();
        let shown = format!("{command:?}");
        command.stdout(Stdio::null()).stderr(stderr);
        Daemon::new(command.spawn().expect("the program can be started"), shown)
    }

    /// Runs it to its end, which must come by itself.
    pub fn output(self) -> Output {
        let mut daemon = self.start();
        let mut stdout = daemon.child.stdout.take().expect("stdout is a pipe");
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            text
        });
        let status = daemon.wait_for_exit();
        daemon.wait_for_log_end();
        let stdout = reader.join().expect("the reader does not panic");
        let stderr = daemon.shared.lock().log.clone();
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

/// What the threads of a `Daemon` tell its owner.
#[derive(Default)]
struct State {
    log: Vec<u8>,
    log_ended: bool,
    status: Option<ExitStatus>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// A place in the log, to look only at what comes after it.
#[derive(Clone, Copy)]
pub struct Mark(usize);

/// The running program. Dropping it kills it and its workers; when the test fails, everything
/// that is known about it is printed.
pub struct Daemon {
    child: Child,
    shown: String,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    real: OnceLock<i32>,
}

impl Daemon {
    fn new(child: Child, shown: String) -> Daemon {
        let shared = Arc::new(Shared::default());
        let pid = Pid::from_raw(child.id() as i32);
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let status = wait_without_reaping(pid);
                shared.change(|state| state.status = Some(status));
            })
        };
        Daemon {
            child,
            shown,
            shared,
            threads: vec![waiter],
            real: OnceLock::new(),
        }
    }

    /// Reads stderr from now on.
    pub fn read_log(&mut self) {
        let mut stderr = self
            .child
            .stderr
            .take()
            .expect("stderr is a pipe that nobody reads yet");
        let shared = self.shared.clone();
        self.threads.push(thread::spawn(move || {
            let mut chunk = [0; 65536];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                shared.change(|state| state.log.extend_from_slice(&chunk[..n]));
            }
            shared.change(|state| state.log_ended = true);
        }));
    }

    /// The process that we started; the program itself unless a wrapper forked.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The program's own process, also below a wrapper that forked and may have gone since.
    pub fn real_pid(&self) -> i32 {
        *self.real.get_or_init(|| {
            self.wait_for("the program below its wrapper", || {
                let mut all = vec![self.pid()];
                all.extend(facts::descendants(self.pid()));
                all.into_iter()
                    .find(|pid| is_program(*pid) || self.exit_status().is_some())
            })
        })
    }

    pub fn signal(&self, signal: Signal) {
        self.signal_pid(self.real_pid(), signal);
    }

    fn signal_pid(&self, pid: i32, signal: Signal) {
        // Our child stays a zombie until we are dropped, so its pid cannot be somebody else's.
        let _ = signal::kill(Pid::from_raw(pid), signal);
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().log).into_owned()
    }

    pub fn log_bytes(&self) -> Vec<u8> {
        self.shared.lock().log.clone()
    }

    pub fn mark(&self) -> Mark {
        Mark(self.shared.lock().log.len())
    }

    pub fn log_after(&self, mark: Mark) -> String {
        String::from_utf8_lossy(&self.shared.lock().log[mark.0..]).into_owned()
    }

    /// How many lines contain the text.
    pub fn count(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits until the fact yields something. The log waking us is only a hint. When the program
    /// has ended and its log too, not much can become true any more.
    pub fn wait_for<T>(&self, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
        let mut deadline = Instant::now() + *LIMIT;
        let mut over = false;
        loop {
            if let Some(found) = fact() {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            let state = self.shared.lock();
            if !over && state.status.is_some() && state.log_ended {
                over = true;
                deadline = deadline.min(Instant::now() + *AFTERWARDS);
            }
            drop(self.shared.changed.wait_timeout(state, GLANCE));
        }
    }

    pub fn wait_until(&self, what: &str, mut fact: impl FnMut() -> bool) {
        self.wait_for(what, || fact().then_some(()));
    }

    /// The first whole line that contains the text.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.wait_for_line_after(Mark(0), text)
    }

    pub fn wait_for_line_after(&self, mark: Mark, text: &str) -> String {
        self.wait_for_any_after(mark, &[text])
    }

    /// The first whole line after the mark that contains one of the texts.
    pub fn wait_for_any_after(&self, mark: Mark, texts: &[&str]) -> String {
        self.wait_for(&format!("a log line with {texts:?}"), || {
            let log = self.log_after(mark);
            log.split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find(|line| texts.iter().any(|text| line.contains(text)))
                .map(|line| line.trim_end().to_owned())
        })
    }

    pub fn wait_for_count(&self, text: &str, count: usize) {
        self.wait_until(&format!("{count} lines with {text:?}"), || {
            self.count(text) >= count
        });
    }

    /// The nth address that it says it listens on, from 0.
    pub fn address_number(&self, n: usize) -> Address {
        self.wait_for("the addresses in the log", || {
            let log = self.log();
            let mut found = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .filter_map(|line| line.split_once("Listening on ").map(|(_, rest)| rest));
            found.nth(n).map(|rest| {
                Address::parse(rest.split_whitespace().next().expect("an address follows"))
            })
        })
    }

    pub fn address(&self) -> Address {
        self.address_number(0)
    }

    /// Its children that live, oldest first.
    pub fn workers(&self) -> Vec<i32> {
        facts::live_children(self.real_pid())
    }

    /// Waits until it has one worker and that one has said something with the text.
    pub fn worker_that_said(&self, text: &str) -> i32 {
        self.wait_for(&format!("a living worker that said {text:?}"), || {
            let log = self.log();
            self.workers().into_iter().rev().find(|pid| {
                let start = format!("[{pid}] ");
                log.lines().any(|line| {
                    line.split_once(&start)
                        .is_some_and(|(_, said)| said.contains(text))
                })
            })
        })
    }

    /// Waits until exactly these are its living children.
    pub fn wait_for_workers(&self, wanted: &[i32]) {
        self.wait_until(&format!("the workers to be {wanted:?}"), || {
            self.workers() == wanted
        });
    }

    /// Sends SIGHUP and waits for the verdict's line.
    pub fn reload(&self) -> String {
        let mark = self.mark();
        self.signal(Signal::SIGHUP);
        self.verdict_after(mark)
    }

    /// The line in which a reload ends, whatever its outcome.
    pub fn verdict_after(&self, mark: Mark) -> String {
        self.wait_for("the verdict of a reload", || {
            let log = self.log_after(mark);
            log.split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find(|line| is_verdict(line))
                .map(|line| line.trim_end().to_owned())
        })
    }

    /// How many reloads have ended.
    pub fn verdicts(&self) -> usize {
        self.log().lines().filter(|line| is_verdict(line)).count()
    }

    /// Waits until the first generation is live.
    pub fn wait_until_live(&self) {
        self.wait_for_line("generation 1: live");
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.shared.lock().status
    }

    pub fn wait_for_exit(&self) -> ExitStatus {
        self.wait_for("the program to end", || self.exit_status())
    }

    /// Waits for the end, then for the end of the log, and returns the status as a shell says it.
    pub fn exit_code(&self) -> i32 {
        let status = self.wait_for_exit();
        self.wait_for_log_end();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    pub fn wait_for_log_end(&self) {
        self.wait_until("the end of the log", || self.shared.lock().log_ended);
    }

    /// TERM, and the exit status.
    pub fn stop(&self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.exit_code()
    }

    /// Lets time pass in which it must not end: to space signals, or to see that nothing happens.
    pub fn stays_up_for(&self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let state = self.shared.lock();
            assert!(
                state.status.is_none(),
                "it ended within {time:?}: {:?}",
                state.status
            );
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            drop(self.shared.changed.wait_timeout(state, left));
        }
    }

    fn print_everything(&self) {
        eprintln!("--- {}\n--- {:?}; log:", self.shown, self.exit_status());
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(200)..] {
            eprintln!("{:.500}", line);
        }
        eprintln!("--- processes:");
        let mut all = vec![self.pid()];
        all.extend(facts::descendants(self.pid()));
        for pid in all {
            eprintln!("{}", facts::describe(pid));
        }
        eprintln!("--- its descriptors: {:#?}", facts::open_fds(self.pid()));
    }

    /// Waits until it has slept for half a second without being woken: whatever keeps it busy, or
    /// wakes it again and again, makes this fail.
    pub fn wait_until_idle(&self) {
        let pid = self.real_pid();
        let (mut switches, mut since) = (0, Instant::now());
        self.wait_until("half a second without a wake-up", || {
            let now = facts::switches(pid);
            if now != switches || facts::state(pid).as_deref() != Some("S") {
                (switches, since) = (now, Instant::now());
            }
            since.elapsed() >= Duration::from_millis(500)
        });
    }

    /// Waits until one of its workers sleeps and uses no processor any more: it is blocked.
    pub fn wait_until_blocked(&self, worker: i32) {
        let (mut used, mut quiet) = (Duration::ZERO, 0);
        self.wait_until(&format!("worker {worker} to be blocked"), || {
            let now = facts::processor(worker);
            let asleep = facts::state(worker).as_deref() == Some("S") && now == used;
            quiet = if asleep { quiet + 1 } else { 0 };
            used = now;
            quiet >= 20
        });
    }

    /// Everything that we started, and nothing else: the descendants with their groups, then it.
    fn kill_all(&mut self) {
        if let Some(pid) = self.real.get().copied().filter(|pid| is_program(*pid)) {
            kill_tree(pid);
        }
        if self.exit_status().is_none() {
            kill_tree(self.pid());
        }
    }
}

fn is_program(pid: i32) -> bool {
    let program = std::fs::canonicalize(SOCKETMASTER).expect("the program exists");
    facts::program(pid).as_deref() == Some(&program)
}

/// Stops it first, so that it starts nothing while its descendants are counted.
fn kill_tree(pid: i32) {
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGSTOP);
    for below in facts::descendants(pid) {
        if facts::group(below) == Some(below) {
            let _ = signal::killpg(Pid::from_raw(below), Signal::SIGKILL);
        }
        let _ = signal::kill(Pid::from_raw(below), Signal::SIGKILL);
    }
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Every reload ends in one of these.
const OUTCOMES: &[&str] = &[
    "is live",
    "rolled back",
    "half-way",
    " failed",
    "superseded",
    "abandoned",
];

fn is_verdict(line: &str) -> bool {
    line.split_once(" reload ").is_some_and(|(_, rest)| {
        rest.starts_with(|first: char| first.is_ascii_digit())
            && OUTCOMES.iter().any(|outcome| rest.contains(outcome))
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_everything();
        }
        self.kill_all();
        self.child.stderr.take();
        // The first thread waits for the process only, which must be a zombie for it until then.
        // The log's reader ends with the last holder of the pipe, which may be a grandchild that
        // its test's directory ends: not joined.
        let _ = self.threads.remove(0).join();
        let _ = self.child.wait();
    }
}

/// Waits for the end of our child and leaves it a zombie, so that its pid stays taken.
fn wait_without_reaping(pid: Pid) -> ExitStatus {
    use nix::errno::Errno;
    use nix::sys::wait::WaitStatus;
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, status)) => return ExitStatus::from_raw(status << 8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return ExitStatus::from_raw(signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("cannot wait for {pid}: {error}"),
        }
    }
}
