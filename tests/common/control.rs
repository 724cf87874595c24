//! A daemon with a control socket, `socketmaster ctl`, and raw clients. Everything has a limit.

use super::{Daemon, LIMIT, Run, SOCKETMASTER, TempDir};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};

/// A directory with the control socket in it, and what the next worker does.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn of(behaviour: &str) -> Place {
        let place = Place {
            dir: TempDir::new(),
        };
        place.next(behaviour);
        place
    }

    pub fn next(&self, behaviour: &str) {
        self.dir.write("behaviour", behaviour);
    }

    pub fn socket(&self) -> String {
        self.dir.word("ctl")
    }

    pub fn run(&self, flags: &[&str]) -> Run {
        let control = format!("-control={}", self.socket());
        let flags: Vec<&str> = flags.iter().copied().chain([control.as_str()]).collect();
        Run::worker(&flags, &["from", &self.dir.word("behaviour")])
    }

    pub fn start(&self, flags: &[&str]) -> Daemon {
        self.run(flags).start()
    }

    /// Started, and its first generation live.
    pub fn live(&self, flags: &[&str]) -> Daemon {
        let daemon = self.start(flags);
        daemon.wait_until_live();
        daemon
    }

    pub fn ctl(&self, words: &[&str]) -> Output {
        self.ctl_in_background(words)
            .wait_with_output()
            .expect("ctl is our child")
    }

    /// It ends by itself, whatever happens.
    pub fn ctl_in_background(&self, words: &[&str]) -> Child {
        let mut command = Command::new(SOCKETMASTER);
        command.args(["ctl", &format!("-control={}", self.socket())]);
        command.args(words);
        if !words.iter().any(|word| word.starts_with("-timeout")) {
            command.arg("-timeout=30s");
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program can be started")
    }

    pub fn wait_for_socket(&self, daemon: &Daemon) {
        daemon.wait_until("the control socket", || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    pub fn status(&self) -> Value {
        let output = self.ctl(&["status", "-json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

/// Everything that a ctl has said, and its exit status.
pub fn said(output: &Output) -> (String, i32) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let status = output.status.code().expect("it was not killed");
    (String::from_utf8(text).expect("UTF-8"), status)
}

#[track_caller]
pub fn assert_said(output: &Output, status: i32, texts: &[&str]) {
    let (text, found) = said(output);
    assert_eq!(found, status, "{text}");
    for wanted in texts {
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
    }
}

/// A raw client. Every read has a limit.
pub struct Client {
    pub stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(path: &str) -> Client {
        let stream = UnixStream::connect(path).expect("the control socket accepts");
        stream
            .set_read_timeout(Some(*LIMIT))
            .expect("a limit can be set");
        stream
            .set_write_timeout(Some(*LIMIT))
            .expect("a limit can be set");
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("it reads us");
    }

    /// `None`: the connection has ended.
    pub fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("an answer is JSON")),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    #[track_caller]
    pub fn answer(&mut self) -> Value {
        self.read().expect("an answer, not the end")
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()["message"]
            .as_str()
            .expect("a message is text")
            .to_owned()
    }

    pub fn is_closed(&mut self) -> bool {
        self.read().is_none()
    }
}
