//! `push --follow`: a file is sent while it is recorded, and published when the recording has ended.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::format::paint;
use serde_json::{Value, json};

use crate::{
    push_s3::Served,
    support::{
        program::{LONG_ENOUGH, Running, run, sapwood, start},
        site::{BLOCK, ID, PART, Server, Site, check_manifest, id_of, root},
    },
};

/// A server, and a recorder: a file that this process writes.
struct Scene {
    site: Site,
    server: Server,
    folder: tempfile::TempDir,
    recorder: File,
    /// What was recorded.
    bytes: Vec<u8>,
}

impl Scene {
    fn new() -> Scene {
        let site = Site::new();
        let folder = tempfile::TempDir::new().expect("a folder");
        Scene {
            server: site.serve(&[]),
            recorder: File::create(folder.path().join("live.ts")).expect("a file"),
            site,
            folder,
            bytes: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("live.ts")
    }

    fn push(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.folder.path());
        let url = format!("http://{}/a/", self.server.api.address);
        command
            .args(["--json", "push", "--follow", "live.ts", &url])
            .args(more);
        command
    }

    /// Records painted bytes.
    fn record(&mut self, length: usize) {
        let bytes = paint::bytes(self.bytes.len() as u64, length);
        self.recorder.write_all(&bytes).expect("it is recorded");
        self.bytes.extend(bytes);
    }

    /// Writes over what was recorded.
    fn rewrite(&mut self, at: usize, bytes: &[u8]) {
        self.recorder
            .seek(SeekFrom::Start(at as u64))
            .expect("a file");
        self.recorder.write_all(bytes).expect("it is recorded");
        self.recorder.seek(SeekFrom::End(0)).expect("a file");
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Ends the recording.
    fn stop(&mut self) {
        self.recorder = File::open("/dev/null").expect("a file");
    }

    #[track_caller]
    fn must_be_published(&self) {
        let published = fs::read(self.site.path("a/live.ts")).expect("it is published");
        assert!(published == self.bytes, "other bytes are published");
        check_manifest(&self.site, "a/live.ts", &self.bytes);
    }

    fn sessions(&self) -> Vec<Value> {
        let list = self.server.api.get("/.sapwood/uploads").must(200).json();
        list["sessions"].as_array().expect("a list").clone()
    }

    fn serve_again(&mut self) {
        let address = self.server.api.address.clone();
        let mut command = sapwood(self.site.state.path());
        command.args(["--json", "serve", "--ingest", "--listen", &address]);
        command.arg(self.site.folder.path());
        self.server = Site::started(command);
    }
}

fn count(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["event"] == name).count()
}

#[track_caller]
fn wait_for(running: &mut Running, name: &str, number: usize) {
    running.wait_for(name, |events| count(events, name) >= number);
}

#[test]
fn a_recording_is_sent_while_it_grows_and_its_header_again() {
    let mut scene = Scene::new();
    scene.record(PART + 100_000);
    let mut push = start(scene.push(&[]));
    // The recorder goes on only when the first part is finished.
    wait_for(&mut push, "checkpoint", 1);
    scene.record(2 * PART);
    wait_for(&mut push, "checkpoint", 3);
    push.wait_for("what is behind", |events| {
        events.iter().any(|event| {
            event["event"] == "progress" && event["bytes_recorded"] == scene.bytes.len()
        })
    });
    assert!(!scene.site.path("a/live.ts").exists());
    assert_eq!(scene.sessions()[0]["growing"], true);
    scene.rewrite(20, b"a header that is known at the end");
    scene.record(77);
    scene.stop();
    let ended = push.finish().must(0);
    scene.must_be_published();
    let published = ended.event("published");
    assert_eq!(published["root"], root(&scene.bytes).as_str());
    // Once, but for the part with the header.
    assert_eq!(published["bytes_sent"], scene.bytes.len() + PART);
    assert_eq!(published["bytes_reused"], 0);
    let planned = ended.event("planned");
    assert_eq!(planned["bytes_total"], Value::Null);
    let url = planned["growing_url"].as_str().expect("a URL");
    assert!(url.ends_with("/object/live.ts"), "{url}");
    scene.site.check_nothing_is_staged();
}

