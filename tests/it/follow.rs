//! `push --follow`: a file is sent while it is recorded, and published when the recording has ended.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use sapwood::format::paint;
use serde_json::Value;

use crate::support::{
    program::{Running, sapwood, start},
    site::{PART, Server, Site, check_manifest, root},
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
        self.recorder.seek(SeekFrom::Start(at as u64)).expect("a file");
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
    assert!(url.ends_with("/object/live%2Ets"), "{url}");
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
