//! Real servers under the real program: each recipe of the README is run, over TCP and over a unix
//! socket, and rolled under load, and not one request fails. A program that is not here is a skip
//! that names it, unless `SOCKETMASTER_REQUIRE` lists it.

mod common;

mod servers {
    pub mod client;
    pub mod need;
    pub mod recipes;
    pub mod roll;
}

use common::{Run, TempDir};
use servers::client::{self, Fetch};
use servers::recipes::{self, RECIPES, Recipe};
use servers::roll::{Kind, Seen, Site};
use servers::{need, roll};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// How often each server is rolled over each kind of socket.
const RELOADS: usize = 3;

/// Rolls the recipe over TCP and over a unix socket, with no failure at all.
fn loses_nothing(name: &str, fetch: Fetch) {
    for kind in [Kind::Tcp, Kind::Unix] {
        rolls_without_a_failure(recipes::named(name), kind, fetch);
    }
}

fn rolls_without_a_failure(recipe: &Recipe, kind: Kind, fetch: Fetch) {
    let _turn = roll::turn();
    if !need::all_there(recipe.needs) {
        return;
    }
    let site = Site::new(recipe, kind);
    let seen = roll::roll(&site, fetch, RELOADS);
    eprintln!("{} over {kind:?}: {seen}", recipe.name);
    assert!(seen.failures.is_empty(), "{}: {seen}", recipe.name);
}

/// Rolls a recipe whose server removes the unix path whenever it stops: the guard links it back.
/// A client that comes in between finds no such file; nothing else may happen to anybody.
fn path_is_linked_back(recipe: &Recipe, fetch: Fetch) {
    let _turn = roll::turn();
    if !need::all_there(recipe.needs) {
        return;
    }
    let site = Site::new(recipe, Kind::Unix);
    let seen = roll::roll(&site, fetch, RELOADS);
    eprintln!("{} over its own path: {seen}", recipe.name);
    assert!(only(&seen, &["No such file or directory"]), "{seen}");
    assert!(seen.gap < Duration::from_secs(1), "{seen}");
    assert!(seen.log.contains("linked back"), "{}", seen.log);
}

/// Whether every failure contains one of the texts.
fn only(seen: &Seen, texts: &[&str]) -> bool {
    let is_known = |failure: &String| texts.iter().any(|text| failure.contains(text));
    seen.failures.keys().all(is_known)
}

#[test]
fn gunicorn_as_under_systemd_loses_nothing() {
    loses_nothing("gunicorn", client::http);
}

#[test]
fn gunicorn_on_a_descriptor_loses_nothing() {
    let recipe = recipes::named("gunicorn, as under einhorn");
    rolls_without_a_failure(recipe, Kind::Tcp, client::http);
}

#[test]
fn gunicorn_on_a_descriptor_gets_its_path_back() {
    path_is_linked_back(recipes::named("gunicorn, as under einhorn"), client::http);
}

#[test]
fn uvicorn_loses_nothing() {
    loses_nothing("uvicorn", client::http);
}

/// Their own stop closes what they have accepted and not yet read; nothing else may happen.
#[test]
fn servers_without_their_recipe_lose_only_what_they_close() {
    let _turn = roll::turn();
    let listen = "socketmaster -listen=tcp://127.0.0.1:8080";
    for (recipe, rest) in [
        (recipes::UVICORN, "-command=uvicorn -- --fd 3 app:app"),
        (
            recipes::HYPERCORN,
            "-command=hypercorn -- -b fd://3 app:app",
        ),
        (
            recipes::PUMA,
            "-protocol=systemd -command=puma -- -b tcp://127.0.0.1:8080 config.ru",
        ),
    ] {
        if !need::all_there(recipe.needs) {
            continue;
        }
        let site = Site::with_line(&recipe, &format!("{listen} {rest}"), Kind::Tcp);
        let seen = roll::roll(&site, client::http, RELOADS);
        eprintln!("{rest}: {seen}");
        let closed = ["reset by peer", "Broken pipe", "not a whole answer: \"\""];
        assert!(only(&seen, &closed), "{seen}");
        assert!(seen.failed() <= seen.requests / 100, "{seen}");
    }
}

