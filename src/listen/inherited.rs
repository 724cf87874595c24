//! The sockets that systemd, or another parent, says it hands us: `LISTEN_FDS` and its companions
//! (sd_listen_fds(3)). This file only reads the variables: it must never touch the descriptors.

use super::UNNAMED;
use std::ffi::OsString;
use std::iter;
use std::os::fd::RawFd;

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// No unit has more sockets: a greater count is a mistake.
const MAX_PASSED: usize = 4096;

/// The names of our own sockets in systemd's fd store begin with this.
pub(crate) const STORE_PREFIX: &str = "socketmaster-";

/// One descriptor and its name, `unknown` when the parent gave none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    pub fd: RawFd,
    pub name: String,
}

impl Passed {
    /// Whether it is one of ours that comes back from the fd store, and not one of the unit's.
    pub fn is_stored(&self) -> bool {
        self.name.starts_with(STORE_PREFIX)
    }
}

/// The sockets that our parent passed to us, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    pub passed: Vec<Passed>,
    /// Why there is none, for the error when one is asked for.
    pub none_because: Option<String>,
}

impl Inherited {
    /// Reads `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`. They count only when the pid is ours;
    /// `LISTEN_PIDFDID` says the same again and is ignored.
    pub fn parse(pid: u32, variable: &dyn Fn(&str) -> Option<OsString>) -> Inherited {
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let count = match count(pid, text("LISTEN_FDS"), text("LISTEN_PID")) {
            Ok(count) => count,
            Err(reason) => {
                return Inherited {
                    passed: Vec::new(),
                    none_because: Some(reason),
                };
            }
        };
        let names = text("LISTEN_FDNAMES").unwrap_or_default();
        // A list of names may be shorter than the count.
        let names = names.split(':').chain(iter::repeat(""));
        let passed = (FIRST..).zip(names).take(count).map(|(fd, name)| {
            let name = if name.is_empty() { UNNAMED } else { name }.to_owned();
            Passed { fd, name }
        });
        Inherited {
            passed: passed.collect(),
            none_because: None,
        }
    }

    /// The unit's own sockets, without those that come back from the fd store.
    pub fn of_the_unit(&self) -> impl Iterator<Item = &Passed> {
        self.passed.iter().filter(|passed| !passed.is_stored())
    }

    /// The name that a descriptor came with.
    pub fn name_of(&self, fd: RawFd) -> Option<&str> {
        let passed = self.passed.iter().find(|passed| passed.fd == fd);
        passed.map(|passed| passed.name.as_str())
    }
}

/// Errors: why the variables are not for us.
fn count(pid: u32, fds: Option<String>, listen_pid: Option<String>) -> Result<usize, String> {
    let fds = fds.ok_or("LISTEN_FDS is not set")?;
    let listen_pid = listen_pid.ok_or("LISTEN_PID is not set")?;
    if listen_pid.parse() != Ok(pid) {
        return Err(format!("LISTEN_PID is {listen_pid}, we are {pid}"));
    }
    let count = fds.parse().ok().filter(|count| *count <= MAX_PASSED);
    count.ok_or_else(|| format!("LISTEN_FDS is {fds:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Inherited {
        Inherited::parse(812, &|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    }

    fn names(inherited: &Inherited) -> Vec<(RawFd, &str)> {
        inherited
            .passed
            .iter()
            .map(|passed| (passed.fd, passed.name.as_str()))
            .collect()
    }

    #[test]
    fn descriptors_begin_at_3_and_have_their_names() {
        let found = parse(&[
            ("LISTEN_PID", "812"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "web:admin"),
        ]);
        assert_eq!(names(&found), [(3, "web"), (4, "admin")]);
        assert_eq!(found.name_of(4), Some("admin"));
        assert_eq!(found.name_of(5), None);
    }

    #[test]
    fn a_missing_name_is_unknown() {
        let found = parse(&[
            ("LISTEN_PID", "812"),
            ("LISTEN_FDS", "3"),
            ("LISTEN_FDNAMES", "a:"),
        ]);
        assert_eq!(names(&found), [(3, "a"), (4, "unknown"), (5, "unknown")]);
        let found = parse(&[("LISTEN_PID", "812"), ("LISTEN_FDS", "1")]);
        assert_eq!(names(&found), [(3, "unknown")]);
    }

    #[test]
    fn sockets_for_another_process_are_not_ours() {
        let found = parse(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]);
        assert_eq!(found.passed, []);
        assert_eq!(
            found.none_because.as_deref(),
            Some("LISTEN_PID is 1, we are 812")
        );
        let found = parse(&[("LISTEN_FDS", "2")]);
        assert_eq!(found.none_because.as_deref(), Some("LISTEN_PID is not set"));
        assert_eq!(
            parse(&[]).none_because.as_deref(),
            Some("LISTEN_FDS is not set")
        );
    }

    #[test]
    fn a_count_that_is_none_is_said() {
        for count in ["-1", "x", "", "99999999999", "5000"] {
            let found = parse(&[("LISTEN_PID", "812"), ("LISTEN_FDS", count)]);
            assert_eq!(found.passed, []);
            assert_eq!(found.none_because, Some(format!("LISTEN_FDS is {count:?}")));
        }
        let none = parse(&[("LISTEN_PID", "812"), ("LISTEN_FDS", "0")]);
        assert_eq!(none, Inherited::default());
    }

    #[test]
    fn what_comes_back_from_the_store_is_not_the_units() {
        let names = "web:socketmaster-tcp-%3A8080";
        let found = parse(&[
            ("LISTEN_PID", "812"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", names),
        ]);
        let unit: Vec<_> = found.of_the_unit().map(|passed| passed.fd).collect();
        assert_eq!(unit, [3]);
    }
}
