//! Workers and surroundings that mean no good, or none in particular: what they cannot do to us.

mod common;

use common::{Run, TempDir, facts};
use nix::sys::signal::Signal;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_worker_cannot_leave_its_process_group_and_is_killed_with_it() {
    let daemon = Run::worker(&["-start=0", "-stop=300"], &["leave-group"]).start();
    daemon.worker_that_said("cannot leave: EPERM");
    daemon.worker_that_said("up");
    daemon.stop();
    assert_eq!(daemon.count("signal: killed"), 1);
}

#[test]
fn a_log_file_at_its_largest_costs_lines_and_not_the_service() {
    let dir = TempDir::new();
    let log = File::create(dir.join("log")).expect("the directory is ours");
    let daemon = Run::bare()
        .after_shell("ulimit -f 1")
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh", "--"])
        .args(&["-c", "yes | head -n 10000; exec sleep 60"])
        .start_with_stderr(Stdio::from(log));
    let is_full = || std::fs::metadata(dir.join("log")).is_ok_and(|log| log.len() >= 512);
    daemon.wait_until("the log to be full", is_full);
    daemon.stays_up_for(Duration::from_millis(1500));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit().code(), Some(0));
}

#[test]
fn workers_that_crash_on_and_on_beside_a_stuck_log_cost_a_bounded_number_of_descriptors() {
    let mut daemon = Run::bare()
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-respawn"])
        .args(&["-workers=40", "-command=sh", "--", "-c"])
        .arg("head -c 50000 /dev/zero | tr '\\0' x; echo; exit 1")
        .start_unread();
    let pipes = |pid| {
        let fds = facts::open_fds(pid);
        fds.iter()
            .filter(|(_, what)| what.starts_with("pipe:"))
            .count()
    };
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(8);
    daemon.wait_until("eight seconds of crashes", || {
        most = most.max(pipes(daemon.pid()));
        Instant::now() > deadline
    });
    // 64 and one of each worker; two of those that have just been started; the log, and a few that
    // we were started with.
    assert!(most > 64, "{most}: the log was not stuck");
    assert!(most < 64 + 40 + 2 * 40 + 30, "{most} pipes");
    daemon.read_log();
    daemon.wait_for_line("closing the output of worker");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
}

#[test]
fn a_service_manager_that_reads_nothing_does_not_keep_our_sockets_open_after_the_stop() {
    let dir = TempDir::new();
    let silent = UnixDatagram::bind(dir.join("notify")).expect("the directory is ours");
    let other = UnixDatagram::unbound().expect("a socket can be made");
    other.set_nonblocking(true).expect("it is a socket");
    // What is sent from now on waits with us.
    while other.send_to(b"STATUS=full", dir.join("notify")).is_ok() {}
    let daemon = Run::bare()
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .args(&["-listen=tcp://127.0.0.1:0", "-start=0", "-command=sh", "--"])
        .args(&["-c", "exec 3>&-; trap '' TERM; echo up; exec sleep 60"])
        .start();
    let address = ("127.0.0.1", daemon.address().port());
    daemon.worker_that_said("up");
    assert!(TcpStream::connect(address).is_ok(), "we hold the socket");
    daemon.signal(Signal::SIGTERM);
    let refused = || TcpStream::connect(address).is_err();
    daemon.wait_until("clients to be refused", refused);
    assert!(daemon.exit_status().is_none(), "a worker is left");
    drop(silent);
}

#[test]
fn a_service_manager_that_is_not_there_costs_no_processor_time() {
    let dir = TempDir::new();
    drop(UnixDatagram::bind(dir.join("dead")).expect("the directory is ours"));
    for name in ["nowhere", "dead"] {
        let daemon = Run::worker(&["-start=0"], &["up"])
            .env("NOTIFY_SOCKET", dir.join(name))
            .start();
        daemon.wait_for_line("cannot notify systemd at");
        daemon.wait_until_live();
        daemon.wait_until_idle();
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn a_service_manager_that_comes_back_is_told() {
    let dir = TempDir::new();
    let daemon = Run::worker(&["-start=0"], &["up"])
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .start();
    daemon.wait_for_line("cannot notify systemd at");
    daemon.wait_until_live();
    let back = UnixDatagram::bind(dir.join("notify")).expect("the directory is ours");
    back.set_nonblocking(true).expect("it can be set");
    daemon.wait_until("READY=1", || {
        let mut datagram = [0; 4096];
        let length = back.recv(&mut datagram).unwrap_or(0);
        datagram[..length].starts_with(b"READY=1")
    });
    assert_eq!(daemon.stop(), 0);
}
