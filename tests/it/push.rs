//! Pushing files to a server that takes uploads: what is sent, what is sent again, what is never published.

use std::{
    fs,
    process::Command,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::{
    engine::{
        context::Context,
        events::Event,
        push::{self, Input, Place, PushOptions, Server},
    },
    format::{library::LibraryPath, paint},
    net::location::Location,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    origin::Of,
    program::{Ended, Running, run, run_with_input, sapwood, start},
    uploads::{ALL, Ingest, IngestLie, Op},
};

const MIB: usize = 1 << 20;
/// The shortest part.
const PART: usize = 5 * MIB;
/// Four parts, the last one short.
const LENGTH: usize = 3 * PART + 100_000;

/// A server, and a folder with a file of [`LENGTH`].
struct Push {
    server: Ingest,
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Push {
    fn new() -> Push {
        Push::of(paint::bytes(0, LENGTH))
    }

    fn of(bytes: Vec<u8>) -> Push {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("f.bin"), &bytes).expect("a file");
        Push {
            server: Ingest::start(),
            folder,
            bytes,
        }
    }

    /// With parts of 5 MiB and quick retries.
    fn command(&self, more: &[&str]) -> Command {
        self.command_in(&self.folder, more)
    }

    fn command_in(&self, folder: &TempDir, more: &[&str]) -> Command {
        let mut command = sapwood(folder.path());
        command.args(["--json", "push", "f.bin", &self.server.url("/a/")]);
        command.args(["--part-size", "5MiB"]).args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Ended {
        run(self.command(more))
    }

    #[track_caller]
    fn must_be_published(&self) {
        let published = self.server.published("a/f.bin").expect("it is published");
        assert!(published == self.bytes, "other bytes are published");
    }

    /// A run that was killed when so many parts were finished, of which the others wait.
    fn killed_after(&self, parts: u32) {
        self.server
            .lie(Op::Part, Of::From(parts + 1), IngestLie::Waits);
        let mut running = start(self.command(&["--connections", "1"]));
        wait_for_checkpoints(&mut running, parts as usize);
        running.kill();
        self.server.be_honest();
        self.server.open_gate();
        std::thread::sleep(Duration::from_millis(100));
        self.server.forget_log();
    }
}

fn wait_for_checkpoints(running: &mut Running, count: usize) {
    running.wait_for("checkpoints", |events| {
        let all = events.iter().filter(|event| event["event"] == "checkpoint");
        all.count() >= count
    });
}

fn root_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[test]
fn a_file_is_published_whole_and_its_url_printed() {
    let push = Push::new();
    let ended = push.run(&[]).must(0);
    push.must_be_published();
    let published = ended.event("published");
    assert_eq!(published["root"], root_of(&push.bytes).as_str());
    assert_eq!(published["url"], push.server.url("/a/f.bin").as_str());
    assert_eq!(published["bytes_sent"], LENGTH as u64);
    assert_eq!(published["bytes_reused"], 0);
    let planned = ended.event("planned");
    assert_eq!(planned["bytes_to_send"], LENGTH as u64);
    assert_eq!(planned["part_size"], PART as u64);
    assert_eq!(ended.all("checkpoint").len(), 4);
    assert_eq!(ended.event("done")["bytes_sent"], LENGTH as u64);
    assert_eq!(push.server.bytes_of_parts(), LENGTH as u64);
    // For people: the URL alone on standard output.
    let mut command = sapwood(push.folder.path());
    command.args(["push", "f.bin", &push.server.url("/other.bin")]);
    let ended = run(command).must(0);
    assert_eq!(ended.stdout, format!("{}\n", push.server.url("/other.bin")));
    assert!(
        ended.stderr.contains(&root_of(&push.bytes)),
        "{}",
        ended.stderr
    );
}

#[test]
fn files_of_all_lengths() {
    for length in [0, 1, 65_536, 65_537, PART, PART + 1] {
        let push = Push::of(paint::bytes(3, length));
        push.run(&[]).must(0);
        push.must_be_published();
        let command = push.command(&["--name", "piped"]);
        let mut piped = sapwood(push.folder.path());
        piped.args(command.get_args().map(|arg| match arg.to_str() {
            Some("f.bin") => "-".as_ref(),
            _ => arg,
        }));
        run_with_input(piped, &push.bytes).must(0);
        let published = push.server.published("a/piped").expect("it is published");
        assert!(published == push.bytes, "{length}");
    }
}

#[test]
fn after_a_kill_finished_parts_are_not_sent_again() {
    let push = Push::new();
    push.killed_after(2);
    let ended = push.run(&[]).must(0);
    push.must_be_published();
    assert_eq!(ended.event("resumed")["bytes_held"], 2 * PART as u64);
    let sent = push.server.bytes_of_parts();
    assert_eq!(sent, (LENGTH - 2 * PART) as u64);
    assert_eq!(ended.event("published")["bytes_reused"], 2 * PART as u64);
    assert_eq!(push.server.states(), ["done"], "one session");
    // It knew the session, and did not look for it.
    assert_eq!(push.server.log_of(Op::List).len(), 0);
}

#[test]
fn a_copy_at_another_path_goes_on_without_any_state() {
    let push = Push::new();
    push.killed_after(2);
    let elsewhere = TempDir::new().expect("a folder");
    fs::write(elsewhere.path().join("f.bin"), &push.bytes).expect("a file");
    run(push.command_in(&elsewhere, &["--no-store"])).must(0);
    push.must_be_published();
    assert_eq!(push.server.bytes_of_parts(), (LENGTH - 2 * PART) as u64);
    assert_eq!(push.server.states(), ["done"], "one session");
}

#[test]
fn another_file_of_the_same_name_and_length_is_not_mixed_in() {
    let push = Push::new();
    push.killed_after(2);
    let elsewhere = TempDir::new().expect("a folder");
    let other = paint::bytes(77, LENGTH);
    fs::write(elsewhere.path().join("f.bin"), &other).expect("a file");
    run(push.command_in(&elsewhere, &[])).must(0);
    assert!(push.server.published("a/f.bin") == Some(other), "mixed");
    let mut states = push.server.states();
    states.sort_unstable();
    assert_eq!(states, ["done", "open"], "the other push can go on");
}

#[test]
fn a_file_that_changed_between_two_runs_sends_what_differs() {
    let mut push = Push::new();
    push.killed_after(2);
    push.bytes[10] ^= 1;
    fs::write(push.folder.path().join("f.bin"), &push.bytes).expect("a file");
    push.run(&[]).must(0);
    push.must_be_published();
    let sent = push.server.log_of(Op::Part);
    assert!(sent.iter().any(|part| part.index == Some(0)), "{sent:?}");
    let again = sent.iter().filter(|part| part.index == Some(1));
    assert_eq!(again.count(), 0, "{sent:?}");
}

#[test]
fn a_file_that_changes_meanwhile_is_not_published() {
    for length in [LENGTH, LENGTH - 1, LENGTH + 1] {
        let push = Push::new();
        push.server.lie(Op::Part, Of::Nth(2), IngestLie::Waits);
        let mut running = start(push.command(&[]));
        wait_for_checkpoints(&mut running, 1);
        let file = push.folder.path().join("f.bin");
        fs::write(&file, paint::bytes(5, length)).expect("a file");
        push.server.open_gate();
        let ended = running.finish().must(4);
        let message = ended.event("failed")["message"].to_string();
        assert!(message.contains("f.bin changed"), "{message}");
        assert_eq!(push.server.published("a/f.bin"), None);
        assert_eq!(push.server.log_of(Op::Finalize).len(), 0);
    }
}

#[test]
fn every_lost_response_and_every_break_is_mended() {
    for lie in [IngestLie::Lost, IngestLie::Reset] {
        for op in ALL {
            let push = Push::new();
            push.server.lie(op, Of::First(1), lie.clone());
            let ended = push.run(&[]).must(0);
            push.must_be_published();
            assert_eq!(push.server.states(), ["done"], "{op:?}: one session");
            assert_eq!(ended.all("published").len(), 1, "{op:?}");
        }
    }
}

#[test]
fn a_server_in_trouble_is_tried_again_as_by_a_fetch() {
    let again = |status, headers: &[(&'static str, &str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        IngestLie::Status(status, headers.collect(), String::new())
    };
    for op in ALL {
        let push = Push::new();
        push.server.lie(op, Of::Nth(1), again(500, &[]));
        if op == Op::Part {
            push.server
                .lie(op, Of::Nth(2), again(503, &[("Retry-After", "1")]));
        }
        push.run(&[]).must(0);
        push.must_be_published();
    }
    let push = Push::new();
    push.server.lie(Op::Open, Of::All, again(502, &[]));
    let ended = push.run(&["--tries", "2"]).must(5);
    assert_eq!(push.server.log_of(Op::Open).len(), 2);
    assert_eq!(ended.event("failed")["class"], "again");
    // A limit for a time that is longer than patience.
    let push = Push::new();
    push.server
        .lie(Op::Part, Of::All, again(429, &[("Retry-After", "3600")]));
    let ended = push.run(&["--patience", "2s"]).must(5);
    assert!(ended.event("failed")["retry_at"].is_string());
}

#[test]
fn a_dead_server_is_exit_5() {
    let push = Push::new();
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}/", listener.local_addr().expect("it is bound"))
    };
    let mut command = sapwood(push.folder.path());
    command.args(["--json", "push", "f.bin", &dead, "--patience", "1s"]);
    let ended = run(command).must(5);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("run the same command again"), "{message}");
}

