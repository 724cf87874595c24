//! Starting a worker: fork, the child's steps up to execve, and the report of the step that
//! failed. Everything is allocated before the fork; the child only calls the kernel, and tells
//! (step, errno) over a close-on-exec pipe. It decides nothing: what to run, as whom and with
//! which descriptors is in the `Order`. It waits for no more than a child's first step.
#![allow(unsafe_code)]

use crate::environment::{Environment, FIRST_FD, until_nul};
use crate::supervisor::End;
use crate::sys::io;
use crate::sys::process;
use crate::user::User;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{self, Pid};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to start, and the world it finds.
pub struct Order<'a> {
    /// The resolved program; also its argv[0].
    pub program: &'a Path,
    pub arguments: &'a [OsString],
    pub environment: &'a Environment,
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    /// They become 3, 4, 5 … in this order; whatever else is open stays behind.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Ignored unless we are root: others can only be who they are.
    pub user: Option<&'a User>,
    /// Where the worker starts; `None`: in our own working directory.
    pub directory: Option<BorrowedFd<'a>>,
    /// The signal that the worker gets when the thread that started it ends.
    pub die_with_parent: Option<i32>,
    /// RLIMIT_NOFILE to give back, (soft, hard).
    pub nofile: Option<(rlim_t, rlim_t)>,
    /// Whether to open a pidfd, as `probe_pidfd` found.
    pub pidfd: bool,
}

/// A worker that has been forked. Whether it became the program is in its report pipe.
#[derive(Debug)]
pub struct Spawned {
    /// Also the number of its process group.
    pub pid: i32,
    /// `None` without `Order::pidfd`, or when there was no descriptor left for it: SIGCHLD and
    /// `next_dead` will tell of its end.
    pub pidfd: Option<OwnedFd>,
}

/// What a child reports through, made before there is one: where our end cannot be watched, none
/// is started.
#[derive(Debug)]
pub struct ReportPipe {
    ours: OwnedFd,
    /// Until the fork.
    theirs: Option<OwnedFd>,
}

impl ReportPipe {
    pub fn new() -> Result<ReportPipe, Failure> {
        let (ours, theirs) = Step::Pipe.at(report_pipe())?;
        Ok(ReportPipe {
            ours,
            theirs: Some(theirs),
        })
    }
}

/// Our end: it becomes readable when exec is over; for `read_report`. Close-on-exec, O_NONBLOCK.
impl AsFd for ReportPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

/// What a report pipe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The child is still on its way to exec.
    Pending,
    /// It cannot be read now.
    Unread,
    /// It is the program now, or it was killed before ([`process::has_run_exec`] knows).
    Running,
    /// It has not become the program; its exit status 127 that follows means nothing.
    Failed(Failure),
}

/// The step that failed on the way to a running program, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub step: Step,
    pub errno: Errno,
}

/// The steps of a start; those from `Group` on are the child's, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Pipe,
    Fork,
    Group,
    Directory,
    Descriptors,
    Limits,
    UserGroups,
    UserGroup,
    User,
    Parent,
    Signals,
    Exec,
}

impl Step {
    const ALL: [Step; 12] = [
        Step::Pipe,
        Step::Fork,
        Step::Group,
        Step::Directory,
        Step::Descriptors,
        Step::Limits,
        Step::UserGroups,
        Step::UserGroup,
        Step::User,
        Step::Parent,
        Step::Signals,
        Step::Exec,
    ];

    fn at<T>(self, result: Result<T, Errno>) -> Result<T, Failure> {
        result.map_err(|errno| Failure { step: self, errno })
    }
}

impl Failure {
    /// The failure as the worker's end, with the step in words: "changing user to web", "running
    /// /usr/sbin/nginx".
    pub fn end(self, program: &Path, user: Option<&User>) -> End {
        End::Exec {
            step: self.text(program, user),
            errno: self.errno as i32,
        }
    }

