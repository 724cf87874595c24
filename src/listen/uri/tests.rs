use super::*;

fn uri(text: &str) -> Uri {
    text.parse()
        .unwrap_or_else(|error| panic!("refused: {error}"))
}

fn reason(text: &str) -> String {
    text.parse::<Uri>().expect_err(text)
}

fn host(host: &str, port: &str) -> Address {
    Address::Host {
        host: host.into(),
        port: port.into(),
    }
}

#[test]
fn every_scheme_and_address_is_understood() {
    let path = |path: &str| Address::Path(path.into());
    let cases = [
        ("tcp://:8080", Scheme::Tcp, host("", "8080")),
        ("tcp4://127.0.0.1:0", Scheme::Tcp4, host("127.0.0.1", "0")),
        ("tcp6://[::1]:80", Scheme::Tcp6, host("::1", "80")),
        (
            "tcp6://[fe80::1%25eth0]:80",
            Scheme::Tcp6,
            host("fe80::1%eth0", "80"),
        ),
        (
            "tcp6://[fe80::1%eth0]:80",
            Scheme::Tcp6,
            host("fe80::1%eth0", "80"),
        ),
        (
            "tcp://localhost:http",
            Scheme::Tcp,
            host("localhost", "http"),
        ),
        ("udp://:53", Scheme::Udp, host("", "53")),
        (
            "udp4://example.org:domain",
            Scheme::Udp4,
            host("example.org", "domain"),
        ),
        ("udp6://[::]:65535", Scheme::Udp6, host("::", "65535")),
        ("unix:///run/x.sock", Scheme::Unix, path("/run/x.sock")),
        (
            "unixpacket:///run/x.sock",
            Scheme::Unixpacket,
            path("/run/x.sock"),
        ),
        (
            "unixgram:///run/x.sock",
            Scheme::Unixgram,
            path("/run/x.sock"),
        ),
        (
            "unix://@abstract",
            Scheme::Unix,
            Address::Abstract("abstract".into()),
        ),
        ("fd://3", Scheme::Fd, Address::Fd(3)),
        (
            "systemd://web",
            Scheme::Systemd,
            Address::Name("web".into()),
        ),
        ("systemd://", Scheme::Systemd, Address::Name("".into())),
    ];
    for (text, scheme, address) in cases {
        let expected = Uri {
            scheme,
            address,
            options: Options::default(),
        };
        assert_eq!(uri(text), expected, "{text}");
    }
}

