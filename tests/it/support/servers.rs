//! Static files as servers of other projects serve them by default, in a folder of their own, on a free port. `tools/bench servers`
//! has many more.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{
    nginx::{free_port, program},
    program,
};

/// How one is started. In words and file `{port}`, `{www}` and `{file}` are filled in.
pub struct Kind {
    pub name: &'static str,
    command: &'static [&'static str],
    /// Its configuration, or what it runs.
    file: &'static str,
}

/// Debian's, since its packages are Debian's.
const PYTHON: &str = "/usr/bin/python3";

pub const APACHE: Kind = Kind {
    name: "Apache",
    command: &["apache2", "-D", "FOREGROUND", "-f", "{file}"],
    file: "ServerRoot /usr/lib/apache2
ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
PidFile {file}.pid
ErrorLog {file}.log
User www-data
Group www-data
DocumentRoot {www}
",
};
pub const BUSYBOX: Kind = Kind {
    name: "BusyBox",
    command: &[
        "busybox",
        "httpd",
        "-f",
        "-p",
        "127.0.0.1:{port}",
        "-h",
        "{www}",
    ],
    file: "",
};
pub const AIOHTTP: Kind = Kind {
    name: "aiohttp",
    command: &[PYTHON, "{file}"],
    file: "from aiohttp import web
app = web.Application()
app.router.add_static('/', '{www}')
web.run_app(app, host='127.0.0.1', port={port})
",
};
pub const WERKZEUG: Kind = Kind {
    name: "Werkzeug",
    command: &[PYTHON, "{file}"],
    file: "from werkzeug.serving import run_simple
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request
@Request.application
def app(request):
    return send_from_directory('{www}', request.path[1:], request.environ)
run_simple('127.0.0.1', {port}, app, threaded=True)
",
};
pub const TORNADO: Kind = Kind {
    name: "Tornado",
    command: &[PYTHON, "{file}"],
    file: "import asyncio
import tornado.web
async def main():
    handler = ('/(.*)', tornado.web.StaticFileHandler, {'path': '{www}'})
    tornado.web.Application([handler]).listen({port}, '127.0.0.1')
    await asyncio.Event().wait()
asyncio.run(main())
",
};

/// A running server. It ends when it is dropped, with all processes that it started.
pub struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Serves the folder `www` in its own one.
    pub fn start(kind: &Kind) -> Server {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("www")).expect("a folder");
        // Apache's workers are not root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        for _ in 0..10 {
            // Somebody else may take the port in between; then it is another one's turn.
            let port = free_port();
            if let Some(child) = try_start(kind, folder.path(), port) {
                return Server {
                    child,
                    port,
                    folder,
                };
            }
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("{} did not start: {log}", kind.name);
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Puts a file there by a rename. Its time is that long ago.
    pub fn publish(&self, name: &str, bytes: &[u8], age: Duration) -> PathBuf {
        let (path, next) = (self.www(name), self.www("next"));
        fs::write(&next, bytes).expect("a file");
        let file = fs::File::options().append(true).open(&next);
        let time = SystemTime::now() - age;
        file.and_then(|file| file.set_modified(time))
            .expect("it is ours");
        fs::rename(next, &path).expect("it is ours");
        path
    }

    fn www(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }
}

fn try_start(kind: &Kind, folder: &Path, port: u16) -> Option<Child> {
    let (www, file) = (folder.join("www"), folder.join("server"));
    let fill = |text: &str| {
        text.replace("{port}", &port.to_string())
            .replace("{www}", &www.display().to_string())
            .replace("{file}", &file.display().to_string())
    };
    fs::write(&file, fill(kind.file)).expect("a file");
    let log = fs::File::create(folder.join("log")).expect("a log");
    let mut command = program::command(program(kind.command[0]), folder);
    let mut child = command
        .args(kind.command[1..].iter().map(|word| fill(word)))
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if child.try_wait().expect("it is our child").is_some() {
            return None;
        }
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    end(&mut child);
    None
}

fn end(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
