//! A real Caddy as origin: HTTP/1.1, HTTP/2 and HTTP/3 over TLS, in a folder of its own, on a free port.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    nginx::{Sent, free_port, program},
    program,
    tls::Authority,
};

/// A running Caddy. It ends when it is dropped.
pub struct Caddy {
    child: Child,
    port: u16,
    pub folder: TempDir,
}

impl Caddy {
    /// Serves the folder `www` in its own one.
    pub fn start(authority: &Authority) -> Caddy {
        let folder = TempDir::new().expect("a folder");
        fs::create_dir(folder.path().join("www")).expect("a folder");
        for _ in 0..10 {
            // Somebody else may take the port in between; then it is another one's turn.
            let port = free_port();
            if let Some(child) = try_start(folder.path(), port, authority) {
                return Caddy {
                    child,
                    port,
                    folder,
                };
            }
        }
        let log = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
        panic!("caddy did not start: {log}");
    }

    pub fn www(&self, name: &str) -> PathBuf {
        self.folder.path().join("www").join(name)
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.port)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// What it sent so far of a name, as far as it is logged.
    pub fn log_of(&self, name: &str) -> Vec<Sent> {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        let all = log.lines().filter_map(parse);
        all.filter(|sent| sent.path == format!("/{name}")).collect()
    }
}

fn parse(line: &str) -> Option<Sent> {
    let line: Value = serde_json::from_str(line).ok()?;
    let request = &line["request"];
    let range = request["headers"]["Range"][0].as_str();
    let range = range.and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
    });
    Some(Sent {
        protocol: request["proto"].as_str()?.to_owned(),
        path: request["uri"].as_str()?.to_owned(),
        range,
        status: line["status"].as_u64()? as u16,
        body_bytes: line["size"].as_u64()?,
    })
}

fn try_start(folder: &Path, port: u16, authority: &Authority) -> Option<Child> {
    let (here, chain, key) = (folder.display(), authority.chain(), authority.key());
    // Addresses are no server names (RFC 6066), and over QUIC it finds no certificate without one.
    let configuration = format!(
        "{{
    admin off
    auto_https off
    default_sni localhost
    skip_install_trust
    storage file_system {here}/storage
    servers {{
        protocols h1 h2 h3
    }}
}}
https://127.0.0.1:{port}, https://localhost:{port} {{
    bind 127.0.0.1
    tls {chain} {key}
    root * {here}/www
    file_server
    log {{
        output file {here}/access.log
        format json
    }}
}}
",
        chain = chain.display(),
        key = key.display(),
    );
    let path = folder.join("Caddyfile");
    fs::write(&path, configuration).expect("a configuration");
    let log = fs::File::create(folder.join("error.log")).expect("a log");
    let mut command = program::command(program("caddy"), folder);
    let mut child = command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&path)
        .env("HOME", folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("caddy starts");
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

impl Drop for Caddy {
    fn drop(&mut self) {
        // It would wait for connections whose clients were killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
