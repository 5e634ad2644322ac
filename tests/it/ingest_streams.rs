//! Resumable uploads of other clients (upload-clients.md, section 3): tus and the IETF draft, by hand.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sapwood::format::paint;
use serde_json::json;

use crate::{
    push_s3::Served,
    support::{
        program::LONG_ENOUGH,
        site::{Api, MIB, Response, Site, check_manifest, root},
    },
};

const TUS: (&str, &str) = ("Tus-Resumable", "1.0.0");
const TUS_BYTES: (&str, &str) = ("Content-Type", "application/offset+octet-stream");
const DRAFT_BYTES: (&str, &str) = ("Content-Type", "application/partial-upload");
const MORE: (&str, &str) = ("Upload-Complete", "?0");
const LAST: (&str, &str) = ("Upload-Complete", "?1");
/// What a part has if nobody chooses.
const PART: usize = 8 * MIB;

fn draft(version: &str) -> (&str, &str) {
    ("Upload-Draft-Interop-Version", version)
}

/// The fields of a request.
type Fields<'a> = &'a [(&'a str, &'a str)];

#[track_caller]
fn create(api: &Api, path: &str, fields: Fields) -> String {
    let made = api.send("POST", &format!("/.sapwood/resumable{path}"), fields, b"");
    made.must(201).headers["location"].clone()
}

#[track_caller]
fn offset(response: &Response) -> usize {
    response.headers["upload-offset"].parse().expect("a number")
}

/// A request for bytes at this offset.
fn patch(api: &Api, url: &str, fields: Fields, at: usize, bytes: &[u8]) -> Response {
    let at = at.to_string();
    let fields = [fields, &[("Upload-Offset", at.as_str())]].concat();
    api.send("PATCH", url, &fields, bytes)
}

/// Sends the head of such a request, and as much of its body as is given.
fn begin_patch(
    api: &Api,
    url: &str,
    fields: Fields,
    at: usize,
    (length, bytes): (usize, &[u8]),
) -> TcpStream {
    let mut connection = TcpStream::connect(&api.address).expect("a connection");
    connection
        .set_read_timeout(Some(LONG_ENOUGH))
        .expect("a limit");
    let mut head = format!(
        "PATCH {url} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\nUpload-Offset: {at}\r\n",
        api.address
    );
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    connection
        .write_all((head + "\r\n").as_bytes())
        .expect("sent");
    connection.write_all(bytes).expect("sent");
    connection
}

