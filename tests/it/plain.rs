//! Objects without a manifest: to which resource and version a part belongs, and what no response of a server may undo.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use sapwood::format::digests::{Algorithm, DigestHasher};
use serde_json::Value;

use crate::support::{
    objects::Content,
    origin::{Asks, FIRST_BYTES, Lie, Object, Of, Origin},
    program::{self, Ended, bytes_of, sapwood, verified},
    scene::{MANIFEST, OBJECT, Scene, names},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Long enough for several connections.
const LENGTH: u64 = 12 * MIB;
/// That of objects without a manifest which are so short.
const BLOCK: u64 = 64 * KIB;

const TAG: &str = "\"one\"";
const DATE: &str = "Mon, 02 Nov 2020 10:00:00 GMT";
const NEXT_DAY: &str = "Tue, 03 Nov 2020 10:00:00 GMT";
/// When every response is sent.
const NOW: &str = "Mon, 02 Nov 2026 10:00:00 GMT";

fn object(content: &Content, validators: &[(&str, &str)]) -> Object {
    let mut headers = vec![("Date".to_owned(), NOW.to_owned())];
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    headers.extend(validators.iter().map(own));
    Object {
        content: content.clone(),
        headers,
    }
}

/// Both validators of every object that should be taken for another one.
fn alike(content: &Content) -> Object {
    object(content, &[("ETag", TAG), ("Last-Modified", DATE)])
}

fn other() -> Content {
    Content::Bytes(vec![7; LENGTH as usize])
}

fn scene() -> Scene {
    let scene = Scene::new(LENGTH, BLOCK);
    scene.origin.remove(MANIFEST);
    scene.origin.put(OBJECT, alike(&scene.content));
    scene
}

fn command(scene: &Scene, url: &str, more: &[&str]) -> Command {
    let mut command = sapwood(scene.folder.path());
    command
        .args(["--json", "fetch", url, "-o", "out"])
        .args(more);
    command
}

fn fetch(scene: &Scene, url: &str, more: &[&str]) -> Ended {
    program::run(command(scene, url, more))
}

/// What people see of it.
fn told(scene: &Scene, url: &str, more: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", url, "-o", "out"]).args(more);
    program::run(command)
}

/// A fetch that is stopped after a third; returns the bytes that it had proven.
fn stopped(scene: &Scene, url: &str) -> u64 {
    let mut running = scene.run_until(command(scene, url, &[]), LENGTH / 3);
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    scene.origin.wait_until_idle();
    scene.origin.allow_all();
    scene.origin.forget_log();
    let held = bytes_of(&verified(&ended.events()), BLOCK, LENGTH);
    assert!(held > 0 && scene.part().exists());
    held
}

fn resumed(ended: &Ended) -> u64 {
    ended.event("published")["bytes_resumed"].as_u64().unwrap()
}

/// Nothing of the part was used, and what that costs was said.
#[track_caller]
fn must_have_started_over(what: &str, ended: &Ended, held: u64) {
    assert_eq!(resumed(ended), 0, "{what}");
    let told = ended.event("started_over")["bytes"].as_u64().unwrap();
    assert!(
        (held..held + MIB).contains(&told),
        "{what}: {told} of {held}"
    );
}

#[test]
fn two_objects_with_equal_tag_size_and_date_are_never_mixed() {
    let far = Origin::start();
    for what in ["another path", "another host"] {
        let scene = scene();
        scene.origin.put("/v2/object.bin", alike(&other()));
        far.put(OBJECT, alike(&other()));
        let url = match what {
            "another path" => scene.origin.url("/v2/object.bin"),
            _ => far.url(OBJECT),
        };
        let held = stopped(&scene, &scene.url());
        let ended = fetch(&scene, &url, &[]).must(0);
        scene.must_hold(&other());
        must_have_started_over(what, &ended, held);
        assert_eq!(ended.event("started_over")["other_url"], scene.url());
    }
    // For people.
    let scene = scene();
    far.put(OBJECT, alike(&other()));
    stopped(&scene, &scene.url());
    let told = told(&scene, &far.url(OBJECT), &[]).must(0).stderr;
    for part in ["starting over (", "MB are fetched again", &scene.url()] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_part_goes_on_under_another_query_as_the_same_version_alone() {
    let scene = scene();
    let held = stopped(&scene, &format!("{}?signature=1", scene.url()));
    let fresh = format!("{}?signature=2", scene.url());
    let ended = fetch(&scene, &fresh, &[]).must(0);
    assert!(resumed(&ended) >= held, "{}", ended.stdout);
    scene.must_be_published();
    // Another version under the other query.
    for validators in [
        [("ETag", "\"two\""), ("Last-Modified", DATE)].as_slice(),
        &[("ETag", TAG), ("Last-Modified", NEXT_DAY)],
        &[],
    ] {
        fs::remove_file(scene.target()).unwrap();
        scene.origin.put(OBJECT, alike(&scene.content));
        let held = stopped(&scene, &scene.url());
        scene.origin.put(OBJECT, object(&other(), validators));
        let ended = fetch(&scene, &fresh, &[]).must(0);
        scene.must_hold(&other());
        must_have_started_over("another version", &ended, held);
    }
}

#[test]
fn an_object_of_another_query_is_not_called_unchanged() {
    let scene = scene();
    let url = |id: u32| format!("{}?id={id}", scene.url());
    let more = ["--store", "store"];
    fetch(&scene, &url(1), &more).must(0);
    scene.must_hold(&scene.content);
    let again = fetch(&scene, &url(1), &more).must(0);
    assert_eq!(again.event("published")["unchanged"], true);
    scene.origin.put(OBJECT, alike(&other()));
    let ended = fetch(&scene, &url(2), &more).must(0);
    assert_eq!(ended.event("published")["unchanged"], false);
    scene.must_hold(&other());
    // No query is kept, not even hashed without a salt.
    let state = fs::read(scene.path("store/state.sqlite")).unwrap();
    let has = |what: &[u8]| state.windows(what.len()).any(|window| window == what);
    assert!(!has(b"id=1"));
    assert!(!has(blake3::hash(url(1).as_bytes()).as_bytes()));
}

/// Tornado keeps the entity tag of a file that it once read; the date of the file that replaced it is its own.
#[test]
fn a_date_that_moved_under_an_old_tag_is_another_version() {
    for date in [NEXT_DAY, NOW] {
        let now = object(&other(), &[("ETag", TAG), ("Last-Modified", date)]);
        // Between two runs.
        let scene = scene();
        let held = stopped(&scene, &scene.url());
        scene.origin.put(OBJECT, now.clone());
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        scene.must_hold(&other());
        must_have_started_over(date, &ended, held);
        // Between the responses of one run.
        let scene = self::scene();
        scene.origin.put("/now", now);
        let replaced = Lie::Instead("/now");
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::From(4), replaced);
        fetch(&scene, &scene.url(), &[]).must(0);
        scene.must_hold(&other());
    }
}

/// A weak tag beside a strong date is compared too.
#[test]
fn a_weak_tag_that_moved_under_an_old_date_is_another_version() {
    let scene = scene();
    let weak = |tag| [("ETag", tag), ("Last-Modified", DATE)];
    scene
        .origin
        .put(OBJECT, object(&scene.content, &weak("W/\"1\"")));
    let held = stopped(&scene, &scene.url());
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    assert!(resumed(&ended) >= held, "{}", ended.stdout);
    fs::remove_file(scene.target()).unwrap();
    let held = stopped(&scene, &scene.url());
    scene.origin.put(OBJECT, object(&other(), &weak("W/\"2\"")));
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_hold(&other());
    must_have_started_over("a weak tag", &ended, held);
}

/// Nodes that copied a file without its date. They cannot be told from a server that kept the tag of a file that was replaced, so
/// everything comes in one response of one of them.
#[test]
fn nodes_with_one_tag_and_several_dates_are_read_in_one_response() {
    let scene = scene();
    let date = Lie::Header("Last-Modified", NEXT_DAY.to_owned());
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::EachNth(2), date);
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_be_published();
    let fetched = ended.event("done")["bytes_fetched"].as_u64().unwrap();
    assert!(fetched < 2 * LENGTH, "{fetched}");
    // Every byte of a manifest is proven, so such nodes serve its parts.
    let scene = Scene::new(4 * MIB, 16 * KIB);
    for (of, date) in [(Of::All, DATE), (Of::EachNth(2), NEXT_DAY)] {
        let date = Lie::Header("Last-Modified", date.to_owned());
        scene.origin.lie(MANIFEST, Asks::Anything, of, date);
    }
    let now = Lie::Header("Date", NOW.to_owned());
    scene.origin.lie(MANIFEST, Asks::Anything, Of::All, now);
    fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_be_published();
}