#[test]
fn a_part_goes_on_at_the_block_where_its_request_broke() {
    let push = Push::new();
    push.server
        .lie(Op::Part, Of::Nth(1), IngestLie::Breaks(3_000_000));
    push.run(&[]).must(0);
    push.must_be_published();
    let kept = 3_000_000 / 65_536 * 65_536;
    assert_eq!(
        push.server.bytes_of_parts(),
        LENGTH as u64 + 3_000_000 - kept
    );
}

#[test]
fn a_refusal_in_the_middle_of_a_body_ends_it_at_once() {
    let push = Push::new();
    push.server
        .lie(Op::Part, Of::All, IngestLie::Early(100_000, 413));
    let began = Instant::now();
    let ended = push.run(&["--connections", "1"]).must(1);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(push.server.log_of(Op::Part).len(), 1, "it is final");
    assert!(ended.event("failed")["message"].to_string().contains("413"));
}

/// Its status alone does not say what to do.
#[test]
fn a_refusal_whose_reason_broke_off_ended_the_push() {
    let push = Push::new();
    // The storage loses a part, and the checkpoint is refused.
    let taken = IngestLie::Status(204, Vec::new(), String::new());
    push.server.lie(Op::Part, Of::Nth(1), taken);
    push.server.lie(Op::Checkpoint, Of::Nth(1), IngestLie::Half);
    push.run(&["--connections", "1"]).must(0);
    push.must_be_published();
}

