//! Hosts that limit requests: they get fewer, in this run and in the next ones, from all processes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    origin::{Asks, Lie, Of},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// The same store for all runs of a test.
const STORE: &[&str] = &["--store", "store"];

fn hosts(folder: &Path, more: &[&str]) -> Ended {
    let mut command = sapwood(folder);
    command.args(["--json", "hosts"]).args(more).args(STORE);
    program::run(command)
}

fn retry_after(seconds: u32) -> Vec<(&'static str, String)> {
    vec![("Retry-After", seconds.to_string())]
}

/// A 503 with a time is what an origin sends for a manifest that it is making. It says nothing of the host.
#[test]
fn a_manifest_that_is_being_made_does_not_slow_its_host() {
    let scene = Scene::new(8 * MIB, 64 * KIB);
    // Slow enough that its spans overlap.
    scene.origin.pace(Some(8 * MIB));
    let not_ready = Lie::StatusWith(503, retry_after(1));
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::First(2), not_ready);
    let ended = scene.fetch(STORE).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    assert!(ended.all("host_slowed").is_empty(), "{}", ended.stdout);
    assert!(
        scene.origin.most_at_a_time() > 4,
        "{}",
        scene.origin.most_at_a_time()
    );
    let known = hosts(scene.folder.path(), &["list"]).must(0);
    assert!(known.all("host").is_empty(), "{}", known.stdout);
    assert_eq!(
        scene
            .origin
            .log_of(MANIFEST)
            .iter()
            .filter(|asked| asked.status == 503)
            .count(),
        2
    );
}

#[test]
fn the_number_of_connections_is_found_and_remembered() {
    let scene = Scene::new(24 * MIB, 64 * KIB);
    // Slow enough that its spans overlap.
    scene.origin.pace(Some(24 * MIB));
    let crowded = Lie::Crowded(2, 429, retry_after(1));
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, crowded);
    let ended = scene.fetch(STORE).must(0);
    scene.must_be_published();
    let slowed = ended.all("host_slowed");
    assert!(!slowed.is_empty(), "{}", ended.stdout);
    assert!(slowed.iter().all(|event| event["until_ms"].is_u64()));
    assert_eq!(slowed.last().unwrap()["connections"], 2);
    // The next run begins with the number that was learned.
    let known = hosts(scene.folder.path(), &["list"]).must(0).event("host");
    assert_eq!(
        (&known["connections"], known["host"].as_str()),
        (&2.into(), Some(&*scene.origin.address().to_string()))
    );
    fs::remove_file(scene.target()).unwrap();
    scene.origin.forget_log();
    let ended = scene.fetch(STORE).must(0);
    assert!(ended.all("host_slowed").is_empty(), "{}", ended.stdout);
    assert!(scene.origin.log().iter().all(|asked| asked.status != 429));
    assert!(
        scene.origin.most_at_a_time() <= 2,
        "{}",
        scene.origin.most_at_a_time()
    );
    // Once forgotten, it is a host like any other.
    hosts(
        scene.folder.path(),
        &["forget", &scene.origin.address().to_string()],
    )
    .must(0);
    assert!(
        hosts(scene.folder.path(), &["list"])
            .must(0)
            .all("host")
            .is_empty()
    );
    fs::remove_file(scene.target()).unwrap();
    let ended = scene.fetch(STORE).must(0);
    assert!(!ended.all("host_slowed").is_empty());
    hosts(scene.folder.path(), &["forget", "--all"]).must(0);
    assert!(
        hosts(scene.folder.path(), &["list"])
            .must(0)
            .all("host")
            .is_empty()
    );
}

