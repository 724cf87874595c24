//! A worker's environment: what we were started with, without what was meant for us alone, and what
//! each `-protocol` tells a worker about its sockets. This file does not read our environment, and
//! opens nothing. The variables and their readers are listed in the README.

use crate::config::Protocols;
use crate::worker::user::User;
use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The descriptor of the first socket in every worker (SD_LISTEN_FDS_START, sd_listen_fds(3)).
pub const FIRST_FD: usize = 3;

/// One listening socket, as the protocols describe it. The n-th of a slice is on `FIRST_FD` + n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket<'a> {
    /// For LISTEN_FDNAMES (sd_listen_fds_with_names(3)).
    pub name: &'a str,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: &'static str,
    /// The address as Server::Starter writes it: `127.0.0.1:8080`, `8080`, `/run/x.sock`.
    pub server_starter: Cow<'a, str>,
    /// The address exactly as php-fpm's `listen =` has it.
    pub php_fpm: Cow<'a, str>,
}

/// What a worker may be told beside its sockets.
#[derive(Debug, Clone, Default)]
pub struct Extras<'a> {
    pub generation: u64,
    /// The worker's own notify socket (`@name` or a path); `None` unless `-ready=notify`.
    pub notify_socket: Option<&'a str>,
    /// `None` without a control socket.
    pub master: Option<EinhornMaster<'a>>,
    /// The user that the worker will be.
    pub user: Option<&'a User>,
}

/// What an einhorn worker needs to speak to its master.
#[derive(Debug, Clone)]
pub struct EinhornMaster<'a> {
    /// The control socket's path as given: a relative one stays relative.
    pub control: &'a Path,
    /// Our pid, which is the worker's getppid(2): clients insist on it.
    pub pid: u32,
    /// The smallest number that no living worker has.
    pub child_index: u32,
    /// The descriptor, in the worker, of a connection to the control socket (einhorn's `-g`).
    pub fd: Option<usize>,
}

/// A finished environment, but for LISTEN_PID: only the forked child knows its own pid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NAME=value`, in order. Values are bytes, valid UTF-8 or not.
    pub entries: Vec<CString>,
    /// The child has to add `LISTEN_PID=` with its own pid, in decimal without padding.
    pub wants_listen_pid: bool,
}

impl Environment {
    /// Builds a worker's environment from `inherited`, ours.
    pub fn build<'a>(
        inherited: impl Iterator<Item = &'a (OsString, OsString)>,
        sockets: &[Socket],
        protocols: Protocols,
        extras: &Extras,
    ) -> Self {
        let mut built = Self::default();
        for (name, value) in inherited {
            let is_login = matches!(name.as_bytes(), b"HOME" | b"USER" | b"LOGNAME");
            let is_replaced = is_login && extras.user.is_some();
            if !is_ours(name) && !is_replaced {
                built.set(name.as_bytes(), value.as_bytes());
            }
        }
        built.tell_sockets(sockets, protocols, extras);
        if let Some(name) = extras.notify_socket {
            built.set("NOTIFY_SOCKET", name);
        }
        if let Some(user) = extras.user {
            built.set("HOME", user.home.as_os_str().as_bytes());
            built.set("USER", &user.name);
            built.set("LOGNAME", &user.name);
        }
        built
    }

    fn tell_sockets(&mut self, sockets: &[Socket], protocols: Protocols, extras: &Extras) {
        if protocols.einhorn {
            self.tell_einhorn(sockets, extras.master.as_ref());
        }
        if protocols.systemd && !sockets.is_empty() {
            self.wants_listen_pid = true;
            self.set("LISTEN_FDS", sockets.len().to_string());
            self.set_list("LISTEN_FDNAMES", sockets, ":", |_, socket| {
                // A name with a colon would be read as two, and an empty one as none. systemd says
                // this where a name is missing.
                let is_name = !socket.name.is_empty() && !socket.name.contains(':');
                if is_name { socket.name } else { "unknown" }.to_owned()
            });
        }
        if protocols.server_starter {
            let port = |fd, socket: &Socket| format!("{}={fd}", socket.server_starter);
            self.set_list("SERVER_STARTER_PORT", sockets, ";", port);
            self.set("SERVER_STARTER_GENERATION", extras.generation.to_string());
        }
        if protocols.nginx {
            self.set_list("NGINX", sockets, "", |fd, _| format!("{fd};"));
        }
        if protocols.php_fpm {
            let pool = |fd, socket: &Socket| format!("{}={fd}", socket.php_fpm);
            self.set_list("FPM_SOCKETS", sockets, ",", pool);
        }
    }

    fn tell_einhorn(&mut self, sockets: &[Socket], master: Option<&EinhornMaster>) {
        // Clients of the original run the whole value through atoi, so that one socket must be
        // one number and nothing else.
        self.set_list("EINHORN_FDS", sockets, " ", |fd, _| fd.to_string());
        self.set("EINHORN_FD_COUNT", sockets.len().to_string());
        for (index, socket) in sockets.iter().enumerate() {
            let fd = FIRST_FD + index;
            self.set(format!("EINHORN_FD_{index}"), fd.to_string());
            self.set(format!("EINHORN_FD_FAMILY_{index}"), socket.family);
        }
        if let Some(master) = master {
            self.set("EINHORN_MASTER_PID", master.pid.to_string());
            self.set("EINHORN_SOCK_PATH", master.control.as_os_str().as_bytes());
            self.set("EINHORN_CHILD_INDEX", master.child_index.to_string());
            if let Some(fd) = master.fd {
                self.set("EINHORN_SOCK_FD", fd.to_string());
            }
        }
    }

    /// One text for each socket, made of its descriptor in the worker and its description.
    fn set_list(
        &mut self,
        name: &str,
        sockets: &[Socket],
        separator: &str,
        text: impl Fn(usize, &Socket) -> String,
    ) {
        let numbered = (FIRST_FD..).zip(sockets);
        let texts: Vec<String> = numbered.map(|(fd, socket)| text(fd, socket)).collect();
        self.set(name, texts.join(separator));
    }

    fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let entry = [name.as_ref(), b"=", value.as_ref()].concat();
        self.entries.push(until_nul(&entry));
    }
}

