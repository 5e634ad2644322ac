//! The gateway: proven bytes of remote objects for players and browsers on this machine, and for nobody else.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use crate::{
    packed,
    support::{
        nginx::{Nginx, program},
        objects::{Content, geometry, manifest_of, manifest_with_false_geometry},
        origin::{Asks, Lie, Of, Origin},
        program::{Running, command, run, sapwood, start},
        programs::output_of,
        scene::{MANIFEST, OBJECT, Scene},
    },
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const BLOCK: u64 = 16 * KIB;
const LENGTH: u64 = MIB + 5;

/// A running gateway, and the URLs that it printed.
struct Gateway {
    running: Running,
    urls: Vec<String>,
}

impl Gateway {
    fn start(folder: &Path, words: &[&str]) -> Gateway {
        let mut command = sapwood(folder);
        command
            .args(["--json", "gateway", "--no-store"])
            .args(words);
        let urls = words.iter().filter(|word| word.starts_with("http")).count();
        Gateway::of(command, urls)
    }

    /// `count`: URLs of objects that are served.
    fn of(command: Command, count: usize) -> Gateway {
        let mut running = start(command);
        let is_url = |event: &&Value| event["event"] == "listening";
        running.wait_for("a URL for each object", |events| {
            events.iter().filter(is_url).count() == count
        });
        let events = running.events();
        let urls = events.iter().filter(is_url);
        let urls = urls.map(|event| event["url"].as_str().expect("a URL").to_owned());
        Gateway {
            urls: urls.collect(),
            running,
        }
    }

    /// Of the object of a scene.
    fn to(scene: &Scene, more: &[&str]) -> Gateway {
        let url = scene.url();
        let words: Vec<&str> = [url.as_str()].iter().chain(more).copied().collect();
        // Mirrors are URLs too.
        let mut command = sapwood(scene.folder.path());
        command
            .args(["--json", "gateway", "--no-store"])
            .args(words);
        Gateway::of(command, 1)
    }

    fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Host and port, and the path.
    fn parts(&self) -> (&str, &str) {
        let rest = self.url().strip_prefix("http://").expect("http");
        let (address, path) = rest.split_at(rest.find('/').expect("a path"));
        (address, path)
    }

    fn address(&self) -> &str {
        self.parts().0
    }

    /// The path of the page, with both slashes.
    fn page(&self) -> &str {
        let path = self.parts().1;
        &path[..=path.rfind('/').expect("a slash")]
    }

    fn get(&self, fields: &[&str]) -> Response {
        self.request("GET", self.parts().1, fields)
    }

    /// With its own host.
    fn request(&self, method: &str, path: &str, fields: &[&str]) -> Response {
        let host = format!("Host: {}", self.address());
        let fields: Vec<&str> = [host.as_str()].iter().chain(fields).copied().collect();
        request(self.address(), method, path, &fields)
    }

    fn state(&self) -> Value {
        let response = self.request("GET", &format!("{}-/state.json", self.page()), &[]);
        assert_eq!(response.status, 200);
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// Ends it by a signal.
    fn finish(mut self) -> Value {
        self.running.signal(Signal::TERM);
        self.running.finish().must(0).event("done")
    }
}

/// A response as it came, whole or not.
#[derive(Debug)]
struct Response {
    status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(other, _)| other == name);
        field.map(|(_, value)| value.as_str())
    }

    fn length(&self) -> Option<u64> {
        self.field("content-length")?.parse().ok()
    }

    fn is_whole(&self) -> bool {
        self.length() == Some(self.body.len() as u64)
    }
}

fn connect(address: &str) -> TcpStream {
    let connection = TcpStream::connect(address).expect("it listens");
    let patience = Some(Duration::from_secs(120));
    connection.set_read_timeout(patience).expect("a timeout");
    connection
}

/// On a connection of its own, with exactly these fields.
fn request(address: &str, method: &str, path: &str, fields: &[&str]) -> Response {
    let mut connection = connect(address);
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for field in fields {
        head += &format!("{field}\r\n");
    }
    connection
        .write_all(format!("{head}\r\n").as_bytes())
        .expect("it is sent");
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{method} {path}: no response: {bytes:?}"));
    let head = String::from_utf8(bytes[..end].to_vec()).expect("ASCII");
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .expect("a status");
    let fields = lines.filter_map(|line| line.split_once(": "));
    Response {
        status: status.parse().expect("a number"),
        fields: fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: bytes[end + 4..].to_vec(),
    }
}

