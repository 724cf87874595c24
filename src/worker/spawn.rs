//! Starting a worker: fork, the child's steps up to execve(2), and the report of the step that
//! failed. What to run, as whom and with which descriptors is in the [`SpawnRequest`]; nothing is
//! decided here, and nothing waits for the child.
#![allow(unsafe_code)]

use super::env::{Environment, until_nul};
use super::user::User;
use crate::supervisor::End;
use crate::sys::{self, process};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{self, Pid};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to start, and what it finds.
pub struct SpawnRequest<'a> {
    /// The resolved program; also its argv[0].
    pub program: &'a Path,
    pub arguments: &'a [OsString],
    pub environment: &'a Environment,
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// They become 3, 4, 5 … in this order. No other descriptor reaches the program.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Ignored unless we are root, since nobody else may change the user.
    pub user: Option<&'a User>,
    /// The working directory; `None`: ours.
    pub directory: Option<BorrowedFd<'a>>,
    /// The signal that the worker gets when we end.
    pub die_with_parent: Option<i32>,
    /// It stays in our session, with a process group of its own: it may use our terminal.
    pub keeps_session: bool,
    /// RLIMIT_NOFILE as the worker is to have it, (soft, hard).
    pub nofile: Option<(rlim_t, rlim_t)>,
}

/// What the pipe says over which a child reports the step of its start that failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// The child is the program now.
    Running,
    /// The child was killed before its exec; its end says by what.
    Killed,
    /// A step before the exec, or the exec, failed. The exit status that follows means nothing.
    Failed(End),
}

/// Reads the report of the child `pid` from our end of its pipe (`output_pipe`), which becomes
/// readable when the exec is over. To be called before the child is reaped: /proc tells of an
/// unreaped child whether it has run a program. Errors: EAGAIN while it has not reached its exec.
pub fn read_report(pipe: &OwnedFd, pid: i32) -> Result<Report, Errno> {
    let mut bytes = [0; 8192];
    Ok(match unistd::read(pipe, &mut bytes)? {
        0 if process::has_run_exec(pid) => Report::Running,
        0 => Report::Killed,
        count => serde_json::from_slice(&bytes[..count]).map_or(Report::Killed, Report::Failed),
    })
}

/// Makes the end of a worker that has failed at this step of its start, in words: "opening a pipe".
pub fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> End {
    move |error| End::Exec {
        step: step.into(),
        errno: error.into().raw_os_error().unwrap_or(0),
    }
}

/// A pipe for a worker's output, or for a report: our end to read from (close-on-exec, O_NONBLOCK)
/// and the worker's (close-on-exec until it is placed, blocking). It belongs to `user`, who could
/// not open `/dev/stdout` otherwise.
pub fn output_pipe(user: Option<&User>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    if let Some(user) = user {
        unistd::fchown(&theirs, Some(user.uid), Some(user.gid))?;
    }
    Ok((ours, theirs))
}

/// What workers get as stdin, close-on-exec, above 2: ours, or `/dev/null` where ours is closed or
/// must not be theirs. With `share` it is ours whatever it is.
pub fn worker_stdin(share: bool) -> Result<OwnedFd, Errno> {
    let stdin = sys::io::stdin();
    if share || may_be_shared(stdin) {
        if let Ok(copy) = stdin.try_clone_to_owned() {
            return Ok(copy);
        }
    }
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    open(c"/dev/null", flags, Mode::empty())
}

/// A worker whose process group is not in the foreground would be stopped when it reads our
/// terminal. And where stdin is also our stdout or stderr (a socket, as from inetd; a file; a
/// pipe), a worker could write lines into it that look like ours, or like another worker's.
fn may_be_shared(stdin: BorrowedFd) -> bool {
    let file = |fd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let is_output = |fd| match (file(stdin), file(fd)) {
        (Ok(stdin), Ok(output)) => stdin == output,
        _ => true,
    };
    !stdin.is_terminal() && !is_output(sys::io::stdout()) && !is_output(sys::io::stderr())
}

/// Forks a worker, which goes on to `request.program` by itself: this does not wait for its exec.
/// Returns its pid, which is also the number of its process group. `report` is the child's end of a
/// pipe, which the caller watches before: when the program runs, the pipe ends. The descriptors 0,
/// 1 and 2 must be open in us. Errors: there is no child.
pub fn spawn(request: &SpawnRequest, report: OwnedFd) -> Result<i32, End> {
    let parent = unistd::getpid();
    // A signal that came to the child before its exec would run our handlers there.
    process::block_signals().map_err(failed("forking"))?;
    // SAFETY: this process has one thread, so that the child finds no lock taken by another one,
    // and may allocate.
    let forked = Errno::result(unsafe { libc::fork() });
    if forked == Ok(0) {
        run_child(request, report.as_raw_fd(), parent);
    }
    // Where this fails, the loop tries again and complains: it unblocks in its second look after
    // each event, too.
    let _ = process::unblock_signals();
    forked.map_err(failed("forking"))
}

