//! What stands above every table of results: without it the numbers mean nothing.

use std::fs;
use std::process::Command;

/// The day and the machine.
pub fn text() -> String {
    let said = |program: &str, word: &str| {
        let output = Command::new(program).arg(word).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let model = model.map_or("unknown processor", |(_, name)| name);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let (day, kernel) = (said("date", "+%Y-%m-%d"), said("uname", "-r"));
    format!("{day}, {cores} × {model}, Linux {kernel}, load average {load}")
}