#[test]
fn ranges_conditions_and_fields_are_those_of_a_file_named_by_its_root() {
    let scene = Scene::new(LENGTH, BLOCK);
    let all = scene.content.all();
    let gateway = Gateway::to(&scene, &[]);
    assert!(gateway.url().ends_with("/object.bin"), "{}", gateway.url());
    let etag = format!("\"{}\"", scene.root());
    let cases: &[(&str, u16, std::ops::Range<u64>)] = &[
        ("", 200, 0..LENGTH),
        ("Range: bytes=0-0", 206, 0..1),
        ("Range: bytes=16383-16384", 206, 16383..16385),
        ("Range: bytes=100000-", 206, 100_000..LENGTH),
        ("Range: bytes=-7", 206, LENGTH - 7..LENGTH),
        ("Range: bytes=5-99999999999", 206, 5..LENGTH),
        ("Range: bytes=1048581-", 416, 0..0),
        ("Range: bytes=-0", 416, 0..0),
        ("Range: bytes=7-5", 200, 0..LENGTH),
        ("Range: bytes=0-9\r\nIf-Range: \"other\"", 200, 0..LENGTH),
        ("If-Match: \"other\"", 412, 0..0),
    ];
    for (field, status, range) in cases {
        let fields = [*field];
        let response = gateway.get(&fields[..usize::from(!field.is_empty())]);
        assert_eq!(response.status, *status, "{field}");
        assert!(response.is_whole(), "{field}");
        assert!(
            response.body == all[range.start as usize..range.end as usize],
            "{field}: other bytes"
        );
        assert_eq!(response.field("etag"), Some(etag.as_str()), "{field}");
        let place = match status {
            206 => Some(format!("bytes {}-{}/{LENGTH}", range.start, range.end - 1)),
            416 => Some(format!("bytes */{LENGTH}")),
            _ => None,
        };
        assert_eq!(
            response.field("content-range").map(str::to_owned),
            place,
            "{field}"
        );
        for (name, value) in [
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("accept-ranges", "bytes"),
        ] {
            assert_eq!(response.field(name), Some(value), "{field}");
        }
        let cors = response
            .fields
            .iter()
            .find(|(name, _)| name.starts_with("access-control"));
        assert_eq!(cors, None, "{field}");
    }
    let range = format!("If-Range: {etag}");
    assert_eq!(gateway.get(&["Range: bytes=0-9", &range]).status, 206);
    assert_eq!(
        gateway.get(&[&format!("If-None-Match: {etag}")]).status,
        304
    );
    let head = gateway.request("HEAD", gateway.parts().1, &[]);
    assert_eq!(
        (head.status, head.length(), head.body.len()),
        (200, Some(LENGTH), 0)
    );
    let several = gateway.get(&["Range: bytes=0-1,500000-500001"]);
    assert_eq!(several.status, 206);
    let body = String::from_utf8_lossy(&several.body);
    assert!(body.contains("bytes 500000-500001/1048581"), "{body}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let response = gateway.request(method, gateway.parts().1, &[]);
        assert_eq!(
            (response.status, response.field("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    // All of it was fetched once, but what was under way when connections took over the ends of others' spans: that depends on the
    // machine, but is far below all of it.
    let done = gateway.finish();
    let fetched = done["bytes_fetched"].as_u64().expect("a number");
    assert!(fetched < LENGTH + LENGTH / 2, "{fetched}");
}

/// No length, no end and no 416 before the last block is proven.
#[test]
fn a_false_length_is_never_told() {
    let scene = Scene::new(LENGTH, BLOCK);
    // Of one byte more: as many blocks, so that only the last block shows it.
    let lying = manifest_with_false_geometry(&scene.content, BLOCK, geometry(LENGTH + 1, BLOCK));
    scene.origin.put(MANIFEST, lying);
    let gateway = Gateway::to(&scene, &["--tries", "2"]);
    for fields in [
        &[][..],
        &["Range: bytes=0-9"],
        &["Range: bytes=99999999-"],
        &["Range: bytes=-1"],
        &["Range: bytes=0-1,5-6"],
    ] {
        for method in ["GET", "HEAD"] {
            let response = gateway.request(method, gateway.parts().1, fields);
            assert_eq!(response.status, 502, "{method} {fields:?}");
            assert_eq!(response.field("content-range"), None, "{method} {fields:?}");
            assert_eq!(response.field("etag"), None, "{method} {fields:?}");
            assert!(
                response.length().is_none_or(|length| length < KIB),
                "{method} {fields:?}"
            );
            let body = String::from_utf8_lossy(&response.body);
            assert_eq!(body.is_empty(), method == "HEAD", "{body}");
        }
    }
    assert_eq!(gateway.state()["objects"][0]["length_proven"], false);
    gateway.finish();
}

/// With a source that does not respond, a client waits for the first byte; nothing of the length is told meanwhile.
#[test]
fn a_source_that_is_gone_is_a_504() {
    let scene = Scene::new(LENGTH, BLOCK);
    // From the start: else the length may be proven before.
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::Status(503));
    let gateway = Gateway::to(&scene, &["--patience", "1s", "--tries", "1"]);
    let response = gateway.get(&["Range: bytes=0-9"]);
    assert_eq!(response.status, 504, "{response:?}");
    assert_eq!(response.field("etag"), None);
    // It is there again.
    scene.origin.be_honest();
    let response = gateway.get(&["Range: bytes=0-9"]);
    assert_eq!(response.status, 206);
    assert!(response.body == scene.content.read(0..10));
    gateway.finish();
}

#[test]
fn a_damaged_block_ends_the_response_exactly_before_it() {
    let scene = Scene::new(LENGTH, BLOCK);
    let all = scene.content.all();
    let wrong = 40 * BLOCK..41 * BLOCK;
    scene.origin.lie(
        OBJECT,
        Asks::Anything,
        Of::All,
        Lie::FlipAt(wrong.start + 100),
    );
    let gateway = Gateway::to(&scene, &[]);
    for start in [0, 38 * BLOCK + 5, wrong.start - 1] {
        let response = gateway.get(&[&format!("Range: bytes={start}-")]);
        assert_eq!(response.status, 206, "{start}");
        assert_eq!(response.length(), Some(LENGTH - start), "{start}");
        // Byte by byte: all proven ones before the block, and none of it.
        assert_eq!(
            response.body.len() as u64,
            wrong.start - start,
            "from {start}"
        );
        assert!(
            response.body == all[start as usize..wrong.start as usize],
            "{start}: other bytes"
        );
    }
    let within = gateway.get(&[&format!("Range: bytes={}-{}", wrong.start, wrong.end - 1)]);
    assert!(
        within.body.is_empty(),
        "{} bytes of the damaged block",
        within.body.len()
    );
    // What is behind it is served.
    let behind = gateway.get(&[&format!("Range: bytes={}-", wrong.end)]);
    assert!(behind.is_whole() && behind.body == all[wrong.end as usize..]);
    // A part of several ranges ends there too.
    let several = gateway.get(&[&format!(
        "Range: bytes=0-9,{}-{}",
        wrong.start - 10,
        wrong.start + 10
    )]);
    assert!(!several.is_whole());
    let last = &all[wrong.start as usize - 10..wrong.start as usize];
    assert!(
        several.body.ends_with(last),
        "the last proven bytes are not the end"
    );
    let state = gateway.state();
    let shown = &state["shown"];
    assert_eq!(
        &shown["cells"].as_str().expect("a map")[38..43],
        "ppwpp",
        "{shown}"
    );
    let refused = &shown["wrong"][0];
    assert_eq!(
        (refused["block"].as_u64(), refused["start"].as_u64()),
        (Some(40), Some(wrong.start)),
        "{refused}"
    );
    assert_eq!(refused["source"], scene.url(), "{refused}");
    assert_ne!(refused["expected"], refused["found"], "{refused}");
    gateway.finish();
}

/// Proven bytes still wait for their client when the gateway already knows that the next block is damaged.
#[test]
fn a_slow_reader_gets_all_bytes_before_a_damaged_block() {
    let scene = Scene::new(8 * MIB, BLOCK);
    let (start, wrong) = (3 * MIB, 400 * BLOCK);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::FlipAt(wrong));
    let gateway = Gateway::to(&scene, &[]);
    let (address, path) = gateway.parts();
    let mut connection = connect(address);
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nRange: bytes={start}-\r\n\r\n");
    connection.write_all(head.as_bytes()).expect("it is sent");
    let mut bytes = vec![0; 64 * KIB as usize];
    connection.read_exact(&mut bytes).expect("the first bytes");
    let damaged = gateway.get(&[&format!("Range: bytes={wrong}-{}", wrong + 9)]);
    assert!(damaged.body.is_empty());
    let _ = connection.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let body = &bytes[end.expect("a header section") + 4..];
    assert_eq!(body.len() as u64, wrong - start);
    assert!(body == scene.content.read(start..wrong), "other bytes");
    gateway.finish();
}

#[test]
fn a_good_mirror_makes_up_for_a_damaged_block() {
    let scene = Scene::new(LENGTH, BLOCK);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::FlipAt(40 * BLOCK));
    let mirror = Origin::start();
    mirror.put(OBJECT, scene.content.clone());
    let gateway = Gateway::to(&scene, &["--mirror", &mirror.url(OBJECT)]);
    for _ in 0..2 {
        let response = gateway.get(&[]);
        assert!(response.is_whole() && response.body == scene.content.all());
    }
    let state = gateway.state();
    assert_eq!(
        state["shown"]["sources"].as_array().map(Vec::len),
        Some(2),
        "{state}"
    );
    assert!(
        !state["shown"]["cells"]
            .as_str()
            .expect("a map")
            .contains('w'),
        "{state}"
    );
    gateway.finish();
}

#[test]
fn other_hosts_tokens_and_paths_get_nothing() {
    let scene = Scene::new(LENGTH, BLOCK);
    let gateway = Gateway::to(&scene, &[]);
    let (address, path) = gateway.parts();
    let port = address.rsplit(':').next().expect("a port");
    for hosts in [
        vec!["Host: evil.example".to_owned()],
        vec![format!("Host: evil.example:{port}")],
        vec![format!("Host: localhost.evil.com:{port}")],
        vec![format!("Host: 127.0.0.1.evil.com:{port}")],
        vec!["Host: 127.0.0.1".to_owned()],
        vec!["Host: 127.0.0.1:1".to_owned()],
        vec![format!("Host: 0.0.0.0:{port}")],
        vec!["Host: ".to_owned()],
        vec![],
        vec![format!("Host: {address}"), format!("Host: {address}")],
        vec![format!("Host: {address}"), "Host: evil.example".to_owned()],
        vec![format!("Host: {address}, evil.example")],
    ] {
        let fields: Vec<&str> = hosts.iter().map(String::as_str).collect();
        for path in [
            path,
            gateway.page(),
            "/",
            &format!("{}-/state.json", gateway.page()),
        ] {
            let response = request(address, "GET", path, &fields);
            // Two fields and none may be refused by the library below already.
            assert!(
                [400, 421].contains(&response.status),
                "{fields:?}: {}",
                response.status
            );
            assert!(
                response.body.len() < 100 && response.field("etag").is_none(),
                "{fields:?}"
            );
        }
    }
    let absolute = format!("http://evil.example{path}");
    assert_eq!(gateway.request("GET", &absolute, &[]).status, 421);
    assert_eq!(
        request(address, "GET", path, &[&format!("Host: localhost:{port}")]).status,
        200
    );

    let page = gateway.page();
    let token = page.trim_matches('/');
    assert!(
        token.len() == 32 && token.chars().all(|c| c.is_ascii_hexdigit()),
        "{token}"
    );
    let wrong_name = gateway.request("GET", &format!("{page}other"), &[]);
    let mut other = token.to_owned();
    let last = if other.ends_with('0') { "1" } else { "0" };
    other.replace_range(31.., last);
    for path in [
        "/".to_owned(),
        "/object.bin".to_owned(),
        format!("/{other}/object.bin"),
        format!("/{other}/"),
        format!("/{}/object.bin", &token[..31]),
        format!("/{token}0/object.bin"),
        format!("/{}/object.bin", "0".repeat(32)),
        format!("/{token}"),
        format!("//{token}/object.bin"),
        format!("/x/../{token}/object.bin"),
        format!("{page}/object.bin"),
        format!("{page}./object.bin"),
        format!("{page}../{token}/object.bin"),
        format!("{page}%2e%2e/{token}/object.bin"),
        format!("{page}object.bin/"),
        format!("{page}object.bin%00"),
        format!("{page}object%252ebin"),
        format!("{page}object.bin.sapwood"),
        format!("{page}-/../object.bin"),
        format!("{page}-/page.html"),
        format!("{page}etc/passwd"),
        format!("{page}%2fetc%2fpasswd"),
    ] {
        let response = gateway.request("GET", &path, &[]);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.body, wrong_name.body, "{path}");
        let without_date = |response: &Response| -> Vec<(String, String)> {
            let fields = response.fields.iter();
            fields.filter(|(name, _)| name != "date").cloned().collect()
        };
        assert_eq!(without_date(&response), without_date(&wrong_name), "{path}");
    }
    // Encoded otherwise, it is the same URL.
    assert_eq!(
        gateway
            .request("HEAD", &format!("{page}%6fbject.bin"), &[])
            .status,
        200
    );
    gateway.finish();
}