/// A host that serves two connections and refuses more, without a Retry-After.
#[test]
fn a_429_stopped_every_request_for_a_minute() {
    let scene = Scene::new(24 * MIB, 64 * KIB);
    // One connection takes a second.
    scene.origin.pace(Some(24 * MIB));
    let crowded = Lie::Crowded(2, 429, Vec::new());
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, crowded);
    let mut learned = 0;
    for run in ["first", "second"] {
        let began = Instant::now();
        let ended = scene.fetch(&[STORE, &["--patience", "10s"]].concat());
        let (ended, took) = (ended.must(0), began.elapsed());
        scene.must_be_published();
        // Three times what one connection takes, and 3 s; and as much for a busy machine.
        assert!(
            took < Duration::from_secs(12),
            "the {run} run took {took:?}"
        );
        let (waits, slowed) = (ended.all("retry"), ended.all("host_slowed"));
        let refused = scene.origin.log().into_iter();
        let refused = refused.filter(|asked| asked.status == 429).count();
        if run == "second" {
            assert!(slowed.is_empty(), "{}", ended.stdout);
            assert_eq!(refused, 0, "it begins with what it learned");
            break;
        }
        // What waits is reported at once, with its time.
        assert!(refused <= 20, "{refused} refused requests");
        assert_eq!(waits.len(), refused);
        for wait in waits {
            let ms = wait["wait_ms"].as_u64().unwrap();
            assert!(wait["class"] == "slower" && ms <= 4_000, "{wait}");
        }
        let steps = slowed
            .iter()
            .map(|event| event["connections"].as_u64().unwrap());
        let steps: Vec<u64> = steps.collect();
        // 1, if the origin of a busy machine still counts a connection that the client has closed.
        assert!(
            [&[4, 2][..], &[4, 2, 1]].contains(&&steps[..]),
            "{}",
            ended.stdout
        );
        learned = *steps.last().unwrap();
        fs::remove_file(scene.target()).unwrap();
        scene.origin.forget_log();
    }
    // The number is not raised for a minute at least.
    let list = hosts(scene.folder.path(), &["list"]).must(0);
    let known = list.event("host");
    assert_eq!(known["connections"], learned);
    let until_ms = known["until_ms"].as_u64().unwrap();
    assert!(
        until_ms > known["time_ms"].as_u64().unwrap() + 40_000,
        "{known}"
    );
}

/// Only a host that serves nothing is left alone, for 5 s at first.
#[test]
fn a_host_that_refuses_everything_is_requested_again_soon_after() {
    let scene = Scene::new(MIB, 64 * KIB);
    let refuses = Lie::Status(429);
    scene.origin.lie("*", Asks::Anything, Of::All, refuses);
    let mut running = program::start(scene.command(&["--no-store", "--patience", "20s"]));
    running.wait_for("the wait to be reported", |events| {
        let mut waits = events.iter().filter(|event| event["event"] == "retry");
        waits.any(|wait| wait["class"] == "slower" && wait["wait_ms"].as_u64() >= Some(5_000))
    });
    let began = Instant::now();
    scene.origin.be_honest();
    running.finish().must(0);
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
    scene.must_be_published();
}

/// A 503 without a Retry-After, while the host serves others, limits requests as a 429 does.
#[test]
fn a_bare_503_beside_served_requests_was_a_try() {
    let scene = Scene::new(8 * MIB, 64 * KIB);
    scene.origin.pace(Some(8 * MIB));
    let crowded = Lie::Crowded(1, 503, Vec::new());
    scene.origin.lie(OBJECT, Asks::Body, Of::All, crowded);
    let ended = scene.fetch(&["--no-store", "--tries", "1"]).must(0);
    scene.must_be_published();
    assert!(!ended.all("host_slowed").is_empty(), "{}", ended.stdout);
    // One that serves nothing fails.
    let scene = Scene::new(MIB, 64 * KIB);
    let fails = Lie::Status(503);
    scene.origin.lie("*", Asks::Anything, Of::All, fails);
    let ended = scene.fetch(&["--no-store", "--tries", "1"]).must(5);
    assert!(ended.all("host_slowed").is_empty(), "{}", ended.stdout);
}

/// One 416 inside the representation is temporary; only a server that repeats it ends the run.
#[test]
fn a_416_inside_the_file_ended_the_run() {
    let scene = Scene::new(MIB, 64 * KIB);
    let unsatisfiable = Lie::Status(416);
    let some = Of::First(2);
    scene
        .origin
        .lie(OBJECT, Asks::Body, some, unsatisfiable.clone());
    let ended = scene.fetch(&["--no-store"]).must(0);
    scene.must_be_published();
    assert!(!ended.all("retry").is_empty(), "{}", ended.stdout);
    let scene = Scene::new(MIB, 64 * KIB);
    scene.origin.lie(OBJECT, Asks::Body, Of::All, unsatisfiable);
    scene.fetch(&["--no-store", "--tries", "2"]).must(1);
    assert!(scene.origin.bodies_of(OBJECT).len() <= 16);
}

