//! The worker of many behaviours: its first argument says which (`worker exit 3`, `worker drain
//! FILE`, …), and `worker from FILE` reads the words from a file, so that a test "deploys" by
//! rewriting that file. It must never outlive its test for long: an alarm ends it after two minutes.

#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "server.rs"]
mod server;

#[path = "einhorn.rs"]
mod einhorn;

#[path = "report.rs"]
mod report;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::socket::{self, MsgFlags, Shutdown};
use signal_hook::iterator::Signals;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, ExitCode};
use std::time::{Duration, Instant};

/// No worker lives longer than this, in seconds.
const LIFE: u32 = 120;

fn main() -> ExitCode {
    nix::unistd::alarm::set(LIFE);
    let mut words: Vec<OsString> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "from") {
        let path = words.get(1).cloned().unwrap_or_default();
        words = match fs::read_to_string(&path) {
            Ok(text) => text.split_whitespace().map(OsString::from).collect(),
            Err(error) => return complain(&error),
        };
    }
    match behave(&words) {
        Ok(status) => ExitCode::from(status),
        Err(error) => complain(&error),
    }
}

fn complain(error: &io::Error) -> ExitCode {
    eprintln!("worker: {error}");
    ExitCode::from(99)
}

/// Does what the words say and returns the exit status.
fn behave(words: &[OsString]) -> io::Result<u8> {
    let text = |n: usize| words.get(n).map(|word| word.to_string_lossy().into_owned());
    let number = |n: usize| text(n).and_then(|word| word.parse::<u64>().ok());
    let path = |n: usize| words.get(n).map(Path::new).unwrap_or(Path::new(""));
    match text(0).as_deref().unwrap_or_default() {
        mode @ ("http" | "http-ready") => {
            if mode == "http-ready" {
                ready(Path::new(""))?;
            }
            let words = words.iter().map(|word| word.to_string_lossy().into_owned());
            server::serve(&server::version(words)).map(|()| 0)
        }
        "einhorn" => {
            let words = words.iter().skip(1);
            einhorn::work(
                &words
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect::<Vec<_>>(),
            )
        }
        "exit" => leave(number(1), number(2)),
        "silent" => Ok(park()),
        "up" => say("up").map(|()| park()),
        "ready" => ready(path(1)).map(|()| park()),
        "control" => control(&words[1..]).map(|()| park()),
        "control-by-child" => {
            let own = process::id().to_string();
            let mut words: Vec<OsString> = words.to_vec();
            words[0] = "control".into();
            words.iter_mut().for_each(|word| {
                if *word == "PID" {
                    *word = own.clone().into();
                }
            });
            Command::new(env::current_exe()?)
                .args(words)
                .spawn()
                .map(drop)?;
            Ok(park())
        }
        "lines" => lines(number(1).unwrap_or(0)).map(|()| number(2).unwrap_or(0) as u8),
        "flood" => lines(u64::MAX).map(|()| 0),
        "flood-ready" => ready(Path::new(""))
            .and_then(|()| lines(u64::MAX))
            .map(|()| 0),
        "hammer" => hammer(),
        "cat" => cat(path(1), number(2)),
        "longline" => longline(number(1).unwrap_or(0)).map(|()| park()),
        "report" => report::print(words).map(|()| park()),
        "ignore-term" => ignore_term().map(|()| park()),
        "without-netlink" => without_netlink(&words[1..]),
        "leave-group" => leave_group().map(|()| park()),
        "trap" => trap(path(1)),
        "drain" => drain(|| exists(path(1))),
        "slow-stop" => drain(|| wait_millis(number(1).unwrap_or(0))),
        "grandchild" => grandchild(path(1)),
        "hold" => {
            until(|| !path(1).exists());
            Ok(0)
        }
        "double-fork" => double_fork(number(1).unwrap_or(1)).map(|()| park()),
        "orphan" => again(&["exit", "0", "50"]).map(|()| 0),
        "shutdown" => socket::shutdown(3, Shutdown::Both)
            .map(|()| park())
            .map_err(Into::into),
        "unlink" => fs::remove_file(path(1)).map(|()| park()),
        "echo" => echo(),
        "open-stdout" => open_stdout().map(|()| park()),
        "one-fails" => one_fails(path(1)),
        "kill-self" => kill_self(number(1)),
        "with-signals" => with_signals(&words[1..]),
        "on-terminal" => on_terminal(path(1), &words[2..]),
        "shell-on-terminal" => shell_on_terminal(path(1), &words[2..]),
        other => Err(io::Error::other(format!(
            "no behaviour is called {other:?}"
        ))),
    }
}

