//! Who the workers run as (`-user=LOGIN[:GROUP]`): uid, gid, supplementary groups, name and home,
//! looked up once in the user database. Nothing is changed here: the change of user is a step of
//! the forked child.

use crate::text::errno_text;
use nix::errno::Errno;
use nix::unistd::{self, Gid, Uid, getegid, geteuid};
use std::ffi::CString;
use std::path::PathBuf;

/// A user for workers to run as, completely resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: Uid,
    pub gid: Gid,
    /// What setgroups(2) is given; contains `gid`.
    pub groups: Vec<Gid>,
    /// The login name, or the number as given where the database has no entry.
    pub name: String,
    /// Home directory, `/` where the database has no entry.
    pub home: PathBuf,
}

/// Resolves `LOGIN[:GROUP]` and checks that we may run workers as this user: root may, and whoever
/// is this user already. A name goes before a number, as in chown(1). A number without an entry in
/// the user database (containers have none) is a user too: without GROUP its group has the same
/// number, its home is `/`, and it has no supplementary groups. With GROUP the supplementary groups
/// are those that LOGIN is listed in, as initgroups(3) takes them.
pub fn lookup(text: &str) -> Result<User, String> {
    let user = find(text)?;
    let is_us = (user.uid, user.gid) == (geteuid(), getegid());
    match geteuid().is_root() || is_us {
        true => Ok(user),
        false => Err(format!(
            "cannot run workers as {text}: only root can change the user"
        )),
    }
}

fn find(text: &str) -> Result<User, String> {
    let (login, group) = match text.split_once(':') {
        Some((login, group)) => (login, Some(group)),
        None => (text, None),
    };
    if login.is_empty() || group == Some("") {
        return Err(format!("cannot find user {text}: a name is missing"));
    }
    let group = group.map(gid).transpose()?;
    let Some(entry) = find_entry(login)? else {
        let id = number(login).ok_or_else(|| format!("cannot find user {login}"))?;
        let gid = group.unwrap_or(Gid::from_raw(id));
        return Ok(User {
            uid: Uid::from_raw(id),
            gid,
            groups: vec![gid],
            name: login.to_owned(),
            home: PathBuf::from("/"),
        });
    };
    let (name, gid) = (entry.name, group.unwrap_or(entry.gid));
    let groups = match CString::new(name.as_str()) {
        Ok(name) => unistd::getgrouplist(&name, gid),
        Err(_) => Err(Errno::EINVAL),
    };
    Ok(User {
        uid: entry.uid,
        gid,
        groups: groups.map_err(|errno| cannot("list the groups of", &name, errno))?,
        name,
        home: entry.dir,
    })
}

fn cannot(what: &str, name: &str, errno: Errno) -> String {
    format!("cannot {what} {name}: {}", errno_text(errno as i32))
}

/// The uid of a user, given by name or number.
pub fn uid(login: &str) -> Result<Uid, String> {
    let id = find_entry(login)?.map(|entry| entry.uid);
    let id = id.or_else(|| number(login).map(Uid::from_raw));
    id.ok_or_else(|| format!("cannot find user {login}"))
}

/// The gid of a group, given by name or number.
pub fn gid(group: &str) -> Result<Gid, String> {
    let entry = found(unistd::Group::from_name(group));
    let entry = entry.map_err(|errno| cannot("look up group", group, errno))?;
    let id = entry.map(|entry| entry.gid);
    let id = id.or_else(|| number(group).map(Gid::from_raw));
    id.ok_or_else(|| format!("cannot find group {group}"))
}

fn find_entry(login: &str) -> Result<Option<unistd::User>, String> {
    let by_name = found(unistd::User::from_name(login));
    let entry = match (by_name, number(login)) {
        (Ok(None), Some(id)) => found(unistd::User::from_uid(Uid::from_raw(id))),
        (by_name, _) => by_name,
    };
    entry.map_err(|errno| cannot("look up user", login, errno))
}

/// These errors mean "no such entry" (getpwnam(3)). A container image that holds one program has
/// no user database at all.
fn found<T>(entry: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match entry {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        other => other,
    }
}

/// A plain decimal id. The largest is refused: setresuid(2) reads it as "leave it as it is".
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = find("root").unwrap();
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Gid::from_raw(0)));
        assert_eq!(root.home, PathBuf::from("/root"));
        assert_eq!(find("0").unwrap(), root);
    }

    #[test]
    fn the_group_may_be_given_by_name_or_number() {
        let user = find("nobody:root").unwrap();
        assert_eq!(user.gid, Gid::from_raw(0));
        assert!(user.groups.contains(&Gid::from_raw(0)), "{:?}", user.groups);
        assert_eq!(find("nobody:4711").unwrap().gid, Gid::from_raw(4711));
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_with_the_same_group() {
        let user = find("40404").unwrap();
        assert_eq!((user.uid.as_raw(), user.gid.as_raw()), (40404, 40404));
        assert_eq!(user.groups, [Gid::from_raw(40404)]);
        assert_eq!(
            (user.name.as_str(), user.home),
            ("40404", PathBuf::from("/"))
        );
        assert_eq!(find("40404:7").unwrap().groups, [Gid::from_raw(7)]);
    }

    #[test]
    fn who_does_not_exist_is_named() {
        let error = |text| find(text).unwrap_err();
        assert_eq!(error("no-such-login"), "cannot find user no-such-login");
        assert_eq!(
            error("root:no-such-group"),
            "cannot find group no-such-group"
        );
        assert_eq!(error("root:"), "cannot find user root:: a name is missing");
        assert_eq!(error(":root"), "cannot find user :root: a name is missing");
        assert_eq!(error("a\0b"), "cannot find user a\0b");
    }

    #[test]
    fn the_number_that_means_no_change_is_refused() {
        assert!(find("4294967295").is_err());
        assert!(find("4294967296").is_err());
        assert!(find("+1").is_err());
        assert!(find("root:4294967295").is_err());
    }

    #[test]
    fn whoever_runs_us_may_be_named() {
        let own = format!("{}:{}", geteuid(), getegid());
        assert_eq!(lookup(&own).unwrap().uid, geteuid());
    }

    #[test]
    fn only_root_may_run_workers_as_somebody_else() {
        let result = lookup("40404");
        if geteuid().is_root() {
            assert!(result.is_ok());
        } else {
            let text = "cannot run workers as 40404: only root can change the user";
            assert_eq!(result.unwrap_err(), text);
        }
    }
}
