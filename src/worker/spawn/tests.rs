//! Real children: what a worker finds, and what a failed start reports.

use super::*;
use crate::config::Protocols;
use crate::worker::command::tests::Scratch;
use crate::worker::env::{Extras, FIRST_FD, Socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, geteuid};
use std::os::fd::{AsFd, FromRawFd};
use std::path::PathBuf;

#[allow(dead_code)]
#[path = "../../../tests/workers/refuse.rs"]
mod refuse;

/// Everything that a request borrows.
struct Trial {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Environment,
    stdin: OwnedFd,
    output: OwnedFd,
    theirs: OwnedFd,
}

/// A child, and what it reports.
#[derive(Debug)]
struct Started {
    pid: i32,
    pidfd: Option<OwnedFd>,
    report: OwnedFd,
}

fn start(request: &SpawnRequest) -> Result<Started, End> {
    let (report, theirs) = output_pipe(None).map_err(failed("opening a pipe"))?;
    let pid = spawn(request, theirs)?;
    let pidfd = process::pidfd_open(pid).ok();
    Ok(Started { pid, pidfd, report })
}

/// What became of it.
struct Finished {
    output: String,
    report: Report,
    end: End,
}

impl Trial {
    fn new(program: &str, arguments: &[&str]) -> Self {
        let (output, theirs) = output_pipe(None).unwrap();
        Trial {
            program: PathBuf::from(program),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: Environment::default(),
            stdin: open(
                c"/dev/null",
                OFlag::O_RDWR | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .unwrap(),
            output,
            theirs,
        }
    }

    fn shell(script: &str) -> Self {
        Self::new("/bin/sh", &["-c", script])
    }

    fn request(&self) -> SpawnRequest<'_> {
        SpawnRequest {
            program: &self.program,
            arguments: &self.arguments,
            environment: &self.environment,
            stdio: [self.stdin.as_fd(), self.theirs.as_fd(), self.theirs.as_fd()],
            descriptors: &[],
            user: None,
            directory: None,
            die_with_parent: None,
            keeps_session: false,
            nofile: None,
        }
    }

    /// Runs it as it is.
    fn run(self) -> Finished {
        let spawned = start(&self.request()).expect("forked");
        self.finish(spawned)
    }

    /// Waits for exec, for the end of its output and for its death.
    fn finish(self, spawned: Started) -> Finished {
        drop((self.theirs, self.stdin));
        let report = await_report(&spawned);
        let output = read_all(&self.output);
        await_readable(
            spawned.pidfd.as_ref().expect("a pidfd"),
            "the worker's death",
        );
        let end = process::reap(spawned.pid).unwrap().expect("it has ended");
        let end = crate::worker::end(end);
        Finished {
            output,
            report,
            end,
        }
    }
}

fn await_readable(fd: impl AsFd, what: &str) {
    let mut watched = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut watched, PollTimeout::from(10_000_u16)).unwrap();
    assert_eq!(ready, 1, "waited 10 s for {what}");
}

fn await_report(spawned: &Started) -> Report {
    await_readable(&spawned.report, "the report");
    read_report(&spawned.report, spawned.pid).unwrap()
}