/// Stays until a signal with its default disposition ends us.
fn park() -> u8 {
    loop {
        let _ = poll(&mut [], PollTimeout::NONE);
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn wait_millis(millis: u64) {
    let deadline = Instant::now() + Duration::from_millis(millis);
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [], wait);
    }
}

/// Looks every few milliseconds whether it is so.
fn until(mut fact: impl FnMut() -> bool) {
    while !fact() {
        wait_millis(5);
    }
}

fn exists(path: &Path) {
    until(|| path.exists());
}

/// `exit STATUS [AFTER-MILLIS]`
fn leave(status: Option<u64>, after: Option<u64>) -> io::Result<u8> {
    wait_millis(after.unwrap_or(0));
    Ok(status.unwrap_or(0) as u8)
}

/// `ready [FILE]`: sd_notify(3) `READY=1`, at once or when the file exists.
fn ready(trigger: &Path) -> io::Result<()> {
    if !trigger.as_os_str().is_empty() {
        exists(trigger);
    }
    let name = env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("no NOTIFY_SOCKET"))?;
    let address = match name.as_bytes() {
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            std::os::unix::net::SocketAddr::from_abstract_name(name)?
        }
        path => std::os::unix::net::SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    say("said ready")
}

/// `control [when FILE] COMMAND [PID|pid-in FILE|pid NUMBER]`: one request to the control socket, when the
/// file exists; what is answered is printed. `PID` stands for our own.
fn control(words: &[OsString]) -> io::Result<()> {
    let mut words: Vec<String> = (words.iter())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if words.first().is_some_and(|word| word == "when") {
        exists(Path::new(&words[1]));
        words.drain(..2);
    }
    let pid = match words.get(1).map(String::as_str) {
        None | Some("PID") => process::id().to_string(),
        Some("pid-in") => fs::read_to_string(&words[2])?.trim().to_owned(),
        Some(given) => given.to_owned(),
    };
    let path = env::var_os("EINHORN_SOCK_PATH").ok_or_else(|| io::Error::other("no path"))?;
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "{{\"command\": \"{}\", \"pid\": {pid}}}", words[0])?;
    let mut answer = String::new();
    stream.shutdown(std::net::Shutdown::Write)?;
    io::Read::read_to_string(&mut stream, &mut answer)?;
    say(&format!("answered {:?}", answer.trim_end()))
}

/// `lines COUNT [STATUS]`: numbered lines as fast as they go.
fn lines(count: u64) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(8192, io::stdout().lock());
    for n in 0..count {
        writeln!(out, "line {n} of a worker that has much to say")?;
    }
    out.flush()
}

/// `hammer`: writes without waiting, for ever, also while nobody takes it.
fn hammer() -> io::Result<u8> {
    fcntl(io::stdout(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    loop {
        let _ = nix::unistd::write(io::stdout(), b"hammer\n");
    }
}

/// `cat FILE [STATUS]`: the file's bytes to stdout; leaves only if a status is given.
fn cat(path: &Path, status: Option<u64>) -> io::Result<u8> {
    let mut out = io::stdout().lock();
    io::copy(&mut File::open(path)?, &mut out)?;
    out.flush()?;
    Ok(status.map_or_else(park, |status| status as u8))
}

/// `longline BYTES`: one line of that length, then a short one.
fn longline(bytes: u64) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(65536, io::stdout().lock());
    for _ in 0..bytes / 64 {
        out.write_all(&[b'x'; 64])?;
    }
    out.write_all(b"\nafter the long line\n")?;
    out.flush()
}

fn ignore_term() -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { signal::signal(signal, SigHandler::SigIgn) }?;
    }
    say("up")
}

/// Ignores SIGTERM, and tries to go into another process's group; a child of its own stays in its.
fn leave_group() -> io::Result<()> {
    again(&["silent"])?;
    let other = Command::new(env::current_exe()?)
        .arg("silent")
        .process_group(0)
        .spawn()?;
    let group = nix::unistd::Pid::from_raw(other.id() as i32);
    if let Err(errno) = nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), group) {
        say(&format!("cannot leave: {errno:?}"))?;
    }
    ignore_term()
}

/// `trap FILE`: prints every signal and goes on, until the file exists.
fn trap(end: &Path) -> io::Result<u8> {
    let mut signals = Signals::new([
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
    ])?;
    say("up")?;
    until(|| {
        for number in signals.pending() {
            let name = Signal::try_from(number).map_or("?", Signal::as_str);
            let _ = say(&format!("got {name}"));
        }
        end.exists()
    });
    Ok(0)
}

/// `drain FILE`, `slow-stop MILLIS`: asked to stop, says so, and leaves only when `end` returns.
fn drain(end: impl Fn()) -> io::Result<u8> {
    let mut signals = Signals::new([libc::SIGTERM, libc::SIGINT])?;
    say("up")?;
    signals.forever().next();
    say("draining")?;
    end();
    say("drained")?;
    Ok(0)
}