#[test]
fn no_status_deletes_a_part_that_has_bytes() {
    for lie in [
        Lie::Status(404),
        Lie::Status(400),
        Lie::Status(403),
        Lie::Status(410),
        Lie::Status(451),
    ] {
        let scene = scene();
        let held = stopped(&scene, &scene.url());
        let before = fs::read(scene.part()).unwrap();
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::All, lie.clone());
        let ended = fetch(&scene, &scene.url(), &[]);
        if ended.exit == Some(1) {
            assert!(
                fs::read(scene.part()).is_ok_and(|part| part == before),
                "{lie:?}"
            );
            let told = told(&scene, &scene.url(), &[]).must(1).stderr;
            for part in ["out.part", "MB", "is kept", "fresh", "--discard"] {
                assert!(told.contains(part), "{lie:?}: {told}");
            }
            let kept = ended.event("part_kept")["bytes"].as_u64().unwrap();
            assert!((held..held + MIB).contains(&kept), "{kept} of {held}");
            scene.origin.be_honest();
            let ended = fetch(&scene, &scene.url(), &[]).must(0);
            assert!(resumed(&ended) >= held, "{lie:?}: {}", ended.stdout);
        }
        scene.must_be_published();
    }
    // A user may.
    let scene = scene();
    stopped(&scene, &scene.url());
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::Status(404));
    fetch(&scene, &scene.url(), &["--discard"]).must(1);
    assert_eq!(names(scene.folder.path()), Vec::<String>::new());
}