fn status_of(mut connection: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let pair = |(key, value): &(&str, &str)| format!("{key} {}", STANDARD.encode(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// Waits until an upload has so many bytes or more.
#[track_caller]
fn wait_for(site: &Site, url: &str, bytes: usize) {
    let id = url.split('/').nth(3).expect("an ID");
    let staged = site.path(&format!("sapwood-staging/{id}/object"));
    let began = Instant::now();
    while fs::metadata(&staged).map_or(0, |found| found.len()) < bytes as u64 {
        assert!(began.elapsed() < LONG_ENOUGH);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_tus_upload_in_pieces_of_any_length() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let object = paint::bytes(5, PART + 3 * MIB + 5);
    let length = object.len().to_string();
    let named = metadata(&[("filename", "a/talk é.mp4"), ("empty", "")]);
    let fields = [TUS, ("Upload-Length", &length), ("Upload-Metadata", &named)];
    let url = create(api, "/", &fields);
    let look = || api.send("HEAD", &url, &[TUS], b"");
    let found = look().must(200);
    assert_eq!(
        (offset(&found), &found.headers["upload-length"]),
        (0, &length)
    );
    let kept = metadata(&[("filename", "a/talk é.mp4")]);
    assert_eq!(found.headers["upload-metadata"], kept);
    assert_eq!(found.headers["cache-control"], "no-store");
    assert_eq!(found.headers["tus-resumable"], "1.0.0");
    assert!(found.headers.contains_key("upload-expires"));
    let fields = [TUS, TUS_BYTES];
    let mut at = 0;
    for step in [1, 1000, 0, MIB - 7, PART, 5] {
        let sent = patch(api, &url, &fields, at, &object[at..at + step]).must(204);
        at += step;
        assert_eq!(offset(&sent), at);
        assert_eq!(offset(&look()), at);
        let other = patch(api, &url, &fields, at + 1, b"x");
        assert_eq!(offset(&other), at);
        other.problem(409, "wrong_offset");
    }
    assert!(!site.path("a/talk é.mp4").exists());
    let id = url.split('/').nth(3).expect("an ID");
    assert_eq!(api.status(id)["proof"], "read_back");
    let too_long = [&object[at..], b"x"].concat();
    patch(api, &url, &fields, at, &too_long).problem(413, "body_too_large");
    let last = patch(api, &url, &fields, at, &object[at..]).must(204);
    assert_eq!(offset(&last), object.len());
    assert!(fs::read(site.path("a/talk é.mp4")).expect("a file") == object);
    check_manifest(&site, "a/talk é.mp4", &object);
    assert_eq!(api.status(id)["root"], root(&object));
    // The response was lost.
    assert_eq!(offset(&look()), object.len());
    patch(api, &url, &fields, object.len(), b"").must(204);
    patch(api, &url, &fields, object.len(), b"x").problem(403, "session_done");
    site.check_nothing_is_staged();
}

#[test]
fn a_tus_upload_with_its_bytes_at_once_of_unknown_length_or_given_up() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let object = paint::bytes(5, 100_000);
    let length = object.len().to_string();
    // Creation with the bytes.
    let fields = [TUS, TUS_BYTES, ("Upload-Length", &length)];
    let made = api.send("POST", "/.sapwood/resumable/one", &fields, &object);
    assert_eq!(offset(&made.must(201)), object.len());
    check_manifest(&site, "one", &object);
    // An object without bytes is there at once.
    create(api, "/none", &[TUS, ("Upload-Length", "0")]);
    assert_eq!(fs::read(site.path("none")).expect("a file"), b"");
    check_manifest(&site, "none", b"");
    // A length that is told with the last bytes.
    let url = create(api, "/two", &[TUS, ("Upload-Defer-Length", "1")]);
    patch(api, &url, &[TUS, TUS_BYTES], 0, &object[..7]).must(204);
    let found = api.send("HEAD", &url, &[TUS], b"").must(200);
    assert_eq!(found.headers["upload-defer-length"], "1");
    let last = [TUS, TUS_BYTES, ("Upload-Length", length.as_str())];
    // It has more bytes already.
    let shorter = [TUS, TUS_BYTES, ("Upload-Length", "6")];
    patch(api, &url, &shorter, 7, b"").problem(413, "body_too_large");
    patch(api, &url, &last, 7, &object[7..]).must(204);
    // One that is told before the last bytes, once.
    let url = create(api, "/early", &[TUS, ("Upload-Defer-Length", "1")]);
    patch(api, &url, &last, 0, &object[..7]).must(204);
    let found = api.send("HEAD", &url, &[TUS], b"").must(200);
    assert_eq!(found.headers["upload-length"], length);
    let other = [TUS, TUS_BYTES, ("Upload-Length", "100001")];
    patch(api, &url, &other, 7, b"").problem(400, "bad_request");
    patch(api, &url, &[TUS, TUS_BYTES], 7, &object[7..]).must(204);
    check_manifest(&site, "early", &object);
    check_manifest(&site, "two", &object);
    // For clients without PATCH.
    let url = create(api, "/three", &[TUS, ("Upload-Length", &length)]);
    let fields = [
        TUS,
        TUS_BYTES,
        ("Upload-Offset", "0"),
        ("X-HTTP-Method-Override", "PATCH"),
    ];
    api.send("POST", &url, &fields, &object).must(204);
    check_manifest(&site, "three", &object);
    // A body without a length that has more: nothing of it is an object.
    let url = create(api, "/more", &[TUS, ("Upload-Length", "10")]);
    patch(api, &url, &[TUS, TUS_BYTES], 0, b"abc").must(204);
    let chunked = [
        TUS,
        TUS_BYTES,
        ("Upload-Offset", "3"),
        ("Transfer-Encoding", "chunked"),
    ];
    for chunks in [
        "8\r\ndefghijk\r\n0\r\n\r\n",
        "7\r\ndefghij\r\n1\r\nk\r\n0\r\n\r\n",
    ] {
        api.send("PATCH", &url, &chunked, chunks.as_bytes())
            .problem(413, "body_too_large");
        assert_eq!(offset(&api.send("HEAD", &url, &[TUS], b"").must(200)), 3);
    }
    assert!(!site.path("more").exists());
    let all = b"7\r\ndefghij\r\n0\r\n\r\n";
    api.send("PATCH", &url, &chunked, all).must(204);
    assert_eq!(fs::read(site.path("more")).expect("a file"), b"abcdefghij");
    // Given up.
    let url = create(api, "/four", &[TUS, ("Upload-Length", &length)]);
    patch(api, &url, &[TUS, TUS_BYTES], 0, &object[..7]).must(204);
    api.send("DELETE", &url, &[TUS], b"").must(204);
    api.send("HEAD", &url, &[TUS], b"").must(410);
    patch(api, &url, &[TUS, TUS_BYTES], 7, b"x").problem(410, "session_ended");
    site.check_nothing_is_staged();
    // Refusals. 409 would be repeated.
    let refused = |fields: Fields, path: &str| api.send("POST", path, fields, b"");
    let known = ("Upload-Length", "5");
    refused(&[TUS, known], "/.sapwood/resumable/one").problem(403, "name_exists");
    refused(&[TUS, known], "/.sapwood/resumable/../x").problem(422, "bad_name");
    refused(&[TUS, known], "/.sapwood/resumable").problem(400, "bad_request");
    refused(&[TUS], "/.sapwood/resumable/x").problem(400, "bad_request");
    refused(&[TUS, ("Upload-Length", "-1")], "/.sapwood/resumable/x").problem(400, "bad_request");
    refused(
        &[TUS, ("Upload-Defer-Length", "0")],
        "/.sapwood/resumable/x",
    )
    .problem(400, "bad_request");
    refused(&[known], "/.sapwood/resumable/x").problem(400, "bad_request");
    let old = refused(
        &[("Tus-Resumable", "0.2.2"), known],
        "/.sapwood/resumable/x",
    );
    assert_eq!(old.headers["tus-version"], "1.0.0");
    old.problem(412, "bad_request");
    refused(&[draft("3"), MORE], "/.sapwood/resumable/x").problem(400, "bad_request");
    let url = create(api, "/x", &[TUS, known]);
    let media_type = [TUS, ("Content-Type", "text/plain")];
    patch(api, &url, &media_type, 0, b"x").problem(415, "bad_request");
    api.send("PUT", &url, &[TUS], b"").must(405);
    let asked = api
        .send("OPTIONS", "/.sapwood/resumable", &[], b"")
        .must(204);
    assert_eq!(asked.headers["tus-version"], "1.0.0");
    assert!(asked.headers["tus-extension"].contains("termination"));
    let replace = metadata(&[("replace", "true")]);
    let url = create(api, "/one", &[TUS, known, ("Upload-Metadata", &replace)]);
    patch(api, &url, &[TUS, TUS_BYTES], 0, b"newer").must(204);
    assert_eq!(fs::read(site.path("one")).expect("a file"), b"newer");
}

#[test]
fn uploads_of_the_ietf_draft() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let object = paint::bytes(5, PART + 99);
    for version in ["5", "6"] {
        let name = format!("a/draft {version}");
        let path = format!("/a/draft%20{version}");
        // The length is not known before the end.
        let url = create(api, &path, &[draft(version), MORE]);
        let fields = [draft(version), DRAFT_BYTES, MORE];
        let sent = patch(api, &url, &fields, 0, &object[..5]).must(204);
        assert_eq!(
            (offset(&sent), sent.headers["upload-complete"].as_str()),
            (5, "?0")
        );
        assert_eq!(sent.headers["upload-draft-interop-version"], version);
        assert_eq!(sent.headers.contains_key("upload-limit"), version == "6");
        let told = patch(api, &url, &fields, 4, b"x").problem(409, "wrong_offset");
        assert_eq!(
            (&told["expected-offset"], &told["provided-offset"]),
            (&json!(5), &json!(4))
        );
        let found = api.send("HEAD", &url, &[draft(version)], b"").must(200);
        assert_eq!(
            (offset(&found), found.headers["upload-complete"].as_str()),
            (5, "?0")
        );
        assert!(!found.headers.contains_key("upload-length"));
        patch(api, &url, &[draft(version), DRAFT_BYTES], 5, b"x").problem(400, "bad_request");
        let fields = [draft(version), DRAFT_BYTES, LAST];
        let last = patch(api, &url, &fields, 5, &object[5..]).must(204);
        assert_eq!(last.headers["upload-complete"], "?1");
        assert!(fs::read(site.path(&name)).expect("a file") == object);
        check_manifest(&site, &name, &object);
        let found = api.send("HEAD", &url, &[draft(version)], b"").must(200);
        assert_eq!(
            (offset(&found), found.headers["upload-complete"].as_str()),
            (object.len(), "?1")
        );
        patch(api, &url, &fields, object.len(), b"").must(204);
        // All in one request, and an object that ends with a request without bytes.
        let path = format!("/.sapwood/resumable/once{version}");
        let made = api.send("POST", &path, &[draft(version), LAST], &object);
        assert_eq!(made.must(201).headers["upload-complete"], "?1");
        check_manifest(&site, &format!("once{version}"), &object);
        for (length, name) in [(0, "none"), (PART, "whole"), (7, "short")] {
            let name = format!("{name}{version}");
            let url = create(api, &format!("/{name}"), &[draft(version), MORE]);
            let more = [draft(version), DRAFT_BYTES, MORE];
            patch(api, &url, &more, 0, &object[..length]).must(204);
            patch(api, &url, &fields, length, b"").must(204);
            check_manifest(&site, &name, &object[..length]);
        }
    }
    let url = create(api, "/typed", &[draft("6"), MORE]);
    patch(api, &url, &[draft("6"), MORE], 0, b"x").problem(415, "bad_request");
    api.send("DELETE", &url, &[draft("6")], b"").must(204);
    site.check_nothing_is_staged();
}

/// The latest request wins; what an earlier one brought stays.
#[test]
fn a_request_ends_the_one_before_it_and_what_came_stays() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let object = paint::bytes(5, 2 * PART + 5);
    let length = object.len().to_string();
    let url = create(api, "/x", &[TUS, ("Upload-Length", &length)]);
    let fields = [TUS, TUS_BYTES];
    let look = || offset(&api.send("HEAD", &url, &[TUS], b"").must(200));
    // The connection breaks.
    let cut = begin_patch(api, &url, &fields, 0, (object.len(), &object[..3 * MIB]));
    wait_for(&site, &url, 2 * MIB);
    drop(cut);
    let mut at = look();
    assert!((2 * MIB..=3 * MIB).contains(&at), "{at}");
    // The server does not see that it broke: HEAD ends it, and it writes no more.
    let rest = &object[at..at + 3 * MIB];
    let mut hangs = begin_patch(api, &url, &fields, at, (object.len() - at, rest));
    wait_for(&site, &url, at + 2 * MIB);
    let before = at;
    at = look();
    assert!(at >= before + 2 * MIB, "{at}");
    let _ = hangs.write_all(&object[before + 3 * MIB..before + 4 * MIB]);
    assert_eq!(status_of(hangs), "409");
    assert_eq!(look(), at);
    // So does another PATCH, which finds what came.
    let some = &object[at..at + MIB];
    let hangs = begin_patch(api, &url, &fields, at, (object.len() - at, some));
    wait_for(&site, &url, at + MIB / 2);
    let late = patch(api, &url, &fields, at, &object[at..]);
    assert!((at + MIB / 2..=at + MIB).contains(&offset(&late)));
    at = offset(&late);
    late.problem(409, "wrong_offset");
    assert_eq!(status_of(hangs), "409");
    patch(api, &url, &fields, at, &object[at..]).must(204);
    check_manifest(&site, "x", &object);
    assert!(fs::read(site.path("x")).expect("a file") == object);
}

#[test]
fn a_stream_goes_on_after_a_kill_with_what_was_acknowledged() {
    let site = Site::new();
    let object = paint::bytes(5, 2 * PART + 5);
    let mut server = site.serve(&[]);
    let url = create(&server.api, "/x", &[draft("6"), MORE]);
    let (more, last) = (
        [draft("6"), DRAFT_BYTES, MORE],
        [draft("6"), DRAFT_BYTES, LAST],
    );
    let mut acknowledged = 0;
    // In the middle of a block, at the end of a part, in the middle of the next one.
    for end in [MIB + 7, PART, PART + 3 * MIB, 2 * PART] {
        let api = server.api.clone();
        let bytes = &object[acknowledged..end];
        let sent = patch(&api, &url, &more, acknowledged, bytes).must(204);
        acknowledged = offset(&sent);
        assert_eq!(acknowledged, end);
        let next = &object[end..object.len().min(end + MIB)];
        let cut = begin_patch(&api, &url, &more, end, (2 * MIB, next));
        server.running.kill();
        drop(cut);
        server = site.serve(&[]);
        let found = server.api.send("HEAD", &url, &[draft("6")], b"").must(200);
        // More may be there, and it is what was sent.
        acknowledged = offset(&found);
        assert!((end..=end + MIB).contains(&acknowledged), "{acknowledged}");
    }
    // What was noted as durable and is not what it was is sent again.
    server.running.kill();
    let id = url.split('/').nth(3).expect("an ID").to_owned();
    let api = {
        server = site.serve(&[]);
        server.api.clone()
    };
    patch(
        &api,
        &url,
        &more,
        acknowledged,
        &object[acknowledged..acknowledged + 3],
    )
    .must(204);
    server.running.kill();
    let staged = site.path(&format!("sapwood-staging/{id}/object"));
    let mut bytes = fs::read(&staged).expect("a file");
    bytes[2 * PART + 1] ^= 1;
    fs::write(&staged, bytes).expect("written");
    server = site.serve(&[]);
    let api = &server.api;
    let refused = patch(
        api,
        &url,
        &last,
        acknowledged + 3,
        &object[acknowledged + 3..],
    );
    assert_eq!(offset(&refused), 2 * PART);
    refused.problem(409, "wrong_offset");
    patch(api, &url, &last, 2 * PART, &object[2 * PART..]).must(204);
    assert!(fs::read(site.path("x")).expect("a file") == object);
    check_manifest(&site, "x", &object);
    site.check_nothing_is_staged();
}

/// The client is not told that all is well before it is.
#[test]
fn a_name_that_was_taken_meanwhile_is_told_at_the_end() {
    let site = Site::new();
    let server = site.serve(&[]);
    let api = &server.api;
    let url = create(api, "/x", &[TUS, ("Upload-Length", "5")]);
    patch(api, &url, &[TUS, TUS_BYTES], 0, b"123").must(204);
    fs::write(site.path("x"), b"other").expect("a file");
    patch(api, &url, &[TUS, TUS_BYTES], 3, b"45").problem(403, "name_exists");
    api.send("HEAD", &url, &[TUS], b"").must(403);
    assert_eq!(fs::read(site.path("x")).expect("a file"), b"other");
    fs::remove_file(site.path("x")).expect("removed");
    // All bytes are here: the next look publishes them.
    assert_eq!(offset(&api.send("HEAD", &url, &[TUS], b"").must(200)), 5);
    assert_eq!(fs::read(site.path("x")).expect("a file"), b"12345");
}

#[test]
fn streams_for_s3_go_through_the_server_in_whole_parts() {
    let mut served = Served::new();
    let api_of = |served: &Served| Api {
        address: served
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned(),
        token: None,
    };
    let object = paint::bytes(5, 2 * PART + 9);
    let length = object.len().to_string();
    let fields = [TUS, TUS_BYTES];
    let mut api = api_of(&served);
    let url = create(&api, "/shows/f.bin", &[TUS, ("Upload-Length", &length)]);
    // Short pieces of a part stay here until it is whole.
    let mut at = 0;
    for step in [MIB, MIB, PART] {
        patch(&api, &url, &fields, at, &object[at..at + step]).must(204);
        at += step;
        assert_eq!(offset(&api.send("HEAD", &url, &[TUS], b"")), at);
    }
    // A stop loses what is no whole part.
    served = served.again_after_kill();
    api = api_of(&served);
    let found = api.send("HEAD", &url, &[TUS], b"").must(200);
    assert_eq!(offset(&found), PART);
    patch(&api, &url, &fields, PART, &object[PART..]).must(204);
    let stored = served
        .bucket()
        .object("P/shows/f.bin")
        .expect("it is there");
    assert!(*stored.bytes == object);
    create(&api, "/shows/none", &[TUS, ("Upload-Length", "0")]);
    assert!(
        served
            .bucket()
            .object("P/shows/none")
            .expect("it is there")
            .bytes
            .is_empty()
    );
    assert_eq!(served.bucket().pending(), Vec::<String>::new());
}
