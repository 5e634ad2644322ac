//! What a server that takes uploads withstands: secrets in wrong places, clients that take more than their share, disks that are full or
//! fail, crashes between two steps.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::format::paint;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    program::{self, LONG_ENOUGH},
    site::{
        Api, BLOCK, ID, MIB, PART, Site, id_of, offer, part_of, parts, read_response, root, sha256,
    },
};

/// Waits until this is so.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The URL of a part of these bytes.
#[track_caller]
fn url_of(api: &Api, id: &str, index: usize, bytes: &[u8]) -> String {
    let offer = json!({ "index": index, "length": bytes.len(), "sha256": sha256(bytes) });
    let targets = api.json(
        "POST",
        &format!("{id}/targets"),
        &json!({ "parts": [offer] }),
    );
    let url = targets.must(200).json()["targets"][0]["url"].clone();
    url.as_str().expect("a URL").to_owned()
}

/// A request whose body does not come to its end.
fn begin(api: &Api, method: &str, path: &str, length: usize, body: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(&api.address).expect("a connection");
    connection
        .set_read_timeout(Some(LONG_ENOUGH))
        .expect("it is set");
    let token = api.token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{token}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        api.address
    );
    connection.write_all(head.as_bytes()).expect("sent");
    connection.write_all(body).expect("sent");
    connection
}

/// Starts a server that must end by itself.
#[track_caller]
fn refused(command: Command, exit: i32, says: &str) {
    let ended = program::run(command).must(exit);
    let told = ended.stdout + &ended.stderr;
    assert!(told.contains(says), "{told}");
}

/// The folder of `--storage` is served too.
#[test]
fn secrets_in_the_folder_of_uploads_are_refused() {
    let site = Site::new();
    let elsewhere = TempDir::new().expect("a folder");
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "ann token-of-ann\n").expect("a file");
    let (secret, storage) = (secret.display().to_string(), elsewhere.path().display());
    let storage = storage.to_string();
    let sessions = elsewhere.path().join("s.sqlite").display().to_string();
    for more in [
        &["--token-file", &secret][..],
        &["--sessions", &sessions],
        &["--tls-cert", &secret, "--tls-key", &secret],
    ] {
        let more = [&["--storage", &storage], more].concat();
        refused(site.serve_command(&more), 6, "everyone could read");
    }
}

/// A client that repeats its last request with another SHA-256 was told that the object has it.
#[test]
fn a_published_object_has_no_sha256_that_was_not_proven() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (api, object) = (&server.api, paint::bytes(0, 3 * BLOCK));
    let (right, wrong) = (sha256(&object), sha256(b"other"));
    let finalize = |id: &str, sha256: Option<&str>| {
        let document = json!({ "length": object.len(), "sha256": sha256 });
        api.json("POST", &format!("{id}/finalize"), &document)
    };
    for (number, declared, said) in [
        (0, Some(&right), None),
        (1, None, Some(&right)),
        (2, None, None),
    ] {
        let id = id_of(number);
        let open = json!({
            "name": format!("{number}.bin"), "length": object.len(), "part_size": PART,
            "block_size": BLOCK, "sha256": declared,
        });
        api.json("PUT", &id, &open).must(201);
        api.send_part(&id, &object, 0);
        finalize(&id, said.map(String::as_str)).must(200);
        finalize(&id, said.map(String::as_str)).must(200);
        let code = match (declared, said) {
            (None, None) => "session_done",
            _ => "session_differs",
        };
        finalize(&id, Some(&wrong)).problem(409, code);
        match (declared, said) {
            (None, None) => drop(finalize(&id, Some(&right)).problem(409, code)),
            _ => drop(finalize(&id, Some(&right)).must(200)),
        }
    }
}

#[test]
fn a_problem_names_no_path_of_the_server() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (api, object) = (&server.api, paint::bytes(0, PART + 9));
    api.open(ID, "x", object.len()).must(201);
    // It cannot be opened, whoever the server is.
    let staged = site.path(&format!("sapwood-staging/{ID}/object"));
    fs::create_dir(&staged).expect("a folder");
    let offers = json!({ "parts": [offer(&object, 0)] });
    let failed = api.json("POST", &format!("{ID}/targets"), &offers);
    let document = failed.problem(503, "storage_failed").to_string();
    let folder = site.folder.path().display().to_string();
    assert!(!document.contains(&folder), "{document}");
    assert!(!api.status(ID).to_string().contains(&folder));
    fs::remove_dir(&staged).expect("it is empty");
    for index in 0..2 {
        api.send_part(ID, &object, index);
    }
    api.publish(ID, &object);
}

