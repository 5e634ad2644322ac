//! Against a real nginx, and checked by programs that are not ours.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use sapwood::format::paint;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    nginx::{self, Nginx},
    program::{self, bytes_of, sapwood, verified},
};

const LENGTH: u64 = 24 * 1024 * 1024 + 4321;
const BLOCK: u64 = 64 * 1024;

/// An nginx with a painted object and its manifest, made by the program.
fn with_object(limit_rate: u64) -> Nginx {
    put_object(Nginx::start(limit_rate))
}

fn put_object(nginx: Nginx) -> Nginx {
    fs::write(nginx.www("object.bin"), paint::bytes(0, LENGTH as usize)).unwrap();
    let mut command = sapwood(nginx.folder.path());
    command.args(["manifest", "www/object.bin"]);
    program::run(command).must(0);
    nginx
}

fn fetch(nginx: &Nginx, folder: &Path, more: &[&str]) -> Command {
    let mut command = sapwood(folder);
    command
        .args(["--json", "fetch", &nginx.url("object.bin"), "-o", "out"])
        .args(more);
    command
}

/// What a program prints.
fn output(name: &str, folder: &Path, args: &[&str]) -> String {
    let mut command = program::command(nginx::program(name), folder);
    command.args(args);
    program::run(command).must(0).stdout
}

#[test]
fn a_fetch_is_what_curl_gets_and_its_root_what_b3sum_prints() {
    let nginx = with_object(0);
    let folder = TempDir::new().unwrap();
    let ended = program::run(fetch(&nginx, folder.path(), &[])).must(0);
    output(
        "curl",
        folder.path(),
        &["-sSf", "-o", "by-curl", &nginx.url("object.bin")],
    );
    assert!(
        fs::read(folder.path().join("out")).unwrap()
            == fs::read(folder.path().join("by-curl")).unwrap()
    );
    let sum = output("b3sum", folder.path(), &["--no-names", "out"]);
    assert_eq!(ended.event("published")["root"], sum.trim());
    // A server that tells its ranges honestly is asked for every byte once.
    let sent: u64 = nginx
        .log_of("object.bin")
        .iter()
        .filter(|sent| sent.range.is_some())
        .map(|sent| sent.body_bytes)
        .sum();
    assert_eq!(sent, LENGTH);
    assert!(
        nginx
            .log_of("object.bin")
            .iter()
            .filter(|sent| sent.range.is_some())
            .all(|sent| sent.status == 206)
    );
}

#[test]
fn a_killed_fetch_goes_on_and_no_proven_block_is_asked_for_again() {
    // Slow enough that it cannot end before the kill: 24 MiB over 8 connections of 512 KiB a second.
    let nginx = with_object(512 * 1024);
    let folder = TempDir::new().unwrap();
    let mut running = program::start(fetch(&nginx, folder.path(), &[]));
    running.wait_until_verified(LENGTH / 3, BLOCK, LENGTH);
    let held = verified(&running.kill());
    let before = nginx.log_of("object.bin").len();
    let ended = program::run(fetch(&nginx, folder.path(), &[])).must(0);
    let published = ended.event("published");
    assert!(published["bytes_resumed"].as_u64().unwrap() >= bytes_of(&held, BLOCK, LENGTH));
    assert!(published["bytes_fetched"].as_u64().unwrap() < LENGTH);
    assert!(fs::read(folder.path().join("out")).unwrap() == paint::bytes(0, LENGTH as usize));
    // Lines of the killed run may come late; those of the second run are its requests for what was not held.
    let events = ended.events();
    let again = verified(&events);
    assert!(again.is_disjoint(&held), "proven twice");
    assert!(nginx.log_of("object.bin").len() > before);
}

