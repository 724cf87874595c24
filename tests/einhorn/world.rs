//! Real parts of einhorn's world: Ruby with its Psych, and baseplate. Each is skipped where it is
//! not installed.

use super::common::TempDir;
use super::need::has;
use super::{Place, text};
use std::path::PathBuf;
use std::process::Command;

fn script(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/workers").join(name).display().to_string()
}

#[test]
fn a_ruby_client_and_its_psych_understand_every_answer() {
    if !has("ruby") {
        return;
    }
    let place = Place::new();
    let daemon = place.live("-n 1 -m 0 -s 0.1 -b 127.0.0.1:0", "einhorn at-once");
    let output = Command::new("timeout")
        .args(["60", "ruby", &script("einhorn_client.rb"), &place.socket()])
        .output()
        .expect("timeout is there");
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    assert!(out.ends_with("followed to its end\n"), "{out}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_ruby_worker_serves_acks_and_is_upgraded() {
    if !has("ruby") {
        return;
    }
    let place = Place::new();
    let run = place.einhorn("-n 2 -m manual -s 0.1 -b 127.0.0.1:0,r,n");
    let daemon = run.args(&["ruby", &script("einhorn_worker.rb")]).start();
    daemon.wait_until_live();
    let old = daemon.workers();
    assert!(old.contains(&daemon.address().answering_pid()));
    let (out, status) = super::place::printed(&place.shell(&["-e", "upgrade"]));
    assert!(out.ends_with("Upgrade done\n") && status == 0, "{out}");
    for pid in &old {
        daemon.wait_for_line(&format!("[{pid}] leaves"));
    }
    assert!(!old.contains(&daemon.address().answering_pid()));
    assert_eq!(daemon.stop(), 0);
}

const APP: &str = "
import os
def make_app(config):
    def app(environ, start_response):
        start_response('200 OK', [('Content-Type', 'text/plain'), ('Connection', 'close')])
        return [b'pid %d version baseplate\\n' % os.getpid()]
    return app
";

const INI: &str = "
[app:main]
factory = sm_test_app:make_app
[server:main]
factory = baseplate.server.wsgi
drain_time = 100 milliseconds
stop_timeout = 5 seconds
";

#[test]
fn baseplate_serves_acks_and_is_upgraded() {
    if !has("baseplate-serve") {
        return;
    }
    for bind in ["127.0.0.1:0,r", "[::1]:0"] {
        let place = Place::new();
        let metrics = TempDir::new();
        place.dir.write("sm_test_app.py", APP);
        let ini = place.dir.write("app.ini", INI).display().to_string();
        let daemon = place
            .einhorn(&format!("-n 2 -m manual -s 0.1 -b {bind}"))
            .args(&["baseplate-serve", &ini])
            .env("PROMETHEUS_MULTIPROC_DIR", metrics.path())
            .start();
        daemon.wait_until_live();
        let old = daemon.workers();
        assert!(old.contains(&daemon.address().answering_pid()));
        let (out, status) = super::place::printed(&place.shell(&["-e", "upgrade"]));
        assert!(out.ends_with("Upgrade done\n") && status == 0, "{out}");
        daemon.wait_until("two new workers alone", || {
            let now = daemon.workers();
            now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
        });
        daemon.address().get().expect("it serves");
        assert_eq!(daemon.stop(), 0);
    }
}
