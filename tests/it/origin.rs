//! `sapwood serve` as an origin for anybody: manifests that follow their files, entity tags, names, pages and descriptions.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::Signal;
use sapwood::format::{
    library::{Index, IndexHeader},
    paint,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    packed,
    support::program::{self, LONG_ENOUGH, Running, command, sapwood, start},
};

const MIB: usize = 1024 * 1024;

/// A served folder, and the state folder of its server.
struct Site {
    folder: TempDir,
    store: TempDir,
}

struct Server {
    running: Running,
    address: String,
}

struct Response {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
    /// As many bytes came as were declared.
    is_whole: bool,
}

impl Site {
    fn new() -> Site {
        Site {
            folder: TempDir::new().expect("a folder"),
            store: TempDir::new().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    fn serve(&self, more: &[&str]) -> Server {
        self.serve_at("127.0.0.1:0", more)
    }

    fn serve_at(&self, listen: &str, more: &[&str]) -> Server {
        let mut started = sapwood(self.store.path());
        started
            .args(["--json", "--store"])
            .arg(self.store.path().join("state"))
            .arg("serve")
            .arg(self.folder.path())
            .args(["--listen", listen])
            .args(more);
        let mut running = start(started);
        running.wait_for("a URL", |events| !events.is_empty());
        let url = running.events()[0]["url"].clone();
        let address = url.as_str().expect("a URL").trim_start_matches("http://");
        Server {
            address: address.trim_end_matches('/').to_owned(),
            running,
        }
    }
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        exchange(&self.address, method, path, fields).expect("a response")
    }

    /// The entity tag of a file once it is its root, and the root.
    #[track_caller]
    fn root_of(&self, path: &str) -> String {
        let began = Instant::now();
        loop {
            let tag = self.request("HEAD", path, &[]).field("etag");
            if tag.len() == 66 {
                return tag.trim_matches('"').to_owned();
            }
            assert!(began.elapsed() < LONG_ENOUGH, "{path}: {tag}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Response {
    fn field(&self, name: &str) -> String {
        self.headers.get(name).cloned().unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A request on a connection of its own. The path is sent as it is.
fn exchange(address: &str, method: &str, path: &str, fields: &[(&str, &str)]) -> Option<Response> {
    exchange_with(address, method, path, fields, Duration::ZERO)
}

/// The same; between the reads of 256 KiB is a pause.
fn exchange_with(
    address: &str,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    pause: Duration,
) -> Option<Response> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.set_read_timeout(Some(LONG_ENOUGH)).ok()?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all((head + "\r\n").as_bytes()).ok()?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    // A connection that is reset has sent what it has.
    while let Ok(count @ 1..) = connection.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        std::thread::sleep(pause);
    }
    let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = bytes.split_off(end + 4);
    let declared = headers
        .get("content-length")
        .and_then(|length| length.parse::<usize>().ok());
    Some(Response {
        status,
        is_whole: declared == Some(body.len()),
        headers,
        body,
    })
}

fn root(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The root that a manifest names.
fn root_in(site: &Site, manifest: &[u8]) -> String {
    let path = site.store.path().join("m.sapwood");
    fs::write(&path, manifest).expect("a file");
    let mut inspect = sapwood(site.store.path());
    inspect.args(["inspect", "m.sapwood", "--json"]);
    let shown: Value = serde_json::from_str(&program::run(inspect).must(0).stdout).expect("JSON");
    shown["root"].as_str().expect("a root").to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_manifest_is_made_and_follows_its_file() {
    let site = Site::new();
    let first = paint::bytes(0, 3 * MIB + 7);
    site.write("f.bin", &first);
    let server = site.serve(&[]);
    let manifest = server.get("/f.bin.sapwood");
    assert_eq!(manifest.status, 200, "{}", manifest.text());
    assert_eq!(root_in(&site, &manifest.body), root(&first));
    let object = server.get("/f.bin");
    assert_eq!(object.field("etag"), format!("\"{}\"", root(&first)));
    let digest = base64(&Sha256::digest(&first));
    assert_eq!(object.field("repr-digest"), format!("sha-256=:{digest}:"));
    let range = server.request("GET", "/f.bin", &[("Range", "bytes=7-8")]);
    assert_eq!(
        (range.status, range.field("repr-digest")),
        (206, object.field("repr-digest"))
    );
    // Rewritten in place, replaced, cut: the response after that has the tag of these bytes or of none.
    let mut second = first.clone();
    second[0] ^= 1;
    let changes: [(&dyn Fn(), &[u8]); 3] = [
        (&|| site.write("f.bin", &second), &second),
        (
            &|| {
                site.write("new", &first);
                fs::rename(site.path("new"), site.path("f.bin")).expect("renamed");
            },
            &first,
        ),
        (&|| site.write("f.bin", &first[..100]), &first[..100]),
    ];
    for (change, bytes) in changes {
        change();
        let now = server.get("/f.bin");
        assert_eq!(now.body, bytes);
        let tag = now.field("etag");
        assert!(
            tag == format!("\"{}\"", root(bytes)) || tag.len() != 66,
            "{tag}"
        );
        assert_eq!(server.root_of("/f.bin"), root(bytes));
        let manifest = server.get("/f.bin.sapwood");
        assert_eq!(root_in(&site, &manifest.body), root(bytes));
    }
    // What is made lies elsewhere.
    assert_eq!(names(site.folder.path()), ["f.bin"]);
    // Of the versions that are gone nothing is kept.
    assert_eq!(names(&site.store.path().join("state/served")).len(), 1);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_change_is_noticed_without_a_request() {
    let site = Site::new();
    fs::create_dir(site.path("sub")).expect("a folder");
    let server = site.serve(&[]);
    let kept = site.store.path().join("state/served");
    let wait_for = |count: usize| {
        let began = Instant::now();
        while names(&kept).len() != count {
            assert!(began.elapsed() < LONG_ENOUGH, "{:?}", names(&kept));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    site.write("sub/a", b"a");
    wait_for(1);
    fs::create_dir_all(site.path("new/below")).expect("folders");
    site.write("new/below/b", b"b");
    wait_for(2);
    fs::remove_file(site.path("sub/a")).expect("removed");
    wait_for(1);
    drop(server);
}

/// Found: a file of the served folder itself had two paths, `a` and `./a`. Its manifest stayed when it was deleted, and it was hashed
/// twice when it changed.
#[test]
fn what_was_made_of_a_deleted_file_stayed() {
    let site = Site::new();
    site.write("a", b"a");
    let server = site.serve(&[]);
    server.root_of("/a");
    let kept = site.store.path().join("state/served");
    let wait_for = |count: usize| {
        let began = Instant::now();
        while names(&kept).len() != count {
            assert!(began.elapsed() < LONG_ENOUGH, "{:?}", names(&kept));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // One that is being written has a name of its own.
    wait_for(1);
    fs::remove_file(site.path("a")).expect("removed");
    wait_for(0);
}

#[test]
fn manifests_are_kept_for_the_next_run() {
    let site = Site::new();
    site.write("f", &paint::bytes(0, MIB));
    let server = site.serve(&[]);
    let first = server.get("/f.sapwood");
    let kept = site.store.path().join("state/served");
    let name = kept.join(&names(&kept)[0]);
    let made = |name: &Path| {
        fs::metadata(name)
            .and_then(|made| made.modified())
            .expect("a file")
    };
    let before = made(&name);
    drop(server);
    let server = site.serve(&[]);
    let second = server.get("/f.sapwood");
    assert_eq!(first.field("etag"), second.field("etag"));
    assert_eq!(first.body, second.body);
    assert_eq!(made(&name), before);
    // Whoever removes it gets another one.
    fs::remove_file(&name).expect("removed");
    assert_eq!(server.get("/f.sapwood").body, first.body);
}

#[test]
fn a_manifest_beside_its_file_is_served_while_it_fits() {
    let site = Site::new();
    let bytes = paint::bytes(0, MIB);
    site.write("f", &bytes);
    let run = |args: &[&str]| {
        let mut command = sapwood(site.folder.path());
        command.args(args);
        program::run(command).must(0);
    };
    run(&["keygen", "-o", "../k-of-test", "--no-password"]);
    let key = site
        .folder
        .path()
        .parent()
        .expect("a folder")
        .join("k-of-test");
    run(&["manifest", "f", "--sign", "../k-of-test.key", "--seq", "7"]);
    for suffix in ["key", "pub"] {
        fs::remove_file(key.with_extension(suffix)).expect("removed");
    }
    let signed = fs::read(site.path("f.sapwood")).expect("a manifest");
    let server = site.serve(&[]);
    assert_eq!(server.get("/f.sapwood").body, signed);
    server.root_of("/f");
    assert_eq!(server.get("/f.sapwood").body, signed);
    let json = server.get("/f.sapwood.json").json();
    assert_eq!(
        (&json["signed"], &json["sequence"]),
        (&true.into(), &7.into())
    );
    assert_eq!(json["key_id"].as_str().map(str::len), Some(16));
    // The same length, other bytes; and another length.
    for length in [MIB, MIB + 1] {
        let bytes = paint::bytes(1, length);
        site.write("f", &bytes);
        assert_eq!(server.root_of("/f"), root(&bytes));
        let made = server.get("/f.sapwood");
        assert_eq!(root_in(&site, &made.body), root(&bytes));
        assert_eq!(server.get("/f.sapwood.json").json()["signed"], false);
    }
    // It is a file like others where it describes none.
    site.write("alone.sapwood", &signed);
    assert_eq!(server.get("/alone.sapwood").body, signed);
    site.write("g", b"g");
    site.write("g.sapwood", b"these are notes");
    assert_eq!(server.get("/g.sapwood").body, b"these are notes");
    // What begins like one and is none would stop every fetch.
    site.write("g.sapwood", &signed[..700]);
    assert_eq!(root_in(&site, &server.get("/g.sapwood").body), root(b"g"));
}

#[test]
fn without_made_manifests_files_are_what_they_are() {
    let site = Site::new();
    site.write("f", b"f");
    let server = site.serve(&["--no-manifests"]);
    assert_eq!(server.get("/f").body, b"f");
    for none in ["/f.sapwood", "/f.sapwood.json"] {
        assert_eq!(server.get(none).status, 404);
    }
    assert!(!site.store.path().join("state/served").exists());
}

/// The tag of a file changed from inode and time to its root while a client had the first one.
#[test]
fn a_download_goes_on_with_the_entity_tag_that_it_began_with() {
    let site = Site::new();
    let bytes = paint::bytes(0, MIB);
    site.write("f", &bytes);
    std::thread::sleep(Duration::from_millis(100));
    let early = site.serve(&["--no-manifests"]).get("/f").field("etag");
    let server = site.serve(&[]);
    let late = format!("\"{}\"", server.root_of("/f"));
    assert_ne!(early, late);
    let status = |field: &str, tag: &str| {
        let fields = [("Range", "bytes=0-9"), (field, tag)];
        let response = server.request("GET", "/f", &fields);
        (response.status, response.field("etag"))
    };
    for tag in [&early, &late] {
        // A client that compares the tags of its responses sees no other version.
        assert_eq!(status("If-Match", tag), (206, tag.clone()));
        assert_eq!(status("If-Range", tag), (206, tag.clone()));
        assert_eq!(status("If-None-Match", tag), (304, tag.clone()));
    }
    assert_eq!(status("If-Match", "\"other\""), (412, late.clone()));
    assert_eq!(status("If-Range", "\"other\""), (200, late.clone()));
    // Once the file changed, neither is its tag.
    let mut other = bytes;
    other[5] ^= 1;
    site.write("f", &other);
    std::thread::sleep(Duration::from_millis(100));
    for tag in [&early, &late] {
        assert_eq!(status("If-Match", tag).0, 412);
    }
}

/// Replaces, rewrites and cuts a file while others read it; each version has one letter. Returns how many responses came whole.
fn mixed_answers(tries: u64) -> u64 {
    let site = Site::new();
    let path = site.path("f");
    let content = |version: u64| {
        let letter = b'a' + (version % 26) as u8;
        // More than the sockets of both sides hold.
        vec![letter; [32 * MIB, 24 * MIB + 1, 200_000][version as usize % 3]]
    };
    fs::write(&path, content(0)).expect("a file");
    let server = site.serve(&[]);
    let pause = Duration::from_millis(2);
    let (whole, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // What came under each tag.
    let seen: Mutex<HashMap<String, Vec<u8>>> = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                let bytes = content(version / 2);
                match version % 4 {
                    0 | 1 => {
                        fs::write(site.path("new.part"), &bytes).expect("a file");
                        fs::rename(site.path("new.part"), &path).expect("renamed");
                    }
                    2 => {
                        let file = File::options().write(true).open(&path).expect("a file");
                        // Once with the time that it had, as some programs do it.
                        let time = file
                            .metadata()
                            .and_then(|now| now.modified())
                            .expect("a time");
                        let length = file.metadata().expect("a file").len();
                        let bytes = vec![b'A' + (version % 26) as u8; length as usize];
                        // In small pieces: each write has its own time stamp, and takes less than the time that one is waited for.
                        for (piece, at) in bytes.chunks(64 * 1024).zip((0..).step_by(64 * 1024)) {
                            file.write_all_at(piece, at).expect("written");
                        }
                        if version % 8 == 2 {
                            file.set_modified(time).expect("set");
                        }
                    }
                    _ => {
                        let file = File::options().write(true).open(&path).expect("a file");
                        file.set_len(100_000).expect("cut");
                    }
                }
                version += 1;
                std::thread::sleep(Duration::from_millis(40 + version * 31 % 130));
            }
        });
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..tries / 4 {
                        let Some(response) =
                            exchange_with(&server.address, "GET", "/f", &[], pause)
                        else {
                            continue;
                        };
                        let (tag, body) = (response.field("etag"), response.body);
                        if response.status != 200 || tag.starts_with("W/") {
                            continue;
                        }
                        // Whatever came under one tag is the beginning of one content.
                        let mut seen = seen.lock();
                        if seen.len() > 4 && !seen.contains_key(&tag) {
                            seen.clear();
                        }
                        let known = seen.entry(tag.clone()).or_default();
                        let common = known.len().min(body.len());
                        assert!(known[..common] == body[..common], "{tag}: two contents");
                        if response.is_whole {
                            // A rewritten file may be read half-way; replaced ones have nothing in common.
                            let mut letters: Vec<u8> = body.iter().step_by(1000).copied().collect();
                            letters.retain(u8::is_ascii_lowercase);
                            letters.dedup();
                            assert!(letters.len() < 2, "{tag}: mixed");
                            if tag.len() == 66 {
                                assert_eq!(tag.trim_matches('"'), root(&body));
                            }
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        if body.len() > known.len() {
                            *known = body;
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, Ordering::Relaxed);
        for reader in ended {
            reader.expect("no mixed answer");
        }
    });
    whole.into_inner()
}

#[test]
fn no_answer_under_one_tag_is_of_two_versions() {
    let tries = match crate::support::long() {
        true => 4000,
        false => 80,
    };
    let whole = mixed_answers(tries);
    assert!(whole > tries / 20, "only {whole} of {tries} came whole");
}

#[test]
fn names_are_bytes_and_nothing_leads_out() {
    let site = Site::new();
    let outside = TempDir::new().expect("a folder");
    fs::write(outside.path().join("secret"), "secret").expect("a file");
    fs::create_dir(site.path("d")).expect("a folder");
    for name in [
        "f",
        "d/f",
        ".env",
        "x.part",
        "x.part.journal",
        "x.quarantined",
        "C:x",
        "a\\..\\b",
        "%2e%2e",
        "-rf",
    ] {
        site.write(name, b"here");
    }
    fs::write(
        site.folder.path().join(OsStr::from_bytes(b"\xff\xfe")),
        "here",
    )
    .expect("a file");
    let link =
        |to: &Path, name: &str| std::os::unix::fs::symlink(to, site.path(name)).expect("a link");
    link(Path::new("d/f"), "inside");
    link(&outside.path().join("secret"), "outside");
    link(Path::new("../../etc/passwd"), "above");
    link(outside.path(), "folder");
    link(Path::new("/dev/zero"), "zero");
    let fifo = site.path("fifo");
    let mut mkfifo = command("mkfifo", site.folder.path());
    mkfifo.arg(&fifo);
    program::run(mkfifo).must(0);
    let server = site.serve(&[]);
    let long = format!("/{}", "a/".repeat(2500));
    for (path, status) in [
        ("/f", 200),
        ("/f?query", 200),
        ("/d/f", 200),
        ("/d", 307),
        ("/d/", 200),
        ("/inside", 200),
        ("/%ff%fe", 200),
        ("/C:x", 200),
        ("/a%5c..%5cb", 200),
        ("/%252e%252e", 200),
        ("/-rf", 200),
        ("/f/", 404),
        ("//f", 404),
        ("/d//f", 404),
        ("/./f", 404),
        ("/d/../f", 404),
        ("/../../etc/passwd", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/..%2f..%2fetc/passwd", 404),
        ("/d%2ff", 404),
        ("/f%00", 404),
        ("/.env", 404),
        ("/x.part", 404),
        ("/x.part.journal", 404),
        ("/x.part.sapwood", 404),
        ("/x.quarantined", 404),
        ("/outside", 404),
        ("/outside.sapwood", 404),
        ("/above", 404),
        ("/folder/secret", 404),
        ("/folder/", 404),
        ("/zero", 404),
        ("/fifo", 404),
        ("/fifo.sapwood", 404),
        ("/none", 404),
        ("/none.sapwood", 404),
        ("/none.sapwood.json", 404),
        ("/f.sapwood.sapwood", 404),
        (&*long, 404),
    ] {
        let response = server.get(path);
        assert_eq!(response.status, status, "{path}");
        assert!(
            !response.text().contains("secret") || path.contains("secret"),
            "{path}"
        );
        assert_eq!(
            response.field("x-content-type-options"),
            "nosniff",
            "{path}"
        );
    }
    assert_eq!(server.get("/d").field("location"), "/d/");
    assert_eq!(server.request("POST", "/f", &[]).status, 405);
}

#[test]
fn a_page_of_a_folder_shows_names_as_text() {
    let site = Site::new();
    let evil = "<img src=x onerror=alert(1)>&\u{202e}4pm.exe";
    for (name, bytes) in [
        (evil, "1"),
        ("b.txt", "22"),
        ("a b.mp4", "333"),
        (".nobody", ""),
        ("c.part", ""),
    ] {
        site.write(name, bytes.as_bytes());
    }
    site.write("index.html", b"<script>alert(1)</script>");
    fs::create_dir(site.path("zoo")).expect("a folder");
    let server = site.serve(&[]);
    let root = server.root_of("/b.txt");
    let page = server.get("/");
    assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
    assert!(
        page.field("content-security-policy")
            .starts_with("default-src 'none'")
    );
    let html = page.text();
    for wanted in [
        "href=\"zoo/\"",
        "href=\"a%20b.mp4\">a b.mp4<",
        "href=\"b.txt.sapwood\"",
        "&lt;img src=x onerror=alert(1)&gt;&amp;\\u{202e}4pm.exe",
        &format!("sapwood fetch {}", server.url("/")),
        &root,
        "viewport",
        "light dark",
    ] {
        assert!(html.contains(wanted), "{wanted} in {html}");
    }
    for unwanted in ["<img", "<script", "nobody", "c.part"] {
        assert!(!html.contains(unwanted), "{unwanted}");
    }
    let at = |text: &str| html.find(text).expect(text);
    assert!(at("zoo/") < at("a b.mp4") && at("a b.mp4") < at("b.txt"));
    // A name of a host is only text, too.
    let odd = server.request("GET", "/", &[("Host", "<b>")]).text();
    assert!(!odd.contains("<b>"));
    let json = server
        .request("GET", "/", &[("Accept", "application/json")])
        .json();
    assert_eq!(json["folders"][0]["url"], "zoo/");
    let file = |name: &str| {
        let files = json["files"].as_array().expect("files");
        files
            .iter()
            .find(|file| file["name"] == name)
            .expect(name)
            .clone()
    };
    assert_eq!(file("b.txt")["root"], root);
    assert_eq!(file("b.txt")["length"], 2);
    assert_eq!(file("a b.mp4")["manifest"], "a%20b.mp4.sapwood");
    let head = server.request("HEAD", "/", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    // A page among the files is served, and may do nothing.
    let page = server.get("/index.html");
    assert_eq!(page.field("content-security-policy"), "sandbox");
    assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
    assert_eq!(server.get("/a%20b.mp4").field("content-type"), "video/mp4");
}

#[test]
fn a_description_in_json_has_what_it_takes_to_check_each_segment() {
    let site = Site::new();
    let bytes = paint::bytes(0, 2 * MIB + 5);
    site.write("a b", &bytes);
    site.write("empty", b"");
    let server = site.serve(&[]);
    let response = server.get("/a%20b.sapwood.json");
    assert_eq!(response.field("content-type"), "application/json");
    let json = response.json();
    assert_eq!(json["name"], "a b");
    assert_eq!(json["length"], bytes.len());
    assert_eq!(json["root"], root(&bytes));
    assert_eq!(json["sha-256"], hex::encode(Sha256::digest(&bytes)));
    assert_eq!(json["etag"], format!("\"{}\"", root(&bytes)));
    assert_eq!(json["manifest"], "/a%20b.sapwood");
    assert_eq!(
        (&json["signed"], &json["key_id"]),
        (&false.into(), &Value::Null)
    );
    let segments = json["segments"].as_array().expect("segments");
    let mut end = 0;
    for segment in segments {
        let (offset, length) = (
            segment["offset"].as_u64().unwrap(),
            segment["length"].as_u64().unwrap(),
        );
        assert_eq!(offset, end);
        end += length;
        let part = &bytes[offset as usize..end as usize];
        assert_eq!(segment["sha-256"], hex::encode(Sha256::digest(part)));
    }
    assert_eq!(end, bytes.len() as u64);
    let tag = response.field("etag");
    let again = server.request("GET", "/a%20b.sapwood.json", &[("If-None-Match", &tag)]);
    assert_eq!(again.status, 304);
    let empty = server.get("/empty.sapwood.json").json();
    assert_eq!(
        (&empty["length"], &empty["segments"]),
        (&0.into(), &Value::Array(Vec::new()))
    );
    site.write("a b", &bytes[1..]);
    let changed = server.get("/a%20b.sapwood.json");
    assert_eq!(changed.json()["root"], root(&bytes[1..]));
    assert_ne!(changed.field("etag"), tag);
    assert_ne!(changed.json()["version"], json["version"]);
}

/// A file of 100 GB takes longer to hash than anybody waits.
#[test]
fn a_large_file_is_served_while_it_is_hashed_and_a_stop_does_not_wait() {
    let site = Site::new();
    let file = File::create(site.path("large")).expect("a file");
    file.set_len(100_000_000_000).expect("a hole");
    std::thread::sleep(Duration::from_millis(100));
    let mut server = site.serve(&[]);
    let part = server.request(
        "GET",
        "/large",
        &[("Range", "bytes=50000000000-50000000009")],
    );
    assert_eq!((part.status, part.body), (206, vec![0; 10]));
    let tag = part.headers["etag"].clone();
    assert!(tag.starts_with('"') && tag.len() != 66, "{tag}");
    // Another file does not wait for it.
    std::thread::sleep(Duration::from_millis(300));
    site.write("small", b"small");
    assert_eq!(server.get("/small.sapwood").status, 200);
    let began = Instant::now();
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.finish().exit, Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_manifest_that_is_not_ready_is_503_in_time() {
    let site = Site::new();
    let file = File::create(site.path("large")).expect("a file");
    file.set_len(100_000_000_000).expect("a hole");
    let server = site.serve(&[]);
    let began = Instant::now();
    // The index of the folder waits for all of its files.
    let paths = ["/large.sapwood", INDEX, MANIFEST_OF_INDEX];
    std::thread::scope(|scope| {
        let server = &server;
        for request in paths.map(|path| scope.spawn(move || server.get(path))) {
            let response = request.join().expect("a response");
            assert_eq!(response.status, 503);
            assert_eq!(response.field("retry-after"), "1");
        }
    });
    assert!(
        began.elapsed() > Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

// ---- The library of the folder --------------------------------------------------------------------------------------

const INDEX: &str = "/library.sapwood";
const MANIFEST_OF_INDEX: &str = "/library.sapwood.sapwood";

/// Root, length and path of each entry of an index.
fn entries(index: &[u8]) -> Vec<(String, u64, String)> {
    let header = IndexHeader::read(index, index.len() as u64).expect("an index");
    let bytes = header.entries();
    let bytes = &index[bytes.start as usize..bytes.end as usize];
    let index = Index::read(&header, bytes).expect("an index");
    let entries = index.entries().iter();
    entries
        .map(|entry| (entry.root.to_string(), entry.length, entry.path.to_string()))
        .collect()
}

impl Site {
    fn write_deep(&self, path: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(path).parent().expect("a folder")).expect("folders");
        self.write(path, bytes);
    }

    /// A copy, published by `manifest DIR`; without a name, as the index of a server has none.
    fn published_copy(&self) -> TempDir {
        let copy = TempDir::new().expect("a folder");
        let mut cp = command("cp", copy.path());
        cp.arg("-a").arg(self.folder.path()).arg("served");
        program::run(cp).must(0);
        let mut manifest = sapwood(copy.path());
        manifest.args(["manifest", "served", "--name", ""]);
        program::run(manifest).must(0);
        copy
    }
}

impl Server {
    /// The index, when it has these paths.
    #[track_caller]
    fn index_of(&self, wanted: &[&str]) -> Vec<(String, u64, String)> {
        let began = Instant::now();
        loop {
            let response = self.get(INDEX);
            let entries = match response.status {
                200 => entries(&response.body),
                _ => Vec::new(),
            };
            let paths: Vec<&str> = entries.iter().map(|(_, _, path)| path.as_str()).collect();
            if paths == wanted {
                return entries;
            }
            assert!(began.elapsed() < LONG_ENOUGH, "{paths:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The index, when this is the root of this file.
    #[track_caller]
    fn wait_for_entry(&self, path: &str, wanted: &str) {
        let began = Instant::now();
        loop {
            let entries = entries(&self.get(INDEX).body);
            if entries
                .iter()
                .any(|(root, _, other)| other == path && root == wanted)
            {
                return;
            }
            assert!(began.elapsed() < LONG_ENOUGH, "{entries:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics").text();
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        let value = line
            .and_then(|line| line.split(' ').nth(1))
            .expect("a metric");
        value.parse().expect("a number")
    }
}

/// Byte for byte what `manifest DIR` publishes, and nothing of it in the folder.
#[test]
fn a_folder_that_nobody_published_is_a_library() {
    let site = Site::new();
    for (path, length) in [
        ("films/a.mp4", 300_000),
        ("films/copy.mp4", 300_000),
        ("films/deep/y", 65_537),
        ("films/deep/x", 65_536),
        ("empty", 0),
        ("gem\u{e4}lde.bin", 5000),
        ("alone.sapwood", 700),
        ("films/library.sapwood", 70_000),
    ] {
        site.write_deep(path, &paint::bytes(0, length));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(site.path("empty"), mode).expect("set");
    let copy = site.published_copy();
    // What is not served is not listed either.
    for hidden in [".env", "films/.git/config", "x.part", ".well-known/x"] {
        site.write_deep(hidden, b"secret");
    }
    std::os::unix::fs::symlink("empty", site.path("link")).expect("a link");
    let server = site.serve(&[]);
    let mut published = Vec::new();
    for name in names(&copy.path().join("served")) {
        if name.starts_with("library.sapwood") && !name.ends_with(".d") {
            published.push(name);
        }
    }
    let manifests = names(&copy.path().join("served/library.sapwood.d"));
    assert_eq!(manifests.len(), 3);
    published.extend(
        manifests
            .iter()
            .map(|name| format!("library.sapwood.d/{name}")),
    );
    assert_eq!(published.len(), 5);
    for name in &published {
        let wanted = fs::read(copy.path().join("served").join(name)).expect("a file");
        let response = server.get(&format!("/{name}"));
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        assert!(response.body == wanted, "{name} differs");
        // A range over the place where the first bytes are others than those of the manifest that was made.
        let part = server.request("GET", &format!("/{name}"), &[("Range", "bytes=1500-1600")]);
        let end = wanted.len().min(1601);
        assert!(
            part.status == 416 || part.body == wanted[1500..end],
            "{name}"
        );
        let tag = response.field("etag");
        let again = server.request("GET", &format!("/{name}"), &[("If-None-Match", &tag)]);
        assert_eq!(again.status, 304, "{name}: {tag}");
    }
    let index = server.get(INDEX);
    assert_eq!(index.field("etag"), format!("\"{}\"", root(&index.body)));
    for none in [
        format!("/library.sapwood.d/{}.sapwood", "0".repeat(64)),
        format!("/library.sapwood.d/{}.sapwood", root(b"")),
        "/library.sapwood.d/".to_owned(),
        "/films/library.sapwood.sapwood".to_owned(),
        "/library.sapwood.json".to_owned(),
    ] {
        assert_eq!(server.get(&none).status, 404, "{none}");
    }
    assert!(
        names(site.folder.path())
            .iter()
            .all(|name| !name.starts_with("library"))
    );
    // The page says so.
    let page = server.get("/").text();
    assert!(
        page.contains(&format!("sapwood sync http://{}/ DIR", server.address)),
        "{page}"
    );
    assert!(!server.get("/films/").text().contains("sapwood sync"));
}

#[test]
fn an_index_follows_its_files_and_none_is_read_twice() {
    let site = Site::new();
    for path in ["a", "b", "c/d"] {
        site.write_deep(path, path.as_bytes());
    }
    site.write("large", &paint::bytes(0, MIB));
    let server = site.serve(&[]);
    server.index_of(&["a", "b", "c/d", "large"]);
    // Changed, new, renamed, gone.
    let changed = paint::bytes(1, MIB);
    site.write("large", &changed);
    server.wait_for_entry("large", &root(&changed));
    site.write_deep("new/e", b"e");
    fs::rename(site.path("a"), site.path("z")).expect("renamed");
    server.index_of(&["b", "c/d", "large", "new/e", "z"]);
    fs::remove_file(site.path("b")).expect("removed");
    fs::rename(site.path("c"), site.path("y")).expect("renamed");
    let entries = server.index_of(&["large", "new/e", "y/d", "z"]);
    assert_eq!(entries[0].0, root(&changed));
    let place = format!("/library.sapwood.d/{}.sapwood", root(&changed));
    assert_eq!(root_in(&site, &server.get(&place).body), root(&changed));
    let copy = site.published_copy();
    assert!(
        server.get(INDEX).body
            == fs::read(copy.path().join("served/library.sapwood")).expect("an index")
    );
    // Four files, one changed, one new, and a rename changes an attribute of two: no more is hashed for any number of indices.
    let made = server.metric("sapwood_manifests_made_total");
    assert!((6..=8).contains(&made), "{made}");
    for number in 0..20 {
        site.write("busy", &[number]);
        std::thread::sleep(Duration::from_millis(50));
    }
    server.wait_for_entry("busy", &root(&[19]));
    let more = server.metric("sapwood_manifests_made_total") - made;
    assert!(more <= 20, "{more}");
}

/// Ends a thread that changes files, also when the test fails.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A program that writes all the time must not keep a file, or all of them, from the index.
#[test]
fn a_file_that_changes_all_the_time_stays_as_it_was_in_the_index() {
    let site = Site::new();
    site.write("busy", b"first");
    site.write("a", b"a");
    let server = site.serve(&[]);
    server.index_of(&["a", "busy"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::create(site.path("busy")).expect("a file");
            while !stop.load(Ordering::Relaxed) {
                file.write_all(&[7; 4096]).expect("written");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _stop = StopWhenDropped(&stop);
        site.write("b", b"b");
        let entries = server.index_of(&["a", "b", "busy"]);
        // As it was, or as it was at some moment: a multiple of what is written.
        let (found, length, _) = &entries[2];
        let was = match length {
            5 => root(b"first"),
            length => root(&vec![7; *length as usize]),
        };
        assert_eq!(*found, was);
    });
    let now = fs::read(site.path("busy")).expect("a file");
    server.wait_for_entry("busy", &root(&now));
}

/// Index and manifest are of one version, or of two neighbouring ones: whoever reads both again gets them.
#[test]
fn an_index_and_its_manifest_belong_together() {
    let site = Site::new();
    site.write("a", b"a");
    let server = site.serve(&[]);
    server.index_of(&["a"]);
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                site.write(&format!("f{number}"), &number.to_le_bytes());
                number += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _stop = StopWhenDropped(&stop);
        let mut seen = std::collections::BTreeSet::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(3500) {
            let belongs = |_| {
                let (index, manifest) =
                    (server.get(INDEX).body, server.get(MANIFEST_OF_INDEX).body);
                let proven = root_in(&site, &manifest);
                entries(&index);
                seen.insert(proven.clone());
                proven == root(&index)
            };
            assert!((0..3).any(belongs), "three times another one");
        }
        seen.len()
    });
    assert!(seen >= 2, "{seen}");
}

#[test]
fn a_published_library_is_served_as_it_is() {
    let site = Site::new();
    site.write("a", b"a");
    site.write("large", &paint::bytes(0, MIB));
    let run = |args: &[&str]| {
        let mut command = sapwood(site.store.path());
        command.args(args);
        program::run(command).must(0);
    };
    run(&["keygen", "-o", "k", "--no-password"]);
    let folder = site.folder.path().display().to_string();
    run(&["manifest", &folder, "--sign", "k.key", "--seq", "3"]);
    let own = |name: &str| fs::read(site.path(name)).expect("a file");
    let (index, manifest) = (own("library.sapwood"), own("library.sapwood.sapwood"));
    let server = site.serve(&[]);
    let place = format!("/library.sapwood.d/{}.sapwood", root(&paint::bytes(0, MIB)));
    let unchanged = || {
        assert!(server.get(INDEX).body == index);
        assert!(server.get(MANIFEST_OF_INDEX).body == manifest);
        assert_eq!(root_in(&site, &server.get(&place).body), place[19..83]);
    };
    unchanged();
    // It says what the publisher said, whatever happens to the files.
    site.write("b", b"b");
    server.root_of("/b");
    std::thread::sleep(Duration::from_secs(2));
    unchanged();
    assert_eq!(own("library.sapwood"), index);
    // Without it there is one that is made here, until it is published again.
    for name in ["library.sapwood", "library.sapwood.sapwood"] {
        fs::remove_file(site.path(name)).expect("removed");
    }
    fs::remove_dir_all(site.path("library.sapwood.d")).expect("removed");
    server.index_of(&["a", "b", "large"]);
    run(&["manifest", &folder, "--sign", "k.key", "--seq", "4"]);
    assert!(server.get(INDEX).body == own("library.sapwood"));
    assert!(server.get(MANIFEST_OF_INDEX).body == own("library.sapwood.sapwood"));
}

/// A copy has the index that its publisher signed, and no manifests of objects.
#[test]
fn a_signed_library_goes_from_copy_to_copy() {
    let site = Site::new();
    let (a, b) = (site.path("media"), site.path("b/media"));
    site.write_deep("media/films/a.mp4", &paint::bytes(0, MIB));
    site.write_deep("media/films/again.mp4", &paint::bytes(0, MIB));
    site.write_deep("media/small", b"small");
    let run = |args: &[&str], exit| {
        let mut command = sapwood(site.store.path());
        command.args(args);
        program::run(command).must(exit)
    };
    run(&["keygen", "-o", "k", "--no-password"], 0);
    let of_a = a.display().to_string();
    run(&["manifest", &of_a, "--sign", "k.key", "--seq", "3"], 0);
    let of_b = b.display().to_string();
    fs::create_dir(site.path("b")).expect("a folder");
    let server = site.serve(&[]);
    let sync =
        |from: &str, to: &str, exit| run(&["sync", &server.url(from), to, "--key", "k.pub"], exit);
    sync("/media/", &of_b, 0);
    assert!(!b.join("library.sapwood.d").exists());
    let of_c = site.store.path().join("c");
    sync("/b/media/", &of_c.display().to_string(), 0);
    for name in ["films/a.mp4", "films/again.mp4", "small"] {
        let read = |folder: &Path| fs::read(folder.join(name)).expect("a file");
        assert!(read(&of_c) == read(&a), "{name}");
    }
    for name in ["library.sapwood", "library.sapwood.sapwood"] {
        let read = |folder: &Path| fs::read(folder.join(name)).expect("a file");
        assert!(read(&of_c) == read(&a), "{name}");
        assert!(read(&b) == read(&a), "{name}");
    }
    // One file alone has a manifest beside it, whoever published the library.
    let one = server.url("/b/media/films/a.mp4");
    run(&["cat", &one, "--range", "0-9", "--require", "manifest"], 0);
    // Only of what the index lists, and only while the file is that.
    let object = root(&paint::bytes(0, MIB));
    let place = |root: &str| format!("/b/media/library.sapwood.d/{root}.sapwood");
    assert_eq!(server.get(&place(&object)).status, 200);
    let unlisted = paint::bytes(77, MIB);
    site.write("b/media/unlisted", &unlisted);
    server.root_of("/b/media/unlisted");
    assert_eq!(server.get(&place(&root(&unlisted))).status, 404);
    site.write("b/media/films/a.mp4", &unlisted);
    assert_eq!(server.get(&place(&object)).status, 200);
    site.write("b/media/films/again.mp4", &unlisted);
    assert_eq!(server.get(&place(&object)).status, 404);
    assert!(!b.join("library.sapwood.d").exists());
}

#[test]
fn without_made_manifests_there_is_no_index() {
    let site = Site::new();
    site.write("a", b"a");
    let server = site.serve(&["--no-manifests"]);
    for none in [INDEX, MANIFEST_OF_INDEX] {
        assert_eq!(server.get(none).status, 404);
    }
    assert!(!server.get("/").text().contains("sapwood sync"));
}

fn fetch(site: &Site, url: &str, more: &[&str]) -> std::process::Command {
    let mut command = sapwood(site.store.path());
    command
        .args(["--json", "fetch", url, "-o", "out"])
        .args(more);
    command
}

#[test]
fn a_fetch_of_a_changed_file_is_a_delta() {
    let site = Site::new();
    let mut bytes = paint::bytes(0, 8 * MIB);
    site.write("f.bin", &bytes);
    let server = site.serve(&[]);
    let url = server.url("/f.bin");
    let ended = program::run(fetch(&site, &url, &[])).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    bytes.splice(1000..1000, *b"inserted");
    site.write("f.bin", &bytes);
    let ended = program::run(fetch(&site, &url, &[])).must(0);
    let published = ended.event("published");
    assert_eq!(published["root"], root(&bytes));
    let fetched = published["bytes_fetched"].as_u64().expect("bytes");
    assert!(fetched < MIB as u64 / 2, "{fetched}");
    assert!(fs::read(site.store.path().join("out")).expect("a file") == bytes);
    let mut cat = sapwood(site.store.path());
    cat.args(["cat", &url, "--range", "1000-1007"]);
    assert_eq!(program::run(cat).must(0).stdout, "inserted");
}

/// The manifest of a file appeared, and its entity tag changed, between two runs of a fetch.
#[test]
fn an_interrupted_fetch_goes_on_when_the_tag_has_become_the_root() {
    let site = Site::new();
    let bytes = paint::bytes(0, 8 * MIB);
    site.write("f.bin", &bytes);
    std::thread::sleep(Duration::from_millis(100));
    let server = site.serve(&["--no-manifests"]);
    let (url, address) = (server.url("/f.bin"), server.address.clone());
    let mut first = start(fetch(
        &site,
        &url,
        &["--limit-rate", "4M", "--require", "none"],
    ));
    first.wait_for("progress", |events| {
        events.iter().any(|event| {
            event["event"] == "progress" && event["bytes_done"].as_u64() > Some(3 * MIB as u64)
        })
    });
    first.signal(Signal::TERM);
    first.finish();
    drop(server);
    let server = site.serve_at(&address, &[]);
    server.root_of("/f.bin");
    let ended = program::run(fetch(&site, &url, &[])).must(0);
    let published = ended.event("published");
    assert_eq!(
        (&published["trust"], &published["root"]),
        (&"manifest".into(), &root(&bytes).into())
    );
    let fetched = published["bytes_fetched"].as_u64().expect("bytes");
    assert!(fetched < 6 * MIB as u64, "{fetched}");
}

/// Makes manifest and pack of a file, and removes the file.
fn pack_alone(site: &Site, name: &str, bytes: &[u8], more: &[&str]) {
    site.write(name, bytes);
    let mut make = sapwood(site.folder.path());
    make.args(["manifest", name, "--pack", "--level", "3"])
        .args(more);
    program::run(make).must(0);
    fs::remove_file(site.path(name)).expect("it was there");
}

/// Of some of its objects a server has manifest and whole pack alone.
#[test]
fn plain_bytes_come_from_a_whole_pack() {
    let site = Site::new();
    let mut bytes = packed::text(3 * MIB + 5);
    bytes[MIB..2 * MIB].copy_from_slice(&paint::bytes(0, MIB));
    pack_alone(&site, "f.html", &bytes, &["--whole"]);
    pack_alone(&site, "small", b"x", &["--whole"]);
    pack_alone(
        &site,
        "blocks",
        &bytes,
        &["--whole", "--block-size", "16MiB"],
    );
    pack_alone(&site, "partly", &bytes, &[]);
    let server = site.serve(&[]);
    let whole = server.get("/f.html");
    assert!(whole.is_whole && whole.body == bytes);
    assert_eq!(whole.field("etag"), format!("\"{}\"", root(&bytes)));
    assert_eq!(whole.field("content-security-policy"), "sandbox");
    assert!(whole.field("content-type").starts_with("text/html"));
    assert!(server.get("/small").body == b"x");
    assert!(server.get("/blocks").body == bytes);
    let range = |first: usize, last: usize| {
        let range = format!("bytes={first}-{last}");
        server.request("GET", "/f.html", &[("Range", &range)])
    };
    for (first, last) in [(0, 0), (MIB - 1, MIB), (5, 2 * MIB + 7), (3 * MIB, 9 * MIB)] {
        let part = range(first, last);
        assert_eq!(part.status, 206);
        let end = bytes.len().min(last + 1);
        assert!(part.body == bytes[first..end], "{first}-{last}");
    }
    assert_eq!(range(4 * MIB, 5 * MIB).status, 416);
    let head = server.request("HEAD", "/f.html", &[]);
    assert_eq!(head.field("content-length"), bytes.len().to_string());
    let tag = head.field("etag");
    let same = server.request("GET", "/f.html", &[("If-None-Match", &tag)]);
    assert_eq!(same.status, 304);
    // A frame that does not compress is in no other pack.
    assert_eq!(server.get("/partly").status, 404);
    let fetched = program::run(fetch(&site, &server.url("/f.html"), &[])).must(0);
    let fetched = fetched.event("published")["bytes_fetched"].as_u64();
    assert!(fetched < Some(2 * MIB as u64), "{fetched:?}");
    // A flipped bit never leaves the server, and another pack is another object.
    let path = site.path("f.html.sapwood.pack");
    let mut pack = fs::read(&path).expect("a pack");
    pack[64 + 2 * 3073 + 1000] ^= 1;
    fs::write(&path, &pack).expect("a pack");
    let broken = server.get("/f.html");
    assert!(!broken.is_whole && bytes.starts_with(&broken.body));
    fs::write(&path, &pack[1..]).expect("a pack");
    assert_eq!(server.get("/f.html").status, 404);
}
