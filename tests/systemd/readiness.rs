//! Readiness, reloads and what systemctl shows of them.

use super::systemd::{SystemdBox, in_each, in_each_since, in_own};
use super::{get, port, unit};
use std::time::{Duration, Instant};

/// A unit whose workers are ready when /run/go is there.
const GATED: &str = "-listen=tcp://:8090 -ready=notify -start=20000 -stop=1000 \
                     -command=/usr/local/bin/worker -- ready /run/go";

fn status_with<'a>(text: &'a str) -> impl Fn(&str) -> bool + 'a {
    move |status| status.contains(text)
}

fn start_plain(systemd: &SystemdBox) -> String {
    systemd.run(&["systemctl", "start", "plain"]);
    systemd.show("plain", "MainPID")
}

#[test]
fn the_unit_is_active_when_the_first_generation_is_ready_and_reloading_while_the_next_is_not() {
    in_each(|systemd| {
        systemd.unit("gated.service", &unit(GATED, &[]));
        systemd.run(&["systemctl", "start", "--no-block", "gated"]);
        systemd.wait_for_line("gated", "Starting /usr/local/bin/worker");
        systemd.wait_for("gated", "StatusText", status_with("starting: 0 of 1"));
        assert_eq!(systemd.show("gated", "ActiveState"), "activating");
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
        let main = systemd.show("gated", "MainPID");

        systemd.remove("/run/go");
        systemd.signal("gated", "HUP");
        systemd.wait_for("gated", "ActiveState", |state| state == "reloading");
        let status = systemd.show("gated", "StatusText");
        assert!(
            status.contains("generation 1: 1 of 1 workers ready, reload 2 under way"),
            "{status}"
        );
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
        systemd.wait_for(
            "gated",
            "StatusText",
            status_with("reload 2: generation 2 is live"),
        );
        assert_eq!(systemd.show("gated", "MainPID"), main);
    });
}

#[test]
fn a_reload_that_was_rolled_back_is_told_by_systemctl_status_and_the_old_generation_serves() {
    in_each(|systemd| {
        let main = start_plain(systemd);
        let before = get(systemd, &port(8080));
        systemd.install_script("echo no such table; exit 7", "/usr/local/bin/server");
        systemd.run(&["systemctl", "reload", "plain"]);
        let status = systemd.wait_for("plain", "StatusText", status_with("rolled back"));
        for part in [
            "generation 1: 1 of 1 workers ready",
            "reload 2 rolled back: worker ",
            "exited with status 7 after ",
            "keeping generation 1",
            "its last lines: no such table",
        ] {
            assert!(status.contains(part), "no {part:?} in {status:?}");
        }
        assert!(
            systemd
                .run(&["systemctl", "status", "plain"])
                .contains("rolled back")
        );
        systemd.wait_for("plain", "ActiveState", |state| state == "active");
        assert_eq!(get(systemd, &port(8080)), before);
        assert_eq!(systemd.show("plain", "MainPID"), main);

        systemd.install(crate::common::example("server"), "/usr/local/bin/server");
        systemd.run(&["systemctl", "reload", "plain"]);
        systemd.wait_for("plain", "StatusText", status_with("generation 3 is live"));
        assert_ne!(get(systemd, &port(8080)), before);
    });
}

#[test]
fn systemctl_reload_of_a_notify_reload_unit_returns_with_the_verdict() {
    in_each_since(253, |systemd| {
        systemd.run(&["systemctl", "start", "notify-reload"]);
        let main = systemd.show("notify-reload", "MainPID");
        for generation in 2..4 {
            let start = Instant::now();
            systemd.run(&["systemctl", "reload", "notify-reload"]);
            assert!(
                start.elapsed() > Duration::from_millis(500),
                "it did not wait for -start"
            );
            let status = systemd.show("notify-reload", "StatusText");
            let live = format!("reload {generation}: generation {generation} is live");
            assert!(status.contains(&live), "{status}");
            assert_eq!(systemd.show("notify-reload", "ActiveState"), "active");
        }
        systemd.install_script("exit 7", "/usr/local/bin/server");
        systemd.run(&["systemctl", "reload", "notify-reload"]);
        let status = systemd.show("notify-reload", "StatusText");
        assert!(status.contains("reload 4 rolled back"), "{status}");
        assert_eq!(systemd.show("notify-reload", "MainPID"), main);
    });
}

#[test]
fn systemctl_reload_during_a_reload_by_signal_is_one_more() {
    in_each_since(253, |systemd| {
        let text = unit(GATED, &[]).replace("Type=notify", "Type=notify-reload");
        systemd.write("/run/go", "");
        systemd.unit("gated.service", &text);
        systemd.run(&["systemctl", "start", "gated"]);
        systemd.remove("/run/go");
        systemd.signal("gated", "HUP");
        systemd.wait_for("gated", "ActiveState", |state| state == "reloading");
        systemd.run(&["systemctl", "reload", "--no-block", "gated"]);
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "StatusText", status_with("generation 3 is live"));
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
        assert_eq!(systemd.show("gated", "Result"), "success");
    });
}

#[test]
fn a_gate_slower_than_timeout_start_but_within_start_keeps_the_unit() {
    in_each(|systemd| {
        systemd.unit("gated.service", &unit(GATED, &["TimeoutStartSec=1"]));
        systemd.run(&["systemctl", "start", "--no-block", "gated"]);
        systemd.wait_for_line("gated", "Starting /usr/local/bin/worker");
        stays("gated", "activating", Duration::from_secs(3), systemd);
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
    });
}