/// Starts this program once more; it is not waited for.
fn again(words: &[&str]) -> io::Result<()> {
    Command::new(env::current_exe()?)
        .args(words)
        .spawn()
        .map(drop)
}

/// `grandchild DIR`: leaves a process that holds our output as long as the directory exists.
fn grandchild(dir: &Path) -> io::Result<u8> {
    again(&["hold", &dir.to_string_lossy()])?;
    say("leaving a grandchild")?;
    Ok(5)
}

/// `double-fork COUNT`: children that end at once and leave a child of their own.
fn double_fork(count: u64) -> io::Result<()> {
    for _ in 0..count {
        Command::new(env::current_exe()?).arg("orphan").status()?;
    }
    say("orphans made")
}

/// `echo`: prints every datagram that arrives on fd 3.
fn echo() -> io::Result<u8> {
    say("up")?;
    let mut buffer = [0; 2048];
    loop {
        let n = socket::recv(3, &mut buffer, MsgFlags::empty())?;
        say(&format!(
            "datagram {}",
            String::from_utf8_lossy(&buffer[..n])
        ))?;
    }
}

/// Servers log to /dev/stdout, which the kernel opens anew, with the permissions of the pipe.
fn open_stdout() -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).open("/dev/stdout")?;
    writeln!(out, "opened stdout")
}

/// `one-fails DIR`: of all the workers that try to make the directory, the one that does fails.
fn one_fails(dir: &Path) -> io::Result<u8> {
    say("up")?;
    if fs::create_dir(dir).is_ok() {
        wait_millis(100);
        return Ok(7);
    }
    Ok(park())
}

fn kill_self(number: Option<u64>) -> io::Result<u8> {
    let signal = Signal::try_from(number.unwrap_or(9) as i32)?;
    signal::kill(nix::unistd::Pid::this(), signal)?;
    Ok(park())
}

/// `with-signals PROGRAM…`: blocks and ignores all that can be, then becomes the program.
fn with_signals(words: &[OsString]) -> io::Result<u8> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: SIG_IGN runs no code of ours.
            unsafe { signal::sigaction(signal, &ignore) }?;
        }
    }
    signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    become_program(words)
}

/// `without-netlink PROGRAM…`: forbids AF_NETLINK, as RestrictAddressFamilies= does (seccomp(2)), then
/// becomes the program.
fn without_netlink(words: &[OsString]) -> io::Result<u8> {
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let (load, equal, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
    // struct seccomp_data: the call's number, and its first argument at 16.
    let mut filter = [
        step(load, 0, 0),
        step(equal, 3, libc::SYS_socket as u32),
        step(load, 0, 16),
        step(equal, 1, libc::AF_NETLINK as u32),
        step(answer, 0, refusal),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads the filter, which lives through the calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    become_program(words)
}

fn become_program(words: &[OsString]) -> io::Result<u8> {
    Err(Command::new(&words[0]).args(&words[1..]).exec())
}

/// `on-terminal PTS PROGRAM…`: leads a session on that terminal, stdin from it, then becomes the
/// program; its stdout and stderr stay ours.
fn on_terminal(terminal: &Path, words: &[OsString]) -> io::Result<u8> {
    take_terminal(terminal)?;
    become_program(words)
}

/// The first terminal that a session's leader opens becomes its controlling terminal (tty(4)).
fn take_terminal(terminal: &Path) -> io::Result<()> {
    nix::unistd::setsid()?;
    let terminal = OpenOptions::new().read(true).write(true).open(terminal)?;
    nix::unistd::dup2_stdin(&terminal)?;
    Ok(())
}

/// `shell-on-terminal PTS PROGRAM…`: the same as an interactive shell would do it: the program
/// is the foreground job, and a SIGHUP to us is passed on to it.
fn shell_on_terminal(terminal: &Path, words: &[OsString]) -> io::Result<u8> {
    take_terminal(terminal)?;
    let mut signals = Signals::new([libc::SIGHUP, libc::SIGCHLD])?;
    let job = Command::new(&words[0])
        .args(&words[1..])
        .process_group(0)
        .spawn()?;
    let group = nix::unistd::Pid::from_raw(job.id() as i32);
    // SAFETY: SIG_IGN runs no code of ours; a background process that sets the foreground group
    // would be stopped.
    unsafe { signal::signal(Signal::SIGTTOU, SigHandler::SigIgn) }?;
    nix::unistd::tcsetpgrp(io::stdin(), group)?;
    if signals.forever().next() == Some(libc::SIGHUP) {
        signal::killpg(group, Signal::SIGHUP)?;
    }
    process::exit(129)
}