#[test]
fn client_and_server_are_killed_and_nothing_finished_is_sent_again() {
    let mut scene = Scene::new();
    scene.record(2 * PART + 5);
    let mut push = start(scene.push(&[]));
    wait_for(&mut push, "checkpoint", 2);
    push.kill();
    scene.record(PART);
    let mut push = start(scene.push(&[]));
    wait_for(&mut push, "checkpoint", 1);
    scene.server.running.signal(Signal::KILL);
    scene.record(PART);
    wait_for(&mut push, "retry", 1);
    scene.serve_again();
    wait_for(&mut push, "checkpoint", 2);
    // A stop by the user.
    push.signal(Signal::INT);
    push.finish().must(5);
    scene.record(9);
    let mut push = start(scene.push(&[]));
    // Nothing of the four parts is sent.
    wait_for(&mut push, "progress", 1);
    scene.stop();
    let ended = push.finish().must(0);
    scene.must_be_published();
    assert_eq!(ended.event("resumed")["bytes_held"], 4 * PART);
    let published = ended.event("published");
    let last = scene.bytes.len() % PART;
    assert_eq!(published["bytes_sent"], last);
    assert_eq!(published["bytes_reused"], 4 * PART);
    // The same once more: it is there, and its writer is not seen.
    let mut again = start(scene.push(&["--follow-idle", "1s"]));
    let again = again.finish().must(0);
    assert_eq!(again.event("published")["bytes_sent"], 0);
}

#[test]
fn a_recording_that_gets_shorter_or_another_file_is_not_published() {
    for is_shorter in [true, false] {
        let mut scene = Scene::new();
        scene.record(PART);
        let mut push = start(scene.push(&[]));
        wait_for(&mut push, "checkpoint", 1);
        match is_shorter {
            true => scene.recorder.set_len(PART as u64 - 1).expect("a file"),
            false => {
                let other = scene.folder.path().join("other");
                fs::write(&other, b"other").expect("a file");
                fs::rename(&other, scene.path()).expect("it is renamed");
            }
        }
        let ended = push.finish().must(4);
        let message = ended.event("failed")["message"].to_string();
        assert!(message.contains("nothing was published"), "{message}");
        assert!(!scene.site.path("a/live.ts").exists());
    }
}

#[test]
fn a_recording_may_begin_later_and_stay_empty() {
    let mut scene = Scene::new();
    fs::remove_file(scene.path()).expect("a file");
    let mut push = start(scene.push(&[]));
    wait_for(&mut push, "awaited", 1);
    scene.recorder = File::create(scene.path()).expect("a file");
    wait_for(&mut push, "planned", 1);
    // Nobody has ended.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(count(&push.events(), "published"), 0);
    scene.stop();
    push.finish().must(0);
    scene.must_be_published();
    // No folder, no recording.
    let mut command = sapwood(scene.folder.path());
    let url = format!("http://{}/", scene.server.api.address);
    command.args(["--json", "push", "--follow", "none/live.ts", &url]);
    start(command).finish().must(1);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "push", "--follow", "-", &url, "--name", "x"]);
    start(command).finish().must(2);
}

/// A gateway of an object that is uploaded.
struct Gateway {
    running: Running,
    /// Of the object.
    url: String,
}

impl Gateway {
    fn new(folder: &std::path::Path, url: &str) -> Gateway {
        let mut command = sapwood(folder);
        command.args(["--json", "gateway", "--tries", "3", url]);
        let mut running = start(command);
        wait_for(&mut running, "listening", 1);
        let listening = running.events()[0]["url"].clone();
        Gateway {
            url: listening.as_str().expect("a URL").to_owned(),
            running,
        }
    }

    /// The head of the response to a GET, and its body as it comes.
    fn get(&self, range: Option<&str>) -> (String, TcpStream) {
        self.request("GET", range)
    }

    fn request(&self, method: &str, range: Option<&str>) -> (String, TcpStream) {
        let rest = self.url.trim_start_matches("http://");
        let (address, path) = rest.split_once('/').expect("a path");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream
            .set_read_timeout(Some(LONG_ENOUGH))
            .expect("a socket");
        let range = range.map_or_else(String::new, |range| format!("Range: bytes={range}\r\n"));
        let head = format!(
            "{method} /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n{range}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        (
            String::from_utf8(head)
                .expect("a text")
                .to_ascii_lowercase(),
            stream,
        )
    }
}

fn take(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("these bytes");
    bytes
}

fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that breaks has given what it has.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn growing_url(push: &Running) -> String {
    let events = push.events();
    let planned = events.iter().find(|event| event["event"] == "planned");
    let url = planned.expect("a plan")["growing_url"].clone();
    url.as_str().expect("a URL").to_owned()
}