#[test]
fn a_slow_reload_of_a_notify_reload_unit_is_not_given_up_by_systemd() {
    in_each_since(253, |systemd| {
        let text = unit(GATED, &["TimeoutStartSec=1"]).replace("Type=notify", "Type=notify-reload");
        systemd.write("/run/go", "");
        systemd.unit("gated.service", &text);
        systemd.run(&["systemctl", "start", "gated"]);
        systemd.remove("/run/go");
        systemd.run(&["systemctl", "reload", "--no-block", "gated"]);
        systemd.wait_for("gated", "ActiveState", |state| state == "reloading");
        stays("gated", "reloading", Duration::from_secs(3), systemd);
        systemd.write("/run/go", "");
        systemd.wait_for("gated", "ActiveState", |state| state == "active");
        assert_eq!(systemd.show("gated", "Result"), "success");
    });
}

/// A gate that is never passed ends by our own limit, with our reason.
#[test]
fn a_first_generation_that_never_becomes_ready_fails_the_unit_with_our_reason() {
    in_own(|systemd| {
        let flags = GATED.replace("-start=20000", "-start=1000");
        systemd.unit("gated.service", &unit(&flags, &[]));
        assert!(
            !systemd
                .exec(&["systemctl", "start", "gated"])
                .status
                .success()
        );
        assert_eq!(systemd.show("gated", "Result"), "exit-code");
        assert_eq!(systemd.show("gated", "ExecMainStatus"), "1");
        systemd.wait_for_line("gated", "did not say that it is ready within");
    });
}

fn stays(unit: &str, state: &str, time: Duration, systemd: &SystemdBox) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert_eq!(
            systemd.show(unit, "ActiveState"),
            state,
            "{}",
            systemd.journal(unit)
        );
    }
}

#[test]
fn the_watchdog_is_fed_by_a_loop_that_turns_and_by_no_other() {
    in_each(|systemd| {
        let flags = "-listen=tcp://:8090 -start=0 -command=/usr/local/bin/server";
        systemd.unit(
            "watched.service",
            &unit(flags, &["WatchdogSec=2", "Restart=always"]),
        );
        systemd.run(&["systemctl", "start", "watched"]);
        let main = systemd.show("watched", "MainPID");
        stays("watched", "active", Duration::from_secs(5), systemd);
        assert_eq!(systemd.show("watched", "MainPID"), main);
        assert_eq!(systemd.show("watched", "NRestarts"), "0");

        systemd.signal("watched", "STOP");
        systemd.wait_for("watched", "NRestarts", |count| count == "1");
        systemd.wait_for_line("watched", "Watchdog timeout");
        systemd.wait_for("watched", "ActiveState", |state| state == "active");
        assert_ne!(systemd.show("watched", "MainPID"), main);
        get(systemd, &port(8090));
    });
}

/// With the real systemd-notify(1), which also waits for its barrier to be answered.
#[test]
fn what_a_worker_tells_its_notify_socket_is_for_us_and_never_reaches_systemd() {
    in_each(|systemd| {
        systemd.install_script(
            "systemd-notify --ready --status='I am a worker'\n\
             systemd-notify STOPPING=1\n\
             systemd-notify MAINPID=$$ RELOADING=1 FDSTOREREMOVE=1 WATCHDOG=trigger ERRNO=5\n\
             echo said all\n\
             exec /usr/local/bin/worker up",
            "/usr/local/bin/talker",
        );
        let flags = "-listen=tcp://:8090 -ready=notify -command=/usr/local/bin/talker";
        systemd.unit(
            "talker.service",
            &unit(flags, &["NotifyAccess=all", "WatchdogSec=30"]),
        );
        systemd.run(&["systemctl", "start", "talker"]);
        let main = systemd.show("talker", "MainPID");
        systemd.wait_for_line("talker", "said all");
        assert_eq!(systemd.show("talker", "ActiveState"), "active");
        assert_eq!(systemd.show("talker", "SubState"), "running");
        assert_eq!(systemd.show("talker", "MainPID"), main);
        assert_eq!(systemd.show("talker", "StatusErrno"), "0");
        let status = systemd.show("talker", "StatusText");
        assert!(status.starts_with("generation 1: 1 of 1"), "{status}");
    });
}

/// The unit whose ExecReload= is our own client.
#[test]
fn systemctl_reload_of_the_verdict_unit_fails_when_the_new_generation_was_rolled_back() {
    in_each(|systemd| {
        systemd.run(&["systemctl", "start", "verdict"]);
        systemd.run(&["systemctl", "reload", "verdict"]);
        let status = systemd.show("verdict", "StatusText");
        assert!(status.contains("generation 2 is live"), "{status}");

        systemd.install_script("echo no such table; exit 7", "/usr/local/bin/server");
        let reload = systemd.exec(&["systemctl", "reload", "verdict"]);
        assert!(!reload.status.success(), "{reload:?}");
        assert_eq!(systemd.show("verdict", "ActiveState"), "active");
        systemd.wait_for_line("verdict", "status=3");
        let journal = systemd.journal("verdict");
        assert!(journal.contains("no such table"), "{journal}");

        systemd.install(crate::common::example("server"), "/usr/local/bin/server");
        systemd.run(&["systemctl", "reload", "verdict"]);
        get(systemd, &port(8080));
        systemd.run(&["systemctl", "stop", "verdict"]);
        assert!(!systemd.path("/run/verdict").exists());
    });
}