    fn text(self, program: &Path, user: Option<&User>) -> String {
        let user = user.map_or("nobody else", |user| &user.name);
        let program = program.display();
        match self.step {
            Step::Pipe => "opening a pipe".to_owned(),
            Step::Fork => "forking".to_owned(),
            Step::Group => "making a process group".to_owned(),
            Step::Directory => "entering the working directory".to_owned(),
            Step::Descriptors => "placing the descriptors".to_owned(),
            Step::Limits => "giving back the descriptor limit".to_owned(),
            Step::UserGroups => format!("changing user to {user} (supplementary groups)"),
            Step::UserGroup => format!("changing user to {user} (group)"),
            Step::User => format!("changing user to {user}"),
            Step::Parent => "asking to die with the parent".to_owned(),
            Step::Signals => "unblocking signals".to_owned(),
            // The program was found a moment ago, so it is what it names in its turn.
            Step::Exec if self.errno == Errno::ENOENT => {
                format!("running {program} (it or its interpreter)")
            }
            Step::Exec => format!("running {program}"),
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        let (step, errno) = (self.step as u32, self.errno as u32);
        (u64::from(step) << 32 | u64::from(errno)).to_ne_bytes()
    }

    fn from_bytes(bytes: [u8; 8]) -> Self {
        let both = u64::from_ne_bytes(bytes);
        let step = Step::ALL
            .get((both >> 32) as usize)
            .copied()
            .unwrap_or(Step::Exec);
        Failure {
            step,
            errno: Errno::from_raw(both as u32 as i32),
        }
    }
}

/// Reads the report of a child without blocking. Ask it before the child is reaped: of a
/// worker that never ran, the report has the reason and the exit status has not.
pub fn read_report(report: BorrowedFd) -> Report {
    let mut bytes = [0; 8];
    match unistd::read(report, &mut bytes) {
        Err(Errno::EAGAIN | Errno::EINTR) => Report::Pending,
        // Written at once by write(2), a message this small arrives whole or not at all.
        Ok(8) => Report::Failed(Failure::from_bytes(bytes)),
        Ok(_) => Report::Running,
        Err(_) => Report::Unread,
    }
}

/// A pipe for a worker's output: our end (close-on-exec, O_NONBLOCK) and the worker's
/// (close-on-exec until it is placed, blocking). It belongs to `user`, who could not open
/// `/dev/stdout` otherwise.
pub fn output_pipe(user: Option<&User>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = report_pipe()?;
    let ours = ours;
    if let Some(user) = user {
        unistd::fchown(&theirs, Some(user.uid), Some(user.gid))?;
    }
    Ok((ours, theirs))
}

/// A pipe, both ends close-on-exec, of which only the end to read from does not block.
fn report_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}