/// The child. Everything from here on runs between fork and exec, with all signals blocked until
/// the last step but one.
fn run_child(request: &SpawnRequest, mut report: RawFd, parent: Pid) -> ! {
    let Err(failure) = child_steps(request, &mut report, parent);
    // A message this small is written whole or not at all (pipe(7)).
    let message = serde_json::to_vec(&failure).unwrap_or_default();
    // SAFETY: `message` is ours and as long as said. _exit ends the child without running what the
    // parent has registered for its own exit.
    unsafe {
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// `report` is updated when the report pipe has to move.
fn child_steps(request: &SpawnRequest, report: &mut RawFd, parent: Pid) -> Result<Infallible, End> {
    if request.keeps_session {
        let own = Pid::from_raw(0);
        unistd::setpgid(own, own).map_err(failed("making a process group"))?;
    } else {
        // A process can join only a group of its own session (setpgid(2)): nobody else's can join
        // the worker's, and be taken for one of its processes.
        unistd::setsid().map_err(failed("making a session"))?;
    }
    if let Some(directory) = request.directory {
        unistd::fchdir(directory).map_err(failed("entering the working directory"))?;
    }
    place_descriptors(request, report).map_err(failed("placing the descriptors"))?;
    if let Some((soft, hard)) = request.nofile {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)
            .map_err(failed("giving back the descriptor limit"))?;
    }
    if let Some(user) = request.user.filter(|_| unistd::geteuid().is_root()) {
        // Supplementary groups first, and the user last: each needs what the next gives up.
        let step = format!("changing user to {}", user.name);
        unistd::setgroups(&user.groups)
            .map_err(failed(format!("{step} (supplementary groups)")))?;
        unistd::setresgid(user.gid, user.gid, user.gid)
            .map_err(failed(format!("{step} (group)")))?;
        unistd::setresuid(user.uid, user.uid, user.uid).map_err(failed(step))?;
    }
    if let Some(signal) = request.die_with_parent {
        // After the change of user, which would clear the request.
        process::follow_parent(parent, signal).map_err(failed("asking to die with the parent"))?;
    }
    let program = until_nul(request.program.as_os_str().as_bytes());
    let mut words = vec![program.clone()];
    let arguments = request.arguments.iter();
    words.extend(arguments.map(|word| until_nul(word.as_bytes())));
    let mut environment = request.environment.entries.clone();
    if request.environment.wants_listen_pid {
        let listen_pid = format!("LISTEN_PID={}", std::process::id());
        environment.push(until_nul(listen_pid.as_bytes()));
    }
    // Dispositions first: a signal that came since the fork is the worker's, not our handlers'.
    process::default_dispositions();
    process::unblock_signals().map_err(failed("unblocking signals"))?;
    unistd::execve(&program, &words, &environment).map_err(|errno| {
        // The program was found a moment ago, so it may be its interpreter that is missing.
        let missing = match errno {
            Errno::ENOENT => " (it or its interpreter)",
            _ => "",
        };
        failed(format!("running {}{missing}", request.program.display()))(errno)
    })
}

/// Puts every descriptor at its number. Those that stand where another belongs are copied out of
/// the way first, and so is the report pipe, which must live until exec.
fn place_descriptors(request: &SpawnRequest, report: &mut RawFd) -> Result<(), Errno> {
    let sources = request.stdio.iter().chain(request.descriptors);
    let mut sources: Vec<RawFd> = sources.map(AsRawFd::as_raw_fd).collect();
    let end = sources.len() as RawFd;
    let lift = |fd: RawFd| match fd >= end {
        true => Ok(fd),
        // SAFETY: F_DUPFD_CLOEXEC takes integers; the copy is the child's, which never closes it.
        false => Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, end) }),
    };
    *report = lift(*report)?;
    for (target, source) in (0..).zip(&mut sources) {
        if *source != target {
            *source = lift(*source)?;
        }
    }
    for (target, source) in (0..).zip(sources) {
        // SAFETY: both calls take integers. What `target` was before belongs to an object of the
        // parent's, and the child uses none that owns a descriptor.
        Errno::result(unsafe {
            if source == target {
                libc::fcntl(target, libc::F_SETFD, 0)
            } else {
                libc::dup2(source, target)
            }
        })?;
    }
    process::cloexec_from(end);
    Ok(())
}

#[cfg(test)]
mod tests;
