//! The recipes: how each server is run under socketmaster. The README shows them and the tests run
//! them, with `/srv/app`, `/run` and `127.0.0.1:8080` replaced and nothing else.

use super::need::Need::{self, Perl, Program, Python};
use crate::common::{TempDir, example};
use std::path::Path;
use std::process::Command;

/// How one server is run.
pub struct Recipe {
    pub name: &'static str,
    /// What must be installed.
    pub needs: &'static [Need],
    /// The command line, its words divided by single blanks.
    pub line: &'static str,
    /// Files in the application's directory, by name.
    pub files: &'static [(&'static str, &'static str)],
    /// The one of them that the README shows.
    pub shown: Option<&'static str>,
    /// What a user should know.
    pub note: &'static str,
    /// Puts a compiled server into the application's directory.
    pub build: fn(&TempDir),
}

pub const RECIPES: &[Recipe] = &[
    GUNICORN,
    GUNICORN_FD,
    UVICORN,
    HYPERCORN,
    PUMA,
    NGINX,
    PHP_FPM,
    PHP_FPM_UNIX,
    NODE,
    STARLET,
    GO,
    LISTENFD,
];

/// The recipe of that name.
pub fn named(name: &str) -> &'static Recipe {
    RECIPES
        .iter()
        .find(|recipe| recipe.name == name)
        .unwrap_or_else(|| panic!("no recipe is called {name:?}"))
}

impl Recipe {
    /// The text of one of its files.
    pub fn file(&self, name: &str) -> &'static str {
        let mut files = self.files.iter();
        files
            .find(|file| file.0 == name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.name))
            .1
    }

    /// Its section of the README.
    pub fn markdown(&self) -> String {
        let quoted = |word: &str| match word.contains('&') {
            true => format!("'{word}'"),
            false => word.to_owned(),
        };
        let words: Vec<_> = self.line.split(' ').map(quoted).collect();
        let mut text = format!("### {}\n\n```sh\n{}\n```\n\n", self.name, words.join(" "));
        if let Some(name) = self.shown {
            let kind = name.rsplit('.').next().unwrap_or_default();
            text += &format!(
                "`/srv/app/{name}`:\n\n```{kind}\n{}```\n\n",
                self.file(name)
            );
        }
        text + self.note + "\n\n"
    }
}

fn nothing_to_build(_: &TempDir) {}

const WSGI: (&str, &str) = (
    "app.py",
    r#"import os

def app(environ, start_response):
    body = b"pid %d\n" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"#,
);

const ASGI: (&str, &str) = (
    "app.py",
    r#"import os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    body = b"pid %d\n" % os.getpid()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"#,
);

