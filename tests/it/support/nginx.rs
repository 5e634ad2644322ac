//! A real nginx as origin: unprivileged, in a folder of its own, on free ports, with a log of what it sent.

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

use super::tls::Authority;

/// A running nginx. It ends when it is dropped.
pub struct Nginx {
    child: Child,
    ports: Ports,
    limit_rate: u64,
    /// Directives of the server.
    limits: String,
    pub folder: TempDir,
}

/// Where it listens: HTTP/1.1 in the clear, and with an authority HTTP/2 in the clear, and both over TLS.
#[derive(Clone, Copy)]
struct Ports {
    one: u16,
    two_in_the_clear: u16,
    tls: u16,
}

/// A line of its log.
#[derive(Clone, Debug)]
pub struct Sent {
    /// As `HTTP/1.1`.
    pub protocol: String,
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
        .unwrap_or_else(|| panic!("{name} is not here, and this test needs it: install it (apache2-bin, aria2, busybox, nginx-light, caddy, openssl, minisign, curl and wget are Debian packages, b3sum a crate)"))
}

impl Nginx {
    /// Serves the folder `www` in its own one. `limit_rate`: bytes a second of each connection, 0 for no limit.
    pub fn start(limit_rate: u64) -> Nginx {
        Nginx::with(limit_rate, "", None)
    }

    /// With these directives; the zones `requests` (5 a second) and `connections` are there.
    pub fn limited(limits: &str) -> Nginx {
        Nginx::with(0, limits, None)
    }

    /// Speaks TLS too.
    pub fn with_tls(authority: &Authority) -> Nginx {
        Nginx::with(0, "", Some(authority))
    }

    fn with(limit_rate: u64, limits: &str, authority: Option<&Authority>) -> Nginx {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("www")).expect("a folder");
        for _ in 0..10 {
            // Somebody else may take the port in between; then it is another one's turn.
            let ports = Ports {
                one: free_port(),
                two_in_the_clear: free_port(),
                tls: free_port(),
            };
            if let Some(child) = try_start(folder.path(), ports, limit_rate, limits, authority) {
                return Nginx {
                    child,
                    ports,
                    limit_rate,
                    limits: limits.to_owned(),
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
        self.child = try_start(
            self.folder.path(),
            self.ports,
            self.limit_rate,
            &self.limits,
            None,
        )
        .expect("its port is free");
    }

    pub fn www(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.ports.one)
    }

    /// HTTP/1.1 and HTTP/2 over TLS.
    pub fn url_over_tls(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.ports.tls)
    }

    /// HTTP/2 in the clear, and nothing else.
    pub fn url_of_two_in_the_clear(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.ports.two_in_the_clear)
    }

    pub fn port_of_tls(&self) -> u16 {
        self.ports.tls
    }

    pub fn port_of_two_in_the_clear(&self) -> u16 {
        self.ports.two_in_the_clear
    }

    /// Ends it when all connections are closed and returns its whole log, path and query of each request together.
    pub fn finish(mut self) -> Vec<Sent> {
        kill_process(Pid::from_child(&self.child), Signal::QUIT).expect("it runs");
        self.child.wait().expect("it is our child");
        self.log()
    }

    fn log(&self) -> Vec<Sent> {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        log.lines().filter_map(parse).collect()
    }

    /// What it sent so far of a name, without the first bytes asked for before a fetch. Connections that were killed are logged
    /// a little later.
    pub fn log_of(&self, name: &str) -> Vec<Sent> {
        let all = self.log().into_iter();
        all.filter(|sent| sent.path == format!("/{name}") && sent.range != Some(0..1))
            .collect()
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

fn parse(line: &str) -> Option<Sent> {
    let mut fields = line.split(' ');
    let protocol = fields.next()?.to_owned();
    let (path, range) = (fields.next()?.to_owned(), fields.next()?);
    let range = range.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
    });
    Some(Sent {
        protocol,
        path,
        range,
        status: fields.next()?.parse().ok()?,
        body_bytes: fields.next()?.parse().ok()?,
    })
}

fn try_start(
    folder: &Path,
    ports: Ports,
    limit_rate: u64,
    limits: &str,
    authority: Option<&Authority>,
) -> Option<Child> {
    let port = ports.one;
    let more = authority.map_or_else(String::new, |authority| {
        format!(
            "listen 127.0.0.1:{} http2; listen 127.0.0.1:{} ssl http2; ssl_certificate {}; ssl_certificate_key {};",
            ports.two_in_the_clear,
            ports.tls,
            authority.chain().display(),
            authority.key().display(),
        )
    });
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 256; }}
http {{
    types {{}} default_type application/octet-stream;
    log_format sent '$server_protocol $request_uri $http_range $status $body_bytes_sent';
    access_log access.log sent;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    sendfile on; keepalive_timeout 65;
    limit_rate {limit_rate};
    limit_req_zone $binary_remote_addr zone=requests:1m rate=5r/s;
    limit_conn_zone $binary_remote_addr zone=connections:1m;
    # What a killed client did not take must not hide in buffers.
    server {{ listen 127.0.0.1:{port} sndbuf=128k; {more} {limits} root {}/www; }}
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
