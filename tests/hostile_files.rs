//! The files that we keep at paths where others may have put something: the pid file, and einhorn's
//! lock file and pid file. Nobody makes us write to, change, remove, trust or wait for a file that is
//! not ours, and nobody who can only read ours keeps us from starting.

mod common;

use common::strace::{injected, injected_at};
use common::{Run, TempDir, root_or_skip, worker};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A user who is neither root nor anybody in particular.
const NOBODY: u32 = 65534;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The program with `-pidfile`, and a worker that leaves at once.
fn with_pidfile(path: &str) -> Run {
    Run::worker(&["-start=0", &format!("-pidfile={path}")], &["exit", "0"])
}

/// The program as einhorn, with its default files in this directory.
fn einhorn(dir: &TempDir) -> Run {
    Run::bare()
        .env("TMPDIR", dir.path())
        .args(&["einhorn", "-m", "0", &worker(), "silent"])
}

#[track_caller]
fn is_refused(output: &Output, path: &Path, reason: &str) {
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let line = log.lines().find(|line| line.contains(reason));
    let line = line.unwrap_or_else(|| panic!("no {reason:?} in {log}"));
    assert!(line.contains(path.to_str().expect("UTF-8")), "{line}");
}

/// What an attacker may put in the place of a file, and what we say to it.
type Plant = (&'static str, fn(&Path, &Path), &'static str);

const PLANTS: [Plant; 4] = [
    (
        "a symbolic link",
        |victim, path| symlink(victim, path).expect("it is ours"),
        "it is a symbolic link; remove it, or",
    ),
    (
        "a hard link",
        |victim, path| fs::hard_link(victim, path).expect("it is ours"),
        "it has 2 names (hard links); remove it, or",
    ),
    (
        "a FIFO",
        |_, path| make_fifo(path),
        "it is a FIFO; remove it, or",
    ),
    (
        "a file of another user",
        |_, path| make_file_of(NOBODY, path),
        "it belongs to user 65534, who is neither root nor us; remove it, or",
    ),
];

fn make_fifo(path: &Path) {
    mknod(path, SFlag::S_IFIFO, Mode::from_bits_truncate(0o666), 0).expect("the directory is ours");
}

fn make_file_of(user: u32, path: &Path) {
    fs::write(path, "1").expect("the directory is ours");
    chown(path, Some(user), Some(user)).expect("we are root");
}

/// Each of the plants, in a sticky directory as /tmp is one, at `name`. The start is refused, in one
/// line, and what was planted and what it leads to are left as they were.
fn plants_are_refused(name: &str, run: impl Fn(&TempDir) -> Run) {
    if !root_or_skip() {
        return;
    }
    for (plant, put, reason) in PLANTS {
        let (dir, elsewhere) = (TempDir::new(), TempDir::new());
        let sticky = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(dir.path(), sticky).expect("the directory is ours");
        let victim = elsewhere.write("victim", "precious");
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("it is ours");
        put(&victim, &dir.join(name));
        let before = fs::symlink_metadata(dir.join(name)).expect("it was planted");

        let output = run(&dir).output();

        is_refused(&output, &dir.join(name), reason);
        let after = fs::symlink_metadata(dir.join(name)).expect("it is still there");
        let facts = |it: &fs::Metadata| (it.ino(), it.mode(), it.uid(), it.len());
        assert_eq!(facts(&after), facts(&before), "{plant}");
        assert_eq!(fs::read_to_string(&victim).expect("it is ours"), "precious");
        let mode = fs::metadata(&victim).expect("it is ours").mode();
        assert_eq!(mode & 0o777, 0o600, "{plant}");
    }
}

#[test]
fn what_another_user_planted_at_the_pid_file_s_path_is_refused_and_left_alone() {
    plants_are_refused("pid", |dir| with_pidfile(&dir.word("pid")));
}

#[test]
fn what_another_user_planted_at_einhorn_s_pid_file_s_path_is_refused_and_left_alone() {
    plants_are_refused("einhorn.pid", einhorn);
}

#[test]
fn what_another_user_planted_at_einhorn_s_lock_file_s_path_is_refused_and_left_alone() {
    plants_are_refused("einhorn.lock", einhorn);
}

#[test]
fn a_fifo_that_somebody_writes_to_does_not_make_us_wait() {
    let dir = TempDir::new();
    make_fifo(&dir.join("pid"));
    let holder = fs::File::options()
        .read(true)
        .write(true)
        .open(dir.join("pid"));
    let output = with_pidfile(&dir.word("pid")).output();
    is_refused(&output, &dir.join("pid"), "it is a FIFO; remove it, or");
    drop(holder);
}