/// As a C string. It ends at the first NUL in it, as its reader would see it.
pub fn until_nul(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0);
    CString::new(&bytes[..end.unwrap_or(bytes.len())]).expect("it was cut at its first NUL")
}

/// Whether a variable was meant for us alone, or is one that we set. Applications use names like
/// LISTEN_ADDR and LISTEN_PORT, which are neither.
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_bytes();
    const WHOLE: [&[u8]; 4] = [b"NOTIFY_SOCKET", b"FDSTORE", b"NGINX", b"FPM_SOCKETS"];
    const FAMILIES: [&[u8]; 6] = [
        b"LISTEN_PID",
        b"LISTEN_FD",
        b"WATCHDOG_",
        b"EINHORN_",
        b"SERVER_STARTER_",
        b"SOCKETMASTER_",
    ];
    WHOLE.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, Uid};
    use std::path::PathBuf;

    const NONE: Protocols = Protocols {
        einhorn: false,
        systemd: false,
        server_starter: false,
        nginx: false,
        php_fpm: false,
    };

    const WEB: Socket = Socket {
        name: "web",
        family: "AF_INET",
        server_starter: Cow::Borrowed("127.0.0.1:8080"),
        php_fpm: Cow::Borrowed("127.0.0.1:9000"),
    };
    const LOCAL: Socket = Socket {
        name: "local",
        family: "AF_UNIX",
        server_starter: Cow::Borrowed("/run/x.sock"),
        php_fpm: Cow::Borrowed("/run/fpm.sock"),
    };

    fn inherited(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    fn texts(environment: &Environment) -> Vec<&str> {
        environment
            .entries
            .iter()
            .map(|entry| entry.to_str().unwrap())
            .collect()
    }

    fn told(sockets: &[Socket], protocols: Protocols, extras: &Extras) -> Environment {
        Environment::build(std::iter::empty(), sockets, protocols, extras)
    }

    #[test]
    fn one_socket_is_exactly_the_number_three_to_einhorns_workers() {
        let protocols = Protocols {
            einhorn: true,
            ..NONE
        };
        let environment = told(&[WEB], protocols, &Extras::default());
        assert_eq!(
            texts(&environment),
            [
                "EINHORN_FDS=3",
                "EINHORN_FD_COUNT=1",
                "EINHORN_FD_0=3",
                "EINHORN_FD_FAMILY_0=AF_INET"
            ]
        );
        assert!(!environment.wants_listen_pid);
    }

    #[test]
    fn several_sockets_are_joined_by_spaces_for_einhorn() {
        let protocols = Protocols {
            einhorn: true,
            ..NONE
        };
        let environment = told(&[WEB, LOCAL, WEB], protocols, &Extras::default());
        let texts = texts(&environment);
        assert!(texts.contains(&"EINHORN_FDS=3 4 5"), "{texts:?}");
        assert!(texts.contains(&"EINHORN_FD_COUNT=3"), "{texts:?}");
        assert!(texts.contains(&"EINHORN_FD_1=4"), "{texts:?}");
        assert!(texts.contains(&"EINHORN_FD_FAMILY_1=AF_UNIX"), "{texts:?}");
        assert!(texts.contains(&"EINHORN_FD_2=5"), "{texts:?}");
    }

    #[test]
    fn einhorns_master_is_named_only_with_a_control_socket() {
        let master = EinhornMaster {
            control: Path::new("run/einhorn.sock"),
            pid: 812,
            child_index: 2,
            fd: Some(4),
        };
        let extras = Extras {
            master: Some(master),
            ..Extras::default()
        };
        let environment = told(
            &[WEB],
            Protocols {
                einhorn: true,
                ..NONE
            },
            &extras,
        );
        assert_eq!(
            texts(&environment)[4..],
            [
                "EINHORN_MASTER_PID=812",
                "EINHORN_SOCK_PATH=run/einhorn.sock",
                "EINHORN_CHILD_INDEX=2",
                "EINHORN_SOCK_FD=4"
            ]
        );
    }

    #[test]
    fn einhorn_without_sockets_says_so() {
        let environment = told(
            &[],
            Protocols {
                einhorn: true,
                ..NONE
            },
            &Extras::default(),
        );
        assert_eq!(texts(&environment), ["EINHORN_FDS=", "EINHORN_FD_COUNT=0"]);
    }

    #[test]
    fn systemds_variables_name_the_sockets_and_leave_the_pid_to_the_child() {
        let environment = told(
            &[WEB, LOCAL],
            Protocols {
                systemd: true,
                ..NONE
            },
            &Extras::default(),
        );
        assert_eq!(
            texts(&environment),
            ["LISTEN_FDS=2", "LISTEN_FDNAMES=web:local"]
        );
        assert!(environment.wants_listen_pid);
    }

    #[test]
    fn a_name_with_a_colon_does_not_shift_the_others() {
        let odd = Socket { name: "a:b", ..WEB };
        let empty = Socket { name: "", ..WEB };
        let environment = told(
            &[odd, empty, LOCAL],
            Protocols {
                systemd: true,
                ..NONE
            },
            &Extras::default(),
        );
        assert_eq!(
            texts(&environment)[1],
            "LISTEN_FDNAMES=unknown:unknown:local"
        );
    }

    #[test]
    fn server_starter_nginx_and_php_fpm_have_their_own_punctuation() {
        let protocols = Protocols {
            server_starter: true,
            nginx: true,
            php_fpm: true,
            ..NONE
        };
        let extras = Extras {
            generation: 7,
            ..Extras::default()
        };
        assert_eq!(
            texts(&told(&[WEB, LOCAL], protocols, &extras)),
            [
                "SERVER_STARTER_PORT=127.0.0.1:8080=3;/run/x.sock=4",
                "SERVER_STARTER_GENERATION=7",
                "NGINX=3;4;",
                "FPM_SOCKETS=127.0.0.1:9000=3,/run/fpm.sock=4"
            ]
        );
    }

    #[test]
    fn what_was_said_to_us_alone_is_not_passed_on() {
        let names = [
            "LISTEN_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
            "LISTEN_PIDFDID",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "EINHORN_FDS",
            "EINHORN_FD_0",
            "EINHORN_SOCK_FD",
            "SERVER_STARTER_PORT",
            "NGINX",
            "FPM_SOCKETS",
            "SOCKETMASTER_FD",
        ];
        let before = names.map(|name| (OsString::from(name), OsString::from("x")));
        let extras = Extras::default();
        let environment = Environment::build(before.iter(), &[WEB], NONE, &extras);
        assert_eq!(texts(&environment), [] as [&str; 0]);
    }

    #[test]
    fn names_that_only_look_like_ours_are_passed_on() {
        let before = inherited(&[
            ("LISTEN_ADDR", ":1"),
            ("LISTEN_PORT", "2"),
            ("NGINX_VERSION", "1.22"),
            ("EINHORN", "x"),
            ("JOURNAL_STREAM", "8:1"),
            ("PATH", "/bin"),
        ]);
        let environment = Environment::build(before.iter(), &[WEB], NONE, &Extras::default());
        assert_eq!(
            texts(&environment),
            [
                "LISTEN_ADDR=:1",
                "LISTEN_PORT=2",
                "NGINX_VERSION=1.22",
                "EINHORN=x",
                "JOURNAL_STREAM=8:1",
                "PATH=/bin"
            ]
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_unchanged() {
        let name = OsStr::from_bytes(b"N\xffME").to_owned();
        let value = OsStr::from_bytes(b"\xfe=\xfd\n").to_owned();
        let before = [(name, value)];
        let environment = Environment::build(before.iter(), &[], NONE, &Extras::default());
        assert_eq!(environment.entries[0].to_bytes(), b"N\xffME=\xfe=\xfd\n");
    }

    #[test]
    fn another_user_replaces_home_user_and_logname_every_time_they_occur() {
        let before = inherited(&[
            ("HOME", "/root"),
            ("USER", "root"),
            ("HOME", "/x"),
            ("TERM", "dumb"),
        ]);
        let user = User {
            uid: Uid::from_raw(33),
            gid: Gid::from_raw(33),
            groups: vec![],
            name: "web".to_owned(),
            home: PathBuf::from("/srv/web"),
        };
        let extras = Extras {
            user: Some(&user),
            ..Extras::default()
        };
        let environment = Environment::build(before.iter(), &[], NONE, &extras);
        assert_eq!(
            texts(&environment),
            ["TERM=dumb", "HOME=/srv/web", "USER=web", "LOGNAME=web"]
        );
    }

    #[test]
    fn a_notify_socket_of_ours_takes_the_place_of_systemds() {
        let before = inherited(&[("NOTIFY_SOCKET", "/run/systemd/notify")]);
        let extras = Extras {
            notify_socket: Some("@ours"),
            ..Extras::default()
        };
        let environment = Environment::build(before.iter(), &[], NONE, &extras);
        assert_eq!(texts(&environment), ["NOTIFY_SOCKET=@ours"]);
    }
}