#[test]
fn a_mirror_that_died_is_used_again_and_progress_never_steps_back() {
    // Rates of a connection. The slow one alone would need many seconds, so the fast one is back before the end.
    let (mut fast, slow) = (with_object(1_000_000), with_object(200_000));
    let folder = TempDir::new().unwrap();
    let mut running = program::start(fetch(
        &fast,
        folder.path(),
        &["--mirror", &slow.url("object.bin")],
    ));
    let fast_name = fast.url("object.bin");
    let of_fast = |event: &Value| event["source"] == *fast_name;
    running.wait_until_verified(LENGTH / 4, BLOCK, LENGTH);
    fast.stop();
    running.wait_for("the dead mirror to be noticed", |events| {
        events
            .iter()
            .any(|event| event["event"] == "retry" && of_fast(event))
    });
    let before = running.events().len();
    fast.start_again();
    running.wait_for("the mirror to be used again", |events| {
        let mut after = events[before..].iter();
        after.any(|event| event["event"] == "blocks_verified" && of_fast(event))
    });
    let ended = running.finish().must(0);
    assert!(fs::read(folder.path().join("out")).unwrap() == paint::bytes(0, LENGTH as usize));
    let events = ended.events();
    let done: Vec<u64> = events
        .iter()
        .filter(|event| event["event"] == "progress")
        .map(|event| event["bytes_done"].as_u64().unwrap())
        .collect();
    assert!(done.is_sorted(), "{done:?}");
    let sources = |name: &str| {
        events
            .iter()
            .any(|event| event["event"] == "blocks_verified" && event["source"] == name)
    };
    assert!(sources(&fast.url("object.bin")) && sources(&slow.url("object.bin")));
}

#[test]
fn the_rate_is_kept_over_all_connections() {
    let nginx = with_object(0);
    let folder = TempDir::new().unwrap();
    let began = Instant::now();
    program::run(fetch(&nginx, folder.path(), &["--limit-rate", "12MB"])).must(0);
    let took = began.elapsed().as_secs_f64();
    // Only the upper bound of the rate is certain; a fifth of a second's worth may come at once.
    assert!(took >= LENGTH as f64 / 12e6 - 0.2, "{took}");
}

/// Limits on requests and on connections cost a few refused requests, not minutes.
#[test]
fn limits_of_nginx_took_minutes_or_hundreds_of_requests() {
    for limits in [
        "limit_req zone=requests burst=2; limit_req_status 503;",
        "limit_req zone=requests burst=2; limit_req_status 429;",
        "limit_conn connections 2; limit_conn_status 503;",
        "limit_conn connections 2; limit_conn_status 429;",
    ] {
        let nginx = put_object(Nginx::limited(limits));
        let folder = TempDir::new().unwrap();
        let began = Instant::now();
        let url = nginx.url("object.bin");
        output(
            "curl",
            folder.path(),
            &["-sSf", "--retry", "9", "-o", "by-curl", &url],
        );
        let by_curl = began.elapsed();
        let began = Instant::now();
        let mut command = fetch(&nginx, folder.path(), &["--patience", "10s", "--no-store"]);
        command.env("XDG_STATE_HOME", folder.path());
        program::run(command).must(0);
        let took = began.elapsed();
        assert!(
            took <= by_curl + Duration::from_secs(20),
            "{limits}: {took:?}, curl {by_curl:?}"
        );
        let refused = nginx.finish().into_iter();
        let refused = refused.filter(|sent| sent.status >= 400).count();
        assert!(refused <= 20, "{limits}: {refused} refused requests");
    }
}

#[test]
fn names_that_need_encoding() {
    let nginx = Nginx::start(0);
    fs::write(nginx.www("a b#ü.bin"), b"some bytes").unwrap();
    let mut command = sapwood(nginx.folder.path());
    command.args(["manifest", "www/a b#ü.bin"]);
    program::run(command).must(0);
    let folder = TempDir::new().unwrap();
    let mut command = sapwood(folder.path());
    command.args(["fetch", &nginx.url("a%20b%23%C3%BC.bin")]);
    program::run(command).must(0);
    assert_eq!(
        fs::read(folder.path().join("a b#ü.bin")).unwrap(),
        b"some bytes"
    );
}
