//! A `Config` in words, for `-check`. It says what would be done and owns nothing; whether it can
//! be done (the command, the user) is for the caller to find out and to say.

use super::{Config, Gate, LogTarget, Output, Protocols};
use crate::uri::{Address, Uri};
use nix::sys::signal::Signal;
use std::fmt;
use std::time::Duration;

/// `SIGTERM`, `SIGRTMIN+3`, or `signal 99` for a number that is none.
pub fn signal_name(number: i32) -> String {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().into(),
        Err(_) if number == first => "SIGRTMIN".into(),
        Err(_) if (first..=last).contains(&number) => format!("SIGRTMIN+{}", number - first),
        Err(_) => format!("signal {number}"),
    }
}

impl Protocols {
    /// The names that `-protocol` takes, comma separated.
    pub fn names(&self) -> String {
        let names = [
            (self.einhorn, "einhorn"),
            (self.systemd, "systemd"),
            (self.server_starter, "server-starter"),
            (self.nginx, "nginx"),
            (self.php_fpm, "php-fpm"),
        ];
        let mut asked = String::new();
        for (_, name) in names.iter().filter(|name| name.0) {
            asked += if asked.is_empty() { "" } else { "," };
            asked += name;
        }
        asked
    }
}

impl fmt::Display for Config {
    /// One line for each thing that would be done, each ended by a newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, uri) in self.listen.iter().enumerate() {
            writeln!(f, "listen on {uri}{}", descriptor(&self.listen, index))?;
        }
        if let Some(pid) = self.takeover {
            writeln!(f, "take the sockets over from process {pid}, then stop it")?;
        }
        writeln!(f, "run {:?} {:?}", self.command, self.arguments)?;
        if let Some(user) = &self.user {
            writeln!(f, "as user {user}")?;
        }
        writeln!(f, "tell the workers by {}", self.protocols.names())?;
        self.life(f)?;
        match self.output {
            Output::Prefix => writeln!(f, "log the workers' output line by line")?,
            Output::Lossy => {
                writeln!(f, "log the workers' output, drop it while the log is stuck")?
            }
            Output::Inherit => writeln!(f, "leave the workers' output alone")?,
        }
        match &self.log {
            LogTarget::Stderr => writeln!(f, "log to stderr")?,
            LogTarget::Syslog(socket) => writeln!(f, "log to syslog at {}", socket.display())?,
        }
        if let Some(control) = &self.control {
            writeln!(f, "open the control socket {}", control.display())?;
        }
        if let Some(pidfile) = &self.pidfile {
            writeln!(f, "write and lock the pid file {}", pidfile.display())?;
        }
        Ok(())
    }
}

/// Its number in the workers, as long as no `systemd://` before it leaves that open.
fn descriptor(listen: &[Uri], index: usize) -> String {
    let open = |uri: &Uri| matches!(&uri.address, Address::Name(name) if name.is_empty());
    match listen[..=index].iter().any(open) {
        true => String::new(),
        false => format!(", descriptor {} of the workers", 3 + index),
    }
}

impl Config {
    fn life(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = self.workers;
        let extra = self.max_extra.map_or(workers, |extra| extra.min(workers));
        let manner = if extra < workers {
            "rolling"
        } else {
            "all at once"
        };
        writeln!(
            f,
            "keep {workers} of them, at a reload {manner} with at most {extra} more"
        )?;
        let limit = match self.start {
            Duration::ZERO => "without a limit".into(),
            start => format!("within {} ms", start.as_millis() as u64),
        };
        match self.ready {
            Gate::Timer => writeln!(f, "ready: alive after {} ms", self.start.as_millis() as u64)?,
            Gate::Notify => writeln!(f, "ready: READY=1 to NOTIFY_SOCKET {limit}")?,
            Gate::Ack => writeln!(f, "ready: worker:ack to the control socket {limit}")?,
        }
        let then = match self.stop {
            None => "and never killed".into(),
            Some(stop) => format!("and SIGKILL after {} ms", stop.as_millis() as u64),
        };
        writeln!(
            f,
            "an old worker is asked to stop with {} {then}",
            signal_name(self.stop_signal)
        )?;
        if self.respawn {
            writeln!(f, "a worker that dies is replaced")?;
        }
        if self.die_with_parent {
            writeln!(f, "workers are stopped when socketmaster dies")?;
        }
        Ok(())
    }
}