/// As many ranges as only an attack has are answered with the whole, as by `serve`.
#[test]
fn a_thousand_ranges_are_one_response() {
    let scene = Scene::new(LENGTH, BLOCK);
    let gateway = Gateway::to(&scene, &[]);
    let ranges: Vec<String> = (0..1000)
        .map(|number| format!("{}-{}", number * 1000, number * 1000 + 1))
        .collect();
    for (count, status) in [(256, 206), (257, 200), (1000, 200)] {
        let response = gateway.get(&[&format!("Range: bytes={}", ranges[..count].join(","))]);
        assert_eq!(response.status, status, "{count}");
        assert!(response.is_whole(), "{count}");
    }
    gateway.finish();
}

/// What it serves, its type and its policy.
#[test]
fn the_page_needs_no_other_server() {
    let scene = Scene::new(LENGTH, BLOCK);
    let gateway = Gateway::to(&scene, &[]);
    let mut texts = Vec::new();
    for (file, media_type) in [
        ("", "text/html"),
        ("-/page.css", "text/css"),
        ("-/page.js", "text/javascript"),
    ] {
        let response = gateway.request("GET", &format!("{}{file}", gateway.page()), &[]);
        assert_eq!(response.status, 200, "{file}");
        let found = response.field("content-type").unwrap_or_default();
        assert!(found.starts_with(media_type), "{file}: {found}");
        assert_eq!(response.field("cache-control"), Some("no-store"), "{file}");
        texts.push((
            response.field("content-security-policy").map(str::to_owned),
            String::from_utf8(response.body).expect("text"),
        ));
    }
    let policy = texts[0].0.clone().expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    for (_, text) in &texts {
        // But for the name space of SVG.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("=\"//"));
        // The policy allows no code or style in the page.
        assert!(!text.contains(" style=\"") && !text.contains("onclick"));
    }
    let state = gateway.state();
    let object = &state["objects"][0];
    assert_eq!(object["name"], "object.bin");
    assert_eq!(object["root"], scene.root());
    assert_eq!(object["trust"], "manifest");
    assert_eq!(object["blocks"], 65);
    assert_eq!(state["shown"]["cells"].as_str().map(str::len), Some(65));
    gateway.finish();
}