/// What workers get as stdin, close-on-exec, above 2: ours, or `/dev/null` where ours is closed or
/// must not be theirs. `share`: it is theirs whatever it is, as the other two are.
pub fn worker_stdin(share: bool) -> Result<OwnedFd, Errno> {
    let stdin = io::stdin();
    if share || may_be_shared(stdin) {
        if let Ok(fd) = fcntl(stdin, FcntlArg::F_DUPFD_CLOEXEC(FIRST_FD as RawFd)) {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    open(
        c"/dev/null",
        OFlag::O_RDWR | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// A worker whose process group is not in the foreground would be stopped when it reads our
/// terminal. And what is at the same time our stdout or stderr (a socket, as from inetd; a file; a
/// pipe) takes lines that look like ours, or like another worker's.
fn may_be_shared(stdin: BorrowedFd) -> bool {
    let file = |fd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let is_output = |fd| match (file(stdin), file(fd)) {
        (Ok(stdin), Ok(output)) => stdin == output,
        // Not known to be another.
        _ => true,
    };
    !stdin.is_terminal() && !is_output(io::stdout()) && !is_output(io::stderr())
}

/// Forks a worker and sends it on its way to `order.program`, without waiting for it to get
/// there. An error: there is no child, or one that ends and is nobody's. The descriptors 0, 1 and 2 must be open in us (or the
/// pipes made here would take their numbers).
pub fn spawn(order: &Order, pipe: &mut ReportPipe) -> Result<Spawned, Failure> {
    // It is closed here when this returns: then the child's end is the pipe's.
    let writer = Step::Pipe.at(pipe.theirs.take().ok_or(Errno::EPIPE))?;
    let mut plan = Plan::new(order, &writer);
    let blocked = Step::Fork.at(process::SignalsBlocked::new())?;
    // SAFETY: the child runs `become_worker` only, which allocates nothing and takes no lock, so
    // whatever state other threads' locks are in does not matter to it.
    let pid = Step::Fork.at(Errno::result(unsafe { libc::fork() }))?;
    if pid == 0 {
        become_worker(&mut plan);
    }
    drop(blocked);
    // The child does it too; whichever comes first, the group is there when either goes on.
    let _ = unistd::setpgid(Pid::from_raw(pid), Pid::from_raw(pid));
    let pidfd = order.pidfd.then(|| process::pidfd_open(pid).ok()).flatten();
    Ok(Spawned { pid, pidfd })
}

/// An order in the kernel's terms, with all memory that the child will need.
struct Plan<'a> {
    order: &'a Order<'a>,
    /// What `argv` points into.
    _words: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    /// Ends in NULL, with one NULL more before it where LISTEN_PID will be put.
    envp: Vec<*const libc::c_char>,
    listen_pid: Vec<u8>,
    /// Where descriptor 0, 1, 2, 3 … comes from.
    sources: Vec<RawFd>,
    report: RawFd,
    parent: i32,
    user: Option<&'a User>,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Ten digits of the largest pid_t and a NUL.
const LISTEN_PID_ROOM: usize = LISTEN_PID.len() + 11;

impl<'a> Plan<'a> {
    fn new(order: &'a Order<'a>, report: &OwnedFd) -> Self {
        let words = [order.program.as_os_str()].into_iter();
        let words = words.chain(order.arguments.iter().map(OsString::as_os_str));
        let words: Vec<CString> = words.map(|word| until_nul(word.as_bytes())).collect();
        let slot = usize::from(order.environment.wants_listen_pid());
        let mut sources = vec![order.stdin, order.stdout, order.stderr];
        sources.extend_from_slice(order.descriptors);
        Plan {
            order,
            argv: pointers(&words, 1),
            _words: words,
            envp: pointers(order.environment.entries(), 1 + slot),
            listen_pid: vec![0; LISTEN_PID_ROOM],
            sources: sources.iter().map(AsRawFd::as_raw_fd).collect(),
            report: report.as_raw_fd(),
            parent: std::process::id() as i32,
            user: order.user.filter(|_| unistd::geteuid().is_root()),
        }
    }
}

/// The array that execve(2) takes: a pointer to each string, and this many nulls.
fn pointers(strings: &[CString], nulls: usize) -> Vec<*const libc::c_char> {
    let strings = strings.iter().map(|string| string.as_ptr());
    strings
        .chain(std::iter::repeat_n(std::ptr::null(), nulls))
        .collect()
}

/// The child: everything below runs between fork and exec, with all signals blocked until its
/// last step, and allocates nothing.
fn become_worker(plan: &mut Plan) -> ! {
    let Err(failure) = steps(plan);
    let bytes = failure.to_bytes();
    // SAFETY: `bytes` is ours and eight bytes long. _exit ends the child without running what the
    // parent has registered for its own exit.
    unsafe {
        libc::write(plan.report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}

fn steps(plan: &mut Plan) -> Result<Infallible, Failure> {
    Step::Group.at(unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)))?;
    if let Some(directory) = plan.order.directory {
        Step::Directory.at(unistd::fchdir(directory))?;
    }
    Step::Descriptors.at(place_descriptors(plan))?;
    if let Some((soft, hard)) = plan.order.nofile {
        Step::Limits.at(setrlimit(Resource::RLIMIT_NOFILE, soft, hard))?;
    }
    if let Some(user) = plan.user {
        change_user(user)?;
    }
    if let Some(signal) = plan.order.die_with_parent {
        // After the change of user, which would clear the request.
        let alive = Step::Parent.at(process::follow_parent(plan.parent, signal))?;
        Step::Parent.at(if alive { Ok(()) } else { Err(Errno::ESRCH) })?;
    }
    write_listen_pid(plan);
    // Dispositions first: a signal that arrived since the fork is the worker's, not our handlers'.
    process::default_dispositions();
    Step::Signals.at(process::unblock_signals())?;
    Step::Exec.at(execute(plan))
}

/// Supplementary groups first, and the user last: each needs what the next gives up.
fn change_user(user: &User) -> Result<(), Failure> {
    Step::UserGroups.at(unistd::setgroups(&user.groups))?;
    Step::UserGroup.at(unistd::setresgid(user.gid, user.gid, user.gid))?;
    Step::User.at(unistd::setresuid(user.uid, user.uid, user.uid))
}

/// Puts every descriptor at its number. Sources that stand where another belongs are lifted out
/// of the way first, and so is the report, which must live until exec.
fn place_descriptors(plan: &mut Plan) -> Result<(), Errno> {
    let end = plan.sources.len() as RawFd;
    plan.report = lift(plan.report, end)?;
    for (target, source) in (0..).zip(&mut plan.sources) {
        if *source != target {
            *source = lift(*source, end)?;
        }
    }
    for (target, source) in (0..).zip(&plan.sources) {
        place(*source, target)?;
    }
    process::cloexec_from(end);
    Ok(())
}

/// `fd`, or a close-on-exec copy of it at `end` or above if it is below.
fn lift(fd: RawFd, end: RawFd) -> Result<RawFd, Errno> {
    if fd >= end {
        return Ok(fd);
    }
    // SAFETY: F_DUPFD_CLOEXEC takes integers; the copy is the child's, which never closes it.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, end) })
}

/// Makes `target` a copy of `source` that survives exec.
fn place(source: RawFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: both calls take integers. What `target` was before belongs to the parent, whose
    // table this is not: the child uses no object of the parent's that owns a descriptor.
    Errno::result(unsafe {
        if source == target {
            libc::fcntl(target, libc::F_SETFD, 0)
        } else {
            libc::dup2(source, target)
        }
    })
    .map(drop)
}

fn write_listen_pid(plan: &mut Plan) {
    if !plan.order.environment.wants_listen_pid() {
        return;
    }
    listen_pid(process::own_pid(), &mut plan.listen_pid);
    let slot = plan.order.environment.entries().len();
    plan.envp[slot] = plan.listen_pid.as_ptr().cast();
}

/// Writes `LISTEN_PID=` and `pid` without padding into `room`, which is all NUL and large enough.
fn listen_pid(pid: u32, room: &mut [u8]) {
    let digits = pid.checked_ilog10().unwrap_or(0) as usize + 1;
    let (name, value) = room.split_at_mut(LISTEN_PID.len());
    name.copy_from_slice(LISTEN_PID);
    let mut rest = pid;
    for digit in value[..digits].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn execute(plan: &Plan) -> Result<Infallible, Errno> {
    // SAFETY: both arrays end in NULL, and every pointer before it is to a NUL-terminated string
    // that `plan` or its order owns.
    unsafe { libc::execve(plan.argv[0], plan.argv.as_ptr(), plan.envp.as_ptr()) };
    Err(Errno::last())
}

#[cfg(test)]
mod tests;
