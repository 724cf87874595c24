//! A client of the control socket as einhorn's are: one line out, lines back until one has no
//! `wait`. Every read has a limit.

use super::common;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;

pub struct Client {
    stream: BufReader<UnixStream>,
    last_id: u64,
}

impl Client {
    pub fn connect(path: &str) -> Client {
        let stream = UnixStream::connect(path).expect("the control socket accepts");
        let limit = Some(*common::LIMIT);
        stream.set_read_timeout(limit).expect("a limit can be set");
        stream.set_write_timeout(limit).expect("a limit can be set");
        Client {
            stream: BufReader::new(stream),
            last_id: 0,
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

    /// Sends a command and does not wait.
    pub fn order(&mut self, command: &str, args: &[&str]) {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "command": command, "args": args});
        self.send(&request.to_string());
    }

    /// The next message, and whether more follow.
    #[track_caller]
    pub fn message(&mut self) -> (String, bool) {
        let answer = self.read().expect("an answer, not the end");
        assert_eq!(answer["request_id"], self.last_id, "{answer}");
        let message = answer["message"].as_str().expect("every answer has one");
        (message.to_owned(), answer["wait"] == true)
    }

    /// The one answer to a command.
    #[track_caller]
    pub fn ask(&mut self, command: &str, args: &[&str]) -> String {
        self.order(command, args);
        let (message, wait) = self.message();
        assert!(!wait, "{message}");
        message
    }

    /// All answers up to the last.
    #[track_caller]
    pub fn messages(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let (message, wait) = self.message();
            all.push(message);
            if !wait {
                return all;
            }
        }
    }
}