#[test]
fn a_replaced_object_is_opened_again() {
    let scene = Scene::new(LENGTH, BLOCK);
    let gateway = Gateway::to(&scene, &[]);
    let of_root = Gateway::to(&scene, &["--root", &scene.root()]);
    let first = |gateway: &Gateway| gateway.get(&["Range: bytes=0-99"]);
    let old = scene.content.clone();
    for gateway in [&gateway, &of_root] {
        assert!(first(gateway).body == old.read(0..100));
    }
    let new = Content::Bytes(vec![7; LENGTH as usize]);
    scene.origin.put(OBJECT, new.clone());
    scene.origin.put(MANIFEST, manifest_of(&new, BLOCK));
    for (gateway, is_reopened) in [(&gateway, true), (&of_root, false)] {
        // Far from what was read ahead: the source shows that it has another one.
        let response = gateway.get(&["Range: bytes=900000-"]);
        assert!(
            !response.is_whole() || response.status >= 500,
            "{}",
            response.status
        );
        assert!(old.read(900_000..LENGTH).starts_with(&response.body) || response.status >= 500);
        let response = first(gateway);
        match is_reopened {
            true => {
                assert_eq!(response.status, 206);
                assert_ne!(
                    response.field("etag"),
                    Some(format!("\"{}\"", scene.root()).as_str())
                );
                assert!(response.body == new.read(0..100));
                assert!(gateway.get(&[]).body == new.all());
            }
            false => assert_eq!(response.status, 502),
        }
    }
    gateway.finish();
    of_root.finish();
}

/// Found: the gateway waited until somebody read its events, and the player with it.
#[test]
fn a_script_that_reads_only_the_url_is_served_to_the_end() {
    let scene = Scene::new(32 * MIB, BLOCK);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "gateway", "--no-store", &scene.url()]);
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let stdout = running.stdout.take().expect("a pipe");
    fcntl_setpipe_size(&stdout, 4096).expect("a small pipe");
    let mut line = String::new();
    let mut stdout = BufReader::with_capacity(1, stdout);
    stdout.read_line(&mut line).expect("the first line");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    let url = event["url"].as_str().expect("a URL");
    let rest = url.strip_prefix("http://").expect("http");
    let (address, path) = rest.split_at(rest.find('/').expect("a path"));
    let host = format!("Host: {address}");
    for _ in 0..2 {
        let response = request(address, "GET", path, &[&host]);
        assert!(response.body == scene.content.all());
    }
    let process = Pid::from_child(&running);
    kill_process(process, Signal::TERM).expect("a signal");
    assert_eq!(running.wait().expect("an end").code(), Some(0));
}

#[test]
fn the_gateway_ends_with_its_player() {
    let scene = Scene::new(LENGTH, BLOCK);
    let curl = program("curl").display().to_string();
    let with = |words: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        command
            .args(["gateway", "--no-store", &scene.url(), "--"])
            .args(words);
        run(command)
    };
    // Proxies of the environment are not for the loopback interface.
    let ended = with(&[
        "env",
        "http_proxy=http://127.0.0.1:1",
        &curl,
        "-s",
        "-o",
        "out",
    ])
    .must(0);
    assert!(
        ended.stdout.starts_with("http://127.0.0.1:"),
        "{}",
        ended.stdout
    );
    scene.must_hold(&scene.content);
    let ended = with(&["sh", "-c", "echo $1; exit 4", "sh", "{}"]).must(1);
    let mut lines = ended.stdout.lines();
    assert_eq!(lines.next(), lines.next(), "the player has another URL");
    assert!(
        ended.stderr.contains("sh ended with exit code 4"),
        "{}",
        ended.stderr
    );
    let ended = with(&["no-such-player"]).must(1);
    assert!(ended.stderr.contains("no-such-player"), "{}", ended.stderr);
}

/// Found: what a player printed came between the events, and was none.
#[test]
fn a_player_wrote_into_the_events() {
    let scene = Scene::new(LENGTH, BLOCK);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "gateway", "--no-store", &scene.url(), "--"]);
    command.args(["sh", "-c", "echo frame 1"]);
    let ended = run(command).must(0);
    assert!(!ended.stdout.contains("frame"), "{}", ended.stdout);
    assert!(ended.stderr.contains("frame 1"), "{}", ended.stderr);
    ended.event("listening");
}

#[test]
fn a_signal_ends_the_player_too() {
    let scene = Scene::new(LENGTH, BLOCK);
    let gateway = Gateway::to(&scene, &["--", "sh", "-c", "echo $$ >pid; exec sleep 1000"]);
    let pid = loop {
        match fs::read_to_string(scene.path("pid")) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());
    gateway.finish();
    assert!(!process.exists(), "the player still runs");
}

#[test]
fn what_cannot_be_served_ends_it_at_once() {
    let scene = Scene::new(LENGTH, BLOCK);
    let other = Scene::new(LENGTH, BLOCK);
    scene.origin.put("/bare.bin", Content::Painted(10));
    let (good, bare) = (scene.url(), scene.origin.url("/bare.bin"));
    let (twin, root) = (other.url(), "0".repeat(64));
    let cases: &[(&[&str], i32, &str)] = &[
        (&[&bare], 1, "there is no manifest"),
        (&[&good, &bare], 1, "there is no manifest"),
        (&[&good, "--root", &root], 3, "has the root"),
        (&[&good, "--require", "signed"], 3, "--key"),
        (&[&good, "--max-size", "10"], 1, "--max-size"),
        (&[&good, &twin], 2, "the same name object.bin"),
        (&[&good, &bare, "--root", &root], 2, "--root is for one URL"),
        (
            &[&good, &bare, "--mirror", &twin],
            2,
            "--mirror is for one URL",
        ),
        (&[&good, "--listen", "0.0.0.0:0"], 6, "127.0.0.1"),
        (&[&good, "--listen", "[::]:0"], 6, "loopback"),
        (&[&good, "--listen", "192.0.2.1:0"], 6, "192.0.2.1"),
        (&["ftp://h/x"], 6, "only http, https and s3"),
        (&["http://127.0.0.1:1/.x"], 6, "begins with a dot"),
        (
            &["http://127.0.0.1:1/", "--manifest", "m"],
            2,
            "--manifest is for an object",
        ),
        (&[&good, "--listen", "999.1.1.1:1"], 2, "999.1.1.1"),
        (&["x"], 2, "http://"),
        (&[], 2, "<URL>"),
    ];
    for (words, exit, said) in cases {
        let mut command = sapwood(scene.folder.path());
        command.args(["gateway", "--no-store"]).args(*words);
        let ended = run(command).must(*exit);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{words:?}");
    }
}