/// A process of another user that has opened the file for reading, holds it by flock(2), and would
/// lock it any other way that a reader can.
fn reader_with_locks(path: &Path) -> Child {
    let script = format!(
        "exec 3<{} && flock -n 3 && echo locked && read line",
        path.display()
    );
    let mut reader = Command::new("setpriv")
        .args([
            &format!("--reuid={NOBODY}"),
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv is there");
    let mut line = String::new();
    BufReader::new(reader.stdout.take().expect("it is a pipe"))
        .read_line(&mut line)
        .expect("it is a pipe");
    assert_eq!(line, "locked\n");
    reader
}

fn end(mut reader: Child) {
    drop(reader.stdin.take());
    reader.wait().expect("it is our child");
}

#[test]
fn a_reader_of_the_pid_file_cannot_keep_us_from_starting_again() {
    if !root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    // As a crash leaves it.
    dir.write("pid", "4000000\n");
    let reader = reader_with_locks(&dir.join("pid"));
    let path = dir.word("pid");
    let flag = format!("-pidfile={path}");
    let daemon = Run::worker(&["-start=0", &flag], &["up"]).start();
    daemon.wait_until_live();
    let content = fs::read_to_string(&path).expect("it is there");
    assert_eq!(content, format!("{}\n", daemon.pid()));
    let second = with_pidfile(&path).output();
    let reason = format!("another instance runs (pid {})", daemon.pid());
    is_refused(&second, &dir.join("pid"), &reason);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(dir.names(), [""; 0]);
    end(reader);
}

#[test]
fn a_reader_of_einhorn_s_lock_file_cannot_keep_it_from_starting() {
    if !root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    dir.write("einhorn.lock", "");
    let reader = reader_with_locks(&dir.join("einhorn.lock"));
    let daemon = einhorn(&dir).start();
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
    end(reader);
}

#[test]
fn a_pid_file_that_cannot_be_examined_locked_or_written_leaves_none_behind() {
    for (fault, word) in [
        (
            "newfstatat,fstat,statx:error=EIO:when=1",
            "Input/output error",
        ),
        ("fcntl:error=ENOLCK", "No locks available"),
        ("write:error=ENOSPC", "No space left on device"),
    ] {
        let dir = TempDir::new();
        let path = dir.word("pid");
        let Some(run) = injected_at(with_pidfile(&path), &path, &[fault]) else {
            return;
        };
        is_refused(&run.output(), &dir.join("pid"), word);
        assert_eq!(dir.names(), [""; 0], "{fault}");
    }
}

#[test]
fn an_einhorn_pid_file_that_cannot_be_written_leaves_none_behind() {
    let (fault, word) = ("write:error=ENOSPC", "No space left on device");
    let dir = TempDir::new();
    let path = dir.word("einhorn.pid");
    let Some(run) = injected_at(einhorn(&dir), &path, &[fault]) else {
        return;
    };
    is_refused(&run.output(), &dir.join("einhorn.pid"), word);
    assert_eq!(dir.names(), ["einhorn.lock"]);
}

#[test]
fn a_pid_file_that_cannot_be_removed_at_the_end_is_named_in_the_log() {
    let dir = TempDir::new();
    let path = dir.word("pid");
    let run = with_pidfile(&path);
    let Some(run) = injected(run, &["unlink,unlinkat:error=EROFS"]) else {
        return;
    };
    let output = run.output();
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let wanted = format!("cannot remove pid file {path}: Read-only file system; it stays behind");
    assert!(log.contains(&wanted), "{log}");
}

#[test]
fn a_directory_that_others_can_write_is_named_and_the_start_goes_on() {
    let dir = TempDir::new();
    let path = dir.word("pid");
    let said = || text(&with_pidfile(&path).output().stderr);
    assert!(!said().contains("proves nothing"), "{}", said());
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(dir.path(), open).expect("the directory is ours");
    let wanted = format!(
        "pid file {path} proves nothing: {} can be written by everybody",
        dir.path().display()
    );
    let log = said();
    assert!(log.contains(&wanted), "{log}");
    assert!(log.contains("exiting with status 0"), "{log}");
}

/// For how long an attacker tries, in seconds: more in a run by hand.
fn attack_time() -> Duration {
    let seconds = std::env::var("SOCKETMASTER_ATTACK").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// Dropped, it says that all is over.
struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn somebody_who_keeps_swapping_what_stands_at_the_path_never_gets_at_another_file() {
    let (dir, elsewhere) = (TempDir::new(), TempDir::new());
    let victim = elsewhere.write("victim", "precious");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let over = AtomicBool::new(false);
    let path = dir.word("pid");
    // The scope waits for the attacker, also when an assertion fails.
    thread::scope(|scope| {
        let _told = Told(&over);
        scope.spawn(|| {
            let draft = dir.join("draft");
            let plants: [fn(&Path, &Path); 4] = [
                |victim, path| drop(symlink(victim, path)),
                |victim, path| drop(fs::hard_link(victim, path)),
                |victim, path| drop(symlink(victim.with_extension("new"), path)),
                |_, path| drop(fs::write(path, "1")),
            ];
            for put in plants.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                put(&victim, &draft);
                let _ = fs::rename(&draft, dir.join("pid"));
                // rename(2) does nothing where both names are links to one file.
                let _ = fs::remove_file(&draft);
                let _ = fs::remove_file(dir.join("pid"));
            }
        });
        let deadline = Instant::now() + attack_time();
        let (mut refused, mut ran) = (0, 0);
        while Instant::now() < deadline {
            match with_pidfile(&path).output().status.code() {
                Some(0) => ran += 1,
                Some(1) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        println!("{ran} ran, {refused} were refused");
    });
    assert_eq!(
        fs::read_to_string(&victim).expect("it is there"),
        "precious"
    );
    assert_eq!(
        fs::metadata(&victim).expect("it is there").mode() & 0o777,
        0o600
    );
    assert_eq!(elsewhere.names(), ["victim"]);
}

/// A lock on the whole file, asked for by a process that may only read it.
fn read_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn a_reader_of_the_pid_file_who_locks_it_does_not_keep_us_from_starting() {
    let dir = TempDir::new();
    let path = dir.write("pid", "1\n");
    let reader = fs::File::open(&path).expect("it is there");
    fcntl(&reader, FcntlArg::F_OFD_SETLK(&read_lock())).expect("nobody has it");
    let flag = format!("-pidfile={}", path.display());
    let daemon = Run::worker(&["-start=0", &flag], &["up"]).start();
    daemon.wait_until_live();
    let pid = fs::read_to_string(&path).expect("it is there");
    assert_eq!(pid, format!("{}\n", daemon.real_pid()));
    // The second instance is kept out all the same.
    let second = with_pidfile(&path.display().to_string()).output();
    is_refused(&second, &path, "another instance runs");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(fs::read_dir(dir.path()).expect("it is ours").count(), 0);
}

#[test]
fn a_directory_that_its_user_replaced_by_a_link_leads_us_nowhere() {
    if !root_or_skip() {
        return;
    }
    let dir = TempDir::new();
    for name in ["theirs", "ours", "own"] {
        fs::create_dir(dir.join(name)).expect("it is ours");
    }
    chown(dir.join("theirs"), Some(NOBODY), None).expect("we are root");
    chown(dir.join("own"), Some(NOBODY), None).expect("we are root");
    fs::write(dir.join("ours/pid"), "precious").expect("it is ours");
    let link = dir.join("theirs/run");
    let lead_to = |name: &str| {
        let _ = fs::remove_file(&link);
        symlink(dir.join(name), &link).expect("it is ours");
        lchown(&link, Some(NOBODY), None).expect("we are root");
    };
    lead_to("ours");
    let pid = link.join("pid");
    let refused = with_pidfile(&pid.display().to_string()).output();
    is_refused(
        &refused,
        &pid,
        "leads through a symbolic link of user 65534",
    );
    let listen = format!("-listen=unix://{}", link.join("socket").display());
    let refused = Run::bare()
        .args(&[&listen, "-start=0", "-command=true"])
        .output();
    is_refused(
        &refused,
        &link,
        "leads through a symbolic link of user 65534",
    );
    let names: Vec<_> = fs::read_dir(dir.join("ours"))
        .expect("it is ours")
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let kept = fs::read_to_string(dir.join("ours/pid")).expect("it is there");
    assert_eq!(kept, "precious");
    // To a directory of its own it may lead, as a deploy's `current` does.
    lead_to("own");
    let daemon = Run::bare()
        .args(&[&listen, "-start=0", &format!("-pidfile={}", pid.display())])
        .args(&["-command=sleep", "100"])
        .start();
    daemon.wait_until_live();
    assert_eq!(daemon.stop(), 0);
}
