//! How nice the processes are, as einhorn's `--nice` has it. It waits for nobody.

use super::Daemon;
use crate::config::Protocols;
use crate::control::verdict::end_text;
use crate::environment::{Environment, Extras};
use crate::spawn::{self, Order, ReportPipe};
use crate::sys::{io, process};
use slog::error;
use std::os::fd::AsFd;
use std::path::Path;

impl Daemon {
    /// Makes a process as nice as it shall be; where that is refused it lives on as it is.
    pub(super) fn renice(&self, pid: i32, level: i32) {
        let done = match &self.config.nice.renice {
            None => process::set_nice(pid, level).map_err(|errno| errno.desc().to_owned()),
            Some(command) => self.run_aside(format!("{command} {level} -p {pid}")),
        };
        if let Err(reason) = done {
            error!(
                self.logger,
                "cannot change the niceness of {pid} to {level}: {reason}"
            );
        }
    }

    /// Runs a shell command of the administrator's. Nobody waits for it: it is reaped as an orphan.
    fn run_aside(&self, command: String) -> Result<(), String> {
        let shell = Path::new("/bin/sh");
        let extras = Extras::default();
        let environment =
            Environment::build(self.inherited.iter(), &[], Protocols::default(), &extras);
        let order = Order {
            program: shell,
            arguments: &["-c".into(), command.into()],
            environment: &environment,
            stdin: self.stdin.as_fd(),
            stdout: io::stdout(),
            stderr: io::stderr(),
            descriptors: &[],
            user: None,
            directory: None,
            die_with_parent: None,
            nofile: self.nofile,
            pidfd: false,
        };
        ReportPipe::new()
            .and_then(|mut pipe| spawn::spawn(&order, &mut pipe))
            .map(drop)
            .map_err(|failure| end_text(&failure.end(shell, None)))
    }
}