#[test]
fn a_link_that_expires_with_400_is_redirected_anew() {
    let scene = scene();
    for path in ["/signed-1", "/signed-2"] {
        scene.origin.put(path, alike(&scene.content));
    }
    for (of, target) in [(Of::First(1), "/signed-1"), (Of::From(2), "/signed-2")] {
        let redirect = Lie::Redirect(302, target.to_owned());
        scene.origin.lie(OBJECT, Asks::Anything, of, redirect);
    }
    scene
        .origin
        .lie("/signed-1", Asks::Body, Of::From(2), Lie::Status(400));
    fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_be_published();
}

#[test]
fn an_end_that_only_the_connection_tells_is_not_known() {
    let sent = 300 * KIB;
    let scene = |length: u64, lies: &[Lie]| {
        let scene = Scene::new(length, 16 * KIB);
        scene.origin.remove(MANIFEST);
        for lie in lies {
            scene
                .origin
                .lie(OBJECT, Asks::Anything, Of::All, lie.clone());
        }
        scene
    };
    let told = "end of the object is not known";
    let cut = [Lie::NoRanges, Lie::Endless, Lie::CloseAfter(sent)];
    for length in [sent, MIB] {
        let scene = scene(length, &cut);
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        let published = ended.event("published");
        assert_eq!(published["end_known"], false, "{published}");
        assert_eq!(published["trust"], "none");
        let warnings = ended.all("warning");
        assert!(warnings[0]["message"].as_str().unwrap().contains(told));
        // The line for people says nothing of a length that nobody declared.
        let ended = self::told(&scene, &scene.url(), &[]).must(0);
        assert!(!ended.stdout.contains("length"), "{}", ended.stdout);
        assert!(ended.stdout.contains("NOT verified"), "{}", ended.stdout);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        fs::remove_file(scene.target()).unwrap();
        fetch(&scene, &scene.url(), &["--require", "digest"]).must(3);
        assert!(!scene.target().exists());
    }
    // A digest tells the end.
    let whole = scene(sent, &cut);
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    hasher.update(&whole.content.all());
    let more = ["--require", "digest", "--sha256", &hasher.finish().hex()];
    let ended = fetch(&whole, &whole.url(), &more).must(0);
    assert_eq!(ended.event("published")["end_known"], true);
    assert!(ended.all("warning").is_empty(), "{}", ended.stdout);
    // So do chunks, and a length.
    for lies in [&[Lie::NoRanges, Lie::Chunked][..], &[]] {
        let scene = scene(MIB, lies);
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        assert_eq!(ended.event("published")["end_known"], true, "{lies:?}");
        assert!(ended.all("warning").is_empty(), "{}", ended.stdout);
    }
}