#[test]
fn an_expired_url_is_replaced_once() {
    let refusals = ["expired_url", ""].map(|code| match code {
        "" => IngestLie::Status(400, Vec::new(), "<Error/>".to_owned()),
        code => IngestLie::Status(403, Vec::new(), json!({ "code": code }).to_string()),
    });
    for refusal in refusals {
        let push = Push::new();
        push.server.lie(Op::Part, Of::EachNth(2), refusal.clone());
        push.run(&["--connections", "1"]).must(0);
        push.must_be_published();
        let push = Push::new();
        push.server.lie(Op::Part, Of::All, refusal);
        push.run(&["--connections", "1"]).must(1);
        assert_eq!(push.server.log_of(Op::Part).len(), 2);
    }
}

#[test]
fn another_writer_of_a_part_is_waited_for() {
    let push = Push::new();
    let busy = json!({ "code": "part_in_flight" }).to_string();
    push.server.lie(
        Op::Part,
        Of::Nth(1),
        IngestLie::Status(409, Vec::new(), busy),
    );
    push.run(&[]).must(0);
    push.must_be_published();
}

#[test]
fn what_the_server_lacks_at_the_end_is_sent_again_and_nothing_else() {
    let push = Push::new();
    push.server.lie(Op::Finalize, Of::Nth(1), IngestLie::Waits);
    let mut running = start(push.command(&[]));
    wait_for_checkpoints(&mut running, 4);
    push.server.damage(2);
    push.server.open_gate();
    running.finish().must(0);
    push.must_be_published();
    assert_eq!(push.server.bytes_of_parts(), (LENGTH + PART) as u64);
}