const GUNICORN: Recipe = Recipe {
    name: "gunicorn",
    needs: &[Program("gunicorn")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=systemd -ready=notify \
           -command=gunicorn -- --preload app:app",
    files: &[WSGI],
    shown: None,
    note: "Without `-b`: gunicorn takes the sockets from `LISTEN_FDS`. It reports itself ready\n\
           before it has loaded the application, unless `--preload` is given: with it, an\n\
           application that cannot be loaded is rolled back; without it, use the default\n\
           `-ready=timer`.",
    build: nothing_to_build,
};

const GUNICORN_FD: Recipe = Recipe {
    name: "gunicorn, as under einhorn",
    needs: &[Program("gunicorn")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -command=gunicorn -- -b fd://3 app:app",
    files: &[WSGI],
    shown: None,
    note: "Works unchanged over TCP. Not together with `-protocol=systemd`: gunicorn would take\n\
           the socket twice and fail. Over a unix socket prefer the recipe above: this way\n\
           gunicorn removes the path whenever it stops; socketmaster links it back at once, but a\n\
           client may come in between.",
    build: nothing_to_build,
};

pub const UVICORN: Recipe = Recipe {
    name: "uvicorn",
    needs: &[Program("uvicorn"), Python("uvicorn")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -command=python3 -- serve.py",
    files: &[
        ASGI,
        (
            "serve.py",
            r#"import asyncio
import uvicorn

class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.5)
        await super().shutdown(sockets)

Server(uvicorn.Config("app:app", fd=3)).run()
"#,
        ),
    ],
    shown: Some("serve.py"),
    note: "`-command=uvicorn -- --fd 3 app:app` works too, but its own stop closes connections that\n\
           it has accepted and not yet read a request from: under full load a reload may cost a\n\
           request or two. `serve.py` stops accepting first and gives those half a second to speak.",
    build: nothing_to_build,
};

pub const HYPERCORN: Recipe = Recipe {
    name: "hypercorn",
    needs: &[Program("hypercorn"), Python("hypercorn")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -command=python3 -- serve.py",
    files: &[
        ASGI,
        (
            "serve.py",
            r#"import asyncio
import signal
from hypercorn.asyncio import serve
from hypercorn.config import Config
from app import app

async def main():
    loop = asyncio.get_running_loop()
    term = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, term.set)

    async def asked_to_stop():
        await term.wait()
        loop.remove_reader(3)
        await asyncio.sleep(0.5)

    config = Config.from_mapping(bind="fd://3", backlog=4096)
    await serve(app, config, shutdown_trigger=asked_to_stop)

asyncio.run(main())
"#,
        ),
    ],
    shown: Some("serve.py"),
    note: "`-command=hypercorn -- -b fd://3 app:app` works too, but its own stop loses what\n\
           uvicorn's does. hypercorn sets the backlog of the shared socket to its own: 100 if it is\n\
           not told another.",
    build: nothing_to_build,
};

pub const PUMA: Recipe = Recipe {
    name: "puma",
    needs: &[Program("puma")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=systemd \
           -command=puma -- -C puma.rb -b tcp://127.0.0.1:8080 config.ru",
    files: &[
        (
            "config.ru",
            "run ->(_) { [200, { \"Content-Type\" => \"text/plain\" }, [\"pid #{Process.pid}\\n\"]] }\n",
        ),
        ("puma.rb", "queue_requests false\n"),
    ],
    shown: Some("puma.rb"),
    note: "puma recognises the inherited socket by its address, so both must be written alike.\n\
           `queue_requests false` fits behind a proxy that buffers requests. Without it (and `-C`)\n\
           puma's own stop, too, closes connections that it has accepted and not yet read a request\n\
           from: under full load a reload may, rarely, cost a request.",
    build: nothing_to_build,
};

const NGINX: Recipe = Recipe {
    name: "nginx",
    needs: &[Program("nginx")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=nginx -stop-signal=QUIT \
           -command=nginx -- -c /srv/app/nginx.conf",
    files: &[(
        "nginx.conf",
        r#"daemon off;
pid /run/nginx-app.pid;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:8080;
        location / { return 200 "pid $pid\n"; }
    }
}
"#,
    )],
    shown: Some("nginx.conf"),
    note: "Each `listen` needs a `-listen` of the same address: `listen 80;` is `tcp4://:80`,\n\
           `listen [::]:80;` is `tcp6://:80`, `listen unix:/run/x;` is `unix:///run/x`. `QUIT` is\n\
           nginx's graceful stop; in a unit, say `KillSignal=SIGQUIT` and `KillMode=mixed`. The\n\
           pid file means nothing here: old and new nginx write, and remove, the same one.",
    build: nothing_to_build,
};

const PHP: (&str, &str) = ("pid.php", "<?php echo 'pid ', getmypid(), \"\\n\";\n");

const PHP_FPM: Recipe = Recipe {
    name: "php-fpm",
    needs: &[Program("php-fpm")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=php-fpm -ready=notify \
           -stop-signal=QUIT -command=php-fpm -- -F -y /srv/app/php-fpm.conf",
    files: &[
        PHP,
        (
            "php-fpm.conf",
            "[global]
error_log = /dev/stderr
process_control_timeout = 30s
[www]
listen = 127.0.0.1:8080
user = www-data
chdir = /srv/app
pm = static
pm.max_children = 4
",
        ),
    ],
    shown: Some("php-fpm.conf"),
    note: "`listen` must be written as the address in `-listen`. `QUIT` is php-fpm's graceful\n\
           stop, and `process_control_timeout` is how long it lets requests finish: its default\n\
           of 0 cuts them off. Debian's program has its version in its name: `php-fpm8.2`.",
    build: nothing_to_build,
};

const PHP_FPM_UNIX: Recipe = Recipe {
    name: "php-fpm on a unix socket",
    needs: &[Program("php-fpm")],
    line: "socketmaster -listen=unix:///run/s?fpm=/run/fpm-alias&mode=0666 \
           -protocol=php-fpm -ready=notify -stop-signal=QUIT \
           -command=php-fpm -- -F -y /srv/app/php-fpm.conf",
    files: &[
        PHP,
        (
            "php-fpm.conf",
            "[global]
error_log = /dev/stderr
process_control_timeout = 30s
[www]
listen = /run/fpm-alias
user = www-data
chdir = /srv/app
pm = static
pm.max_children = 4
",
        ),
    ],
    shown: Some("php-fpm.conf"),
    note: "php-fpm removes the path in `listen` whenever it stops, and compares it with what it is\n\
           told, never with the file. So it is told of a path that does not exist (`?fpm=`), and\n\
           the real one, which clients use, stays. (With the real path in both places\n\
           socketmaster links it back at once, but a client may come in between.)",
    build: nothing_to_build,
};

const NODE: Recipe = Recipe {
    name: "node",
    needs: &[Program("node")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -command=node -- server.js",
    files: &[(
        "server.js",
        r#"const http = require('http');
const server = http.createServer((request, response) => response.end(`pid ${process.pid}\n`));
server.listen({ fd: 3 });
process.on('SIGTERM', () => server.close());
"#,
    )],
    shown: Some("server.js"),
    note: "node sets the backlog of the shared socket to 511, or to what `listen` is told.",
    build: nothing_to_build,
};

const STARLET: Recipe = Recipe {
    name: "Starlet",
    needs: &[Program("plackup"), Perl("Starlet::Server")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=server-starter \
           -command=plackup -- -s Starlet -E deployment --max-workers=4 app.psgi",
    files: &[(
        "app.psgi",
        "sub { [200, ['Content-Type' => 'text/plain'], [\"pid $$\\n\"]] };\n",
    )],
    shown: None,
    note: "The same for everything that was written for `start_server` (Server::Starter).",
    build: nothing_to_build,
};

const GO: Recipe = Recipe {
    name: "Go",
    needs: &[Program("go")],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -ready=notify -command=/srv/app/server",
    files: &[],
    shown: None,
    note: "`net.FileListener(os.NewFile(3, \"\"))` is the socket; einhorn's Go clients work\n\
           unchanged. A whole server with graceful stop and readiness, of the standard library\n\
           alone, is in `tests/workers/go/server.go`.",
    build: build_go,
};

const LISTENFD: Recipe = Recipe {
    name: "Rust with listenfd",
    needs: &[],
    line: "socketmaster -listen=tcp://127.0.0.1:8080 -protocol=systemd -command=/srv/app/server",
    files: &[],
    shown: None,
    note: "`ListenFd::from_env().take_tcp_listener(0)` is the socket, as under systemd: see\n\
           `tests/workers/listenfd.rs`.",
    build: |dir| drop(dir.copy_program(&example("listenfd"), "server")),
};

/// Without a module and without the network: the program is one file of the standard library.
fn build_go(dir: &TempDir) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workers/go/server.go");
    let status = Command::new("go")
        .args(["build", "-o", &dir.word("server")])
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPROXY", "off")
        .status();
    assert!(status.expect("go is there").success(), "go build failed");
}
