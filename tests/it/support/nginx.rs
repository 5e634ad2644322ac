//! A real nginx as origin: unprivileged, in a folder of its own, on a free port, with a log of what it sent.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running nginx. It ends when it is dropped.
pub struct Nginx {
    child: Child,
    port: u16,
    limit_rate: u64,
    pub folder: TempDir,
}

/// A line of its log.
#[derive(Clone, Debug)]
pub struct Sent {
    pub path: String,
    pub range: Option<Range<u64>>,
    pub status: u16,
    pub body_bytes: u64,
}

/// Where a program is; a missing one is a failure with its reason.
pub fn program(name: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-tools/bin");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        // Servers lie in sbin, which is not on everybody's PATH.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin"), tools])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not here, and this test needs it: install it (nginx-light and curl are Debian packages, b3sum a crate)"))
}

impl Nginx {
    /// Serves the folder `www` in its own one. `limit_rate`: bytes a second of each connection, 0 for no limit.
    pub fn start(limit_rate: u64) -> Nginx {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("www")).expect("a folder");
        for _ in 0..10 {
            // Somebody else may take the port in between; then it is another one's turn.
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            if let Some(child) = try_start(folder.path(), port, limit_rate) {
                return Nginx {
                    child,
                    port,
                    limit_rate,
                    folder,
                };
            }
        }
        let log = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
        panic!("nginx did not start: {log}");
    }

    /// It dies; nobody listens there any more.
    pub fn stop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// At the same address again.
    pub fn start_again(&mut self) {
        self.child =
            try_start(self.folder.path(), self.port, self.limit_rate).expect("its port is free");
    }

    pub fn www(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// What it sent so far of a name, without the first bytes asked for before a fetch. Connections that were killed are logged
    /// a little later.
    pub fn log_of(&self, name: &str) -> Vec<Sent> {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        let all = log.lines().filter_map(parse);
        all.filter(|sent| sent.path == format!("/{name}") && sent.range != Some(0..1))
            .collect()
    }
}

fn parse(line: &str) -> Option<Sent> {
    let mut fields = line.split(' ');
    let (path, range) = (fields.next()?.to_owned(), fields.next()?);
    let range = range.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
    });
    Some(Sent {
        path,
        range,
        status: fields.next()?.parse().ok()?,
        body_bytes: fields.next()?.parse().ok()?,
    })
}

fn try_start(folder: &Path, port: u16, limit_rate: u64) -> Option<Child> {
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 256; }}
http {{
    types {{}} default_type application/octet-stream;
    log_format sent '$uri $http_range $status $body_bytes_sent';
    access_log access.log sent;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    sendfile on; keepalive_timeout 65;
    limit_rate {limit_rate};
    # What a killed client did not take must not hide in buffers.
    server {{ listen 127.0.0.1:{port} sndbuf=128k; root {}/www; }}
}}
",
        folder.display()
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, configuration).expect("a configuration");
    let mut child = Command::new(program("nginx"))
        .args([
            "-p".as_ref(),
            folder,
            "-c".as_ref(),
            &path,
            "-e".as_ref(),
            "error.log".as_ref(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if child.try_wait().expect("it is our child").is_some() {
            return None;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