#[test]
fn another_root_is_never_reported_as_published() {
    let push = Push::new();
    let edit = |answer: &mut Value| answer["root"] = "00".repeat(32).into();
    push.server
        .lie(Op::Finalize, Of::All, IngestLie::Edited(edit));
    let ended = push.run(&[]).must(3);
    assert_eq!(ended.all("published").len(), 0);
    let push = Push::new();
    let differs = json!({ "code": "root_differs", "found": "1234", "wrong_parts": [] });
    let differs = IngestLie::Status(422, Vec::new(), differs.to_string());
    push.server.lie(Op::Finalize, Of::All, differs);
    let ended = push.run(&[]).must(3);
    assert!(
        ended.event("failed")["message"]
            .to_string()
            .contains("1234")
    );
}

#[test]
fn a_finalize_that_takes_long_is_waited_for() {
    let push = Push::new();
    let working = IngestLie::Status(202, Vec::new(), String::new());
    push.server.lie(Op::Finalize, Of::First(1), working.clone());
    push.server.lie(
        Op::Status,
        Of::Nth(1),
        IngestLie::Edited(|answer| answer["state"] = "finalizing".into()),
    );
    push.run(&[]).must(0);
    push.must_be_published();
    // It ends as the request itself would have: here with parts that are lacking.
    let push = Push::new();
    push.server.lie(Op::Finalize, Of::First(1), working.clone());
    push.server.lie(
        Op::Status,
        Of::Nth(1),
        IngestLie::Edited(|answer| {
            answer["error"] = json!({ "code": "root_differs", "detail": "d" });
            let parts = answer["parts"].as_array_mut().expect("parts");
            parts.remove(1);
        }),
    );
    push.run(&[]).must(0);
    push.must_be_published();
    let push = Push::new();
    push.server.lie(Op::Finalize, Of::All, working);
    push.server.lie(
        Op::Status,
        Of::Nth(1),
        IngestLie::Edited(|answer| {
            answer["error"] = json!({ "code": "name_exists", "detail": "d" });
        }),
    );
    let ended = push.run(&[]).must(1);
    assert!(
        ended.event("failed")["message"]
            .to_string()
            .contains("--replace")
    );
}

/// An earlier run published it, and did not come to know. The same command has to end, and sends nothing.
#[test]
fn a_push_whose_last_answer_was_lost_was_refused_when_run_again() {
    let lost = |push: &Push| {
        push.server.lie(Op::Finalize, Of::All, IngestLie::Lost);
        push.run(&["--tries", "1", "--patience", "2s"]).must(5);
        push.must_be_published();
        push.server.be_honest();
        push.server.forget_log();
    };
    let push = Push::new();
    lost(&push);
    let ended = push.run(&[]).must(0);
    assert_eq!(ended.event("published")["bytes_sent"], 0);
    assert_eq!(push.server.log_of(Op::Open).len(), 0);
    // What has the name now is not what it published, or not what is to be published.
    let push = Push::new();
    lost(&push);
    push.server.publish("a/f.bin", b"other");
    push.run(&[]).must(1);
    let push = Push::new();
    lost(&push);
    fs::write(push.folder.path().join("f.bin"), paint::bytes(5, LENGTH)).expect("a file");
    push.run(&[]).must(1);
    push.must_be_published();
}

/// It was an error each time, so that a folder could not be pushed again after one file was added.
#[test]
fn an_object_that_is_there_already_is_not_sent_again() {
    let push = Push::new();
    push.run(&[]).must(0);
    push.server.forget_log();
    let ended = push.run(&[]).must(0);
    let published = ended.event("published");
    assert_eq!(published["bytes_sent"], 0);
    assert_eq!(published["bytes_reused"], published["bytes_total"]);
    assert_eq!(push.server.bytes_of_parts(), 0);
    push.must_be_published();
    // One byte more.
    fs::write(
        push.folder.path().join("f.bin"),
        paint::bytes(1, LENGTH + 1),
    )
    .expect("a file");
    push.run(&[]).must(1);
}