// ---- a manifest that cannot be read

/// What may be beside an object that is no manifest, and no word that there is none.
fn unreadable() -> [Lie; 4] {
    // Nothing listens there.
    let dead = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", free.local_addr().unwrap())
    };
    [
        Lie::Redirect(302, MANIFEST.to_owned()),
        Lie::Status(500),
        Lie::Status(429),
        Lie::Redirect(302, dead),
    ]
}

#[test]
fn a_manifest_that_cannot_be_read_did_not_let_the_object_be_fetched() {
    for lie in unreadable() {
        let scene = Scene::new(BLOCK, BLOCK);
        let url = scene.url();
        let lie_of_manifest = || {
            scene
                .origin
                .lie(MANIFEST, Asks::Anything, Of::All, lie.clone())
        };
        lie_of_manifest();
        let what = format!("{lie:?}");
        let root = scene.root();
        let manifest = scene.origin.url(MANIFEST);
        for required in [
            ["--require", "digest"],
            ["--root", &root],
            ["--manifest", &manifest],
        ] {
            let ended = fetch(
                &scene,
                &url,
                &[&required[..], &["--patience", "1s"]].concat(),
            );
            assert_eq!(ended.exit, Some(5), "{what} {required:?}: {ended:?}");
            assert!(!scene.target().exists() && !scene.part().exists(), "{what}");
        }
        let ended = fetch(&scene, &url, &["--patience", "6s"]).must(0);
        assert_eq!(ended.event("published")["trust"], "none", "{what}");
        let warned = ended.event("warning")["message"].to_string();
        assert!(warned.contains("goes on without it"), "{what}: {warned}");
        scene.must_be_published();
        fs::remove_file(scene.target()).unwrap();
        scene.origin.forget_log();
        let ended = told(&scene, &url, &["--no-manifest", "--no-store"]).must(0);
        assert!(ended.stdout.contains("NOT verified"), "{}", ended.stdout);
        assert!(scene.origin.log_of(MANIFEST).is_empty(), "{what}");
    }
}

/// It was given up after ten seconds, as where the object may be fetched without.
#[test]
fn a_manifest_that_is_required_is_awaited_as_long_as_the_object() {
    let scene = Scene::new(LENGTH, BLOCK);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::First(6), Lie::Status(500));
    fetch(&scene, &scene.url(), &["--require", "manifest"]).must(0);
    scene.must_be_published();
}

/// It would be lost, for it belongs to the root.
#[test]
fn a_part_that_a_manifest_proved_is_not_given_up_for_an_error_of_the_manifest() {
    let scene = Scene::new(LENGTH, BLOCK);
    let url = scene.url();
    let held = stopped(&scene, &url);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::All, Lie::Status(500));
    fetch(&scene, &url, &["--patience", "1s"]).must(5);
    scene.origin.be_honest();
    let ended = fetch(&scene, &url, &[]).must(0);
    assert!(resumed(&ended) >= held);
}

// ---- the first request

/// Its bytes are kept: a small object needs no other one.
#[test]
fn the_first_request_was_for_one_byte_that_came_again() {
    let small = FIRST_BYTES;
    for length in [1, 777, small - 1, small, small + 1, 3 * small + 5] {
        let scene = Scene::new(length, BLOCK);
        scene.origin.remove(MANIFEST);
        scene.origin.put(OBJECT, alike(&scene.content));
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        scene.must_be_published();
        let log = scene.origin.log_of(OBJECT);
        assert_eq!(log[0].range, Some(0..small), "{length}");
        assert_eq!(log.len() == 1, length <= small, "{length}: {log:?}");
        assert_eq!(scene.origin.sent(OBJECT), length, "{log:?}");
        let fetched = ended.event("done")["bytes_fetched"].as_u64().unwrap();
        let nothing = scene.origin.log_of(MANIFEST)[0].bytes_sent;
        assert!(
            (length..=length + 2 * nothing).contains(&fetched),
            "{length}: {fetched}"
        );
    }
}

/// What is here already is not requested again, not even its first bytes.
#[test]
fn what_is_here_needs_no_first_bytes() {
    let scene = scene();
    stopped(&scene, &scene.url());
    fetch(&scene, &scene.url(), &["--store", "store"]).must(0);
    let again = fetch(&scene, &scene.url(), &["--store", "store"]).must(0);
    assert_eq!(again.event("published")["unchanged"], true);
    for asked in scene.origin.log_of(OBJECT) {
        assert_ne!(asked.range, Some(0..FIRST_BYTES));
    }
}

