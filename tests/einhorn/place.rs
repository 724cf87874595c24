//! A directory with einhorn's files in it, and an einhorn that keeps them there.

use super::client::Client;
use super::common::{self, Daemon, Run, SOCKETMASTER, TempDir, worker};
use std::process::{Child, Command, Output, Stdio};

pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place {
            dir: TempDir::new(),
        }
    }

    /// What the next worker does.
    pub fn next(&self, behaviour: &str) {
        self.dir.write("behaviour", behaviour);
    }

    pub fn socket(&self) -> String {
        self.dir.word("sock")
    }

    /// `einhorn OPTIONS` with the files of this place, the command still to come.
    pub fn einhorn(&self, options: &str) -> Run {
        Run::bare()
            .arg("einhorn")
            .args(&["-d", &self.socket()])
            .args(&["-e", &self.dir.word("pid"), "-f", &self.dir.word("lock")])
            .args(&options.split_whitespace().collect::<Vec<_>>())
            .dir(self.dir.path())
    }

    /// The same with a worker that does what `next` says.
    pub fn run(&self, options: &str) -> Run {
        self.einhorn(options)
            .args(&[&worker(), "from", &self.dir.word("behaviour")])
    }

    /// The same, started and live, with a worker of einhorn's.
    pub fn live(&self, options: &str, behaviour: &str) -> Daemon {
        self.next(behaviour);
        let daemon = self.run(options).start();
        daemon.wait_until_live();
        daemon
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// `einhornsh -d SOCKET` with these words; it ends by itself.
    pub fn shell(&self, words: &[&str]) -> Output {
        let child = self.shell_in_background(words);
        child.wait_with_output().expect("it is our child")
    }

    pub fn shell_in_background(&self, words: &[&str]) -> Child {
        let mut command = Command::new("timeout");
        command.arg(common::LIMIT.as_secs().to_string());
        command.args([SOCKETMASTER, "einhornsh", "-d", &self.socket()]);
        command.args(words).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    }
}

/// What was printed, and the exit status.
pub fn printed(output: &Output) -> (String, i32) {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (text, output.status.code().expect("it was not killed"))
}
