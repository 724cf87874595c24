//! The report of a worker (`worker report`), read back from the log.

use super::Daemon;
use std::collections::BTreeMap;

/// What a worker found when it started.
#[derive(Debug)]
pub struct Report {
    pub pid: i32,
    facts: BTreeMap<String, String>,
}

impl Report {
    /// Of the nth worker that reported, from 0.
    pub fn number(daemon: &Daemon, n: usize) -> Report {
        daemon.wait_for_count("] report=done", n + 1);
        let log = daemon.log();
        let done: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("] report=done"))
            .collect();
        Report::of(&log, said(done[n]).expect("the line has a pid").0)
    }

    /// From what one worker has written, with nothing before its lines.
    pub fn read(text: &str) -> Report {
        let facts: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let pid = facts["pid"].parse().expect("a pid is a number");
        Report { pid, facts }
    }

    /// Of the first worker.
    pub fn first(daemon: &Daemon) -> Report {
        Report::number(daemon, 0)
    }

    fn of(log: &str, pid: i32) -> Report {
        let facts = log
            .lines()
            .filter_map(said)
            .filter(|(speaker, _)| *speaker == pid)
            .filter_map(|(_, line)| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Report { pid, facts }
    }

    #[track_caller]
    pub fn fact(&self, key: &str) -> &str {
        self.facts
            .get(key)
            .unwrap_or_else(|| panic!("no {key} in {:#?}", self.facts))
    }

    /// A variable of its environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.facts.get(&format!("env:{name}")).map(String::as_str)
    }

    /// The names of its variables.
    pub fn env_names(&self) -> Vec<&str> {
        self.facts
            .keys()
            .filter_map(|key| key.strip_prefix("env:"))
            .collect()
    }

    /// Its arguments, the program's name first.
    pub fn argv(&self) -> Vec<&str> {
        let words = (0..).map_while(|n| self.facts.get(&format!("argv{n}")));
        words.map(String::as_str).collect()
    }

    /// The numbers of its open descriptors.
    pub fn fd_numbers(&self) -> Vec<i32> {
        let mut numbers: Vec<i32> = self
            .facts
            .keys()
            .filter_map(|key| key.strip_prefix("fd")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// What a descriptor is.
    #[track_caller]
    pub fn fd(&self, number: i32) -> &str {
        self.fact(&format!("fd{number}"))
    }
}

/// `…] 2026/11/22 07:00:02 [815] text` → (815, text)
pub fn said(line: &str) -> Option<(i32, &str)> {
    let (_, rest) = line.split_once(" [")?;
    let (pid, text) = rest.split_once("] ")?;
    Some((pid.parse().ok()?, text))
}