/// Found: of several pushes of one file at the same time, those that were not the first left what they had sent, for a week.
#[test]
fn a_push_that_another_one_was_faster_than_leaves_nothing() {
    let push = Push::new();
    push.server.lie(Op::Finalize, Of::All, IngestLie::Waits);
    let mut running: Vec<(TempDir, Running)> = (0..4)
        .map(|number| {
            let folder = TempDir::new().expect("a folder");
            fs::write(folder.path().join("f.bin"), &push.bytes).expect("a file");
            let id = format!("9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6{number}");
            let running = start(push.command_in(&folder, &["--session", &id]));
            (folder, running)
        })
        .collect();
    while push.server.log_of(Op::Finalize).len() < running.len() {
        std::thread::sleep(Duration::from_millis(20));
    }
    push.server.be_honest();
    push.server.open_gate();
    for (_, running) in &mut running {
        running.finish().must(0);
    }
    push.must_be_published();
    let mut states = push.server.states();
    states.sort_unstable();
    assert_eq!(states, ["aborted", "aborted", "aborted", "done"]);
}

#[test]
fn an_existing_object_is_replaced_only_by_wish() {
    let push = Push::new();
    push.server.publish("a/f.bin", b"old");
    let ended = push.run(&[]).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("--replace"), "{message}");
    // The URL of its session is nothing that the user knows.
    let object = push.server.url("/a/f.bin");
    assert!(message.contains(&object), "{message}");
    assert!(!message.contains(".sapwood/uploads"), "{message}");
    assert_eq!(push.server.bytes_of_parts(), 0);
    assert_eq!(
        push.server.published("a/f.bin").expect("it is there"),
        b"old"
    );
    push.run(&["--replace"]).must(0);
    push.must_be_published();
}

#[test]
fn many_files_do_not_stop_for_one_that_is_refused() {
    let push = Push::new();
    let names = ["one", "refused", "three"];
    for (number, name) in (0..).zip(names) {
        let file = push.folder.path().join(name);
        fs::write(file, paint::bytes(number, 200_000)).expect("a file");
    }
    let mut command = sapwood(push.folder.path());
    command.args(["--json", "push"]).args(names).arg("missing");
    command.args([&push.server.url("/")]);
    let ended = run(command).must(1);
    assert_eq!(ended.all("published").len(), 2);
    let failed = ended.all("failed");
    assert_eq!(failed.len(), 2, "{failed:?}");
    let is_name = |event: &&Value| event["path"] == "refused";
    let message = failed.iter().find(is_name).expect("it failed")["message"].to_string();
    assert!(
        message.contains("it is refused") && message.contains("--name"),
        "{message}"
    );
    assert_eq!(
        push.server.published("three"),
        Some(paint::bytes(2, 200_000))
    );
}

