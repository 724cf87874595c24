//! The addresses that `-listen` takes: read, checked and printed. A `Uri` is what was asked for, and
//! never what the system made of it: this file must not resolve a name or touch a file.

use crate::text::{boolean, integer};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path or abstract name that fits `sun_path` with its NUL (unix(7)).
const UNIX_MAX: usize = 107;

/// A `-listen` address. `Display` prints the canonical form, which reads back as the same `Uri`, and
/// which is also its form in serde's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Uri {
    pub scheme: Scheme,
    pub address: Address,
    pub options: Options,
}

/// The kind of socket, in Go's network names, or where an inherited one is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Tcp,
    Tcp4,
    Tcp6,
    Udp,
    Udp4,
    Udp6,
    Unix,
    Unixpacket,
    Unixgram,
    Fd,
    Systemd,
}

/// Every scheme in the order of the enum, with what stands before the `://`.
const SCHEMES: [(Scheme, &str); 11] = [
    (Scheme::Tcp, "tcp"),
    (Scheme::Tcp4, "tcp4"),
    (Scheme::Tcp6, "tcp6"),
    (Scheme::Udp, "udp"),
    (Scheme::Udp4, "udp4"),
    (Scheme::Udp6, "udp6"),
    (Scheme::Unix, "unix"),
    (Scheme::Unixpacket, "unixpacket"),
    (Scheme::Unixgram, "unixgram"),
    (Scheme::Fd, "fd"),
    (Scheme::Systemd, "systemd"),
];

/// Where the socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host` is a name, a number, or an IPv6 number without its brackets, with `%zone` when one was
    /// given; an empty one means every address. `port` is a number from 0 to 65535 or the name of a
    /// service.
    Host { host: String, port: String },
    /// A socket file, relative to the working directory unless it begins with `/`.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, without the NUL or `@` before it.
    Abstract(OsString),
    /// An inherited descriptor.
    Fd(i32),
    /// An inherited socket by its `LISTEN_FDNAMES` name; empty: all of them, in their order.
    Name(String),
}

/// What follows the `?`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The queue of connections asked for, at least 1.
    pub backlog: Option<u32>,
    /// The permission bits of a unix path, 0 to 0o777.
    pub mode: Option<u32>,
    /// The owner of a unix path, name or number.
    pub owner: Option<String>,
    /// The group of a unix path, name or number.
    pub group: Option<String>,
    pub reuseport: bool,
    /// The socket's name in `LISTEN_FDNAMES`, which allows no colon (sd_listen_fds(3)).
    pub name: Option<String>,
    /// The socket's name in `FPM_SOCKETS`.
    pub fpm: Option<String>,
}

impl Scheme {
    /// The word before the `://`.
    pub fn name(self) -> &'static str {
        SCHEMES[self as usize].1
    }

    /// Whether the address is a path or an abstract name.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixpacket | Scheme::Unixgram)
    }

    /// Whether our parent made the socket, so that its kind is not known before it is examined.
    pub fn is_inherited(self) -> bool {
        matches!(self, Scheme::Fd | Scheme::Systemd)
    }
}

// ---- reading. Every `Err` is the reason alone. ----

impl TryFrom<&OsStr> for Uri {
    type Error = String;

    /// A unix path need not be UTF-8.
    fn try_from(text: &OsStr) -> Result<Uri, String> {
        encode(text.as_bytes(), |_| false).parse()
    }
}

impl TryFrom<String> for Uri {
    type Error = String;

    fn try_from(text: String) -> Result<Uri, String> {
        text.parse()
    }
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Uri, String> {
        let (scheme, rest) = split_scheme(text)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let address = match scheme {
            Scheme::Fd => descriptor(place)?,
            Scheme::Systemd => Address::Name(fd_name(&decode_text(place)?)?),
            _ if scheme.is_unix() => unix_address(place)?,
            _ => host_and_port(scheme, place)?,
        };
        let options = parse_options(scheme, &address, query)?;
        Ok(Uri {
            scheme,
            address,
            options,
        })
    }
}

/// `unix:/run/x.sock` is taken too, as Go's url.Parse does.
fn split_scheme(text: &str) -> Result<(Scheme, &str), String> {
    let missing = "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock";
    let (name, rest) = text.split_once(':').ok_or(missing)?;
    let is_called = |(_, called): &&(Scheme, &str)| name.eq_ignore_ascii_case(called);
    let scheme = SCHEMES.iter().find(is_called).map(|known| known.0);
    match (scheme, rest.strip_prefix("//")) {
        (Some(scheme), Some(rest)) => Ok((scheme, rest)),
        (Some(scheme), None) if scheme.is_unix() && rest.starts_with('/') => Ok((scheme, rest)),
        (Some(scheme), None) => Err(format!("{}: is not followed by //", scheme.name())),
        (None, None) => Err(missing.into()),
        (None, Some(_)) => {
            let known = SCHEMES.map(|(_, name)| name).join(" ");
            Err(format!("unknown scheme {name:?}; known are {known}"))
        }
    }
}

