//! A server that takes uploads, and raw requests to it.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use sapwood::engine::manifest_file::ManifestFile;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::program::{LONG_ENOUGH, Running, sapwood, start};

pub const MIB: usize = 1 << 20;
pub const PART: usize = 5 * MIB;
pub const BLOCK: usize = 64 << 10;
pub const ID: &str = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";

/// A served folder, and the state folder of its server.
pub struct Site {
    pub folder: TempDir,
    pub state: TempDir,
}

pub struct Server {
    pub running: Running,
    pub api: Api,
}

/// Where requests go, and with which token.
#[derive(Clone)]
pub struct Api {
    pub address: String,
    pub token: Option<&'static str>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Site {
    pub fn new() -> Site {
        Site {
            folder: TempDir::new().expect("a folder"),
            state: TempDir::new().expect("a folder"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn serve_command(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.state.path());
        command
            .args(["--json", "--store"])
            .arg(self.state.path().join("state"))
            .arg("serve")
            .arg(self.folder.path());
        command.args(["--ingest", "--listen", "127.0.0.1:0"]);
        command.args(more);
        command
    }

    pub fn serve(&self, more: &[&str]) -> Server {
        Site::started(self.serve_command(more))
    }

    /// The server that this command starts.
    pub fn started(command: Command) -> Server {
        let mut running = start(command);
        running.wait_for("a URL", |events| !events.is_empty());
        let url = running.events()[0]["url"].clone();
        let address = url.as_str().expect("a URL").trim_start_matches("http://");
        Server {
            api: Api {
                address: address.trim_end_matches('/').to_owned(),
                token: None,
            },
            running,
        }
    }

    /// Nothing of an upload is left.
    #[track_caller]
    pub fn check_nothing_is_staged(&self) {
        let staging = self.path("sapwood-staging");
        let folders = fs::read_dir(staging).expect("a folder").filter(|entry| {
            let kind = entry.as_ref().expect("an entry").file_type();
            kind.expect("a kind").is_dir()
        });
        assert_eq!(folders.count(), 0);
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|cause| {
            panic!("{cause}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    #[track_caller]
    pub fn must(self, status: u16) -> Response {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(2000)]).into_owned();
        assert_eq!(self.status, status, "{text}");
        self
    }

    /// A problem with this status and code.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let media_type = self.headers.get("content-type").cloned();
        let document = self.must(status).json();
        assert_eq!(media_type.as_deref(), Some("application/problem+json"));
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["status"], status);
        document
    }
}

impl Api {
    pub fn with_token(&self, token: &'static str) -> Api {
        Api {
            token: Some(token),
            ..self.clone()
        }
    }

    /// A request on a connection of its own. `None`: there is no response.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Response> {
        let mut connection = TcpStream::connect(&self.address).ok()?;
        connection.set_read_timeout(Some(LONG_ENOUGH)).ok()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let has = |name: &str| {
            fields
                .iter()
                .any(|(field, _)| field.eq_ignore_ascii_case(name))
        };
        if !has("host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if let Some(token) = self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        if !has("content-length") && !has("transfer-encoding") && method != "GET" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        connection.write_all((head + "\r\n").as_bytes()).ok()?;
        // It may be refused before its end.
        let _ = connection.write_all(body);
        read_response(&mut connection)
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_send(method, path, fields, body)
            .expect("a response")
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn json(&self, method: &str, below: &str, document: &Value) -> Response {
        let path = format!("/.sapwood/uploads/{below}");
        let fields = [("Content-Type", "application/json")];
        self.send(method, &path, &fields, document.to_string().as_bytes())
    }

    #[track_caller]
    pub fn open(&self, id: &str, name: &str, length: usize) -> Response {
        let document = json!({
            "name": name, "length": length, "part_size": PART, "block_size": BLOCK,
        });
        self.json("PUT", id, &document)
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> Value {
        self.get(&format!("/.sapwood/uploads/{id}"))
            .must(200)
            .json()
    }

    /// The target of a part, with its leaves.
    #[track_caller]
    pub fn target(&self, id: &str, object: &[u8], index: usize) -> Value {
        let offer = offer(object, index);
        let targets = self.json(
            "POST",
            &format!("{id}/targets"),
            &json!({ "parts": [offer] }),
        );
        targets.must(200).json()["targets"][0].clone()
    }

    #[track_caller]
    pub fn checkpoint(&self, id: &str, object: &[u8], index: usize) -> Response {
        let document = json!({
            "length": part_of(object, index).len(), "sha256": sha256(part_of(object, index)),
        });
        self.json("PUT", &format!("{id}/parts/{index}"), &document)
    }

    /// Sends what the server does not have of a part; returns how much that was.
    #[track_caller]
    pub fn send_part(&self, id: &str, object: &[u8], index: usize) -> usize {
        let target = self.target(id, object, index);
        if target["finished"] == true {
            return 0;
        }
        let from = target["from"].as_u64().expect("a number") as usize;
        let url = target["url"].as_str().expect("a URL");
        let rest = &part_of(object, index)[from..];
        self.send("PUT", url, &[], rest).must(204);
        self.checkpoint(id, object, index).must(200);
        rest.len()
    }

    #[track_caller]
    pub fn finalize(&self, id: &str, object: &[u8]) -> Response {
        let document = json!({ "length": object.len(), "root": root(object) });
        self.json("POST", &format!("{id}/finalize"), &document)
    }

    /// Finalizes, and waits until the object is there.
    #[track_caller]
    pub fn publish(&self, id: &str, object: &[u8]) -> Value {
        let began = Instant::now();
        loop {
            let response = self.finalize(id, object);
            if response.status == 200 {
                return response.json();
            }
            response.must(202);
            assert!(began.elapsed() < LONG_ENOUGH);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    pub fn upload(&self, id: &str, name: &str, object: &[u8]) -> Value {
        self.open(id, name, object.len()).must(201);
        for index in 0..parts(object) {
            self.send_part(id, object, index);
        }
        self.publish(id, object)
    }
}

pub fn read_response(connection: &mut TcpStream) -> Option<Response> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 256 * 1024]);
    // A connection that is reset has sent what it has.
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let fields = lines.filter_map(|line| line.split_once(": "));
    Some(Response {
        status,
        headers: fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: bytes.split_off(end + 4),
    })
}

pub fn parts(object: &[u8]) -> usize {
    object.len().div_ceil(PART).max(1)
}

pub fn part_of(object: &[u8], index: usize) -> &[u8] {
    &object[index * PART..object.len().min((index + 1) * PART)]
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn root(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

pub fn offer(object: &[u8], index: usize) -> Value {
    let part = part_of(object, index);
    let leaves: String = part
        .chunks(BLOCK)
        .enumerate()
        .map(|(block, bytes)| {
            let start = (index * PART + block * BLOCK) as u64;
            let leaf = sapwood::format::tree::value_of(start, bytes);
            hex::encode(leaf)
        })
        .collect();
    json!({ "index": index, "length": part.len(), "sha256": sha256(part), "leaves": leaves })
}

pub fn id_of(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

#[track_caller]
pub fn check_manifest(site: &Site, name: &str, object: &[u8]) {
    let path = site.path(&format!("{name}.sapwood"));
    let manifest = ManifestFile::open(&path).expect("a manifest");
    assert_eq!(manifest.manifest.tree.root().to_string(), root(object));
}
