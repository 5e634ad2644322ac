//! Against servers of other projects: killed and resumed, unchanged, replaced midway. Other real ones are in nginx.rs and versions.rs.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::Signal;
use sapwood::format::paint;
use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of},
    program::{self, Running, sapwood},
    servers::{AIOHTTP, APACHE, BUSYBOX, Kind, Server, TORNADO, WERKZEUG},
};

const MIB: u64 = 1024 * 1024;
const LENGTH: u64 = 6 * MIB + 4321;
const BLOCK: u64 = 64 * 1024;
/// A run at this rate can be stopped in the middle, after what it has was recorded.
const RATE: &str = "6MB";
/// Of what is not held: the first request, and what a server sends before it learns that no more is wanted.
const MORE_MAX: u64 = 8 * BLOCK;
/// What a server may have sent before it learns that no more is wanted.
const UNCHANGED_MAX: u64 = 4 * BLOCK;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn fetch(url: &str, folder: &Path, more: &[&str]) -> Command {
    let mut command = sapwood(folder);
    command
        .args(["--json", "fetch", url, "-o", "out"])
        .args(more)
        // Nothing is known from another test.
        .env("XDG_STATE_HOME", folder.join("state"));
    command
}

/// A fetch of which half is there.
fn begun(url: &str, folder: &Path) -> Running {
    let mut running = program::start(fetch(url, folder, &["--limit-rate", RATE]));
    running.wait_until_verified(LENGTH / 2, BLOCK, LENGTH);
    running
}

fn version(number: u64) -> Vec<u8> {
    paint::bytes(number * LENGTH, LENGTH as usize)
}

/// The object of this version, then its manifest.
fn publish(server: &Server, name: &str, number: u64, manifest: bool) {
    let age = DAY * (3 - number as u32);
    let bytes = version(number);
    server.publish(name, &bytes, age);
    if manifest {
        let manifest = manifest_of(&Content::Bytes(bytes), BLOCK);
        server.publish(&format!("{name}.sapwood"), &manifest, age);
    }
}

#[track_caller]
fn resumes(server: &Server, name: &str, what: &str) {
    let folder = TempDir::new().unwrap();
    let url = server.url(name);
    begun(&url, folder.path()).kill();
    let ended = program::run(fetch(&url, folder.path(), &[])).must(0);
    assert!(
        fs::read(folder.path().join("out")).unwrap() == version(1),
        "{what}"
    );
    let published = ended.event("published");
    let number = |name: &str| published[name].as_u64().unwrap();
    let fetched = number("bytes_fetched") - number("bytes_manifest");
    let resumed = number("bytes_resumed");
    assert!(
        resumed > 0 && resumed + fetched <= LENGTH + MORE_MAX,
        "{what}: {resumed} bytes resumed, {fetched} fetched"
    );
    let ended = program::run(fetch(&url, folder.path(), &[])).must(0);
    let published = ended.event("published");
    assert_eq!(published["unchanged"], true, "{what}: {published}");
    assert!(
        published["bytes_fetched"].as_u64().unwrap() <= UNCHANGED_MAX,
        "{what}: {published}"
    );
}

#[track_caller]
fn never_mixes(server: &Server, name: &str, manifest: bool, what: &str) {
    let folder = TempDir::new().unwrap();
    let url = server.url(name);
    let mut running = begun(&url, folder.path());
    running.signal(Signal::TERM);
    running.finish().must(5);
    publish(server, name, 2, manifest);
    program::run(fetch(&url, folder.path(), &[])).must(0);
    assert!(
        fs::read(folder.path().join("out")).unwrap() == version(2),
        "{what}"
    );
}

#[track_caller]
fn all_of(kind: &Kind) {
    let server = Server::start(kind);
    for manifest in [true, false] {
        let what = format!("{}, manifest: {manifest}", kind.name);
        // Names of their own: a server may remember what it served.
        for scenario in ["kept", "moved"] {
            publish(&server, &format!("{scenario}-{manifest}.bin"), 1, manifest);
        }
        resumes(&server, &format!("kept-{manifest}.bin"), &what);
        never_mixes(&server, &format!("moved-{manifest}.bin"), manifest, &what);
    }
}

#[test]
fn apache() {
    all_of(&APACHE);
}

#[test]
fn busybox() {
    all_of(&BUSYBOX);
}

#[test]
fn aiohttp() {
    all_of(&AIOHTTP);
}

#[test]
fn werkzeug() {
    all_of(&WERKZEUG);
}

#[test]
fn tornado() {
    all_of(&TORNADO);
}
