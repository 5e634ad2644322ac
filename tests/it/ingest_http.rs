//! `sapwood serve --ingest` by raw requests: uploads that are published, attacks, and kills.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use sapwood::{
    engine::{
        ingest::{IngestLimits, session_store::OwnerLimits},
        storage::folder::FolderStorage,
    },
    format::paint,
    policy::upload::notices::KeptNotices,
    serve::{
        connections::Options,
        ingest::{Pace, Stored, Uploads, UploadsOptions},
        origin::{self, Origin},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    program::{self, LONG_ENOUGH, sapwood},
    site::{
        Api, BLOCK, ID, MIB, PART, Server, Site, check_manifest, id_of, part_of, read_response,
        root, sha256,
    },
};

#[test]
fn an_upload_is_served_with_its_manifest_at_once_and_never_before() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let object = paint::bytes(0, 2 * PART + 7);
    let opened = api.open(ID, "a/talk.bin", object.len()).must(201).json();
    assert_eq!(
        (&opened["state"], &opened["parts"]),
        (&json!("open"), &json!([]))
    );
    api.open(ID, "a/talk.bin", object.len()).must(200);
    api.open(ID, "a/other.bin", object.len())
        .problem(409, "session_differs");
    let missing = api.finalize(ID, &object).problem(409, "parts_missing");
    assert_eq!(missing["missing"], json!([0, 1, 2]));
    for index in [2, 0, 1] {
        assert_eq!(
            api.send_part(ID, &object, index),
            part_of(&object, index).len()
        );
        assert_eq!(api.send_part(ID, &object, index), 0);
        api.checkpoint(ID, &object, index).must(200);
        let found: Vec<Value> = [
            "/a/talk.bin",
            "/a/talk.bin.sapwood",
            "/sapwood-staging/",
            "/sapwood-staging/sessions.sqlite",
            &format!("/sapwood-staging/{ID}/object"),
        ]
        .iter()
        .map(|path| api.get(path).status.into())
        .collect();
        assert_eq!(found, vec![json!(404); 5]);
    }
    assert!(!String::from_utf8_lossy(&api.get("/").body).contains("staging"));
    let done = api.publish(ID, &object);
    assert_eq!(
        (&done["state"], &done["url"]),
        (&json!("done"), &json!("/a/talk.bin"))
    );
    assert_eq!(done["root"], root(&object));
    assert!(api.get("/a/talk.bin").must(200).body == object);
    let manifest = api.get("/a/talk.bin.sapwood").must(200).body;
    assert!(manifest == fs::read(site.path("a/talk.bin.sapwood")).expect("a manifest"));
    check_manifest(&site, "a/talk.bin", &object);
    // All of it may be repeated.
    assert_eq!(api.publish(ID, &object)["url"], "/a/talk.bin");
    assert_eq!(api.status(ID)["state"], "done");
    let gone = api.json("DELETE", ID, &json!({}));
    gone.problem(409, "session_done");
    site.check_nothing_is_staged();
    let metrics = api.get("/metrics").must(200).body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    for line in [
        "sapwood_uploads_opened_total 1",
        "sapwood_uploads_published_total 1",
        "sapwood_upload_parts_total 3",
        "sapwood_upload_part_errors_total 0",
        &format!("sapwood_upload_received_bytes_total {}", object.len()),
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    let actions = audit(&site, "publish");
    assert_eq!(actions[0]["action"], "open");
    let last = actions.last().expect("a line");
    assert_eq!(last["action"], "publish");
    assert_eq!(
        (&last["name"], &last["root"]),
        (&json!("a/talk.bin"), &done["root"])
    );
    assert_eq!(
        (&last["owner"], &last["session"]),
        (&json!("local"), &json!(ID))
    );
}