/// whitenoise has 416 for one byte, althttpd 200.
#[test]
fn a_server_without_ranges_sent_its_body_twice() {
    for lies in [
        vec![Lie::NoRanges],
        vec![Lie::NoRanges, Lie::Chunked],
        vec![
            Lie::NoRanges,
            Lie::Without("ETag"),
            Lie::Without("Last-Modified"),
        ],
    ] {
        for length in [777, LENGTH] {
            let scene = Scene::new(length, BLOCK);
            scene.origin.remove(MANIFEST);
            scene.origin.put(OBJECT, alike(&scene.content));
            for lie in &lies {
                scene
                    .origin
                    .lie(OBJECT, Asks::Anything, Of::All, lie.clone());
            }
            fetch(&scene, &scene.url(), &[]).must(0);
            scene.must_be_published();
            let log = scene.origin.log_of(OBJECT);
            assert_eq!(log.len(), 1, "{lies:?}: {log:?}");
        }
    }
    // One byte is refused, and nothing else.
    let scene = Scene::new(777, BLOCK);
    scene.origin.remove(MANIFEST);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::NoOneByte);
    fetch(&scene, &scene.url(), &[]).must(0);
    assert_eq!(scene.origin.log_of(OBJECT).len(), 1);
}

/// whitenoise has 416 for one byte, and was taken for a server without ranges: the second run began at the first byte.
#[test]
fn a_server_that_refuses_one_byte_has_ranges() {
    let scene = scene();
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::NoOneByte);
    let held = stopped(&scene, &scene.url());
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    assert!(resumed(&ended) >= held);
    let sent = scene.origin.sent(OBJECT);
    // And what was on its way when the first run stopped.
    assert!(
        sent <= LENGTH - held + 1024 * KIB,
        "{sent} of {LENGTH}, {held} held"
    );
}

#[test]
fn first_bytes_that_end_early_go_on() {
    for lie in [
        Lie::EndEarly(1000),
        Lie::EndEarly(30_000),
        Lie::CloseAfter(30_000),
        Lie::CloseAfter(0),
    ] {
        let scene = Scene::new(3 * MIB, BLOCK);
        scene.origin.remove(MANIFEST);
        scene.origin.put(OBJECT, alike(&scene.content));
        scene
            .origin
            .lie(OBJECT, Asks::Preflight, Of::All, lie.clone());
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        scene.must_be_published();
        assert_eq!(scene.origin.sent(OBJECT), scene.length(), "{lie:?}");
        assert!(ended.all("retry").is_empty(), "{lie:?}");
    }
}

/// Some servers have a Content-MD5 of what they send.
#[test]
fn a_digest_of_the_first_bytes_is_none_of_the_object() {
    let scene = scene();
    let mut hasher = DigestHasher::new(Algorithm::Md5);
    hasher.update(&scene.content.read(0..FIRST_BYTES));
    let md5 = STANDARD.encode(hex::decode(hasher.finish().hex()).unwrap());
    let of_part = Lie::Header("Content-MD5", md5);
    scene.origin.lie(OBJECT, Asks::Preflight, Of::All, of_part);
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    assert_eq!(ended.event("published")["trust"], "none");
}

// ---- servers that keep to the rules in their own way

/// One with a Last-Modified only, which many small servers send.
fn dated(content: &Content) -> Object {
    object(content, &[("Last-Modified", DATE)])
}

#[test]
fn an_encoding_kept_the_bytes_from_being_taken_as_they_are() {
    for manifest in [true, false] {
        let scene = Scene::new(LENGTH, BLOCK);
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        let fields = [
            ("Content-Encoding", "x-gzip"),
            ("x-goog-hash", "md5=AAAAAAAAAAAAAAAAAAAAAA=="),
        ];
        for (name, value) in fields {
            let lie = Lie::Header(name, value.to_owned());
            scene.origin.lie(OBJECT, Asks::Anything, Of::All, lie);
        }
        let ended = fetch(&scene, &scene.url(), &[]).must(0);
        let warnings = ended.all("warning");
        let is_named = |event: &&Value| event["message"].to_string().contains("x-gzip");
        let named = warnings.iter().filter(is_named).count();
        assert_eq!(named, usize::from(!manifest));
        scene.must_be_published();
    }
}

