//! What a fresh fetch requests first: the manifest and the first bytes at once, and nothing twice.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::support::{
    origin::{Asks, FIRST_BYTES, Lie, Of},
    program,
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const LENGTH: u64 = 3 * MIB + 5;
const BLOCK: u64 = 64 * KIB;

/// The first byte was requested when the manifest had come, and all others when that byte had.
#[test]
fn a_fresh_fetch_took_one_round_trip_more_than_needed() {
    for (length, block) in [
        (777, BLOCK),
        (FIRST_BYTES, BLOCK),
        // Several blocks in what comes first, of which the last one is otherwise requested before the others.
        (FIRST_BYTES, 16 * KIB),
        (FIRST_BYTES - 1, 16 * KIB),
        // Blocks that do not end where it ends.
        (FIRST_BYTES + 1, BLOCK),
        (LENGTH, 16 * KIB),
        (LENGTH, MIB),
    ] {
        for connections in ["1", "16"] {
            let scene = Scene::new(length, block);
            let options = ["--no-store", "--connections", connections];
            let ended = scene.fetch(&options).must(0);
            scene.must_be_published();
            let (log, of_object) = (scene.origin.log(), scene.origin.log_of(OBJECT));
            let what = format!("{length}, {block}, {connections}: {log:?}");
            assert_eq!(of_object[0].range, Some(0..FIRST_BYTES), "{what}");
            assert_eq!(of_object.len() == 1, length <= FIRST_BYTES, "{what}");
            let before = log[..2].iter().filter(|asked| asked.path == OBJECT);
            assert_eq!(before.count(), 1, "{what}");
            // Nothing came twice. Of several connections one may take over the end of another one's span.
            if connections == "1" || length <= FIRST_BYTES {
                assert_eq!(scene.origin.sent(OBJECT), length, "{what}");
                let manifest = ended.event("published")["bytes_manifest"].as_u64().unwrap();
                let fetched = ended.event("done")["bytes_fetched"].as_u64();
                assert_eq!(fetched, Some(length + manifest), "{what}");
            }
        }
    }
}

#[test]
fn the_first_bytes_waited_for_the_manifest() {
    let scene = Scene::new(777, BLOCK);
    let late = Lie::Late(Duration::from_millis(500));
    for path in [OBJECT, MANIFEST] {
        scene
            .origin
            .lie(path, Asks::Anything, Of::First(1), late.clone());
    }
    scene.fetch(&["--no-store"]).must(0);
    assert_eq!(scene.origin.most_at_a_time(), 2);
}

#[test]
fn no_first_bytes_are_requested_where_the_manifest_may_refuse_the_object() {
    let root = Scene::new(LENGTH, BLOCK).root();
    for options in [
        ["--require", "manifest"],
        ["--max-size", "1G"],
        ["--seed", "seed"],
        ["--root", &root],
    ] {
        let scene = Scene::new(LENGTH, BLOCK);
        fs::write(scene.path("seed"), "of other content").unwrap();
        scene.fetch(&options).must(0);
        must_not_have_first_bytes(&scene);
    }
}

#[test]
fn first_bytes_that_the_store_has_are_not_requested() {
    let scene = Scene::new(LENGTH, BLOCK);
    scene.fetch(&["--store", "store"]).must(0);
    scene.origin.forget_log();
    let mut again = program::sapwood(scene.folder.path());
    again.args(["fetch", &scene.url(), "-o", "again", "--store", "store"]);
    program::run(again).must(0);
    must_not_have_first_bytes(&scene);
    assert_eq!(scene.origin.sent(OBJECT), 0);
}

#[track_caller]
fn must_not_have_first_bytes(scene: &Scene) {
    for asked in scene.origin.log_of(OBJECT) {
        assert_ne!(asked.range, Some(0..FIRST_BYTES));
    }
}

/// It serves one connection at a time, and no ranges: nobody reads the object before its manifest comes.
#[test]
fn a_server_of_one_connection_sent_no_manifest_before_the_object() {
    let scene = Scene::new(20 * MIB, MIB);
    scene
        .origin
        .lie("*", Asks::Anything, Of::All, Lie::NoRanges);
    let server = one_at_a_time(scene.origin.address());
    let mut fetch = program::sapwood(scene.folder.path());
    let url = format!("http://{server}{OBJECT}");
    fetch.args(["--json", "fetch", &url, "-o", "out"]);
    let ended = program::run(fetch).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    scene.must_be_published();
}

/// A server before another one. It serves one connection at a time, and closes each after one response.
fn one_at_a_time(behind: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client may go away.
            let _ = pass_on(client.unwrap(), TcpStream::connect(behind).unwrap());
        }
    });
    address
}

/// Passes a request on, and its response back.
fn pass_on(mut client: TcpStream, mut server: TcpStream) -> std::io::Result<()> {
    server.write_all(&read_head(&mut client)?)?;
    let mut head = read_head(&mut server)?;
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    head.truncate(head.len() - 2);
    head.extend(b"Connection: close\r\n\r\n");
    client.write_all(&head)?;
    let body = &mut server.take(length.unwrap_or(0));
    std::io::copy(body, &mut client).map(drop)
}

fn read_head(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(head)
}