/// The audit log once it ends with this.
#[track_caller]
fn audit(site: &Site, last: &str) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let log = fs::read_to_string(site.path("sapwood-staging/audit.jsonl")).expect("a log");
        let lines = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let lines: Vec<Value> = lines.collect();
        if lines.last().is_some_and(|line| line["action"] == last) {
            return lines;
        }
        assert!(began.elapsed() < LONG_ENOUGH, "{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn small_objects_and_the_steps_of_others() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    for (number, length) in [0, 1, BLOCK, BLOCK + 1].into_iter().enumerate() {
        let (object, name) = (paint::bytes(9, length), format!("{length}.bin"));
        let id = id_of(number);
        let open = json!({ "name": name, "length": length, "block_size": BLOCK });
        api.json("PUT", &id, &open).must(201);
        let (hash, path) = (sha256(&object), format!("{id}/targets"));
        let offer = json!({ "parts": [{ "index": 0, "length": length, "sha256": hash }] });
        let target = api.json("POST", &path, &offer).must(200).json()["targets"][0].clone();
        let url = target["url"].as_str().expect("a URL");
        api.send("PUT", url, &[], &object).must(204);
        // The same URL again: nothing changes.
        api.send("PUT", url, &[], &object).must(204);
        api.checkpoint(&id, &object, 0).must(200);
        api.publish(&id, &object);
        assert_eq!(api.get(&format!("/{name}")).must(200).body, object);
        check_manifest(&site, &name, &object);
        let late = api.send("PUT", url, &[], &object);
        late.problem(409, "session_done");
    }
    // A name that is taken.
    fs::write(site.path("taken"), b"old").expect("a file");
    api.open(&id_of(20), "taken", 5).problem(409, "name_exists");
    let open = json!({ "name": "taken", "length": 5, "block_size": BLOCK, "replace": true });
    api.json("PUT", &id_of(20), &open).must(201);
    let target = api.json(
        "POST",
        &format!("{}/targets", id_of(20)),
        &json!({ "parts": [{ "index": 0, "length": 5, "sha256": sha256(b"newer") }] }),
    );
    let url = target.must(200).json()["targets"][0]["url"].clone();
    api.send("PUT", url.as_str().expect("a URL"), &[], b"newer")
        .must(204);
    api.checkpoint(&id_of(20), b"newer", 0).must(200);
    assert_eq!(fs::read(site.path("taken")).expect("a file"), b"old");
    api.publish(&id_of(20), b"newer");
    assert_eq!(api.get("/taken").must(200).body, b"newer");
    // An upload that is given up.
    let object = paint::bytes(0, PART + 5);
    api.open(&id_of(21), "never", object.len()).must(201);
    api.send_part(&id_of(21), &object, 0);
    let list = api.get("/.sapwood/uploads?name=never").must(200).json();
    assert_eq!(list["sessions"][0]["id"], id_of(21));
    assert_eq!(list["next"], Value::Null);
    api.json("DELETE", &id_of(21), &json!({})).must(204);
    api.json("DELETE", &id_of(21), &json!({})).must(204);
    site.check_nothing_is_staged();
    assert!(!site.path("never").exists());
}