/// The sessions of another folder would all be lost: what is staged for them is not here.
#[test]
fn the_sessions_of_one_folder_are_not_used_for_another() {
    let (one, two) = (Site::new(), Site::new());
    let sessions = one.state.path().join("all/s.sqlite").display().to_string();
    let sessions = ["--sessions", &sessions];
    let object = paint::bytes(0, PART + 9);
    let mut server = one.serve(&sessions);
    server.api.open(ID, "x", object.len()).must(201);
    server.api.send_part(ID, &object, 0);
    refused(two.serve_command(&sessions), 6, "--sessions");
    server.running.signal(Signal::TERM);
    server.running.finish();
    refused(two.serve_command(&sessions), 6, "--sessions");
    let server = one.serve(&sessions);
    server.api.send_part(ID, &object, 1);
    server.api.publish(ID, &object);
}

/// Sixteen slow documents, or 256 slow parts, of one client kept all others out.
#[test]
fn one_owner_does_not_take_all_turns() {
    let site = Site::new();
    let tokens = site.state.path().join("tokens");
    fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
    let server = site.serve(&["--token-file", tokens.to_str().expect("a path")]);
    let ann = server.api.with_token("secret-of-ann");
    let bob = server.api.with_token("secret-of-bob");
    let object = paint::bytes(0, PART + 9);
    bob.open(ID, "bob.bin", object.len()).must(201);
    let many = 260;
    ann.open(&id_of(1), "ann.bin", many * PART).must(201);
    let path = format!("/.sapwood/uploads/{}/targets", id_of(1));
    let some = vec![b' '; 200_000];
    let slow: Vec<TcpStream> = (0..40)
        .map(|_| begin(&ann, "POST", &path, 1_000_000, &some))
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    bob.send_part(ID, &object, 0);
    let offer = offer(&object, 1);
    let long = json!({ "parts": [offer], "x": "x".repeat(100_000) });
    bob.json("POST", &format!("{ID}/targets"), &long)
        .problem(400, "bad_request");
    assert!(began.elapsed() < Duration::from_secs(15));
    for mut connection in slow.into_iter().take(3) {
        let response = read_response(&mut connection).expect("a response");
        response.problem(408, "bad_request");
    }
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    let mut urls = Vec::new();
    for first in (0..many).step_by(100) {
        let offers: Vec<Value> = (first..many.min(first + 100))
            .map(|index| json!({ "index": index, "length": PART, "sha256": sha256(b"") }))
            .collect();
        let targets = ann.json(
            "POST",
            &format!("{}/targets", id_of(1)),
            &json!({ "parts": offers }),
        );
        let targets = targets.must(200).json();
        let of = |target: &Value| target["url"].as_str().expect("a URL").to_owned();
        urls.extend(
            targets["targets"]
                .as_array()
                .expect("targets")
                .iter()
                .map(of),
        );
    }
    let slow: Vec<TcpStream> = urls
        .iter()
        .map(|url| begin(&ann, "PUT", url, PART, b"x"))
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    bob.send_part(ID, &object, 1);
    bob.publish(ID, &object);
    let busy = slow.into_iter().rev().find_map(|mut connection| {
        let wait = Some(Duration::from_millis(100));
        connection.set_read_timeout(wait).expect("it is set");
        read_response(&mut connection)
    });
    let busy = busy.expect("some have no turn");
    assert_eq!(busy.headers["retry-after"], "1");
    busy.problem(503, "busy");
}

#[test]
fn no_upload_has_the_name_of_a_page_of_the_server() {
    let site = Site::new();
    let server = site.serve(&[]);
    for name in ["metrics", "healthz", "metrics/x", "healthz/a/b"] {
        server.api.open(ID, name, 5).problem(422, "bad_name");
    }
    server.api.open(ID, "a/metrics", 5).must(201);
    server.api.get("/healthz").must(200);
}