#[test]
fn a_token_is_sent_to_the_api_alone_and_never_shown() {
    let push = Push::new();
    push.server.require("Bearer s3cret-T0ken");
    let ended = push.run(&["--token", "wrong-T0ken", "-vvv"]).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("--token"), "{message}");
    fs::write(push.folder.path().join("t"), "s3cret-T0ken\n").expect("a file");
    let with_file = push.run(&["--token", "t", "-vvv"]).must(0);
    let mut command = push.command(&["--replace"]);
    command.env("SAPWOOD_TOKEN", "s3cret-T0ken");
    let with_variable = run(command).must(0);
    for ended in [ended, with_file, with_variable] {
        let shown = ended.stdout + &ended.stderr;
        assert!(!shown.contains("T0ken"), "{shown}");
    }
    for logged in push.server.log() {
        assert_eq!(logged.has_token, logged.op != Op::Part, "{logged:?}");
    }
    // Where others could read it, nothing is sent at all.
    for url in ["http://192.0.2.1/", "http://localhost.example/"] {
        let mut command = sapwood(push.folder.path());
        command.args(["--json", "push", "f.bin", url, "--token", "s3cret-T0ken"]);
        let ended = run(command).must(6);
        assert!(!(ended.stdout + &ended.stderr).contains("T0ken"));
    }
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    let push = Push::new();
    fs::create_dir(push.folder.path().join("d")).expect("a folder");
    fs::write(push.folder.path().join("d/f.bin"), b"x").expect("a file");
    let url = push.server.url("/a/");
    let file_url = push.server.url("/a");
    let query = push.server.url("/a/?x=1");
    let id = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";
    for (arguments, exit, what) in [
        (vec!["f.bin"], 2, "URL"),
        (vec![url.as_str()], 2, "URL"),
        (vec!["f.bin", "nowhere"], 2, "not a URL"),
        (vec!["f.bin", "ftp://h/"], 6, "ftp"),
        (vec!["f.bin", &url, "--attested"], 2, "--attested"),
        (vec!["f.bin", &url, "--sse", "AES256"], 2, "--sse"),
        (
            vec!["f.bin", "s3://bucket/a", "--name", "n"],
            2,
            "a slash at its end",
        ),
        (vec!["f.bin", "f.bin", "s3://bucket/a"], 2, "slash"),
        (vec!["-", "s3://bucket/"], 2, "--name"),
        (vec!["f.bin", "s3://bucket/.a"], 6, ".a"),
        (vec!["f.bin", "s3://bucket/a/b.sapwood"], 6, "b.sapwood"),
        (
            vec!["f.bin", "s3://bucket/sapwood-staging/x/"],
            6,
            "sapwood-staging",
        ),
        (vec!["f.bin", "s3://b/a"], 2, "a bucket has 3 to 63"),
        (vec!["f.bin", &query], 2, "query"),
        (vec!["-", &url], 2, "--name"),
        (vec!["f.bin", "-", &url], 2, "-"),
        (vec!["f.bin", "d/f.bin", &url], 2, "f.bin"),
        (vec!["f.bin", "d/f.bin", &file_url], 2, "slash"),
        (vec!["f.bin", "g", &url, "--name", "n"], 2, "--name"),
        (vec!["f.bin", &url, "--name", "../n"], 6, ".."),
        (vec!["f.bin", &url, "--name", ""], 6, "--name"),
        (vec!["f.bin", &url, "--part-size", "1MiB"], 2, "5MiB"),
        (vec!["f.bin", &url, "--part-size", "8000000"], 2, "7808KiB"),
        (vec!["f.bin", &url, "--token", "a b"], 2, "--token"),
        (vec!["f.bin", &url, "--session", "x"], 2, "UUID"),
        (vec!["--list", "f.bin", &url], 2, "--list"),
        (vec!["--list", "--abort", id, &url], 2, "--abort"),
        (vec!["d", &url], 2, "folder"),
        (vec!["missing", &url], 1, "missing"),
    ] {
        let mut command = sapwood(push.folder.path());
        command.arg("push").args(&arguments);
        let ended = run(command);
        let told = ended.stderr.clone();
        assert_eq!(ended.exit, Some(exit), "{arguments:?}: {told}");
        assert!(told.contains(what), "{arguments:?}: {told}");
    }
    assert!(push.server.log().is_empty(), "{:?}", push.server.log());
}

#[test]
fn a_server_that_takes_no_uploads_is_named() {
    let push = Push::new();
    for status in [404, 405, 501] {
        for op in [Op::Open, Op::List] {
            let page = IngestLie::Status(status, Vec::new(), "<html>".to_owned());
            push.server.lie(op, Of::All, page);
        }
        let ended = push.run(&[]).must(1);
        let message = ended.event("failed")["message"].to_string();
        assert!(message.contains("takes no uploads"), "{message}");
        push.server.be_honest();
    }
}

#[test]
fn unfinished_uploads_are_listed_and_given_up() {
    let push = Push::new();
    push.killed_after(1);
    let command = |arguments: &[&str]| {
        let mut command = sapwood(push.folder.path());
        command.args(["--json", "push"]).args(arguments);
        command.arg(push.server.url("/"));
        command
    };
    let upload = run(command(&["--list"])).must(0).event("upload");
    assert_eq!(
        (&upload["name"], &upload["state"]),
        (&json!("a/f.bin"), &json!("open"))
    );
    let id = upload["session"].as_str().expect("an ID").to_owned();
    for _ in 0..2 {
        run(command(&["--abort", &id])).must(0);
    }
    assert_eq!(push.server.states(), ["aborted"]);
    push.run(&[]).must(0);
    push.must_be_published();
}

#[test]
fn a_signal_stops_it_and_the_same_command_goes_on() {
    let push = Push::new();
    push.server.lie(Op::Part, Of::From(2), IngestLie::Waits);
    let mut running = start(push.command(&[]));
    wait_for_checkpoints(&mut running, 1);
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("Run the same command again"), "{message}");
    push.server.be_honest();
    push.server.open_gate();
    push.run(&[]).must(0);
    push.must_be_published();
}