#[test]
fn no_request_is_sent_before_the_time_of_a_retry_after() {
    let scene = Scene::new(MIB, 64 * KIB);
    let slow_down = Lie::StatusWith(429, retry_after(4));
    scene
        .origin
        .lie("*", Asks::Anything, Of::First(1), slow_down);
    let began = Instant::now();
    let patience = [STORE, &["--patience", "1s", "--connections", "1"]].concat();
    let first = scene.fetch(&patience).must(5);
    assert!(
        first.event("failed")["retry_at"].is_string(),
        "{}",
        first.stdout
    );
    assert_eq!(scene.origin.log().len(), 1);
    scene.origin.forget_log();
    // Other processes, other objects of the host, and other commands: all of them wait.
    let inside = |ended: Ended| {
        let ended = ended.must(5);
        if began.elapsed() < Duration::from_secs(4) {
            assert!(scene.origin.log().is_empty(), "{:?}", scene.origin.log());
        }
        ended
    };
    inside(scene.fetch(&patience));
    let mut cat = sapwood(scene.folder.path());
    cat.args(["cat", &scene.url(), "--patience", "1s"])
        .args(STORE);
    inside(program::run(cat));
    // A patient one waits for the end of it, and not much longer.
    let ended = scene.fetch(STORE).must(0);
    assert!(began.elapsed() >= Duration::from_secs(4));
    assert!(began.elapsed() < Duration::from_secs(60), "it said 4 s");
    scene.must_be_published();
    assert!(ended.all("failed").is_empty());
}

/// It is of one URL, perhaps by mistake: this run keeps to it, the next ones to the longest cooldown.
#[test]
fn a_retry_after_of_days_locked_the_host_out_for_other_runs() {
    let scene = Scene::new(MIB, 64 * KIB);
    let slow_down = Lie::StatusWith(429, retry_after(999_999));
    scene
        .origin
        .lie("*", Asks::Anything, Of::First(1), slow_down);
    let wait = || {
        let more = [STORE, &["--connections", "1", "--patience", "2s"]].concat();
        let ended = scene.fetch(&more).must(5);
        let failed = ended.event("failed");
        assert!(failed["retry_at"].is_string(), "{failed}");
        let message = failed["message"].as_str().unwrap().to_owned();
        // A time of day, and the time until then: 1:02:03.
        let (_, wait) = message.split_once("may follow at ").unwrap();
        let (_, wait) = wait.split_once(", in ").unwrap();
        let (wait, _) = wait.split_once(';').unwrap();
        let parts = wait.split(':').map(|part| part.parse::<u64>().unwrap());
        parts.fold(0, |sum, part| sum * 60 + part)
    };
    let began = Instant::now();
    assert!(
        (80_000..=86_401).contains(&wait()),
        "in this run: a day at most"
    );
    assert!((200..=301).contains(&wait()), "in the next run");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(scene.origin.log().len(), 1);
}

#[test]
fn without_a_store_every_run_begins_anew() {
    let scene = Scene::new(MIB, 64 * KIB);
    let slow_down = Lie::StatusWith(429, retry_after(200));
    scene
        .origin
        .lie("*", Asks::Anything, Of::First(1), slow_down);
    scene
        .fetch(&["--patience", "1s", "--no-store", "--connections", "1"])
        .must(5);
    scene.fetch(&["--no-store"]).must(0);
    scene.must_be_published();
}

/// A run that is under way learns of a Retry-After from another process.
#[test]
fn a_retry_after_holds_for_runs_that_are_under_way() {
    let scene = Scene::new(8 * MIB, 64 * KIB);
    // Every request is short, and a new one comes soon.
    let early = Lie::EndEarly(64 * KIB);
    scene.origin.lie(OBJECT, Asks::Body, Of::All, early);
    let late = Lie::Late(Duration::from_millis(100));
    scene.origin.lie(OBJECT, Asks::Body, Of::All, late);
    let mut running = program::start(scene.command(&[STORE, &["--connections", "1"]].concat()));
    running.wait_until_verified(MIB / 4, scene.block, scene.length());
    let slow_down = Lie::StatusWith(429, retry_after(4));
    scene
        .origin
        .lie("/other", Asks::Anything, Of::All, slow_down);
    let mut other = sapwood(scene.folder.path());
    other
        .args([
            "fetch",
            &scene.origin.url("/other"),
            "-o",
            "other",
            "--patience",
            "1s",
        ])
        .args(["--connections", "1"])
        .args(STORE);
    program::run(other).must(5);
    let refused = scene.origin.log_of("/other")[0].at;
    let ended = running.finish().must(0);
    scene.must_be_published();
    // It looks once a second.
    let inside = |asked: &&crate::support::origin::Asked| {
        let since = asked.at.saturating_duration_since(refused);
        since > Duration::from_millis(1_500) && since < Duration::from_millis(3_900)
    };
    let asked: Vec<_> = scene.origin.log_of(OBJECT);
    assert_eq!(asked.iter().filter(inside).count(), 0);
    let failed: Vec<Value> = ended.all("failed");
    assert!(failed.is_empty());
}