#[test]
fn a_missing_browser_is_a_warning_with_the_page() {
    let scene = Scene::new(LENGTH, BLOCK);
    let mut command = sapwood(scene.folder.path());
    command.env("PATH", scene.folder.path());
    command.args(["--json", "gateway", "--no-store", "--open", &scene.url()]);
    let mut gateway = Gateway::of(command, 1);
    let page = format!("http://{}{}", gateway.address(), gateway.page());
    gateway.running.wait_for("a warning", |events| {
        events.iter().any(|event| {
            event["message"]
                .as_str()
                .is_some_and(|said| said.contains(&page))
        })
    });
    // One that is there gets the page.
    fs::write(scene.path("xdg-open"), "#!/bin/sh\necho $1 >opened\n").expect("a file");
    let made = Command::new(program("chmod"))
        .arg("+x")
        .arg(scene.path("xdg-open"))
        .status();
    assert!(made.expect("it runs").success());
    let mut command = sapwood(scene.folder.path());
    command.env("PATH", scene.folder.path());
    command.args(["--json", "gateway", "--no-store", "--open", &scene.url()]);
    let other = Gateway::of(command, 1);
    let page = format!("http://{}{}\n", other.address(), other.page());
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(scene.path("opened")).unwrap_or_default() != page {
        assert!(Instant::now() < deadline, "the page was not opened");
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway.finish();
    other.finish();
}

/// Connections beyond the limit wait; those that say nothing are closed for them.
#[test]
fn idle_connections_do_not_stop_it() {
    let (limit, count) = match crate::support::long() {
        true => (20_000, 10_000),
        false => (256, 300),
    };
    let scene = Scene::new(LENGTH, BLOCK);
    let mut limited = command(program("prlimit"), scene.folder.path());
    limited
        .arg(format!("--nofile={limit}"))
        .arg(env!("CARGO_BIN_EXE_sapwood"));
    limited.args(["--json", "gateway", "--no-store", &scene.url()]);
    let gateway = Gateway::of(limited, 1);
    let idle: Vec<TcpStream> = (0..count).map(|_| connect(gateway.address())).collect();
    let began = Instant::now();
    let response = gateway.get(&[]);
    assert!(response.is_whole() && response.body == scene.content.all());
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    drop(idle);
    gateway.finish();
}

#[test]
fn many_readers_at_once_get_all_bytes_in_little_memory() {
    const READERS: usize = 200;
    let length = 16 * MIB;
    let scene = Scene::new(length, 64 * KIB);
    let gateway = Gateway::to(&scene, &[]);
    let all = scene.content.all();
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (gateway, all) = (&gateway, &all);
            scope.spawn(move || {
                let start = reader * 50_000;
                let response =
                    gateway.get(&[&format!("Range: bytes={start}-{}", start + 3_000_000)]);
                assert!(
                    response.is_whole(),
                    "{reader}: {} of {:?}",
                    response.body.len(),
                    response.length()
                );
                assert!(response.body == all[start..=start + 3_000_000], "{reader}");
            });
        }
    });
    let peak = gateway.running.peak_memory().expect("it runs");
    println!("{READERS} readers: {} MiB", peak / MIB);
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
    let done = gateway.finish();
    let fetched = done["bytes_fetched"].as_u64().expect("a number");
    assert!(fetched < 2 * length, "{fetched}");
}

/// Found: each URL had 64 MiB of blocks in memory until the end, so that a film in a thousand segments was there as a whole.
#[test]
fn objects_that_were_read_stayed_in_memory() {
    const OBJECTS: u64 = 8;
    let length = 40 * MIB;
    let scene = Scene::new(length, 64 * KIB);
    let manifest = manifest_of(&scene.content, 64 * KIB);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "gateway", "--no-store"]);
    for number in 0..OBJECTS {
        let name = format!("/{number}.bin");
        scene.origin.put(&name, scene.content.clone());
        scene
            .origin
            .put(&format!("{name}.sapwood"), manifest.clone());
        command.arg(scene.origin.url(&name));
    }
    let gateway = Gateway::of(command, OBJECTS as usize);
    for number in 0..OBJECTS {
        let path = format!("{}{number}.bin", gateway.page());
        let response = gateway.request("GET", &path, &[]);
        assert!(response.is_whole() && response.body.len() as u64 == length);
    }
    let peak = gateway.running.peak_memory().expect("it runs");
    println!("{OBJECTS} objects: {} MiB", peak / MIB);
    assert!(peak < 260 * MIB, "{} MiB", peak / MIB);
    gateway.finish();
}

/// What was read is kept: the next run fetches it no more.
#[test]
fn what_was_read_stays_in_the_store() {
    let scene = Scene::new(LENGTH, BLOCK);
    let fetched = || {
        let mut command = sapwood(scene.folder.path());
        command.args(["--json", "--store", "store", "gateway", &scene.url()]);
        let gateway = Gateway::of(command, 1);
        assert!(gateway.get(&[]).body == scene.content.all());
        gateway.finish()["bytes_fetched"]
            .as_u64()
            .expect("a number")
    };
    assert!(fetched() > LENGTH);
    let again = fetched();
    assert!(again < 8 * KIB, "{again}");
}

// ---- Libraries ------------------------------------------------------------------------------------------------------

/// A library that an origin serves below `/films/`.
struct Library {
    folder: tempfile::TempDir,
    origin: Origin,
}

/// The paths of its files, with their lengths.
const FILES: [(&str, usize); 6] = [
    ("a b.mp4", 300_000),
    ("deep/er/large.bin", 200_000),
    ("empty", 0),
    ("hls/list.m3u8", 40),
    ("hls/seg/1%.ts", 65_536),
    ("hls/seg/2.ts", 65_537),
];

impl Library {
    fn new() -> Library {
        let library = Library {
            folder: tempfile::tempdir().expect("a folder"),
            origin: Origin::start(),
        };
        for (number, (path, length)) in FILES.iter().enumerate() {
            library.write(path, &bytes_of(number, *length));
        }
        library.publish(&[]);
        library
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("films").join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(path).parent().expect("a folder")).expect("folders");
        fs::write(self.path(path), bytes).expect("a file");
    }

    fn run(&self, words: &[&str]) {
        let mut command = sapwood(self.folder.path());
        command.args(words);
        run(command).must(0);
    }

    /// Makes the library and hands all of it to the origin.
    fn publish(&self, more: &[&str]) {
        self.run(&[&["manifest", "films", "--read-all"], more].concat());
        self.put("");
    }

    fn put(&self, folder: &str) {
        for entry in fs::read_dir(self.path(folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            match entry.file_type().expect("a type").is_dir() {
                true => self.put(&format!("{name}/")),
                false => {
                    let url = format!("/films/{}", name.replace('%', "%25").replace(' ', "%20"));
                    let bytes = fs::read(entry.path()).expect("a file");
                    self.origin.put(&url, Content::Bytes(bytes));
                }
            }
        }
    }

    fn url(&self) -> String {
        self.origin.url("/films/")
    }

    fn gateway(&self, more: &[&str]) -> Gateway {
        let url = self.url();
        let mut command = sapwood(self.folder.path());
        command
            .args(["--json", "gateway", "--no-store", &url])
            .args(more);
        Gateway::of(command, 1)
    }
}

