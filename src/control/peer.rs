//! Who is at the other end of a connection and what it may say. Only the kernel's word counts, never
//! what the client says of itself. It changes nothing.

use super::commands::View;
use crate::config::ReadyGate;
use crate::supervisor::ChildId;
use crate::sys::proc;
use crate::worker::user::User;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;

/// What a client may say. Each includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rights {
    /// It is turned away.
    #[default]
    Nothing,
    /// `worker:ack` and `worker:ping`.
    Reports,
    /// What changes nothing.
    Questions,
    Everything,
}

/// Who may connect, and what they may say then. Root and our own user may say everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The mode of the socket's file; `None`: 0777 less the umask, as einhorn's.
    pub mode: Option<u32>,
    /// The group of the file.
    pub group: Option<u32>,
    /// The workers' user, where that is another than ours.
    pub worker: Option<u32>,
    /// What everybody else may say whom the file's mode lets in.
    pub others: Rights,
}

impl Access {
    /// Ours: 0600; with `-user` 0660 with the workers' group, for the workers' reports.
    pub fn of(user: Option<&User>) -> Access {
        let user = user.filter(|user| user.uid != geteuid());
        Access {
            mode: Some(if user.is_some() { 0o660 } else { 0o600 }),
            group: user.map(|user| user.gid.as_raw()),
            worker: user.map(|user| user.uid.as_raw()),
            others: Rights::Nothing,
        }
    }

    /// einhorn's: whom the file's mode lets in may ask, and a worker that changed its user report.
    #[cfg(feature = "einhorn")]
    pub fn of_einhorn() -> Access {
        Access {
            mode: None,
            group: None,
            worker: None,
            others: Rights::Questions,
        }
    }

    /// What a process of this user may say.
    pub fn rights(&self, uid: u32) -> Rights {
        if uid == 0 || uid == geteuid().as_raw() {
            Rights::Everything
        } else if self.worker == Some(uid) {
            self.others.max(Rights::Reports)
        } else {
            self.others
        }
    }
}

/// Whether a client is trusted or is, or descends from, a living worker. When room is short, clients
/// give way to each other in this order, the first of these first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    #[default]
    Stranger,
    Worker(ChildId),
    /// This one is not ready yet.
    StartingWorker(ChildId),
    /// Root or our own user.
    Trusted,
}

impl Origin {
    pub fn rank(self) -> u8 {
        match self {
            Origin::Stranger => 0,
            Origin::Worker(_) => 1,
            Origin::StartingWorker(_) => 2,
            Origin::Trusted => 3,
        }
    }

    pub fn worker(self) -> Option<ChildId> {
        match self {
            Origin::Worker(id) | Origin::StartingWorker(id) => Some(id),
            Origin::Stranger | Origin::Trusted => None,
        }
    }
}

/// The process that connected (SO_PEERCRED in unix(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// 0: it is outside our PID namespace.
    pub pid: i32,
    pub uid: u32,
    /// When it started, in clock ticks since boot: a number that a later process with its pid
    /// does not have. `None`: it was gone already.
    pub started: Option<u64>,
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

    /// The living worker that it is or descends from.
    pub fn origin(&self, view: &View) -> Origin {
        let lineage = self.lineage();
        let worker = lineage.iter().find_map(|pid| view.by_pid.get(pid)).copied();
        match worker.and_then(|id| Some((id, view.core.workers().find(id)?))) {
            Some((id, worker)) if worker.is_unready() => Origin::StartingWorker(id),
            Some((id, _)) => Origin::Worker(id),
            None => Origin::Stranger,
        }
    }

    /// The worker that is ready by an ack of this process; `claimed`: its pid as the message has it.
    ///
    /// Errors: why the ack is ignored.
    pub fn acked(&self, claimed: Option<i32>, view: &View) -> Result<ChildId, String> {
        let sender = self.pid;
        let Some(pid) = claimed else {
            return Err(format!(
                "of process {sender} without a pid that is a number: ignored"
            ));
        };
        let Some(id) = view.by_pid.get(&pid).copied() else {
            return Err(format!(
                "of process {sender} for {pid}, which is no worker: ignored"
            ));
        };
        let is_its_own = match self.worker {
            Some(worker) => worker == id,
            None => self.lineage().contains(&pid),
        };
        if !is_its_own {
            return Err(format!(
                "for {pid} comes from process {sender}, which is neither that worker nor its \
                 descendant: ignored"
            ));
        }
        match view.config.ready {
            ReadyGate::Ack => Ok(id),
            _ => Err(format!(
                "of worker {pid}: readiness is not told by acks here, ignored"
            )),
        }
    }

    /// Its pid and those of its ancestors, as they are now. There are none when it was gone already.
    fn lineage(&self) -> Vec<i32> {
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

    fn descends_from(peer: &Peer, worker: i32) -> bool {
        peer.lineage().contains(&worker)
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
        assert!(descends_from(&own, std::process::id() as i32));
        assert!(descends_from(&own, nix::unistd::getppid().as_raw()));
    }

    #[test]
    fn a_parent_does_not_descend_from_its_child() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!descends_from(&own(), child.id() as i32));
        assert!(descends_from(
            &of(child.id() as i32),
            std::process::id() as i32
        ));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_grandchild_descends_from_its_worker_but_not_from_a_sibling() {
        let (shell, grandchild) = family();
        let (other, _) = family();
        let (one, two) = (shell.id() as i32, other.id() as i32);
        let peer = of(grandchild);
        let found = (descends_from(&peer, one), descends_from(&peer, two));
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
        assert!(!descends_from(&peer, std::process::id() as i32));
        let gone = Peer {
            started: None,
            ..own()
        };
        assert!(!descends_from(&gone, std::process::id() as i32));
    }
}