/// Small servers call every range a page.
#[test]
fn a_type_alone_makes_no_page_of_an_object_that_was_replaced() {
    let scene = scene();
    scene.origin.put(OBJECT, dated(&scene.content));
    let page = Lie::Header("Content-Type", "text/html".to_owned());
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, page);
    let next_day = Lie::Header("Last-Modified", NEXT_DAY.to_owned());
    scene
        .origin
        .lie(OBJECT, Asks::Body, Of::All, next_day.clone());
    let again = Lie::Header("Last-Modified", NEXT_DAY.to_owned());
    scene
        .origin
        .lie(OBJECT, Asks::Preflight, Of::From(2), again);
    fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_be_published();
}

/// Sanic and Rack's file servers send no Date; the time at which a response comes is as good (RFC 9110, 6.6.1).
#[test]
fn a_last_modified_without_a_date_was_no_validator() {
    let scene = scene();
    let headers = vec![("Last-Modified".to_owned(), DATE.to_owned())];
    let content = scene.content.clone();
    scene.origin.put(OBJECT, Object { content, headers });
    let held = stopped(&scene, &scene.url());
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    assert!(resumed(&ended) >= held);
    scene.must_be_published();
}

/// Weborf ignores `range`, and reads `Range`, as curl and browsers write it in HTTP/1.1.
#[test]
fn field_names_in_lower_case_were_ignored_by_a_server() {
    let scene = scene();
    fetch(&scene, &scene.url(), &["-H", "x-from: here"]).must(0);
    for asked in scene.origin.log() {
        for (name, _) in &asked.headers {
            let of_words = |word: &str| word.starts_with(|first: char| first.is_uppercase());
            assert!(name.split('-').all(of_words), "{name}");
        }
    }
}

/// busybox's httpd calls every range text/html.
#[test]
fn a_server_that_calls_every_range_a_page_was_said_to_want_a_login() {
    let page = Lie::Header("Content-Type", "text/html".to_owned());
    for manifest in [true, false] {
        let scene = Scene::new(LENGTH, BLOCK);
        scene.origin.put(OBJECT, dated(&scene.content));
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        for asks in [Asks::Preflight, Asks::Range] {
            scene.origin.lie(OBJECT, asks, Of::All, page.clone());
        }
        fetch(&scene, &scene.url(), &[]).must(0);
        scene.must_be_published();
    }
    // What begins like a page is one.
    let scene = scene();
    let login = Content::Bytes(b"<!DOCTYPE html><p>Log in".to_vec());
    scene.origin.put(OBJECT, dated(&login));
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, page);
    let ended = fetch(&scene, &scene.url(), &[]).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("requires a login"), "{message}");
    assert!(!scene.target().exists());
}

#[test]
fn servers_whose_answers_to_a_range_are_odd_were_given_up() {
    let last = LENGTH - 1;
    let whole = format!("bytes 0-{last}/{LENGTH}");
    for lies in [
        vec![Lie::NoRanges, Lie::Header("Content-Range", whole)],
        vec![Lie::NoRanges, Lie::As(203)],
    ] {
        let scene = scene();
        for lie in &lies {
            scene
                .origin
                .lie(OBJECT, Asks::Anything, Of::All, lie.clone());
        }
        let ended = fetch(&scene, &scene.url(), &[]);
        assert_eq!(ended.exit, Some(0), "{lies:?}: {ended:?}");
        scene.must_be_published();
    }
    // To any Range, of which the first one decides.
    for status in [400, 403, 431, 501] {
        let scene = scene();
        let lie = Lie::Status(status);
        scene.origin.lie(OBJECT, Asks::Preflight, Of::All, lie);
        let ended = fetch(&scene, &scene.url(), &[]);
        assert_eq!(ended.exit, Some(0), "{status}: {ended:?}");
        scene.must_be_published();
    }
    let scene = scene();
    let bare = Lie::StatusWith(206, vec![("Content-Range", String::new())]);
    scene.origin.lie(OBJECT, Asks::Preflight, Of::All, bare);
    fetch(&scene, &scene.url(), &[]).must(0);
    scene.must_be_published();
}