fn host_and_port(scheme: Scheme, place: &str) -> Result<Address, String> {
    // A lone slash after the port is what Go's url.Parse ignores.
    let text = ascii(place.strip_suffix('/').unwrap_or(place))?;
    let is_word = |text: &str, others: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let parts = inner.split_once("]:");
        let (host, port) = parts.ok_or("it lacks a ] or a port, as in tcp://[::1]:80")?;
        (ipv6(host)?, port)
    } else {
        let parts = text.rsplit_once(':');
        let (host, port) = parts.ok_or("it has no port, as in tcp://:8080")?;
        if host.contains(':') {
            return Err("an IPv6 address needs brackets, as in tcp://[::1]:80".into());
        }
        if !is_word(host, "-._") {
            return Err(format!("{host:?} is not a host name"));
        }
        (host.to_owned(), port)
    };
    let wrong_family = match scheme {
        Scheme::Tcp4 | Scheme::Udp4 if host.contains(':') => "IPv6",
        Scheme::Tcp6 | Scheme::Udp6 if host.parse::<Ipv4Addr>().is_ok() => "IPv4",
        _ => "",
    };
    if !wrong_family.is_empty() {
        let scheme = scheme.name();
        return Err(format!("{scheme} cannot have an {wrong_family} address"));
    }
    let port = if port.is_empty() {
        return Err("the port is empty; 0 lets the system choose".into());
    } else if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse::<u16>();
        let number = number.map_err(|_| format!("port {port} is out of range"))?;
        number.to_string()
    } else if port.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_word(port, "-._+") {
        port.to_owned()
    } else {
        return Err(format!("{port:?} is neither a port nor a service name"));
    };
    Ok(Address::Host { host, port })
}

/// Reads what stands between the brackets. A zone follows a `%` or, by RFC 6874, a `%25`.
fn ipv6(text: &str) -> Result<String, String> {
    let (number, zone) = text.split_once('%').unwrap_or((text, ""));
    let zone = zone.strip_prefix("25").unwrap_or(zone);
    let lacks_zone = zone.is_empty() && text.contains('%');
    if number.parse::<Ipv6Addr>().is_err() || lacks_zone {
        return Err(format!("{text:?} is not an IPv6 address"));
    }
    Ok(if zone.is_empty() {
        number.to_owned()
    } else {
        format!("{number}%{zone}")
    })
}

/// Everything after the `//` is the path: `unix://x.sock` is a file in the working directory. (Go's
/// url.Parse takes the first component for a host and drops it, which is of no use.)
fn unix_address(place: &str) -> Result<Address, String> {
    // The `@` is looked for before decoding, so that `%40x` is a file whose name begins with `@`.
    let name = place.strip_prefix('@');
    let what = name.map_or("path", |_| "name");
    let bytes = decode(name.unwrap_or(place))?;
    if bytes.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if bytes.contains(&0) {
        return Err(format!("the {what} contains NUL"));
    }
    let length = bytes.len();
    if length > UNIX_MAX {
        return Err(format!(
            "the {what} has {length} bytes, the limit is {UNIX_MAX}"
        ));
    }
    let text = OsString::from_vec(bytes);
    Ok(match name {
        Some(_) => Address::Abstract(text),
        None => Address::Path(text.into()),
    })
}

fn descriptor(place: &str) -> Result<Address, String> {
    let text = ascii(place.strip_suffix('/').unwrap_or(place))?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a descriptor number, as in fd://3"));
    }
    let number = text.parse().map(Address::Fd);
    number.map_err(|_| format!("descriptor {text} is out of range"))
}

/// Checks a name for `LISTEN_FDNAMES` (sd_listen_fds_with_names(3)): printable ASCII, no colon.
fn fd_name(name: &str) -> Result<String, String> {
    let fits = |b: u8| (b' '..=b'~').contains(&b) && b != b':';
    if name.len() > 255 || !name.bytes().all(fits) {
        let rule = "plain ASCII without a colon, 255 at most";
        return Err(format!("name {name:?} is not {rule}"));
    }
    Ok(name.into())
}

fn parse_options(scheme: Scheme, address: &Address, query: &str) -> Result<Options, String> {
    let is_datagram = matches!(
        scheme,
        Scheme::Udp | Scheme::Udp4 | Scheme::Udp6 | Scheme::Unixgram
    );
    let mut options = Options::default();
    let mut seen = Vec::new();
    for item in query.split('&').filter(|item| !item.is_empty()) {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(decode_text(value)?)),
            None => (item, None),
        };
        // Whether the option means something for such a socket.
        let applies = match key {
            "backlog" => !is_datagram && !scheme.is_inherited(),
            "mode" | "owner" | "group" if matches!(address, Address::Abstract(_)) => {
                return Err(format!("an abstract name has no {key}"));
            }
            "mode" | "owner" | "group" => scheme.is_unix(),
            "reuseport" => matches!(address, Address::Host { .. }),
            "name" => true,
            "fpm" => !is_datagram && scheme != Scheme::Unixpacket,
            _ => {
                let known = "backlog mode owner group reuseport name fpm";
                return Err(format!("unknown option {key:?}; known are {known}"));
            }
        };
        if !applies {
            let scheme = scheme.name();
            return Err(format!("option {key} does not apply to {scheme}"));
        }
        if seen.contains(&key) {
            return Err(format!("option {key} is given twice"));
        }
        seen.push(key);
        options.set(key, value.as_deref())?;
    }
    Ok(options)
}