/// The server under strace, which makes calls fail: each of these is calls, a colon, and how they fail.
fn under_strace(site: &Site, injections: &[&str], paths: &[&Path], more: &[&str]) -> Command {
    let inner = site.serve_command(more);
    let mut command = program::command("strace", site.state.path());
    // The child is the server, and strace its grandchild: a kill is one of the server.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
    let calls = injections.iter().filter_map(|one| one.split(':').next());
    let calls: Vec<&str> = calls.collect();
    command.args(["-e", &format!("trace={}", calls.join(","))]);
    for inject in injections {
        command.args(["-e", &format!("inject={inject}")]);
    }
    for path in paths {
        command.arg("-P").arg(path);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

#[test]
fn why_uploads_cannot_be_taken_is_told_by_the_exit_code() {
    let site = Site::new();
    let first = site.serve(&[]);
    refused(site.serve_command(&[]), 5, "in use");
    first.running.kill();
    let staging = site.path("sapwood-staging");
    let name = Path::new("sapwood-staging");
    fs::remove_dir_all(&staging).expect("nobody uses it");
    for (error, says) in [("EROFS", "Read-only"), ("ENOSPC", "No space")] {
        let inject = format!("mkdir,mkdirat:error={error}");
        let command = under_strace(&site, &[&inject], &[&staging, name], &[]);
        refused(command, 7, says);
    }
    let database = site.state.path().join("db/s.sqlite");
    let sessions = ["--sessions", database.to_str().expect("a path")];
    for error in ["ENOSPC", "EIO"] {
        let inject = format!("pwrite64:error={error}");
        let journal = database.with_extension("sqlite-journal");
        let wal = database.with_extension("sqlite-wal");
        let paths = [&database as &Path, &journal, &wal];
        refused(
            under_strace(&site, &[&inject], &paths, &sessions),
            7,
            "sessions",
        );
        fs::remove_dir_all(database.parent().expect("a folder")).expect("removed");
    }
    drop(site.serve(&sessions));
}

/// A document that was cut off was told as one that is too large.
#[test]
fn a_document_that_is_cut_off_is_a_bad_request() {
    let site = Site::new();
    let server = site.serve(&[]);
    let path = format!("/.sapwood/uploads/{ID}");
    let mut cut = begin(&server.api, "PUT", &path, 100, b"{\"name\":");
    cut.shutdown(Shutdown::Write).expect("it is open");
    let response = read_response(&mut cut);
    if let Some(response) = response {
        response.problem(400, "bad_request");
    }
    let metrics = server.api.get("/metrics").must(200).body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(!metrics.contains("code=\"413\""), "{metrics}");
}

/// Who was given a token, or lost one, waited for a restart that breaks all uploads.
#[test]
fn changed_tokens_count_without_a_restart() {
    let site = Site::new();
    let tokens = site.state.path().join("tokens");
    let write = |text: &str| {
        let other = tokens.with_extension("new");
        fs::write(&other, text).expect("a file");
        fs::rename(other, &tokens).expect("renamed");
    };
    write("ann secret-of-ann\n");
    let mut server = site.serve(&["--token-file", tokens.to_str().expect("a path")]);
    let ann = server.api.with_token("secret-of-ann");
    let bob = server.api.with_token("secret-of-bob");
    let status = |api: &Api| api.get("/.sapwood/uploads").status;
    assert_eq!((status(&ann), status(&bob)), (200, 401));
    write("bob secret-of-bob\n");
    wait_for("bob", || status(&bob) == 200);
    assert_eq!(status(&ann), 401);
    // A mistake shuts nobody out.
    write("too many words here\n");
    // A request looks at the file, at most once a second.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(status(&bob), 200);
    server.running.wait_for("a warning", |events| {
        let told = |event: &Value| {
            event["event"] == "warning" && event["message"].to_string().contains("line 1")
        };
        events.iter().any(told)
    });
}

/// The server hashed each object again that it had just proven. It may do so with one whose name it finds before the manifest has its own,
/// so that several are tried.
#[test]
fn an_uploaded_object_is_not_hashed_again_for_the_index() {
    assert!((0..5).any(|_| is_not_hashed_again()));
}

fn is_not_hashed_again() -> bool {
    let site = Site::new();
    let server = site.serve(&[]);
    let object = paint::bytes(0, 3 * PART + 9);
    server.api.upload(ID, "a/x.bin", &object);
    let name = b"a/x.bin";
    wait_for("the index has it", || {
        let index = server.api.get("/library.sapwood");
        let has = |text: &[u8]| index.body.windows(text.len()).any(|bytes| bytes == text);
        index.status == 200 && has(name) && has(blake3::hash(&object).as_bytes())
    });
    let made = || {
        let metrics = server.api.get("/metrics").must(200).body;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let name = "sapwood_manifests_made_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a number").parse::<u32>().expect("a number")
    };
    let before = made();
    // What is written later is.
    fs::write(site.path("a/x.bin"), b"other bytes").expect("a file");
    wait_for("it is hashed", || made() == before + 1);
    before == 0
}

/// A crash between the publication and the command, or while it ran, and it was never run.
#[test]
fn the_command_for_an_object_runs_though_the_server_crashed() {
    let site = Site::new();
    let log = site.state.path().join("log");
    let first = format!("echo began >> '{}'; exec sleep 1000", log.display());
    let server = site.serve(&["--on-final", &first]);
    let object = paint::bytes(0, 3 * BLOCK);
    server.api.upload(ID, "x.bin", &object);
    let told = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("the command", || told().contains("began"));
    server.running.kill();
    let second = format!("echo $SAPWOOD_UPLOAD_NAME >> '{}'", log.display());
    let mut server = site.serve(&["--on-final", &second]);
    wait_for("the command again", || told().contains("x.bin"));
    // Once is enough.
    server.running.signal(Signal::TERM);
    server.running.finish();
    let server = site.serve(&["--on-final", &second]);
    server.api.upload(&id_of(2), "y.bin", &object);
    wait_for("the next one", || told().contains("y.bin"));
    assert_eq!(told(), "began\nx.bin\ny.bin\n");
}

/// A shell does not hand signals on: what it started would go on without the server.
#[test]
fn what_a_command_started_ends_with_the_server() {
    let site = Site::new();
    let log = site.state.path().join("log");
    let command = format!("sleep 1000 & echo $! > '{}'; wait", log.display());
    let mut server = site.serve(&["--on-final", &command]);
    server.api.upload(ID, "x.bin", &paint::bytes(0, BLOCK));
    let told = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("the command", || told().ends_with('\n'));
    let process = format!("/proc/{}/cmdline", told().trim());
    // The shell prints the number before the process has become another program.
    wait_for("it runs", || {
        fs::read(&process).is_ok_and(|words| words.starts_with(b"sleep"))
    });
    server.running.signal(Signal::TERM);
    server.running.finish();
    // One that nobody has waited for has no words any more.
    wait_for("it ends", || {
        fs::read(&process).map_or(true, |words| words.is_empty())
    });
}

/// What is no file is not replaced, and the message does not advise what was done already.
#[test]
fn a_folder_is_not_replaced_by_an_object() {
    let site = Site::new();
    fs::create_dir(site.path("taken")).expect("a folder");
    let server = site.serve(&[]);
    fs::write(site.state.path().join("taken"), b"an object").expect("a file");
    let push = |more: &[&str]| {
        let mut command = program::sapwood(site.state.path());
        let url = format!("http://{}/", server.api.address);
        command.args(["push", "taken", &url]).args(more);
        program::run(command).must(1).stderr
    };
    let told = push(&[]);
    assert!(told.contains("--replace"), "{told}");
    let told = push(&["--replace"]);
    assert!(told.contains("cannot be replaced"), "{told}");
    assert!(
        told.contains("--name") && !told.contains("--replace"),
        "{told}"
    );
    assert!(site.path("taken").is_dir());
}

/// A command that fails is run again, and the audit log says how each attempt ended.
#[test]
fn a_command_that_fails_is_run_again() {
    let site = Site::new();
    let log = site.state.path().join("log");
    let command = format!(
        "echo $SAPWOOD_UPLOAD_EVENT >> '{0}'; test $(wc -l < '{0}') = 2",
        log.display()
    );
    let server = site.serve(&["--on-final", &command]);
    server.api.upload(ID, "x.bin", &paint::bytes(0, 3 * BLOCK));
    let audit = || fs::read_to_string(site.path("sapwood-staging/audit.jsonl")).expect("a log");
    wait_for("the second run", || audit().contains("\"told\""));
    assert_eq!(
        fs::read_to_string(&log).expect("a log"),
        "published\npublished\n"
    );
    let notices: Vec<Value> = audit()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|line: &Value| line["action"] == "notice")
        .collect();
    let ends = notices
        .iter()
        .map(|line| (line["outcome"].as_str(), line["tries"].as_u64()));
    let expected = [(Some("again"), Some(1)), (Some("told"), Some(2))];
    assert_eq!(ends.collect::<Vec<_>>(), expected);
    assert_eq!(
        (&notices[1]["event"], &notices[1]["name"]),
        (&json!("published"), &json!("x.bin"))
    );
    server.running.kill();
}