#[test]
fn attacks_are_refused_and_leave_nothing() {
    let site = Site::new();
    let outside = TempDir::new().expect("a folder");
    std::os::unix::fs::symlink(outside.path(), site.path("link")).expect("a link");
    let tokens = site.state.path().join("tokens");
    fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
    let server = site.serve(&[
        "--token-file",
        tokens.to_str().expect("a path"),
        "--quota",
        "40MiB",
    ]);
    let nobody = &server.api;
    let (ann, bob) = (
        nobody.with_token("secret-of-ann"),
        nobody.with_token("secret-of-bob"),
    );
    for api in [
        nobody,
        &nobody.with_token("secret-of-an"),
        &nobody.with_token(""),
    ] {
        let refused = api.open(ID, "x", 5);
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        refused.problem(401, "unauthorized");
    }
    // Names that lead out, or that are taken for files of this program.
    for name in [
        "",
        "/",
        ".",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "a/",
        "/a",
        ".git/config",
        "a/.env",
        "x.sapwood",
        "X.SAPWOOD",
        "library.sapwood",
        "x.part",
        "a\\b",
        "a\0b",
        "sapwood-staging/x",
        "Sapwood-Staging/x",
        "x.sapwood.json",
        "a\u{202e}b",
        &"x".repeat(300),
        &"x/".repeat(5000),
    ] {
        ann.open(ID, name, 5).problem(422, "bad_name");
    }
    ann.open(ID, "link/x", 5).problem(409, "name_exists");
    for id in [
        "x",
        "9B2F6C1E-5D0A-4C3B-8F7E-2A1B3C4D5E6F",
        "..",
        "9b2f6c1e-5d0a-1c3b-8f7e-2a1b3c4d5e6f",
    ] {
        ann.open(id, "x", 5).problem(404, "no_session");
    }
    let object = paint::bytes(0, 2 * PART);
    ann.open(ID, "x", object.len()).must(201);
    // The sessions of others do not exist.
    bob.open(ID, "x", object.len()).problem(404, "no_session");
    let of_session = format!("/.sapwood/uploads/{ID}");
    bob.get(&of_session).problem(404, "no_session");
    bob.json("DELETE", ID, &json!({}))
        .problem(404, "no_session");
    bob.finalize(ID, &object).problem(404, "no_session");
    bob.checkpoint(ID, &object, 0).problem(404, "no_session");
    assert_eq!(
        bob.get("/.sapwood/uploads").must(200).json()["sessions"],
        json!([])
    );
    // URLs of parts that were not made for this.
    let target = ann.target(ID, &object, 0);
    let url = target["url"].as_str().expect("a URL");
    let part = part_of(&object, 0);
    let bytes = part.len().to_string();
    for (from, to) in [
        ("/parts/0/", "/parts/1/"),
        (ID, "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e60"),
        (&format!("length={bytes}"), "length=1"),
        ("from=0", "from=65536"),
        ("expires=", "expires=9"),
        ("signature=", "signature=0"),
    ] {
        let changed = url.replacen(from, to, 1);
        assert_ne!(changed, url);
        nobody
            .send("PUT", &changed, &[], b"")
            .problem(403, "bad_signature");
    }
    let expired = signed(&site, url, 1_700_000_000);
    nobody
        .send("PUT", &expired, &[], part)
        .problem(403, "expired_url");
    // Bodies that are not what was said.
    let mut wrong = part.to_vec();
    wrong[PART - 1] ^= 1;
    let longer = [part, b"x"].concat();
    nobody
        .send("PUT", url, &[], &wrong)
        .problem(422, "part_differs_from_url");
    nobody
        .send("PUT", url, &[], &longer)
        .problem(413, "body_too_large");
    let much = [("Content-Length", "1000000000000")];
    nobody
        .send("PUT", url, &much, b"x")
        .problem(413, "body_too_large");
    nobody
        .send("PUT", url, &[], &part[1..])
        .problem(400, "bad_request");
    let chunked = [("Transfer-Encoding", "chunked")];
    nobody
        .send("PUT", url, &chunked, b"1\r\nx\r\n0\r\n\r\n")
        .problem(411, "bad_request");
    ann.checkpoint(ID, &object, 0)
        .problem(409, "part_not_stored");
    // Documents that are none.
    let path = format!("{of_session}/targets");
    ann.send("POST", &path, &[], b"{}").must(415);
    for document in [
        json!([]),
        json!({ "parts": 5 }),
        json!({ "parts": [], "more": 1 }),
    ] {
        ann.json("POST", &format!("{ID}/targets"), &document)
            .problem(400, "bad_request");
    }
    let large = json!({ "parts": [], "x": "x".repeat(5 * MIB) });
    ann.json("POST", &format!("{ID}/targets"), &large)
        .problem(413, "body_too_large");
    ann.send("PATCH", &of_session, &[], b"").must(405);
    // More than the owner may have.
    let quota = ann.open(&id_of(1), "y", 31 * MIB).problem(413, "quota");
    assert_eq!(
        (&quota["used"], &quota["limit"]),
        (&json!(2 * PART), &json!(40 * MIB))
    );
    bob.open(&id_of(1), "y", 31 * MIB).must(201);
    let unknown = json!({ "name": "z", "length": null, "part_size": PART, "block_size": BLOCK });
    ann.json("PUT", &id_of(2), &unknown).must(201);
    let huge = json!({ "parts": (0..7).map(|index| json!({
        "index": index, "length": PART, "sha256": sha256(b""),
    })).collect::<Vec<_>>() });
    ann.json("POST", &format!("{}/targets", id_of(2)), &huge)
        .problem(413, "quota");
    // A page of another origin, through the browser on this machine.
    let page = [("Origin", "https://evil.example")];
    ann.send("GET", "/.sapwood/uploads", &page, b"")
        .problem(403, "origin_refused");
    // It all was in vain.
    assert_eq!(ann.status(ID)["parts"], json!([]));
    for index in 0..2 {
        ann.send_part(ID, &object, index);
    }
    ann.publish(ID, &object);
    assert!(nobody.get("/x").must(200).body == object);
    assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0);
    let mut names: Vec<_> = fs::read_dir(site.folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["link", "sapwood-staging", "x", "x.sapwood"]);
}

/// The URL of a part with another time of expiry, signed as the server does.
fn signed(site: &Site, url: &str, expires_s: u64) -> String {
    let key = fs::read(site.path("sapwood-staging/url.key")).expect("a key");
    let key = blake3::derive_key("sapwood upload part url 1", &key);
    let (path, query) = url.split_once('?').expect("a query");
    let (query, _) = query.rsplit_once("&expires=").expect("a time");
    let query = format!("{query}&expires={expires_s}");
    let signature = blake3::keyed_hash(&key, format!("PUT\n{path}\n{query}\n").as_bytes());
    format!("{path}?{query}&signature={signature}")
}