fn bytes_of(number: usize, length: usize) -> Vec<u8> {
    sapwood::format::paint::bytes(number as u64, length)
}

impl Gateway {
    /// A file of a library, by its encoded path below the page.
    fn file(&self, path: &str) -> Response {
        self.request("GET", &format!("{}{path}", self.page()), &[])
    }

    fn json(&self, path: &str) -> Value {
        let response = self.file(&format!("-/{path}"));
        assert_eq!(response.status, 200, "{path}");
        serde_json::from_slice(&response.body).expect("JSON")
    }
}

#[test]
fn a_library_is_served_file_by_file() {
    let library = Library::new();
    let gateway = library.gateway(&[]);
    assert!(gateway.url().ends_with('/'), "{}", gateway.url());
    // Before anybody plays, only the index was read.
    let requested = |of: &str| {
        library
            .origin
            .log()
            .iter()
            .filter(|asked| asked.path.contains(of))
            .count()
    };
    assert!(
        library
            .origin
            .log()
            .iter()
            .all(|asked| asked.path.starts_with("/films/library.sapwood"))
    );
    assert_eq!(requested("library.sapwood.d"), 0);
    for (number, (path, length)) in FILES.iter().enumerate() {
        let (path, bytes) = (
            path.replace('%', "%25").replace(' ', "%20"),
            bytes_of(number, *length),
        );
        let response = gateway.file(&path);
        assert_eq!(response.status, 200, "{path}");
        assert!(response.is_whole() && response.body == bytes, "{path}");
        let root = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(
            response.field("etag"),
            Some(format!("\"{root}\"").as_str()),
            "{path}"
        );
        // The root alone proves a small file.
        let manifests = requested(&format!("library.sapwood.d/{root}"));
        assert_eq!(manifests > 0, *length > 65_536, "{path}");
        if *length > 10 {
            let part = gateway.request(
                "GET",
                &format!("{}{path}", gateway.page()),
                &["Range: bytes=3-9"],
            );
            assert_eq!(
                (part.status, part.body.as_slice()),
                (206, &bytes[3..=9]),
                "{path}"
            );
        }
    }
    let playlist = gateway.file("hls/list.m3u8");
    assert_eq!(
        playlist.field("content-type"),
        Some("application/vnd.apple.mpegurl")
    );
    for nothing in [
        "hls",
        "hls/seg",
        "a%20b.mp4/",
        "hls%2Fseg%2F2.ts",
        "hls/../empty",
        "hls/%2e%2e/empty",
        "./empty",
        "/empty",
        "hls//seg/2.ts",
        "Empty",
        "library.sapwood",
        "library.sapwood.sapwood",
        "films/empty",
        "none/",
    ] {
        let response = gateway.file(nothing);
        assert_eq!(
            (response.status, response.body.len()),
            (404, 22),
            "{nothing}"
        );
    }
    // A folder is shown on the page.
    let folder = gateway.file("hls/seg/");
    let place = format!("{}#hls/seg/", gateway.page());
    assert_eq!(
        (folder.status, folder.field("location")),
        (307, Some(place.as_str()))
    );
    gateway.finish();
}