fn read_all(fd: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    loop {
        await_readable(fd, "output");
        let mut chunk = [0; 4096];
        match unistd::read(fd, &mut chunk).unwrap() {
            0 => return String::from_utf8(bytes).unwrap(),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

/// Files that contain `file 0`, `file 1` …, open in us at whatever numbers were free.
fn files(scratch: &Scratch, count: usize) -> Vec<(String, OwnedFd)> {
    let texts = (0..count).map(|index| format!("file {index}\n"));
    let opened = texts.enumerate().map(|(index, text)| {
        let path = scratch.file(&index.to_string(), &text, 0o644);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        (text, open(&path, flags, Mode::empty()).unwrap())
    });
    opened.collect()
}

/// Asserts that a worker finds these files at 3, 4 …, in this order, and nothing else.
fn assert_placed(files: &[&(String, OwnedFd)]) {
    let last = 2 + files.len();
    let trial = Trial::shell(&format!(
        "n=3; while [ $n -le {last} ]; do cat /proc/self/fd/$n; n=$((n+1)); done; \
         exec ls /proc/self/fd | sort -n | tr '\\n' ' '"
    ));
    let descriptors: Vec<_> = files.iter().map(|(_, fd)| fd.as_fd()).collect();
    let spawned = start(&SpawnRequest {
        descriptors: &descriptors,
        ..trial.request()
    })
    .unwrap();
    let outcome = trial.finish(spawned);
    // The one after the last is ls's own, open on the directory that it lists.
    let numbers: String = (0..=last + 1).map(|number| format!("{number} ")).collect();
    let texts: String = files.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(outcome.output, texts + &numbers);
}

#[test]
fn descriptors_are_placed_whatever_numbers_they_had() {
    let scratch = Scratch::new();
    // A stray one that we inherited, without close-on-exec, above all the others.
    let stray = nix::fcntl::fcntl(std::io::stderr(), FcntlArg::F_DUPFD(200)).unwrap();
    // SAFETY: just made for this test.
    let _stray = unsafe { OwnedFd::from_raw_fd(stray) };
    let files = files(&scratch, 20);
    let forth: Vec<_> = files.iter().collect();
    let back: Vec<_> = files.iter().rev().collect();
    assert_placed(&forth);
    assert_placed(&back);
    assert_placed(&[&forth[1..], &forth[..1]].concat());
    assert_placed(&forth[15..]);
    assert_placed(&[]);
}

#[test]
fn a_descriptor_that_stands_at_its_place_already_survives_exec() {
    let scratch = Scratch::new();
    let files = files(&scratch, 24);
    let here: Vec<_> = files
        .iter()
        .map(|(_, fd)| fd.as_raw_fd() as usize)
        .collect();
    let mut order: Vec<Option<&(String, OwnedFd)>> = vec![None; files.len()];
    let mut others = Vec::new();
    for (file, number) in files.iter().zip(here) {
        match order.get_mut(number - FIRST_FD) {
            Some(place) => *place = Some(file),
            None => others.push(file),
        }
    }
    let mut others = others.into_iter();
    let order: Vec<_> = order
        .into_iter()
        .map(|file| file.or_else(|| others.next()).unwrap())
        .collect();
    assert_placed(&order);
}

#[test]
fn one_descriptor_may_be_placed_twice() {
    let scratch = Scratch::new();
    let files = files(&scratch, 2);
    assert_placed(&[&files[1], &files[0], &files[1]]);
}

#[test]
fn listen_pid_is_the_workers_own_also_under_a_wrapper_that_execs() {
    let protocols = Protocols {
        systemd: true,
        einhorn: false,
        server_starter: false,
        nginx: false,
        php_fpm: false,
    };
    let socket = Socket {
        name: "web",
        family: "AF_INET",
        server_starter: "".into(),
        php_fpm: "".into(),
    };
    let build = || {
        let none = std::iter::empty();
        Environment::build(
            none,
            std::slice::from_ref(&socket),
            protocols,
            &Extras::default(),
        )
    };
    for script in ["exec env", "exec /bin/sh -c 'exec /usr/bin/env'"] {
        let mut trial = Trial::shell(script);
        trial.environment = build();
        let spawned = start(&trial.request()).unwrap();
        let wanted = format!("LISTEN_PID={}", spawned.pid);
        let outcome = trial.finish(spawned);
        let lines: Vec<_> = outcome.output.lines().collect();
        assert!(lines.contains(&wanted.as_str()), "{wanted} in {lines:?}");
        assert!(lines.contains(&"LISTEN_FDS=1"), "{lines:?}");
    }
}

#[test]
fn a_worker_has_only_the_environment_it_was_given() {
    let mut trial = Trial::new("/usr/bin/env", &[]);
    let given = [("A".into(), "1".into()), ("B".into(), "two words".into())];
    trial.environment = Environment::build(
        given.iter(),
        &[],
        Protocols::default(),
        &Extras {
            notify_socket: Some("@x"),
            ..Extras::default()
        },
    );
    assert_eq!(trial.run().output, "A=1\nB=two words\nNOTIFY_SOCKET=@x\n");
}

#[test]
fn arguments_follow_the_resolved_path() {
    let outcome = Trial::new("/bin/sh", &["-c", r#"echo "$0|$1|$2""#, "zero", "", "b c"]).run();
    assert_eq!(outcome.output, "zero||b c\n");
    let outcome = Trial::new("/bin/cat", &["/proc/self/cmdline"]).run();
    assert_eq!(outcome.output, "/bin/cat\0/proc/self/cmdline\0");
}

#[test]
fn a_worker_leads_its_own_session_and_process_group() {
    let script =
        "read pid name state parent group session rest < /proc/$$/stat; echo $group $session";
    let trial = Trial::shell(script);
    let spawned = start(&trial.request()).unwrap();
    let wanted = format!("{0} {0}\n", spawned.pid);
    assert_eq!(trial.finish(spawned).output, wanted);
}

#[test]
fn a_worker_starts_with_an_empty_mask_and_default_dispositions() {
    // Rust's runtime ignores SIGPIPE, so there is something to undo.
    let trial = Trial::new("/bin/grep", &["-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    process::block_signals().unwrap();
    let spawned = start(&trial.request()).unwrap();
    let zero = "0000000000000000";
    let wanted = format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\n");
    assert_eq!(trial.finish(spawned).output, wanted);
}

#[test]
fn a_worker_that_ran_reports_nothing_but_the_end_of_the_pipe() {
    let outcome = Trial::shell("exit 4").run();
    assert_eq!(
        (outcome.report, outcome.end),
        (Report::Running, End::Exited(4))
    );
}

#[test]
fn a_report_is_pending_while_the_child_has_not_reached_exec() {
    let (report, _theirs) = output_pipe(None).unwrap();
    assert_eq!(read_report(&report, 1), Err(Errno::EAGAIN));
}

/// The text of a failed start, from the child's report.
fn failure(program: &Path) -> String {
    let outcome = Trial::new(program.to_str().unwrap(), &[]).run();
    assert_eq!(outcome.end, End::Exited(127));
    match outcome.report {
        Report::Failed(end) => words(end),
        other => panic!("{other:?}"),
    }
}

fn words(end: End) -> String {
    match end {
        End::Exec { step, errno } => format!("{step}: {}", crate::text::errno_text(errno)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_cannot_run_says_which_and_why() {
    let scratch = Scratch::new();
    let at = scratch.0.display();
    let text = scratch.file("text", "neither ELF nor #!\n", 0o755);
    assert_eq!(
        failure(&text),
        format!("running {at}/text: Exec format error")
    );
    let orphan = scratch.file("orphan", "#!/nonexistent/interpreter\n", 0o755);
    let missing = "(it or its interpreter): No such file or directory";
    assert_eq!(failure(&orphan), format!("running {at}/orphan {missing}"));
    let gone = scratch.0.join("gone");
    assert_eq!(failure(&gone), format!("running {at}/gone {missing}"));
    assert_eq!(
        failure(&scratch.0),
        format!("running {at}: Permission denied")
    );
}

fn web() -> User {
    User {
        uid: Uid::from_raw(40404),
        gid: Gid::from_raw(40405),
        groups: vec![Gid::from_raw(40405), Gid::from_raw(40406)],
        name: "web".to_owned(),
        home: PathBuf::from("/"),
    }
}

#[test]
fn a_worker_becomes_its_user_with_the_supplementary_groups() {
    if !geteuid().is_root() {
        return;
    }
    let user = web();
    let trial = Trial::new(
        "/bin/grep",
        &["-E", "^(Uid|Gid|Groups)", "/proc/self/status"],
    );
    let spawned = start(&SpawnRequest {
        user: Some(&user),
        ..trial.request()
    })
    .unwrap();
    let output = trial.finish(spawned).output;
    let words: Vec<_> = output.split_whitespace().collect();
    let (uid, gid) = (["40404"; 4], ["40405"; 4]);
    let wanted = [
        &["Uid:"],
        &uid[..],
        &["Gid:"],
        &gid[..],
        &["Groups:", "40405", "40406"],
    ];
    assert_eq!(words, wanted.concat());
}

#[test]
fn a_user_that_the_kernel_refuses_is_named() {
    if !geteuid().is_root() {
        return;
    }
    // One more than NGROUPS_MAX: root cannot be refused otherwise.
    let user = User {
        groups: vec![Gid::from_raw(1); 65_537],
        ..web()
    };
    let trial = Trial::new("/bin/true", &[]);
    let spawned = start(&SpawnRequest {
        user: Some(&user),
        ..trial.request()
    })
    .unwrap();
    let Report::Failed(failure) = trial.finish(spawned).report else {
        panic!("it ran");
    };
    assert_eq!(
        words(failure),
        "changing user to web (supplementary groups): Invalid argument"
    );
}

#[test]
fn a_change_of_user_that_is_refused_is_named() {
    if !geteuid().is_root() {
        return;
    }
    let user = web();
    let trial = Trial::new("/bin/true", &[]);
    let spawned = std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            refuse::refuse(libc::SYS_setresuid, libc::EPERM as u16).unwrap();
            let request = SpawnRequest {
                user: Some(&user),
                ..trial.request()
            };
            start(&request).unwrap()
        });
        refused.join().unwrap()
    });
    let Report::Failed(failure) = trial.finish(spawned).report else {
        panic!("it ran");
    };
    let text = "changing user to web: Operation not permitted";
    assert_eq!(words(failure), text);
}

#[test]
fn a_worker_with_another_user_can_open_dev_stdout() {
    if !geteuid().is_root() {
        return;
    }
    let user = web();
    let mut trial = Trial::shell("echo hello > /dev/stdout; echo again > /dev/stderr");
    (trial.output, trial.theirs) = output_pipe(Some(&user)).unwrap();
    let spawned = start(&SpawnRequest {
        user: Some(&user),
        ..trial.request()
    })
    .unwrap();
    assert_eq!(trial.finish(spawned).output, "hello\nagain\n");
}

#[test]
fn only_our_end_of_an_output_pipe_does_not_block() {
    let (ours, theirs) = output_pipe(None).unwrap();
    let flags = |fd: &OwnedFd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    assert!(flags(&ours).contains(OFlag::O_NONBLOCK));
    assert!(!flags(&theirs).contains(OFlag::O_NONBLOCK));
}

#[test]
fn the_descriptor_limit_is_given_back() {
    let (_, hard) = process::raise_nofile().unwrap();
    let trial = Trial::shell("ulimit -Sn; ulimit -Hn");
    let spawned = start(&SpawnRequest {
        nofile: Some((77, hard)),
        ..trial.request()
    })
    .unwrap();
    let output = trial.finish(spawned).output;
    assert_eq!(output.lines().next(), Some("77"));
    let raised = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(raised, (hard, hard));
}

#[test]
fn a_worker_starts_in_the_directory_it_was_given() {
    let scratch = Scratch::new();
    scratch.file("serve", "#!/bin/sh\nexec pwd -P\n", 0o755);
    let directory = crate::worker::command::open_directory(&scratch.0)
        .unwrap()
        .unwrap();
    let trial = Trial::new("./serve", &[]);
    let request = SpawnRequest {
        directory: Some(directory.as_fd()),
        ..trial.request()
    };
    let spawned = start(&request).unwrap();
    let wanted = format!("{}\n", scratch.0.canonicalize().unwrap().display());
    assert_eq!(trial.finish(spawned).output, wanted);
}

#[test]
fn a_worker_dies_with_the_thread_that_started_it() {
    let (stdin, held) = unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut trial = Trial::new("/bin/cat", &[]);
    trial.stdin = stdin;
    let spawned = std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            let request = SpawnRequest {
                die_with_parent: Some(libc::SIGUSR2),
                ..trial.request()
            };
            let spawned = start(&request).unwrap();
            await_readable(&spawned.report, "exec");
            spawned
        });
        started.join().unwrap()
    });
    let outcome = trial.finish(spawned);
    drop(held);
    assert_eq!(
        outcome.end,
        End::Signaled {
            signal: libc::SIGUSR2,
            core_dumped: false
        }
    );
}

#[test]
fn without_pidfds_a_worker_is_started_all_the_same() {
    let trial = Trial::new("/bin/true", &[]);
    let mut spawned = std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            refuse::refuse(libc::SYS_pidfd_open, libc::ENOSYS as u16).unwrap();
            start(&trial.request()).unwrap()
        });
        refused.join().unwrap()
    });
    assert!(spawned.pidfd.is_none());
    spawned.pidfd = process::pidfd_open(spawned.pid).ok();
    assert_eq!(trial.finish(spawned).end, End::Exited(0));
}

#[test]
fn a_kill_reaches_the_workers_whole_group() {
    let trial = Trial::shell("sleep 600 & echo started; wait");
    let spawned = start(&trial.request()).unwrap();
    await_readable(&trial.output, "the worker's first line");
    process::signal_group(spawned.pid, libc::SIGKILL).unwrap();
    // The pipe ends only when the grandchild has let go of it, too.
    let outcome = trial.finish(spawned);
    assert_eq!(outcome.output, "started\n");
    assert_eq!(
        outcome.end,
        End::Signaled {
            signal: libc::SIGKILL,
            core_dumped: false
        }
    );
}

#[test]
fn the_workers_stdin_stays_out_of_the_sockets_way() {
    let stdin = worker_stdin(false).unwrap();
    assert!(stdin.as_raw_fd() > 2);
    let flags = fcntl(&stdin, FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, libc::FD_CLOEXEC);
}