#[test]
fn hypercorn_loses_nothing() {
    loses_nothing("hypercorn", client::http);
}

#[test]
fn puma_loses_nothing() {
    loses_nothing("puma", client::http);
}

#[test]
fn nginx_loses_nothing() {
    if common::root_or_skip() {
        loses_nothing("nginx", client::http);
    }
}

#[test]
fn php_fpm_loses_nothing() {
    let recipe = recipes::named("php-fpm");
    rolls_without_a_failure(recipe, Kind::Tcp, client::fastcgi);
}

#[test]
fn php_fpm_behind_another_name_loses_nothing() {
    let recipe = recipes::named("php-fpm on a unix socket");
    rolls_without_a_failure(recipe, Kind::Unix, client::fastcgi);
}

#[test]
fn php_fpm_gets_its_path_back() {
    path_is_linked_back(recipes::named("php-fpm"), client::fastcgi);
}

#[test]
fn node_loses_nothing() {
    loses_nothing("node", client::http);
}

#[test]
fn starlet_loses_nothing() {
    loses_nothing("Starlet", client::http);
}

#[test]
fn a_go_server_loses_nothing() {
    loses_nothing("Go", client::http);
}

#[test]
fn a_rust_server_on_listenfd_loses_nothing() {
    loses_nothing("Rust with listenfd", client::http);
}

/// A deploy that cannot be loaded is noticed, and the old application serves on.
#[test]
fn a_broken_application_under_gunicorn_is_rolled_back() {
    let _turn = roll::turn();
    let recipe = recipes::named("gunicorn");
    if !need::all_there(recipe.needs) {
        return;
    }
    let site = Site::new(recipe, Kind::Tcp);
    let daemon = site.start();
    let seen = roll::under_load(&site.address, client::http, || {
        let before = roll::serving(&daemon, &site.address, client::http);
        site.dir.write("app.py", "import no_such_module\n");
        let verdict = daemon.reload();
        assert!(verdict.contains("rolled back"), "{verdict}");
        assert!(daemon.log().contains("no_such_module"), "{}", daemon.log());
        let after = roll::serving(&daemon, &site.address, client::http);
        assert_eq!(before, after, "the worker that serves");
    });
    assert!(seen.failures.is_empty(), "{seen}");
    assert_eq!(daemon.stop(), 0);
}

/// Several sockets of several families, each found by its `listen`.
#[test]
fn nginx_finds_each_of_its_sockets() {
    let _turn = roll::turn();
    if !common::root_or_skip() || !need::all_there(recipes::named("nginx").needs) {
        return;
    }
    if TcpListener::bind("[::1]:0").is_err() {
        return common::skip("no IPv6");
    }
    let dir = TempDir::new();
    let (port, path) = (roll::free_port(), dir.word("s"));
    let listen = format!("listen 127.0.0.1:{port}; listen [::1]:{port}; listen unix:{path};");
    let text = recipes::named("nginx").file("nginx.conf");
    let text = text.replace("listen 127.0.0.1:8080;", &listen);
    dir.write("nginx.conf", text.replace("/srv/app", &dir.word("")));
    let daemon = Run::bare()
        .args(&[
            format!("-listen=tcp4://127.0.0.1:{port}"),
            format!("-listen=tcp6://[::1]:{port}"),
            format!("-listen=unix://{path}"),
        ])
        .args(&["-protocol=nginx", "-stop-signal=QUIT", "-start=500"])
        .args(&["-command=nginx", "--", "-c", &dir.word("nginx.conf")])
        .start();
    daemon.wait_until_live();
    let verdict = daemon.reload();
    assert!(verdict.contains("is live"), "{verdict}");
    for number in 0..3 {
        let address = daemon.address_number(number);
        roll::serving(&daemon, &address, client::http);
    }
    assert_eq!(daemon.stop(), 0);
    assert!(!Path::new(&path).exists(), "the path was left behind");
}

/// What the README says is what was run here.
#[test]
fn the_recipes_are_in_the_readme_word_for_word() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(path).expect("there is a README");
    let missing: String = RECIPES
        .iter()
        .map(Recipe::markdown)
        .filter(|text| !readme.contains(text))
        .collect();
    assert!(missing.is_empty(), "not in the README:\n\n{missing}");
}
