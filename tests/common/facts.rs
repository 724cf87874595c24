//! What /proc says about a process (proc(5)). It must never wait, and a process that has gone is
//! an empty answer.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The fields of /proc/PID/stat after the name, which may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// `R`, `S`, `Z` and so on.
pub fn state(pid: i32) -> Option<String> {
    stat(pid)?.first().cloned()
}

/// Neither gone nor a zombie.
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != "Z" && state != "X")
}

pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Its process group.
pub fn group(pid: i32) -> Option<i32> {
    stat(pid)?.get(2)?.parse().ok()
}

/// Processor time of its main thread so far, exactly (/proc/PID/schedstat); a zombie's too.
pub fn processor(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// How often it has gone to sleep or was made to wait for the processor: a process that is asleep
/// and has run in between has one more.
pub fn switches(pid: i32) -> u64 {
    let count = |key| number(pid, "status", key).unwrap_or(0);
    count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:")
}

/// How many bytes it has read, from whatever it was.
pub fn bytes_read(pid: i32) -> u64 {
    number(pid, "io", "rchar:").unwrap_or(0)
}

/// A line of a file in /proc/PID; memory is in kB.
fn number(pid: i32, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Resident memory in kB.
pub fn rss(pid: i32) -> u64 {
    number(pid, "status", "VmRSS:").unwrap_or(0)
}

/// The size of its address space in kB, which RLIMIT_AS limits.
pub fn address_space(pid: i32) -> u64 {
    number(pid, "status", "VmSize:").unwrap_or(0)
}

/// Anonymous memory in kB: what it allocated, without the pages of the program itself.
pub fn anonymous(pid: i32) -> u64 {
    number(pid, "status", "RssAnon:").unwrap_or(0)
}

/// Where its executable is.
pub fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Its children, zombies too, oldest first.
pub fn children(pid: i32) -> Vec<i32> {
    let mut found: Vec<(u64, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| parent(*child) == Some(pid))
        .filter_map(|child| Some((stat(child)?.get(19)?.parse().ok()?, child)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, child)| child).collect()
}

pub fn live_children(pid: i32) -> Vec<i32> {
    children(pid)
        .into_iter()
        .filter(|child| alive(*child))
        .collect()
}

pub fn descendants(pid: i32) -> Vec<i32> {
    let mut all = children(pid);
    let mut next = 0;
    while let Some(child) = all.get(next).copied() {
        all.extend(children(child));
        next += 1;
    }
    all
}

/// Its descriptors: number and what it is.
pub fn open_fds(pid: i32) -> Vec<(i32, String)> {
    let mut found: Vec<(i32, String)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let link = fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                link.display().to_string(),
            ))
        })
        .collect();
    found.sort();
    found
}

/// The command line, for people.
pub fn describe(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let (state, group) = (state(pid).unwrap_or_default(), group(pid).unwrap_or(0));
    format!(
        "{pid} {state} parent {} group {group}: {words:.300}",
        parent(pid).unwrap_or(0)
    )
}