/// A session that was done before this run says nothing of what has the name now. Its object was told as published, unseen.
#[test]
fn a_session_that_was_done_before_is_not_trusted() {
    let push = Push::new();
    let other = paint::bytes(9, 100);
    // The object is published, and the program never learns it.
    push.server.lie(Op::Finalize, Of::All, IngestLie::Lost);
    push.run(&["--tries", "1"]).must(5);
    push.must_be_published();
    push.server.be_honest();
    push.server.publish("a/f.bin", &other);
    push.run(&[]).must(1);
    assert_eq!(push.server.published("a/f.bin"), Some(other.clone()));
    push.run(&["--replace"]).must(0);
    push.must_be_published();
    // The same if the user names the session.
    let id = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";
    let named = ["--replace", "--session", id];
    push.run(&named).must(0);
    push.server.publish("a/f.bin", &other);
    push.run(&named).must(2);
    assert_eq!(push.server.published("a/f.bin"), Some(other));
}

/// A server whose disk failed was told as one that limits requests, and remembered as one.
#[test]
fn a_server_that_fails_is_not_said_to_limit_requests() {
    let push = Push::new();
    let problem = json!({
        "status": 503, "code": "storage_failed", "detail": "the storage of this test failed",
    });
    let retry = vec![("Retry-After", "1".to_owned())];
    let failed = IngestLie::Status(503, retry, problem.to_string());
    push.server.lie(Op::Open, Of::All, failed);
    let ended = push.run(&["--tries", "2"]).must(5);
    let message = ended.event("failed")["message"].to_string();
    assert!(
        message.contains("the storage of this test failed"),
        "{message}"
    );
    assert!(!message.contains("limits requests"), "{message}");
    assert!(ended.all("host_slowed").is_empty());
}

/// A database that starts again takes longer than a few tries.
#[test]
fn a_database_that_is_away_is_waited_for() {
    let problem =
        json!({ "status": 503, "code": "store_failed", "detail": "the store of sessions failed" });
    let away = || IngestLie::Status(503, Vec::new(), problem.to_string());
    let push = Push::new();
    push.server.lie(Op::Open, Of::First(2), away());
    push.run(&["--tries", "1"]).must(0);
    push.must_be_published();
    let push = Push::new();
    push.server.lie(Op::Open, Of::All, away());
    let ended = push.run(&["--patience", "1s"]).must(5);
    let message = ended.event("failed")["message"].to_string();
    assert!(
        message.contains("the store of sessions failed"),
        "{message}"
    );
}

#[test]
fn urls_in_a_list_are_whole() {
    let push = Push::new();
    push.run(&[]).must(0);
    push.server.lie(
        Op::List,
        Of::All,
        IngestLie::Edited(|answer| answer["sessions"][0]["url"] = json!("/a/f.bin")),
    );
    let mut command = sapwood(push.folder.path());
    command.args(["--json", "push", "--list", &push.server.url("/a/")]);
    let upload = run(command).must(0).event("upload");
    assert_eq!(upload["url"], push.server.url("/a/f.bin").as_str());
}

#[test]
fn what_is_larger_than_the_user_allows_is_not_pushed() {
    let push = Push::new();
    let ended = push.run(&["--max-size", "15MiB"]).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("--max-size"), "{message}");
    assert!(push.server.log().is_empty(), "{:?}", push.server.log());
    push.run(&["--max-size", "16MiB"]).must(0);
    let mut piped = sapwood(push.folder.path());
    piped.args(["--json", "push", "-", &push.server.url("/"), "--name", "s"]);
    piped.args(["--part-size", "5MiB", "--max-size", "15MiB"]);
    let ended = run_with_input(piped, &push.bytes).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("--max-size"), "{message}");
    assert_eq!(push.server.published("s"), None);
}

/// Who can produce the stream again does not send again what arrived.
#[test]
fn a_stream_that_was_stopped_says_how_to_go_on() {
    let push = Push::new();
    let url = push.server.url("/");
    let command = |more: &[&str]| {
        let mut command = sapwood(push.folder.path());
        command.args(["--json", "push", "-", &url, "--name", "s"]);
        command.args(["--part-size", "5MiB"]).args(more);
        command
    };
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let mut first = command(&[]);
    first.stdin(reader);
    let mut running = start(first);
    let some = push.bytes[..2 * PART + 5].to_vec();
    let writing = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &some).expect("it reads");
        writer
    });
    wait_for_checkpoints(&mut running, 2);
    let _writer = writing.join().expect("no panic");
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    let id = ended.event("planned")["session"].clone();
    let id = id.as_str().expect("an ID");
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains(&format!("--session {id}")), "{message}");
    assert!(message.contains("--abort"), "{message}");
    push.server.forget_log();
    run_with_input(command(&["--session", id]), &push.bytes).must(0);
    assert!(push.server.published("s").as_ref() == Some(&push.bytes));
    assert_eq!(push.server.bytes_of_parts(), (LENGTH - 2 * PART) as u64);
}