/// A page that is told of published objects: it refuses the first notice, and the server crashes.
#[test]
fn a_url_is_told_of_each_object_until_it_accepts() {
    let site = Site::new();
    let page = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://{}/hook?key=s3cret",
        page.local_addr().expect("it is bound")
    );
    let long = "x".repeat(2 << 20);
    let take = |status: &str| -> Value {
        let (mut connection, _) = page.accept().expect("a connection");
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        let document = loop {
            let count = connection.read(&mut buffer).expect("a request");
            assert!(count > 0, "{}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            assert!(head.starts_with("POST /hook?key=s3cret HTTP/1.1"), "{head}");
            if let Ok(document) = serde_json::from_str(body) {
                break document;
            }
        };
        // One that is told has told, however long it talks.
        let body = if status == "200" { &long } else { "" };
        let length = body.len();
        let response = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        // Not all of it may be read.
        let _ = connection.write_all(response.as_bytes());
        document
    };
    let mut server = site.serve(&["--on-final", &url]);
    let object = paint::bytes(0, 3 * BLOCK);
    server.api.upload(ID, "a b/x.bin", &object);
    assert_eq!(take("503")["session"], ID);
    server.running.kill();
    server = site.serve(&["--on-final", &url]);
    let document = take("503");
    let place = format!("http://{}/a%20b/x.bin", server.api.address);
    assert_eq!(
        document,
        json!({
            "event": "published", "session": ID, "name": "a b/x.bin", "root": root(&object),
            "length": object.len(), "url": place, "owner": "local",
        "proof": "client", "time": document["time"],
        })
    );
    assert_eq!(take("204"), document);
    // One that is refused for good is a warning, and the next one is told all the same.
    server.api.upload(&id_of(1), "y.bin", &object);
    assert_eq!(take("404")["name"], "y.bin");
    server.api.upload(&id_of(2), "z.bin", &object);
    assert_eq!(take("200")["name"], "z.bin");
    server.api.upload(&id_of(3), "last.bin", &object);
    assert_eq!(take("204")["name"], "last.bin");
    let audit = || fs::read_to_string(site.path("sapwood-staging/audit.jsonl")).expect("a log");
    wait_for("it is noted", || {
        let of_last = |line: &str| line.contains("\"told\"") && line.contains("last.bin");
        audit().lines().any(of_last)
    });
    let of_long = |line: &&str| line.contains("\"notice\"") && line.contains("z.bin");
    assert!(
        audit()
            .lines()
            .find(of_long)
            .expect("a line")
            .contains("\"told\"")
    );
    server.running.wait_for("a warning", |events| {
        let told = |event: &Value| event["message"].to_string().contains("y.bin");
        events.iter().any(told)
    });
    let shown = server.running.kill();
    assert!(!format!("{shown:?}").contains("s3cret"));
}