/// Folders and files, a part of them by a filter; what is not open costs nothing.
#[test]
fn the_page_lists_a_library() {
    let library = Library::new();
    let gateway = library.gateway(&[]);
    let state = gateway.state();
    assert_eq!(
        (&state["objects"], &state["shown"]),
        (&Value::Array(Vec::new()), &Value::Null)
    );
    let of_library = &state["libraries"][0];
    for (name, value) in [("name", "films"), ("prefix", ""), ("trust", "manifest")] {
        assert_eq!(of_library[name], value, "{name}");
    }
    assert_eq!(
        (&of_library["files"], &of_library["bytes"]),
        (&6.into(), &631_113.into())
    );
    let names = |list: &Value, what: &str| -> Vec<String> {
        let rows = list[what].as_array().expect("rows").iter();
        rows.map(|row| row["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let top = gateway.json("folder.json?library=0");
    assert_eq!(names(&top, "folders"), ["deep", "hls"]);
    assert_eq!(names(&top, "files"), ["a b.mp4", "empty"]);
    assert_eq!(
        (&top["files"][0]["href"], &top["files"][0]["type"]),
        (&"a%20b.mp4".into(), &"video/mp4".into())
    );
    assert_eq!(
        (&top["folders"][1]["files"], &top["folders"][1]["bytes"]),
        (&3.into(), &131_113.into())
    );
    let below = gateway.json("folder.json?library=0&folder=hls%2Fseg%2F");
    assert_eq!(names(&below, "files"), ["1%.ts", "2.ts"]);
    assert_eq!(below["files"][0]["href"], "hls/seg/1%25.ts");
    let found = gateway.json("folder.json?library=0&filter=.TS");
    assert_eq!(names(&found, "files"), ["hls/seg/1%.ts", "hls/seg/2.ts"]);
    assert!(names(&found, "folders").is_empty());
    let found = gateway.json("folder.json?library=0&folder=hls%2F&filter=2");
    assert_eq!(names(&found, "files"), ["seg/2.ts"]);
    for bad in [
        "folder.json",
        "folder.json?library=1",
        "folder.json?library=x",
    ] {
        assert_eq!(gateway.file(&format!("-/{bad}")).status, 404, "{bad}");
    }
    // A file that nobody requested is described by the index, and is not opened for that.
    library.origin.forget_log();
    let closed = &gateway.json("state.json?path=hls/seg/2.ts")["shown"];
    assert_eq!(
        (&closed["object"]["length"], &closed["cells"]),
        (&65_537.into(), &Value::Null)
    );
    assert!(library.origin.log().is_empty());
    gateway.file("hls/seg/2.ts");
    let open = &gateway.json("state.json?path=hls/seg/2.ts")["shown"];
    assert_eq!(
        (&open["object"]["trust"], &open["cells"]),
        (&"manifest".into(), &"pp".into())
    );
    assert_eq!(gateway.json("state.json?path=none")["shown"], Value::Null);
    gateway.finish();
}

/// The roots are those of the index that was read at the start, whatever the server has later.
#[test]
fn a_file_that_is_not_what_the_index_says_is_not_served() {
    let library = Library::new();
    let gateway = library.gateway(&["--tries", "2"]);
    let page = gateway.page().to_owned();
    assert!(gateway.file("deep/er/large.bin").is_whole());
    for (path, length) in [
        ("hls/seg/1%25.ts", 65_536),
        ("a%20b.mp4", 300_000),
        ("hls/list.m3u8", 41),
    ] {
        let other = Content::Bytes(vec![7; length]);
        library.origin.put(&format!("/films/{path}"), other);
        for range in ["Range: bytes=0-9", "Range: bytes=-9"] {
            let response = gateway.request("GET", &format!("{page}{path}"), &[range]);
            assert!(
                response.status >= 500 || response.body.is_empty(),
                "{path}: {response:?}"
            );
            assert_eq!(
                response.status == 502 && response.field("etag").is_none(),
                response.status >= 500,
                "{path}"
            );
        }
    }
    // Published anew with other files: what is the same is served, what is new is not there.
    library.write("new", b"new");
    library.write("empty", b"no longer");
    library.publish(&[]);
    assert_eq!(gateway.file("new").status, 404);
    assert_eq!(
        (
            gateway.file("empty").status,
            gateway.file("empty").body.len()
        ),
        (200, 0)
    );
    assert!(gateway.file("hls/seg/2.ts").is_whole());
    gateway.finish();
    let gateway = library.gateway(&[]);
    assert_eq!(gateway.file("new").body, b"new");
    assert_eq!(gateway.file("empty").body, b"no longer");
    gateway.finish();
}

#[test]
fn a_library_is_checked_for_its_key_and_name() {
    let library = Library::new();
    library.run(&["keygen", "-o", "k", "--no-password"]);
    library.run(&["keygen", "-o", "other", "--no-password"]);
    let refused = |more: &[&str], exit: i32, said: &str| {
        let mut command = sapwood(library.folder.path());
        command
            .args(["--store", "store", "gateway", &library.url()])
            .args(more);
        let ended = run(command).must(exit);
        assert!(ended.stderr.contains(said), "{more:?}: {}", ended.stderr);
        assert!(
            library
                .origin
                .log()
                .iter()
                .all(|asked| asked.path != "/films/library.sapwood"),
            "{more:?}"
        );
    };
    library.origin.forget_log();
    refused(&["--key", "k.pub"], 3, "sign");
    refused(&["--root", &"0".repeat(64)], 3, "root");
    library.publish(&["--sign", "k.key", "--seq", "5"]);
    refused(&["--key", "other.pub"], 3, "sign");
    library.publish(&["--sign", "k.key", "--seq", "5", "--name", "others"]);
    refused(&["--key", "k.pub"], 3, "others");
    library.publish(&["--sign", "k.key", "--seq", "5"]);
    let mut command = sapwood(library.folder.path());
    command.args([
        "--json",
        "--store",
        "store",
        "gateway",
        &library.origin.url("/films/library.sapwood"),
    ]);
    command.args(["--key", "k.pub"]);
    let gateway = Gateway::of(command, 1);
    assert_eq!(gateway.state()["libraries"][0]["trust"], "signed");
    assert!(gateway.file("a%20b.mp4").is_whole());
    assert_eq!(
        gateway.json("state.json?path=a%20b.mp4")["shown"]["object"]["trust"],
        "signed"
    );
    gateway.finish();
    // An older one is not taken for the present one.
    library.publish(&["--sign", "k.key", "--seq", "4", "--store", "another"]);
    library.origin.forget_log();
    refused(&["--key", "k.pub"], 3, "4");
}

#[test]
fn libraries_and_objects_are_served_together() {
    let (scene, one) = (Scene::new(LENGTH, BLOCK), Library::new());
    let two = Origin::start();
    for asked in ["library.sapwood", "library.sapwood.sapwood", "empty"] {
        let bytes = fs::read(one.path(asked)).expect("a file");
        two.put(&format!("/{asked}"), Content::Bytes(bytes));
    }
    let top = two.url("/library.sapwood");
    let gateway = Gateway::start(one.folder.path(), &[&one.url(), &scene.url(), &top]);
    let host = two.address().to_string().replace(':', "%3A");
    let ends = [
        "/films/".to_owned(),
        "/object.bin".to_owned(),
        format!("/{host}/"),
    ];
    for (url, end) in gateway.urls.iter().zip(&ends) {
        assert!(url.ends_with(end), "{url} {end}");
    }
    let page = gateway.urls[1]
        .strip_suffix("object.bin")
        .expect("its name");
    let page = &page[page.find("//").expect("a host") + 2..];
    let page = &page[page.find('/').expect("a path")..];
    let get = |path: &str| gateway.request("GET", &format!("{page}{path}"), &[]);
    assert!(get("object.bin").body == scene.content.all());
    assert!(get("films/a%20b.mp4").body == bytes_of(0, 300_000));
    assert_eq!(
        (get(&format!("{host}/empty")).status, get("empty").status),
        (200, 404)
    );
    assert_eq!(
        get("films/").field("location"),
        Some(format!("{page}#films/").as_str())
    );
    let state = get("-/state.json").body;
    let state: Value = serde_json::from_slice(&state).expect("JSON");
    assert_eq!(state["shown"]["object"]["name"], "object.bin");
    assert_eq!(
        (
            &state["libraries"][0]["prefix"],
            state["libraries"].as_array().map(Vec::len)
        ),
        (&"films/".into(), Some(2))
    );
    gateway.finish();
}

/// Each open file may have much in memory.
#[test]
fn files_that_nobody_reads_are_closed() {
    let library = Library::new();
    for number in 0..40 {
        library.write(&format!("many/{number}"), &bytes_of(number, 1000));
    }
    library.publish(&[]);
    let gateway = library.gateway(&[]);
    for number in 0..40 {
        assert!(gateway.file(&format!("many/{number}")).body == bytes_of(number, 1000));
    }
    let open = |number: usize| {
        let state = gateway.json(&format!("state.json?path=many/{number}"));
        state["shown"]["cells"].is_string()
    };
    let count = (0..40).filter(|number| open(*number)).count();
    assert!((1..=6).contains(&count), "{count}");
    // One that was closed is opened again.
    assert!(gateway.file("many/0").body == bytes_of(0, 1000));
    gateway.finish();
}

/// The index is the one that `serve` makes.
#[test]
fn a_folder_that_nobody_prepared_is_served_through_both() {
    let library = Library::new();
    for own in ["library.sapwood", "library.sapwood.sapwood"] {
        fs::remove_file(library.path(own)).expect("removed");
    }
    fs::remove_dir_all(library.path("library.sapwood.d")).expect("removed");
    let mut command = sapwood(library.folder.path());
    command.args([
        "--json",
        "--store",
        "store",
        "serve",
        "films",
        "--listen",
        "127.0.0.1:0",
    ]);
    let mut server = start(command);
    server.wait_for("a URL", |events| !events.is_empty());
    let url = server.events()[0]["url"]
        .as_str()
        .expect("a URL")
        .to_owned();
    let gateway = Gateway::start(library.folder.path(), &[&url]);
    for (number, (path, length)) in FILES.iter().enumerate() {
        let response = gateway.file(&path.replace('%', "%25").replace(' ', "%20"));
        assert!(
            response.is_whole() && response.body == bytes_of(number, *length),
            "{path}"
        );
    }
    gateway.finish();
}

// ---- Other programs -------------------------------------------------------------------------------------------------

/// Those that download: at once, resumed, and by many connections.
#[test]
fn other_programs_fetch_right_through_it() {
    let length = 5 * MIB + 17;
    let scene = Scene::new(length, 64 * KIB);
    let gateway = Gateway::to(&scene, &[]);
    let url = gateway.url();
    let must = |words: &[&str]| {
        let mut command = command(program(words[0]), scene.folder.path());
        command.args(&words[1..]);
        run(command).must(0);
        scene.must_hold(&scene.content);
    };
    must(&["curl", "-sS", "-o", "out", url]);
    // Interrupted at any byte, then resumed.
    fs::write(scene.target(), scene.content.read(0..1_234_567)).expect("a file");
    must(&["curl", "-sS", "-C", "-", "-o", "out", url]);
    fs::remove_file(scene.target()).expect("it is there");
    must(&["wget", "-q", "--no-proxy", "-O", "out", url]);
    fs::write(scene.target(), scene.content.read(0..3_000_000)).expect("a file");
    must(&["wget", "-q", "--no-proxy", "-c", "-O", "out", url]);
    fs::remove_file(scene.target()).expect("it is there");
    must(&[
        "aria2c",
        "--no-conf",
        "-q",
        "-x8",
        "-s8",
        "-k1M",
        "--file-allocation=none",
        "-o",
        "out",
        url,
    ]);
    let fetched = gateway.finish()["bytes_fetched"]
        .as_u64()
        .expect("a number");
    // In memory since the first time.
    assert!(fetched < length + length / 4, "{fetched}");
}

/// A few seconds of moving picture with sound. `more`: of the output.
fn film(folder: &Path, more: &[&str]) {
    let mut made = Command::new(program("ffmpeg"));
    made.current_dir(folder)
        .args([
            "-nostdin",
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x240:rate=25:duration=6",
        ])
        .args([
            "-f",
            "lavfi",
            "-i",
            "sine=duration=6",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-g",
            "25",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(["-c:a", "aac"])
        .args(more);
    output_of(&mut made, b"");
}

/// The MD5 of all decoded pictures and sound.
fn decoded(place: &str) -> String {
    let mut ffmpeg = command(program("ffmpeg"), Path::new("/"));
    ffmpeg.args(["-nostdin", "-v", "error", "-i", place, "-f", "md5", "-"]);
    let sum = String::from_utf8(output_of(&mut ffmpeg, b"")).expect("text");
    assert!(sum.starts_with("MD5="), "{sum}");
    sum
}

fn describe(nginx: &Nginx, names: &[&str]) {
    let mut command = sapwood(&nginx.folder.path().join("www"));
    command
        .args(["manifest", "--block-size", "16KiB"])
        .args(names);
    run(command).must(0);
}

#[test]
fn ffmpeg_plays_through_it_what_is_in_the_file() {
    let nginx = Nginx::start(0);
    let www = nginx.folder.path().join("www");
    // The index of the first one is at its end.
    film(&www, &["film.mp4"]);
    film(&www, &["-movflags", "+faststart", "fast.mp4"]);
    film(&www, &["film.mkv"]);
    let names = ["film.mp4", "fast.mp4", "film.mkv"];
    describe(&nginx, &names);
    let urls = names.map(|name| nginx.url(name));
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let gateway = Gateway::start(nginx.folder.path(), &urls);
    for (name, url) in names.iter().zip(&gateway.urls) {
        let file = www.join(name).display().to_string();
        assert_eq!(decoded(url), decoded(&file), "{name}");
    }
    gateway.finish();
}

#[test]
fn a_playlist_and_its_segments_play_through_one_gateway() {
    let nginx = Nginx::start(0);
    let www = nginx.folder.path().join("www");
    film(
        &www,
        &[
            "-f",
            "hls",
            "-hls_time",
            "1",
            "-hls_list_size",
            "0",
            "list.m3u8",
        ],
    );
    let names: Vec<String> = crate::support::scene::names(&www);
    assert!(names.len() > 5, "{names:?}");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    describe(&nginx, &names);
    let urls: Vec<String> = names.iter().map(|name| nginx.url(name)).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let gateway = Gateway::start(nginx.folder.path(), &urls);
    let list = gateway
        .urls
        .iter()
        .find(|url| url.ends_with(".m3u8"))
        .expect("the playlist");
    assert_eq!(
        decoded(list),
        decoded(&www.join("list.m3u8").display().to_string())
    );
    let path = list
        .strip_prefix(&format!("http://{}", gateway.address()))
        .expect("its URL");
    let playlist = gateway.request("GET", path, &[]);
    assert_eq!(
        playlist.field("content-type"),
        Some("application/vnd.apple.mpegurl")
    );
    gateway.finish();
    // The same folder as a library.
    let mut manifest = sapwood(&www);
    manifest.args(["manifest", "."]);
    run(manifest).must(0);
    let gateway = Gateway::start(nginx.folder.path(), &[&nginx.url("")]);
    let list = format!("{}list.m3u8", gateway.url());
    assert_eq!(
        decoded(&list),
        decoded(&www.join("list.m3u8").display().to_string())
    );
    gateway.finish();
}

#[test]
fn a_reader_moves_the_frames_of_a_pack() {
    let bytes = packed::text(8 * MIB as usize);
    let scene = packed::scene(bytes.clone());
    let gateway = Gateway::to(&scene, &[]);
    let response = gateway.get(&[]);
    assert!(response.is_whole() && response.body == bytes);
    // Two frames are not packed.
    let plain = scene.origin.sent(OBJECT);
    assert!((2 * MIB..3 * MIB).contains(&plain), "{plain}");
    let frames = scene.origin.sent(packed::PACK);
    assert!((1..2 * MIB).contains(&frames), "{frames}");
    gateway.finish();
}