#[test]
fn an_owner_has_a_thousand_unfinished_sessions_at_most() {
    let site = Site {
        folder: TempDir::new_in("/dev/shm").expect("a folder"),
        state: TempDir::new_in("/dev/shm").expect("a folder"),
    };
    let server = site.serve(&[]);
    std::thread::scope(|scope| {
        for first in 0..4 {
            let api = &server.api;
            scope.spawn(move || {
                for number in (first..1000).step_by(4) {
                    api.open(&id_of(number), &format!("{number}"), 5).must(201);
                }
            });
        }
    });
    let refused = server.api.open(&id_of(1000), "x", 5);
    let refused = refused.problem(429, "too_many_sessions");
    assert_eq!(
        (&refused["used"], &refused["limit"]),
        (&json!(1000), &json!(1000))
    );
    server.api.json("DELETE", &id_of(7), &json!({})).must(204);
    server.api.open(&id_of(1000), "x", 5).must(201);
}

#[test]
fn web_pages_may_upload_if_the_operator_says_so() {
    let site = Site::new();
    let server = site.serve(&["--cors", "https://app.example"]);
    let api = &server.api;
    let path = format!("/.sapwood/uploads/{ID}");
    let page = [("Origin", "https://app.example")];
    let asked = api.send("OPTIONS", &path, &page, b"").must(204);
    assert_eq!(
        asked.headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert!(asked.headers["access-control-allow-methods"].contains("PUT"));
    assert!(asked.headers["access-control-allow-headers"].contains("Authorization"));
    let found = api.send("GET", &path, &page, b"");
    assert_eq!(
        found.headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(found.headers["vary"], "Origin");
    found.problem(404, "no_session");
    let other = api.send("OPTIONS", &path, &[("Origin", "https://evil.example")], b"");
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    // A name of a web page that leads to this machine.
    let rebound = [("Host", "evil.example")];
    api.send("GET", "/.sapwood/uploads", &rebound, b"")
        .problem(403, "bad_host");
    api.send("GET", "/.sapwood/uploads", &[("Host", "localhost:1")], b"")
        .must(200);
}

#[test]
fn what_others_could_reach_needs_tokens_and_tls() {
    let site = Site::new();
    let tokens = site.state.path().join("tokens");
    fs::write(&tokens, "secret\n").expect("a file");
    let tokens = tokens.to_str().expect("a path");
    let refused = |more: &[&str], exit: i32, says: &str| {
        let mut command = sapwood(site.state.path());
        command.arg("serve").arg(site.folder.path()).args(more);
        let ended = program::run(command).must(exit);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    };
    let everywhere = ["--ingest", "--listen", "0.0.0.0:0"];
    refused(&everywhere, 6, "--token-file");
    refused(
        &[&everywhere[..], &["--token-file", tokens]].concat(),
        6,
        "--tls-cert",
    );
    let here = ["--ingest", "--listen", "127.0.0.1:0"];
    let with = |more: &[&'static str]| [&here[..], more].concat();
    let said = match cfg!(feature = "postgres") {
        true => "--sessions",
        false => "without the feature postgres",
    };
    refused(&with(&["--sessions", "postgres:///db"]), 2, said);
    refused(&with(&["--token-file", "/dev/null"]), 2, "no token");
    refused(&["--token-file", tokens], 2, "--ingest");
    fs::write(site.path("tokens"), "secret\n").expect("a file");
    let inside = site.path("tokens");
    let inside = ["--token-file", inside.to_str().expect("a path")];
    refused(&[&here[..], &inside].concat(), 6, "everyone could read");
    let database = site.path("sessions.db");
    let database = ["--sessions", database.to_str().expect("a path")];
    refused(&[&here[..], &database].concat(), 6, "everyone could read");
    let _first = site.serve(&[]);
    refused(&here, 5, "in use");
}

#[test]
fn a_command_runs_for_each_published_object_and_storage_may_be_elsewhere() {
    let site = Site::new();
    let elsewhere = TempDir::new().expect("a folder");
    let out = site.state.path().join("out");
    let command = format!(
        "echo $SAPWOOD_UPLOAD_NAME $SAPWOOD_UPLOAD_ROOT $SAPWOOD_UPLOAD_PATH > '{0}.new'; cat >> '{0}.new'; mv '{0}.new' '{0}'",
        out.display()
    );
    let storage = elsewhere.path().to_str().expect("a path");
    let server = site.serve(&["--on-final", &command, "--storage", storage]);
    let object = paint::bytes(0, 3 * MIB + 5);
    server.api.upload(ID, "shows/x.bin", &object);
    assert!(server.api.get("/shows/x.bin").must(200).body == object);
    let manifest = server.api.get("/shows/x.bin.sapwood").must(200).body;
    let path = elsewhere.path().join("shows/x.bin");
    assert!(manifest == fs::read(path.with_extension("bin.sapwood")).expect("a manifest"));
    assert_eq!(
        fs::read_dir(site.folder.path()).expect("a folder").count(),
        0
    );
    let began = Instant::now();
    while !out.exists() {
        assert!(began.elapsed() < LONG_ENOUGH);
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = fs::read_to_string(out).expect("a file");
    let (first, status) = told.split_once('\n').expect("two lines");
    assert_eq!(
        first,
        format!("shows/x.bin {} {}", root(&object), path.display())
    );
    let status: Value = serde_json::from_str(status).expect("JSON");
    assert_eq!(
        (&status["id"], &status["state"]),
        (&json!(ID), &json!("done"))
    );
}

#[test]
fn what_is_staged_is_in_no_library() {
    let site = Site::new();
    let server = site.serve(&[]);
    let object = paint::bytes(0, PART + 9);
    server.api.open(ID, "x", object.len()).must(201);
    server.api.send_part(ID, &object, 0);
    fs::write(site.path("small"), b"small").expect("a file");
    let mut manifest = sapwood(site.state.path());
    manifest.arg("manifest").arg(site.folder.path());
    program::run(manifest).must(0);
    let index = fs::read(site.path("library.sapwood")).expect("an index");
    let has = |text: &[u8]| index.windows(text.len()).any(|bytes| bytes == text);
    assert!(has(b"small") && !has(b"staging"));
}

/// After each acknowledged step the server is killed: what was acknowledged is there when it starts again.
#[test]
fn a_server_that_is_killed_after_any_step_goes_on() {
    let site = Site::new();
    let object = paint::bytes(3, 2 * PART + 9);
    let mut server = site.serve(&[]);
    server.api.open(ID, "x", object.len()).must(201);
    server = again_after_kill(&site, server);
    for index in 0..3 {
        let target = server.api.target(ID, &object, index);
        server = again_after_kill(&site, server);
        // A request is cut in the middle.
        let url = target["url"].as_str().expect("a URL").to_owned();
        let part = part_of(&object, index);
        let mut cut = TcpStream::connect(&server.api.address).expect("a connection");
        let head = format!(
            "PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            part.len()
        );
        cut.write_all(head.as_bytes()).expect("sent");
        cut.write_all(&part[..part.len() / 2]).expect("sent");
        drop(cut);
        server = again_after_kill(&site, server);
        let began = Instant::now();
        // The URL was signed by an earlier server.
        loop {
            let sent = server.api.send("PUT", &url, &[], part);
            if sent.status != 409 {
                sent.must(204);
                break;
            }
            assert!(began.elapsed() < LONG_ENOUGH);
            std::thread::sleep(Duration::from_millis(50));
        }
        server = again_after_kill(&site, server);
        server.api.checkpoint(ID, &object, index).must(200);
        server = again_after_kill(&site, server);
        let status = server.api.status(ID);
        assert_eq!(status["parts"].as_array().map(Vec::len), Some(index + 1));
        assert!(!site.path("x").exists());
    }
    server.api.publish(ID, &object);
    server = again_after_kill(&site, server);
    assert_eq!(server.api.publish(ID, &object)["state"], "done");
    assert!(server.api.get("/x").must(200).body == object);
    check_manifest(&site, "x", &object);
    site.check_nothing_is_staged();
}

/// Kills the server and starts another one.
fn again_after_kill(site: &Site, server: Server) -> Server {
    server.running.kill();
    site.serve(&[])
}

/// The server is killed while it publishes: the object is there whole, or not at all, and then comes by itself.
#[test]
fn a_server_that_is_killed_while_it_publishes_publishes_all_or_nothing() {
    let site = Site::new();
    let object = paint::bytes(3, PART + 9);
    let mut server = site.serve(&[]);
    for round in 0..12u64 {
        let (id, name) = (id_of(round as usize), format!("{round}.bin"));
        server.api.open(&id, &name, object.len()).must(201);
        for index in 0..2 {
            server.api.send_part(&id, &object, index);
        }
        let document = json!({ "length": object.len(), "root": root(&object) }).to_string();
        let mut connection = TcpStream::connect(&server.api.address).expect("a connection");
        let head = format!(
            "POST /.sapwood/uploads/{id}/finalize HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{document}",
            server.api.address,
            document.len()
        );
        connection.write_all(head.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(2 * round));
        server = again_after_kill(&site, server);
        if site.path(&name).exists() {
            assert!(
                fs::read(site.path(&name)).expect("a file") == object,
                "{round}"
            );
        }
        let began = Instant::now();
        loop {
            let status = server.api.status(&id);
            match status["state"].as_str() {
                Some("done") => break,
                // The request did not come so far.
                Some("open") => drop(server.api.publish(&id, &object)),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
            assert!(began.elapsed() < LONG_ENOUGH, "{status}");
        }
        assert!(server.api.get(&format!("/{name}")).must(200).body == object);
        check_manifest(&site, &name, &object);
    }
    let began = Instant::now();
    while fs::read_dir(site.path("sapwood-staging"))
        .expect("a folder")
        .any(|entry| entry.expect("an entry").path().is_dir())
    {
        assert!(began.elapsed() < LONG_ENOUGH, "something is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A server in this process, whose patience with slow clients is short.
#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_end_and_their_whole_blocks_stay() {
    let folder = TempDir::new().expect("a folder");
    let pace = Pace {
        silence: Duration::from_millis(700),
        least_bytes: 1 << 20,
        least_time: Duration::from_millis(1500),
    };
    let uploads = Uploads::open(UploadsOptions {
        storage: Stored::Folder(FolderStorage::open(folder.path()).expect("a storage")),
        sessions: sapwood::serve::ingest::Kept::Staged,
        tokens: None,
        origins: Vec::new(),
        limits: IngestLimits {
            owner: OwnerLimits {
                sessions: 10,
                bytes: u64::MAX,
            },
            ttl_s: 1000,
        },
        pace,
        warn: Arc::new(|message: String| eprintln!("{message}")),
        kept_notices: KeptNotices::None,
        is_tls: false,
    });
    let mut origin = Origin::open(folder.path()).expect("an origin");
    let uploads = uploads.await.expect("a store");
    origin.take_uploads(uploads).expect("one folder");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let serving = tokio::spawn(origin::run(
        listener,
        origin,
        Options::default(),
        std::future::pending(),
    ));
    let client = move || {
        let api = Api {
            address: address.to_string(),
            token: None,
        };
        let object = paint::bytes(0, PART + 9);
        api.open(ID, "x", object.len()).must(201);
        for (step, pause) in [
            (3 * BLOCK + 5, None),
            (BLOCK / 4, Some(Duration::from_millis(200))),
        ] {
            let target = api.target(ID, &object, 0);
            let from = target["from"].as_u64().expect("a number") as usize;
            let url = target["url"].as_str().expect("a URL");
            let rest = &part_of(&object, 0)[from..];
            let mut connection = TcpStream::connect(address).expect("a connection");
            connection.set_read_timeout(Some(LONG_ENOUGH)).expect("set");
            let head = format!(
                "PUT {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                rest.len()
            );
            connection.write_all(head.as_bytes()).expect("sent");
            let began = Instant::now();
            match pause {
                None => connection.write_all(&rest[..step]).expect("sent"),
                // It never falls silent: the response comes while it sends.
                Some(pause) => {
                    connection.set_read_timeout(Some(pause)).expect("set");
                    let mut chunks = rest.chunks(step);
                    let is_told = chunks.any(|some| {
                        assert!(began.elapsed() < LONG_ENOUGH);
                        connection.write_all(some).is_err() || connection.peek(&mut [0]).is_ok()
                    });
                    assert!(is_told);
                    connection.set_read_timeout(Some(LONG_ENOUGH)).expect("set");
                }
            }
            if let Some(response) = read_response(&mut connection) {
                response.problem(408, "bad_request");
            }
        }
        let from = api.target(ID, &object, 0)["from"]
            .as_u64()
            .expect("a number");
        assert!(from >= 3 * BLOCK as u64 && from < PART as u64, "{from}");
        for index in 0..2 {
            api.send_part(ID, &object, index);
        }
        api.publish(ID, &object);
        assert!(api.get("/x").must(200).body == object);
    };
    tokio::task::spawn_blocking(client).await.expect("no panic");
    serving.abort();
}