/// Parts that were sent and not noted were in no quota, and those that lie twice counted once.
#[test]
fn a_quota_counts_all_that_lies() {
    let site = Site::new();
    let tokens = site.state.path().join("tokens");
    fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
    let server = site.serve(&[
        "--token-file",
        tokens.to_str().expect("a path"),
        "--quota",
        "16MiB",
    ]);
    let ann = server.api.with_token("secret-of-ann");
    let object = paint::bytes(0, 5 * PART);
    let open = json!({ "name": "s", "length": null, "part_size": PART, "block_size": BLOCK });
    ann.json("PUT", ID, &open).must(201);
    let urls: Vec<String> = (0..5)
        .map(|index| url_of(&ann, ID, index, part_of(&object, index)))
        .collect();
    let put = |index: usize| ann.send("PUT", &urls[index], &[], part_of(&object, index));
    for index in 0..3 {
        put(index).must(204);
        // The same one again is no more.
        put(index).must(204);
    }
    let refused = put(3).problem(413, "quota");
    assert_eq!(refused["used"], 3 * PART);
    // After a crash of the client the same parts are offered again.
    for index in 0..3 {
        url_of(&ann, ID, index, part_of(&object, index));
    }
    // Not noted, then noted: each once.
    for index in 0..3 {
        ann.checkpoint(ID, &object, index).must(200);
    }
    put(3).problem(413, "quota");
    ann.json("DELETE", ID, &json!({})).must(204);
    // Other contents of parts that are here.
    let bob = server.api.with_token("secret-of-bob");
    let (first, second) = (&object[..2 * PART], &object[3 * PART..]);
    bob.open(&id_of(1), "t", 2 * PART).must(201);
    let send = |object: &[u8], index: usize| {
        let part = part_of(object, index);
        let url = url_of(&bob, &id_of(1), index, part);
        bob.send("PUT", &url, &[], part)
    };
    for index in 0..2 {
        send(first, index).must(204);
    }
    bob.checkpoint(&id_of(1), first, 0).must(200);
    send(second, 0).must(204);
    send(second, 1).problem(413, "quota");
    let replace = |object: &[u8], index: usize| {
        let part = part_of(object, index);
        let document = json!({ "length": PART, "sha256": sha256(part), "replace": true });
        bob.json("PUT", &format!("{}/parts/{index}", id_of(1)), &document)
    };
    replace(second, 0).must(200);
    send(second, 1).must(204);
    replace(second, 1).must(200);
    bob.publish(&id_of(1), second);
}