#[test]
fn a_recording_is_played_while_it_grows() {
    let mut scene = Scene::new();
    scene.record(2 * PART + 100_000);
    let mut push = start(scene.push(&[]));
    wait_for(&mut push, "checkpoint", 1);
    let folder = tempfile::TempDir::new().expect("a folder");
    let gateway = Gateway::new(folder.path(), &growing_url(&push));
    assert!(gateway.url.ends_with("/live.ts"), "{}", gateway.url);
    let (head, mut all) = gateway.get(None);
    assert!(
        head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200"),
        "{head}"
    );
    assert!(!head.contains("content-length"), "{head}");
    assert!(head.contains("content-type: video/mp2t"), "{head}");
    assert!(take(&mut all, 2 * PART) == scene.bytes[..2 * PART]);
    // Its length is not known, and is not 0.
    let (head, _) = gateway.request("HEAD", None);
    assert!(head.contains(" 200 "), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    // What an open range has now, and a range inside.
    let (head, mut some) = gateway.get(Some("1000-1999"));
    assert!(
        head.contains(" 206 ") && head.contains("content-range: bytes 1000-1999/*\r\n"),
        "{head}"
    );
    assert!(rest(&mut some) == scene.bytes[1000..2000]);
    let (head, mut some) = gateway.get(Some("10485000-"));
    assert!(
        head.contains(" 206 ") && head.contains("content-range: bytes 10485000-10485759/*\r\n"),
        "{head}"
    );
    assert!(rest(&mut some) == scene.bytes[10_485_000..2 * PART]);
    // A range that comes later is waited for; what was shown stays shown when a header is rewritten.
    let (before, header) = (scene.bytes.clone(), b"a header that is known at the end");
    scene.record(PART);
    let (head, mut some) = gateway.get(Some("10485760-10485770"));
    assert!(
        head.contains("content-range: bytes 10485760-10485770/*\r\n"),
        "{head}"
    );
    assert!(rest(&mut some) == scene.bytes[2 * PART..2 * PART + 11]);
    assert!(take(&mut all, PART) == scene.bytes[2 * PART..3 * PART]);
    assert!(
        !head.contains("content-length: 157"),
        "no length is promised: {head}"
    );
    scene.rewrite(0, header);
    scene.record(4321);
    scene.stop();
    push.finish().must(0);
    scene.must_be_published();
    assert!(rest(&mut all) == scene.bytes[3 * PART..]);
    // Now it is an object like others.
    let (head, mut some) = gateway.get(Some("0-9"));
    let range = format!("content-range: bytes 0-9/{}\r\n", scene.bytes.len());
    assert!(head.contains(&range), "{head}");
    assert!(rest(&mut some) == scene.bytes[..10] && before[..10] != scene.bytes[..10]);
    let (head, mut whole) = gateway.get(None);
    assert!(
        head.contains(&format!("content-length: {}\r\n", scene.bytes.len())),
        "{head}"
    );
    assert!(rest(&mut whole) == scene.bytes);
    gateway.running.signal(Signal::INT);
}

/// Nothing in S3 can be read before it is published.
#[test]
fn where_a_recording_cannot_be_played_it_is_not_said_that_it_can() {
    let served = Served::new();
    let folder = tempfile::TempDir::new().expect("a folder");
    fs::write(folder.path().join("live.ts"), b"a recording").expect("a file");
    let mut command = sapwood(folder.path());
    command.args(["--json", "push", "--follow", "live.ts", &served.url]);
    command.args(["--follow-idle", "1s"]);
    let planned = run(command).must(0).event("planned");
    assert_eq!(planned["growing_url"], Value::Null, "{planned}");
}

#[test]
fn a_growing_object_is_its_owners_and_of_no_root() {
    let scene = Scene::new();
    let api = &scene.server.api;
    let base = format!("/.sapwood/uploads/{ID}");
    api.open(ID, "a/b.bin", PART).must(201);
    api.get(&format!("{base}/growing"))
        .problem(409, "not_growing");
    api.get(&format!("{base}/leaves"))
        .problem(409, "not_growing");
    api.json("DELETE", ID, &json!({})).must(204);
    let id = id_of(7);
    let base = format!("/.sapwood/uploads/{id}");
    let document = json!({ "name": "a/b.bin", "length": null, "part_size": PART, "block_size": BLOCK, "growing": true });
    api.json("PUT", &id, &document).must(201);
    let object = paint::bytes(0, 3 * PART);
    let status = || api.get(&format!("{base}/growing")).must(200).json();
    assert_eq!(status()["proven"], 0);
    // A part behind a gap is not read.
    api.send_part(&id, &object, 1);
    assert_eq!(status()["proven"], 0);
    let of_object = format!("{base}/object/b.bin");
    let range = |range: &str| api.send("GET", &of_object, &[("Range", range)], b"");
    range("bytes=0-1").problem(416, "bad_range");
    // A request waits for more.
    let waiting = std::thread::spawn({
        let (api, path) = (api.clone(), format!("{base}/growing?beyond=0"));
        move || loop {
            let status = api.get(&path).must(200).json();
            if status["proven"] != 0 {
                return status;
            }
        }
    });
    api.send_part(&id, &object, 0);
    let status = waiting.join().expect("it waits");
    assert_eq!(status["proven"], 2 * PART);
    assert_eq!(status["object"], of_object.as_str());
    let some = range("bytes=5242870-5242889").must(206);
    assert_eq!(some.headers["content-range"], "bytes 5242870-5242889/*");
    assert!(some.body == object[5_242_870..5_242_890]);
    let cut = range("bytes=10485750-99999999").must(206);
    assert!(cut.body == object[10_485_750..2 * PART]);
    assert!(api.get(&of_object).must(200).body == object[..2 * PART]);
    for (path, length) in [
        (&of_object, 2 * PART),
        (&format!("{base}/leaves"), 2 * PART / BLOCK * 32),
    ] {
        let head = api.send("HEAD", path, &[], b"").must(200);
        assert_eq!(head.headers["content-length"], length.to_string());
        assert!(head.body.is_empty());
    }
    let leaf = sapwood::format::tree::value_of(81 * BLOCK as u64, &object[81 * BLOCK..82 * BLOCK]);
    let leaves = api.send(
        "GET",
        &format!("{base}/leaves"),
        &[("Range", "bytes=2592-2623")],
        b"",
    );
    assert!(leaves.must(206).body == leaf);
    api.get(&format!("{base}/object/other.bin"))
        .problem(404, "no_session");
    for path in ["growing", "leaves", "object/b.bin"] {
        let other = format!("/.sapwood/uploads/{}/{path}", id_of(8));
        api.get(&other).problem(404, "no_session");
        api.send("PUT", &format!("{base}/{path}"), &[], b"")
            .problem(405, "bad_request");
    }
    // Never under its name before it is published; then it is there alone.
    api.get("/a/b.bin").must(404);
    api.send_part(&id, &object, 2);
    api.publish(&id, &object);
    let moved = api.get(&of_object).must(307);
    assert_eq!(moved.headers["location"], "/a/b.bin");
    api.get(&format!("{base}/leaves"))
        .problem(409, "session_done");
    let done = api
        .get(&format!("{base}/growing?beyond=99999999"))
        .must(200)
        .json();
    assert_eq!(
        (&done["url"], &done["root"]),
        (&json!("/a/b.bin"), &json!(root(&object)))
    );
}

/// A server that gives a growing object, and lies.
struct Liar {
    address: String,
    lie: Arc<Mutex<Lie>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// A byte of a block is another one.
    Byte,
    /// A leaf is another one.
    Leaf,
}

/// What the liar has: five blocks, and the wrong one.
const LIAR_BYTES: usize = 5 * BLOCK;
const WRONG: usize = 3 * BLOCK;

impl Liar {
    fn new(lie: Lie) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let lie = Arc::new(Mutex::new(lie));
        std::thread::spawn({
            let lie = lie.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    let lie = lie.clone();
                    std::thread::spawn(move || Liar::serve(stream, &lie));
                }
            }
        });
        Liar { address, lie }
    }

    fn serve(stream: TcpStream, lie: &Mutex<Lie>) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let mut stream = stream;
        loop {
            let first = lines.next()?.ok()?;
            let mut range = None;
            for line in lines.by_ref() {
                let line = line.ok()?.to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(bytes) = line.strip_prefix("range: bytes=") {
                    let (first, last) = bytes.split_once('-')?;
                    range = Some((first.parse().ok()?, last.parse::<usize>().ok()?));
                }
            }
            let (mut bytes, is_json) = (paint::bytes(0, LIAR_BYTES), first.contains("/growing"));
            let lie = *lie.lock().expect("a lie");
            if first.contains("/leaves") {
                let leaf = |(block, bytes): (usize, &[u8])| {
                    sapwood::format::tree::value_of((block * BLOCK) as u64, bytes)
                };
                bytes = bytes.chunks(BLOCK).enumerate().flat_map(leaf).collect();
                bytes[WRONG / BLOCK * 32 + 7] ^= u8::from(lie == Lie::Leaf);
            } else if is_json {
                if first.contains("beyond=") {
                    std::thread::sleep(Duration::from_millis(200));
                }
                let status = json!({ "state": "open", "block_size": BLOCK, "proven": LIAR_BYTES });
                bytes = status.to_string().into_bytes();
            } else {
                bytes[WRONG + 99] ^= u8::from(lie == Lie::Byte);
            }
            let status = match range {
                Some((first, last)) => {
                    bytes = bytes[first..=last].to_vec();
                    format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/*")
                }
                None => "200 OK".to_owned(),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                bytes.len()
            );
            stream.write_all(&[head.as_bytes(), &bytes].concat()).ok()?;
        }
    }
}

#[test]
fn a_lie_about_a_growing_object_is_never_shown() {
    let check = |lie: Lie| {
        let liar = Liar::new(lie);
        let folder = tempfile::TempDir::new().expect("a folder");
        let url = format!("http://{}/.sapwood/uploads/{ID}/object/x.ts", liar.address);
        let gateway = Gateway::new(folder.path(), &url);
        let painted = paint::bytes(0, LIAR_BYTES);
        let (_, mut all) = gateway.get(None);
        // All before the wrong block, and the end of the connection.
        assert!(rest(&mut all) == painted[..WRONG]);
        let events = gateway.running.events();
        let wrong = events.iter().find(|event| event["event"] == "block_wrong");
        assert_eq!(wrong.expect("it is told")["block"], WRONG / BLOCK);
        // Once it is honest the rest comes.
        let (_, mut all) = gateway.get(None);
        assert!(take(&mut all, WRONG) == painted[..WRONG]);
        *liar.lie.lock().expect("a lie") = Lie::None;
        assert!(take(&mut all, LIAR_BYTES - WRONG) == painted[WRONG..]);
        gateway.running.signal(Signal::INT);
    };
    std::thread::scope(|scope| {
        let checks = [Lie::Byte, Lie::Leaf].map(|lie| scope.spawn(move || check(lie)));
        for check in checks {
            check.join().expect("it was not shown");
        }
    });
    // No root is known, and no key signs what is not whole.
    let liar = Liar::new(Lie::None);
    let folder = tempfile::TempDir::new().expect("a folder");
    let url = format!("http://{}/.sapwood/uploads/{ID}/object/x.ts", liar.address);
    let root = "00".repeat(32);
    for (flags, exit) in [
        (["--root", root.as_str()], 3),
        (["--require", "root"], 3),
        (["--mirror", "http://127.0.0.1:1/x.ts"], 2),
    ] {
        let mut command = sapwood(folder.path());
        command.args(["--json", "gateway", &url]).args(flags);
        start(command).finish().must(exit);
    }
}

#[test]
fn a_hook_is_told_how_much_of_a_recording_can_be_read() {
    let site = Site::new();
    let log = site.state.path().join("told");
    let hook = format!("cat >> {}", log.display());
    let server = site.serve(&["--on-event", &hook]);
    let (api, id, object) = (&server.api, id_of(7), paint::bytes(0, 3 * PART));
    let document = json!({ "name": "a/b.bin", "length": null, "part_size": PART, "block_size": BLOCK, "growing": true });
    api.json("PUT", &id, &document).must(201);
    for index in [1, 0, 2] {
        api.send_part(&id, &object, index);
        // Again: nothing new can be read.
        api.checkpoint(&id, &object, index).must(200);
    }
    api.publish(&id, &object);
    let began = Instant::now();
    let told = loop {
        let told = fs::read_to_string(&log).unwrap_or_default();
        let told: Vec<Value> = told
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if told.iter().any(|told| told["event"] == "published") {
            break told;
        }
        assert!(began.elapsed() < LONG_ENOUGH, "{told:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let told: Vec<_> = told
        .iter()
        .map(|told| (told["event"].clone(), told["proven"].clone()))
        .collect();
    let expected = [
        (json!("parts_proven"), json!(2 * PART)),
        (json!("parts_proven"), json!(3 * PART)),
        (json!("published"), Value::Null),
    ];
    assert_eq!(told, expected);
}