/// To any Range but the first, or to any condition: curl and wget send neither.
#[test]
fn servers_that_refuse_ranges_or_conditions_got_no_plain_get() {
    for manifest in [true, false] {
        for (asks, statuses) in [
            (Asks::Range, &[400, 403, 431, 501][..]),
            (Asks::Conditional, &[400, 403, 412, 501]),
        ] {
            for status in statuses {
                let scene = Scene::new(LENGTH, BLOCK);
                scene.origin.put(OBJECT, alike(&scene.content));
                if !manifest {
                    scene.origin.remove(MANIFEST);
                }
                scene.origin.lie("*", asks, Of::All, Lie::Status(*status));
                let what = format!("manifest {manifest}, {asks:?}: {status}");
                let ended = fetch(&scene, &scene.url(), &["--patience", "5s"]);
                assert_eq!(ended.exit, Some(0), "{what}: {ended:?}");
                let trust = if manifest { "manifest" } else { "none" };
                assert_eq!(ended.event("published")["trust"], trust, "{what}");
                scene.must_be_published();
                let fetched = ended.event("done")["bytes_fetched"].as_u64().unwrap();
                assert!(fetched < 2 * LENGTH, "{what}: {fetched}");
            }
        }
    }
}

/// What refuses ranges of the object refuses that of its manifest, which is not missing.
#[test]
fn a_manifest_whose_first_range_is_refused_was_taken_for_missing() {
    for status in [400, 403, 431, 501] {
        let scene = Scene::new(LENGTH, BLOCK);
        for asks in [Asks::Range, Asks::Preflight] {
            scene.origin.lie("*", asks, Of::All, Lie::Status(status));
        }
        let ended = fetch(&scene, &scene.url(), &["--patience", "5s"]);
        assert_eq!(ended.exit, Some(0), "{status}: {ended:?}");
        assert_eq!(ended.event("published")["trust"], "manifest", "{status}");
        scene.must_be_published();
    }
    // Stores that hide which names they have: one request more, and no manifest.
    let scene = Scene::new(BLOCK, BLOCK);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::All, Lie::Status(403));
    let ended = fetch(&scene, &scene.url(), &[]).must(0);
    assert_eq!(ended.event("published")["trust"], "none");
    assert_eq!(scene.origin.log_of(MANIFEST).len(), 2);
}

#[test]
fn a_redirect_with_raw_letters_and_blanks_led_nowhere() {
    for (to, there) in [
        ("/\u{e4} b.bin", "/%C3%A4%20b.bin"),
        ("/a b.bin", "/a%20b.bin"),
    ] {
        let scene = scene();
        scene.origin.put(there, alike(&scene.content));
        let redirect = Lie::Redirect(302, to.to_owned());
        scene.origin.lie(OBJECT, Asks::Anything, Of::All, redirect);
        let ended = fetch(&scene, &scene.url(), &[]);
        assert_eq!(ended.exit, Some(0), "{to}: {ended:?}");
        scene.must_be_published();
    }
}

/// A file that became shorter has no more bytes where the next request begins.
#[test]
fn a_416_with_another_total_was_a_failure_and_not_another_object() {
    let now = 2 * MIB;
    let scene = || {
        let scene = Scene::new(6 * MIB, BLOCK);
        scene.origin.remove(MANIFEST);
        scene.origin.put(OBJECT, alike(&scene.content));
        scene.origin.put("/shorter", alike(&Content::Painted(now)));
        let cut = Lie::CloseAfter(4 * MIB);
        scene.origin.lie(OBJECT, Asks::Body, Of::First(1), cut);
        scene
    };
    // For good: the shorter one is fetched.
    let shorter = scene();
    for asks in [Asks::Body, Asks::Preflight] {
        let lie = Lie::Instead("/shorter");
        shorter.origin.lie(OBJECT, asks, Of::From(2), lie);
    }
    fetch(&shorter, &shorter.url(), &[]).must(0);
    shorter.must_hold(&Content::Painted(now));
    // Now and then: no version can be told.
    for others in [vec![], vec![("Content-Range", format!("bytes */{now}"))]] {
        let scene = scene();
        let expected = if others.is_empty() { 1 } else { 4 };
        let lie = Lie::StatusWith(416, others);
        scene.origin.lie(OBJECT, Asks::Body, Of::From(2), lie);
        let ended = fetch(&scene, &scene.url(), &["--tries", "2"]);
        assert_eq!(ended.exit, Some(expected), "{ended:?}");
    }
}