/// A server whose folder is a small file system in memory, which nobody else sees.
fn on_small_disk(site: &Site, size: &str) -> Command {
    let inner = site.serve_command(&[]);
    let mut command = program::command("unshare", site.state.path());
    let script = "mount -t tmpfs -o \"size=$1\" tmpfs \"$2\" && shift 2 && exec \"$@\"";
    // Root needs no user namespace, and gets none in a changed root.
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", script, "sh", size]);
    command.arg(site.folder.path());
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// On a full disk no upload could be given up: that is noted on the disk.
#[test]
fn a_full_disk_keeps_what_was_acknowledged_and_takes_the_end_of_uploads() {
    let site = Site::new();
    let server = Site::started(on_small_disk(&site, "28m"));
    let inside = format!(
        "/proc/{}/root{}",
        server.running.id(),
        site.folder.path().display()
    );
    let api = &server.api;
    let object = paint::bytes(0, 4 * PART + 9);
    api.open(ID, "x.bin", object.len()).must(201);
    api.open(&id_of(1), "y.bin", PART).must(201);
    fs::write(format!("{inside}/ballast"), vec![1; 10 * MIB]).expect("a file");
    let mut refused = 0;
    for index in 0..parts(&object) {
        let url = url_of(api, ID, index, part_of(&object, index));
        let sent = api.send("PUT", &url, &[], part_of(&object, index));
        match sent.status {
            204 => drop(api.checkpoint(ID, &object, index).must(200)),
            _ => {
                sent.problem(507, "storage_full");
                refused += 1;
                api.checkpoint(ID, &object, index)
                    .problem(409, "part_not_stored");
            }
        }
    }
    assert!((1..4).contains(&refused), "{refused}");
    api.finalize(ID, &object).problem(409, "parts_missing");
    api.json("DELETE", &id_of(1), &json!({})).must(204);
    for number in 2..40 {
        api.open(&id_of(number), &format!("{number}"), 5).must(201);
        api.json("DELETE", &id_of(number), &json!({})).must(204);
    }
    fs::remove_file(format!("{inside}/ballast")).expect("removed");
    let mut sent = 0;
    for index in 0..parts(&object) {
        sent += api.send_part(ID, &object, index);
    }
    assert!(sent < object.len(), "{sent}");
    api.publish(ID, &object);
    assert!(api.get("/x.bin").must(200).body == object);
}