impl Options {
    /// Sets one of the options that `parse_options` knows.
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        // `?reuseport` alone is enough.
        let value = value.unwrap_or(if key == "reuseport" { "true" } else { "" });
        if value.is_empty() {
            return Err(format!("option {key} needs a value"));
        }
        if value.contains('\0') {
            return Err(format!("the value of {key} contains NUL"));
        }
        let invalid = |reason| format!("{key} {value:?}: {reason}");
        match key {
            "backlog" => {
                let backlog = integer(value, 1..=i32::MAX.into()).map_err(invalid)?;
                self.backlog = Some(backlog as u32);
            }
            "mode" => self.mode = Some(mode(value)?),
            "owner" => self.owner = Some(value.into()),
            "group" => self.group = Some(value.into()),
            "reuseport" => self.reuseport = boolean(value).map_err(invalid)?,
            "name" => self.name = Some(fd_name(value)?),
            // `FPM_SOCKETS` is `NAME=FD,NAME=FD`.
            _ if value.contains([',', '=']) => {
                return Err(format!("fpm {value:?} cannot stand in FPM_SOCKETS"));
            }
            _ => self.fpm = Some(value.into()),
        }
        Ok(())
    }
}

/// Octal, as chmod(1) takes it.
fn mode(value: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(value, 8).ok();
    // from_str_radix takes a sign.
    let bits = bits.filter(|bits| *bits <= 0o777 && !value.starts_with('+'));
    bits.ok_or_else(|| format!("mode {value:?} is not an octal number from 0 to 0777"))
}

fn ascii(text: &str) -> Result<&str, String> {
    let is_ascii = text.bytes().all(|b| b.is_ascii_graphic());
    let refused = || format!("{text:?} is not plain ASCII");
    is_ascii.then_some(text).ok_or_else(refused)
}

/// Percent-decoding (RFC 3986, 2.1); a `+` stays a `+`.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        // from_str_radix alone would take a sign.
        let code = part.get(..2).filter(|code| !code.starts_with('+'));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        let byte = byte.ok_or_else(|| {
            let code: String = part.chars().take(2).collect();
            format!("\"%{code}\" is not a percent code")
        })?;
        bytes.push(byte);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(bytes)
}

fn decode_text(text: &str) -> Result<String, String> {
    String::from_utf8(decode(text)?).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes());
        format!("{text:?} is not UTF-8")
    })
}

// ---- printing ----

impl From<Uri> for String {
    fn from(uri: Uri) -> String {
        uri.to_string()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        write!(f, "{scheme}://{}{}", self.address, self.options)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reserved = |c: char| c.is_control() || c == '%' || c == '?';
        match self {
            Address::Host { host, port } if host.contains(':') => {
                write!(f, "[{}]:{port}", host.replacen('%', "%25", 1))
            }
            Address::Host { host, port } => write!(f, "{host}:{port}"),
            Address::Path(path) => match path.as_os_str().as_bytes() {
                [b'@', rest @ ..] => write!(f, "%40{}", encode(rest, reserved)),
                bytes => f.write_str(&encode(bytes, reserved)),
            },
            Address::Abstract(name) => write!(f, "@{}", encode(name.as_bytes(), reserved)),
            Address::Fd(fd) => write!(f, "{fd}"),
            Address::Name(name) => f.write_str(&encode(name.as_bytes(), reserved)),
        }
    }
}

impl fmt::Display for Options {
    /// With the `?`, or nothing when all are at their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reserved = |c: char| c.is_control() || c == '%' || c == '&';
        let text = |key: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            Some(format!("{key}={}", encode(value.as_bytes(), reserved)))
        };
        let options = [
            self.backlog.map(|backlog| format!("backlog={backlog}")),
            self.mode.map(|mode| format!("mode={mode:04o}")),
            self.reuseport.then(|| "reuseport".into()),
            text("owner", &self.owner),
            text("group", &self.group),
            text("name", &self.name),
            text("fpm", &self.fpm),
        ];
        for (index, option) in options.into_iter().flatten().enumerate() {
            write!(f, "{}{option}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// The opposite of `decode`: reserved characters and bytes that are not UTF-8 become percent codes.
fn encode(text: &[u8], is_reserved: fn(char) -> bool) -> String {
    let mut coded = String::new();
    let percent = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("%{b:02X}")).collect() };
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match is_reserved(c) {
                true => coded += &percent(c.encode_utf8(&mut [0; 4]).as_bytes()),
                false => coded.push(c),
            }
        }
        coded += &percent(chunk.invalid());
    }
    coded
}

#[cfg(test)]
mod tests;