#[test]
fn spellings_that_worked_under_the_original_still_work() {
    let cases = [
        ("TCP://:8080", "tcp://:8080"),
        ("tcp://:8080/", "tcp://:8080"),
        ("tcp://:0080", "tcp://:80"),
        ("unix:/run/x.sock", "unix:///run/x.sock"),
        ("unix:///run/a%20b", "unix:///run/a b"),
        ("fd://3/", "fd://3"),
    ];
    for (text, canonical) in cases {
        assert_eq!(uri(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn a_unix_path_is_everything_after_the_slashes() {
    for (text, path) in [
        ("unix://x.sock", "x.sock"),
        ("unix://run/x.sock", "run/x.sock"),
        ("unix://./x.sock", "./x.sock"),
        ("unix:///run/x#1:[&].sock", "/run/x#1:[&].sock"),
        ("unix:///run/what%3f%25", "/run/what?%"),
        ("unix://%40x", "@x"),
        ("unix:///caf\u{e9}", "/caf\u{e9}"),
    ] {
        assert_eq!(uri(text).address, Address::Path(path.into()), "{text}");
    }
}

#[test]
fn a_unix_path_need_not_be_utf_8() {
    let plain = Uri::try_from(OsStr::from_bytes(b"unix:///run/\xff\xfe?mode=600")).unwrap();
    let bytes = OsStr::from_bytes(b"/run/\xff\xfe");
    assert_eq!(plain.address, Address::Path(bytes.into()));
    assert_eq!(plain.to_string(), "unix:///run/%FF%FE?mode=0600");
    assert_eq!(uri("unix:///run/%ff%fe?mode=600"), plain);
}

#[test]
fn options_are_understood() {
    let text = "unix:///x?backlog=0x10&mode=0660&owner=web&group=33&name=a%20b&fpm=/run/%26";
    let expected = Options {
        backlog: Some(16),
        mode: Some(0o660),
        owner: Some("web".into()),
        group: Some("33".into()),
        reuseport: false,
        name: Some("a b".into()),
        fpm: Some("/run/&".into()),
    };
    assert_eq!(uri(text).options, expected);
    assert!(uri("tcp://:1?reuseport").options.reuseport);
    assert!(uri("udp://:1?reuseport=true").options.reuseport);
    assert!(!uri("tcp://:1?reuseport=0").options.reuseport);
    assert_eq!(uri("tcp://:1?").options, Options::default());
    assert_eq!(uri("fd://3?name=a+b").options.name.as_deref(), Some("a+b"));
    assert_eq!(
        uri("systemd://web?fpm=/x").options.fpm.as_deref(),
        Some("/x")
    );
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    for text in [
        "tcp://:8080",
        "tcp://[::1]:80",
        "tcp6://[fe80::1%2525]:80",
        "tcp://localhost:http?backlog=1&reuseport",
        "unix:///a b?mode=0007",
        "unix:///a%0Ab%3F%25%FF",
        "unix://%40x",
        "unix://@@x%3F%FF",
        "unix:///x?backlog=5&mode=0660&owner=a%26&group=b%25&name=c=d&fpm=/?x",
        "fd://0",
        "systemd://a?name=b",
        "systemd://",
    ] {
        let read = uri(text);
        assert_eq!(read.to_string(), text);
        assert_eq!(uri(&read.to_string()), read);
    }
}

#[test]
fn a_bad_address_is_refused_with_its_reason() {
    let long = format!("unix:///{}", "x".repeat(107));
    let cases = [
        (
            "",
            "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock",
        ),
        (
            ":8080",
            "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock",
        ),
        (
            "localhost:8080",
            "it needs a scheme, as in tcp://:8080 or unix:///run/x.sock",
        ),
        ("tcp:localhost:80", "tcp: is not followed by //"),
        ("unix:x.sock", "unix: is not followed by //"),
        (
            "http://:80",
            "unknown scheme \"http\"; known are \
             tcp tcp4 tcp6 udp udp4 udp6 unix unixpacket unixgram fd systemd",
        ),
        ("tcp://", "it has no port, as in tcp://:8080"),
        ("tcp://localhost", "it has no port, as in tcp://:8080"),
        (
            "tcp://[::1]",
            "it lacks a ] or a port, as in tcp://[::1]:80",
        ),
        ("tcp://:", "the port is empty; 0 lets the system choose"),
        ("tcp://:99999", "port 99999 is out of range"),
        ("tcp://:-1", "\"-1\" is neither a port nor a service name"),
        (
            "tcp://:80/x",
            "\"80/x\" is neither a port nor a service name",
        ),
        (
            "tcp://::1:80",
            "an IPv6 address needs brackets, as in tcp://[::1]:80",
        ),
        (
            "tcp://[::1:80",
            "it lacks a ] or a port, as in tcp://[::1]:80",
        ),
        ("tcp://[]:80", "\"\" is not an IPv6 address"),
        (
            "tcp://[localhost]:80",
            "\"localhost\" is not an IPv6 address",
        ),
        ("tcp://[fe80::1%]:80", "\"fe80::1%\" is not an IPv6 address"),
        ("tcp://me@host:80", "\"me@host\" is not a host name"),
        ("tcp://a b:80", "\"a b:80\" is not plain ASCII"),
        ("tcp4://[::1]:80", "tcp4 cannot have an IPv6 address"),
        ("udp6://127.0.0.1:80", "udp6 cannot have an IPv4 address"),
        ("unix://", "the path is empty"),
        ("unix://?mode=600", "the path is empty"),
        ("unix://@", "the name is empty"),
        ("unix:///a%00b", "the path contains NUL"),
        ("unix:///a%zz", "\"%zz\" is not a percent code"),
        ("unix:///a%2", "\"%2\" is not a percent code"),
        (&long, "the path has 108 bytes, the limit is 107"),
        ("fd://", "\"\" is not a descriptor number, as in fd://3"),
        ("fd://-1", "\"-1\" is not a descriptor number, as in fd://3"),
        ("fd://+1", "\"+1\" is not a descriptor number, as in fd://3"),
        ("fd://99999999999", "descriptor 99999999999 is out of range"),
        (
            "systemd://a:b",
            "name \"a:b\" is not plain ASCII without a colon, 255 at most",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(reason(text), expected, "{text}");
    }
}

#[test]
fn a_bad_option_is_refused_with_its_reason() {
    let cases = [
        (
            "tcp://:1?x=1",
            "unknown option \"x\"; known are backlog mode owner group reuseport name fpm",
        ),
        ("tcp://:1?mode=0660", "option mode does not apply to tcp"),
        ("fd://3?owner=web", "option owner does not apply to fd"),
        ("unix://@x?mode=0660", "an abstract name has no mode"),
        (
            "unix:///x?reuseport",
            "option reuseport does not apply to unix",
        ),
        ("udp://:1?backlog=1", "option backlog does not apply to udp"),
        (
            "systemd://x?backlog=1",
            "option backlog does not apply to systemd",
        ),
        (
            "unixgram:///x?fpm=x",
            "option fpm does not apply to unixgram",
        ),
        ("tcp://:1?backlog", "option backlog needs a value"),
        ("tcp://:1?name=", "option name needs a value"),
        (
            "tcp://:1?backlog=1&backlog=2",
            "option backlog is given twice",
        ),
        ("tcp://:1?backlog=many", "backlog \"many\": not a number"),
        (
            "tcp://:1?backlog=0",
            "backlog \"0\": out of range, 1 to 2147483647",
        ),
        (
            "tcp://:1?reuseport=yes",
            "reuseport \"yes\": neither true nor false",
        ),
        (
            "unix:///x?mode=0888",
            "mode \"0888\" is not an octal number from 0 to 0777",
        ),
        (
            "unix:///x?mode=1777",
            "mode \"1777\" is not an octal number from 0 to 0777",
        ),
        (
            "unix:///x?mode=+7",
            "mode \"+7\" is not an octal number from 0 to 0777",
        ),
        ("unix:///x?owner=%ff", "\"\u{fffd}\" is not UTF-8"),
        ("unix:///x?owner=%00", "the value of owner contains NUL"),
        (
            "tcp://:1?name=a:b",
            "name \"a:b\" is not plain ASCII without a colon, 255 at most",
        ),
        (
            "tcp://:1?fpm=a,b",
            "fpm \"a,b\" cannot stand in FPM_SOCKETS",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(reason(text), expected, "{text}");
    }
}

#[test]
fn an_error_stays_on_one_line() {
    let error = Uri::try_from(OsStr::from_bytes(b"tcp://a\nb\xff:1")).unwrap_err();
    assert_eq!(error, "\"a\\nb%FF:1\" is not plain ASCII");
    for text in [
        "tcp://:1?backlog=%0A",
        "unix:///x?mode=%0A",
        "tcp://:1?name=%0A",
        "systemd://%0A",
    ] {
        assert!(!reason(text).contains('\n'), "{text}");
    }
}