/// The program waited for bytes of a stream that gave none.
#[test]
fn a_signal_stops_a_stream_that_is_silent() {
    let push = Push::new();
    let mut command = sapwood(push.folder.path());
    command.args(["--json", "push", "-", &push.server.url("/"), "--name", "s"]);
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    command.stdin(reader);
    let mut running = start(command);
    running.wait_for("a plan", |events| {
        events.iter().any(|event| event["event"] == "planned")
    });
    let began = Instant::now();
    running.signal(Signal::TERM);
    let ended = running.finish().must(5);
    assert!(began.elapsed() < Duration::from_secs(10));
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("--abort"), "{message}");
    assert_eq!(push.server.published("s"), None);
}

/// Dropping the future pauses; the next call goes on.
#[test]
fn the_library_pauses_and_goes_on() {
    let push = Push::new();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let url = Location::parse(&push.server.url("/")).expect("a URL");
    let name = LibraryPath::new("a/f.bin").expect("a name");
    let server = Place::Server(Server { url, token: None });
    let file = push.folder.path().join("f.bin");
    let options = PushOptions {
        part_size: Some(PART as u64),
        parts_at_once: 1,
        sent: Arc::new(AtomicU64::new(0)),
        ..PushOptions::new(server, name, file.clone())
    };
    push.server.lie(Op::Part, Of::From(2), IngestLie::Waits);
    runtime.block_on(async {
        let context = Context::default();
        let (sender, mut checkpoints) = tokio::sync::mpsc::unbounded_channel();
        let mut events = |event: Event| {
            if matches!(event, Event::Checkpoint { .. }) {
                sender.send(()).expect("it is open");
            }
        };
        let input = Input::File(file.clone());
        tokio::select! {
            ended = push::push(&context, input, &options, &mut events) => panic!("{ended:?}"),
            _ = checkpoints.recv() => (),
        }
        push.server.be_honest();
        push.server.open_gate();
        let input = Input::File(file.clone());
        let pushed = push::push(&context, input, &options, &mut |_: Event| ()).await;
        assert_eq!(pushed.expect("it is pushed").bytes_reused, PART as u64);
    });
    push.must_be_published();
}

#[test]
fn a_rate_limit_holds_for_sends() {
    let push = Push::of(paint::bytes(0, 2 * MIB));
    let began = Instant::now();
    push.run(&["--limit-rate", "1MiB"]).must(0);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1700), "{took:?}");
}

/// A server could have had parts sent to the network of the client, with its `-H`.
#[test]
fn targets_lead_nowhere_else_with_what_is_secret() {
    let push = Push::new();
    let other = Ingest::start();
    // Found by the fields of the request: the other server logs them.
    push.server.lie(
        Op::Targets,
        Of::All,
        IngestLie::Edited(|answer| {
            for target in answer["targets"].as_array_mut().expect("targets") {
                target["headers"] = json!({ "Authorization": "x" });
            }
        }),
    );
    let ended = push.run(&[]).must(1);
    assert!(
        ended.event("failed")["message"]
            .to_string()
            .contains("target")
    );
    assert_eq!(push.server.bytes_of_parts() + other.bytes_of_parts(), 0);
}

/// Ten seconds without a byte are a stall, and another request follows.
#[test]
fn a_server_that_stops_reading_is_a_stall() {
    if !crate::support::long() {
        return;
    }
    let push = Push::of(paint::bytes(0, 24 * MIB));
    push.server.lie(Op::Part, Of::Nth(1), IngestLie::Waits);
    let mut command = sapwood(push.folder.path());
    command.args([
        "--json",
        "push",
        "f.bin",
        &push.server.url("/a/"),
        "--part-size",
        "24MiB",
    ]);
    let began = Instant::now();
    let ended = run(command).must(0);
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert!(!ended.all("retry").is_empty());
    push.must_be_published();
}
