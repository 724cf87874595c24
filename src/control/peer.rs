//! Who is at the other end of a connection, and whether that is a worker or its offspring: only
//! what the kernel says counts. It changes nothing.

use crate::supervisor::ChildId;
use crate::sys::proc;
use nix::sys::socket::{getsockopt, sockopt};
use std::os::fd::BorrowedFd;

/// The process that connected (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// 0: outside our PID namespace.
    pub pid: i32,
    pub uid: u32,
    /// When it started, in clock ticks since boot: a number that a later process with its pid
    /// does not have. `None`: it was gone already.
    started: Option<u64>,
    /// The connection was given to this worker, whoever uses it.
    pub worker: Option<ChildId>,
}

impl Peer {
    /// The other end of a connection that was accepted a moment ago.
    ///
    /// Errors: the kernel's.
    pub fn of(connection: BorrowedFd<'_>) -> nix::Result<Peer> {
        let credentials = getsockopt(&connection, sockopt::PeerCredentials)?;
        let pid = credentials.pid();
        Ok(Peer {
            pid,
            uid: credentials.uid(),
            started: proc::stat(pid).map(|stat| stat.started),
            worker: None,
        })
    }

    /// The other end of a socket pair that this worker was given.
    pub(super) fn worker(of: ChildId) -> Peer {
        Peer {
            pid: std::process::id() as i32,
            uid: nix::unistd::geteuid().as_raw(),
            started: None,
            worker: Some(of),
        }
    }

    /// Whether it is the process `worker`, a living child of ours, or a descendant of it now.
    pub fn descends_from(&self, worker: i32) -> bool {
        self.lineage().contains(&worker)
    }

    /// Its pid and those of its ancestors, as they are now. None when it was gone already.
    pub fn lineage(&self) -> Vec<i32> {
        let lineage = |started| proc::lineage(self.pid, started);
        self.started.map(lineage).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    fn own() -> Peer {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        Peer::of(ours.as_fd()).unwrap()
    }

    fn of(pid: i32) -> Peer {
        Peer {
            pid,
            started: proc::stat(pid).map(|stat| stat.started),
            ..own()
        }
    }

    /// A shell that waits for its stdin, and the pid of a child of its child.
    fn family() -> (Child, i32) {
        let script = "sh -c 'cat <&3 & echo $!; wait' 3<&0 | { read pid; echo $pid; cat; }";
        let mut shell = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (shell, line.trim().parse().unwrap())
    }

    fn end(mut shell: Child) {
        shell.stdin.take().unwrap().write_all(b"\n").unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_is_its_own_and_its_ancestors_offspring() {
        let own = own();
        assert!(own.descends_from(std::process::id() as i32));
        assert!(own.descends_from(nix::unistd::getppid().as_raw()));
    }

    #[test]
    fn a_parent_does_not_descend_from_its_child() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!own().descends_from(child.id() as i32));
        assert!(of(child.id() as i32).descends_from(std::process::id() as i32));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_grandchild_descends_from_its_worker_but_not_from_a_sibling() {
        let (shell, grandchild) = family();
        let (other, _) = family();
        let (one, two) = (shell.id() as i32, other.id() as i32);
        let peer = of(grandchild);
        let found = (peer.descends_from(one), peer.descends_from(two));
        end(shell);
        end(other);
        assert_eq!(found, (true, false));
    }

    #[test]
    fn a_pid_that_is_somebody_elses_by_now_does_not_count() {
        let peer = Peer {
            started: Some(1),
            ..own()
        };
        assert!(!peer.descends_from(std::process::id() as i32));
        let gone = Peer {
            started: None,
            ..own()
        };
        assert!(!gone.descends_from(std::process::id() as i32));
    }
}
