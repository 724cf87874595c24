//! What /proc says about a process (proc(5)): its parent, its group, its users, and its ancestors.
//! Of a process that was reaped it says nothing, which is `None` here.

use std::fs;
use std::io;

/// How far a process may be from its ancestor.
const GENERATIONS: usize = 32;

/// The fields of /proc/PID/stat that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: i32,
    pub group: i32,
    /// The kernel's PF_ flags.
    pub flags: u32,
    /// When it started, in clock ticks since boot: a number that a later process with its pid
    /// does not have.
    pub started: u64,
}

/// Works for a zombie too.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &[u8]) -> Option<Stat> {
    // The name is in parentheses and may hold anything, parentheses too.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let mut number = |skipped| fields.nth(skipped)?.parse::<i64>().ok();
    Some(Stat {
        parent: number(1)? as i32,
        group: number(0)? as i32,
        flags: number(3)? as u32,
        started: number(12)? as u64,
    })
}

/// The real, the effective and the saved user that a process has now. As each of them it may send
/// messages (SCM_CREDENTIALS in unix(7)).
pub fn users(pid: i32) -> Option<[u32; 3]> {
    let line = status(&pid.to_string(), "Uid:")?;
    let mut uids = line.split_ascii_whitespace().map(str::parse);
    let mut next = || uids.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// Whether we may signal processes of any user: whether CAP_KILL is in effect (capabilities(7)).
/// Without /proc it is taken to be so.
pub fn may_signal_all() -> bool {
    const CAP_KILL: u64 = 1 << 5;
    let effective = status("self", "CapEff:");
    let effective = effective.and_then(|hex| u64::from_str_radix(&hex, 16).ok());
    effective.is_none_or(|set| set & CAP_KILL != 0)
}

/// One field of /proc/PID/status.
fn status(pid: &str, field: &str) -> Option<String> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&status);
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().to_owned())
}

/// All processes. One that begins or ends meanwhile may be missing.
pub fn all() -> Vec<i32> {
    numbers("/proc").unwrap_or_default()
}

/// The entries of a directory that are numbers: processes in /proc, descriptors in /proc/self/fd.
pub(super) fn numbers(directory: &str) -> io::Result<Vec<i32>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(fs::read_dir(directory)?
        .flatten()
        .filter_map(number)
        .collect())
}

/// The process `pid`, which started at `started`, its parent, and so on upwards, as they are now.
///
/// It ends where a pid has been given to another process in the meantime: that one started later
/// than the one that is meant, and no parent starts later than its child.
pub fn lineage(pid: i32, started: u64) -> Vec<i32> {
    let mut lineage = Vec::new();
    let (mut next, mut latest) = (pid, started);
    while lineage.len() < GENERATIONS {
        match stat(next) {
            Some(stat) if stat.started == latest || stat.started < latest && next != pid => {
                lineage.push(next);
                (next, latest) = (stat.parent, stat.started);
            }
            _ => break,
        }
    }
    lineage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = b"12 (a) (b 1 2) S 7 11 12 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        let expected = Stat {
            parent: 7,
            group: 11,
            flags: 64,
            started: 4711,
        };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat(b"12 (a"), None);
        assert_eq!(parse_stat(b"12 (a) S 7"), None);
    }

    #[test]
    fn our_users_are_known() {
        let own = nix::unistd::getresuid().unwrap();
        let own = [own.real, own.effective, own.saved].map(|uid| uid.as_raw());
        let pid = std::process::id() as i32;
        assert_eq!(users(pid), Some(own));
        assert!(all().contains(&pid));
    }
}
