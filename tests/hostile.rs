//! Workers and surroundings that mean no good, or none in particular: what they cannot do to us.

mod common;

use common::{LIMIT, Run, TempDir, facts};
use nix::sys::signal::Signal;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_worker_that_has_left_its_group_is_killed_all_the_same() {
    let daemon = Run::worker(&["-start=0", "-stop=300"], &["leave-group"]).start();
    daemon.worker_that_said("up");
    daemon.stop();
    assert_eq!(daemon.count("signal: killed"), 1);
}
