//! What a user is told while nothing comes, and what is not waited for.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::{
    nginx::Nginx,
    objects::{Content, manifest_of},
    origin::Origin,
    program::{self, Ended, sapwood},
    terminal::AtTerminal,
    tls::{Authority, Front},
};

const LENGTH: u64 = 4_000_000;
const BLOCK: u64 = 64 * 1024;
/// Nobody listens on port 1 of this address.
const DEAD: &str = "http://127.0.0.1:1/object.bin";

fn run(args: &[&str]) -> Ended {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "a file").unwrap();
    let mut command = sapwood(folder.path());
    command.args(args);
    program::run(command)
}

/// There was no word for as long as patience lasts, then one that it had ended.
#[test]
fn a_host_that_is_not_there_was_five_minutes_of_silence() {
    for args in [
        &["fetch", DEAD][..],
        &["cat", DEAD],
        &["gateway", DEAD],
        &["sync", "http://127.0.0.1:1/library/", "folder"],
        &["push", "file", "http://127.0.0.1:1/file"],
        &["inspect", DEAD],
        &["verify", "file", "--manifest", DEAD],
    ] {
        let ended = run(&[args, &["--patience", "1500ms"]].concat()).must(5);
        let first = ended.stderr.lines().next().unwrap_or_default();
        let told = "sapwood: cannot reach 127.0.0.1:1 (connection refused), trying until ";
        assert!(first.starts_with(told), "{args:?}: {}", ended.stderr);
        let until = first.rsplit(' ').next().unwrap();
        let is_time = |c: char| c.is_ascii_digit() || c == ':';
        assert!(until.len() == 8 && until.chars().all(is_time), "{first}");
        let again = ended.stderr.matches("trying until").count();
        assert_eq!(again, 1, "{args:?}: {}", ended.stderr);
    }
    let nowhere = "http://nowhere.invalid/object.bin";
    let ended = run(&["fetch", nowhere, "--patience", "1s"]).must(5);
    let told = "cannot reach nowhere.invalid (name not found), trying until ";
    // Without any network no name server responds.
    let offline = "cannot reach nowhere.invalid (no name server responds), trying until ";
    let is_told = ended.stderr.contains(told) || ended.stderr.contains(offline);
    assert!(is_told, "{}", ended.stderr);
}

/// On a machine without certificate authorities that was a "builder error".
#[test]
fn nobody_to_trust_was_a_builder_error() {
    let url = "https://127.0.0.1:1/object.bin";
    for args in [&["fetch", url][..], &["cat", url]] {
        let folder = TempDir::new().unwrap();
        let mut command = sapwood(folder.path());
        command.env("SSL_CERT_FILE", folder.path().join("none"));
        command.env("SSL_CERT_DIR", folder.path().join("none"));
        command.args(args);
        let ended = program::run(command).must(1);
        let told = "no certificate authorities are installed here";
        assert!(ended.stderr.contains(told), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("--cacert"), "{}", ended.stderr);
    }
}

/// Each of many files that wait for one host would say so.
#[test]
fn many_files_that_wait_for_one_host_are_one_line() {
    let folder = TempDir::new().unwrap();
    let list: String = (0..20).map(|i| format!("{DEAD}\t{i}\n")).collect();
    fs::write(folder.path().join("list"), list).unwrap();
    let mut command = sapwood(folder.path());
    command.args(["fetch", "-i", "list", "--patience", "1s", "--tries", "1"]);
    let ended = program::run(command).must(5);
    let told = ended.stderr.matches("trying until").count();
    assert_eq!(told, 1, "{}", ended.stderr);
}

/// The events had neither the reason of a retry nor its end.
#[test]
fn what_waits_was_not_told_why_and_how_long() {
    let ended = run(&["--json", "fetch", DEAD, "--patience", "1500ms"]).must(5);
    let retries = ended.all("retry");
    assert!(!retries.is_empty());
    for retry in retries {
        let reason = "cannot reach 127.0.0.1:1 (connection refused)";
        assert_eq!(retry["reason"], reason, "{retry}");
        let until = retry["until"].as_str().unwrap();
        assert!(until.ends_with('Z') && until.len() == 20, "{retry}");
    }
}

/// A host that goes away in the middle of a transfer was silence too.
#[test]
fn a_host_that_went_away_was_silence() {
    let mut nginx = Nginx::start(400_000);
    let content = Content::Painted(LENGTH);
    fs::write(nginx.www("object.bin"), content.all()).unwrap();
    let manifest = manifest_of(&content, BLOCK);
    fs::write(nginx.www("object.bin.sapwood"), manifest).unwrap();
    let folder = TempDir::new().unwrap();
    let mut command = sapwood(folder.path());
    let url = nginx.url("object.bin");
    command.args(["--json", "fetch", &url, "--patience", "4s"]);
    let mut running = program::start(command);
    running.wait_for("blocks", |events| {
        events
            .iter()
            .any(|event| event["event"] == "blocks_verified")
    });
    nginx.stop();
    let ended = running.finish().must(5);
    let refused = |event: &serde_json::Value| {
        let reason = event["reason"].as_str().unwrap();
        reason.starts_with("cannot reach 127.0.0.1:") && reason.ends_with("(connection refused)")
    };
    let retries = ended.all("retry");
    assert!(retries.iter().any(refused), "{retries:?}");
}

#[test]
fn the_terminal_was_empty_while_a_host_was_not_there() {
    let folder = TempDir::new().unwrap();
    let mut fetch = AtTerminal::start(&folder, &format!("fetch {DEAD} --patience 3s"));
    fetch.wait_until("a bar that waits", |it| {
        it.shown().contains("object.bin  waiting, trying until ")
    });
    assert_eq!(fetch.exit(), Some(5), "{}", fetch.shown());
}

#[test]
fn the_terminal_was_empty_until_the_first_response() {
    let folder = TempDir::new().unwrap();
    // It is connected to, and responds to nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mut fetch = AtTerminal::start(&folder, &format!("fetch http://{address}/object.bin"));
    fetch.wait_until("a bar from the start", |it| {
        let connecting = format!("object.bin  connecting to {address}");
        it.shown().contains(&connecting)
    });
    fetch.types("\x03");
    assert_eq!(fetch.exit(), Some(5), "{}", fetch.shown());
}

/// With neither manifest nor digest the bar counted bytes as proven.
#[test]
fn the_bar_said_proven_where_nothing_can_be_proven() {
    let nginx = Nginx::start(300_000);
    let content = Content::Painted(1_000_000);
    fs::write(nginx.www("object.bin"), content.all()).unwrap();
    let folder = TempDir::new().unwrap();
    let url = nginx.url("object.bin");
    let mut fetch = AtTerminal::start(&folder, &format!("fetch {url} --connections 1"));
    fetch.wait_until("a bar", |it| it.shown().contains("  NOT verified"));
    assert_eq!(fetch.exit(), Some(0), "{}", fetch.shown());
    assert!(!fetch.shown().contains("proven"), "{}", fetch.shown());
}

/// A server that responds to everything with these bytes, or closes the connection without any.
fn server(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(response);
        }
    });
    address
}

/// Each was tried for five minutes, or five times, before it ended with the advice to run the same command again.
#[test]
fn what_cannot_become_better_ends_at_once() {
    let origin = Origin::start();
    origin.put("/object.bin", Content::Painted(1000));
    let clear = origin.url("/object.bin");
    let bad = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let in_tls = format!("https://{}/object.bin", server(bad));
    let authority = Authority::new();
    let port = origin.address().port();
    let front = Front::only_one(port, &authority);
    let only_one = front.url("object.bin");
    let alert = format!("http://{}/x", server(b"\x15\x03\x03\x00\x02\x02\x46"));
    let cacert = authority.certificate();
    for (args, variable, told) in [
        (
            &[&*clear, "--http", "2"][..],
            None,
            "has no HTTP/2; leave out --http 2",
        ),
        (
            &[&only_one, "--http", "2", "--cacert", &cacert],
            None,
            "has no HTTP/2; leave out --http 2",
        ),
        (
            &[&in_tls],
            None,
            "object.bin: the server does not speak TLS on this port",
        ),
        (&[&alert], None, "did not respond with HTTP"),
        (
            &[&clear],
            Some("socks9://127.0.0.1:1"),
            "http_proxy names a proxy of the kind socks9",
        ),
        (
            &[&clear],
            Some("ftp://127.0.0.1:1"),
            "http_proxy names a proxy of the kind ftp",
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = sapwood(folder.path());
        command.arg("fetch").args(args);
        command.envs(variable.map(|value| ("http_proxy", value)));
        let began = Instant::now();
        let ended = program::run(command).must(1);
        let took = began.elapsed();
        assert!(ended.stderr.contains(told), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("same command"), "{}", ended.stderr);
        assert!(took < Duration::from_secs(30), "{args:?}: {took:?}");
    }
}

/// What -v printed was about the program, not about what it does.
#[test]
fn verbose_shows_each_request_in_a_line() {
    let origin = Origin::start();
    let content = Content::Painted(300_000);
    origin.put("/object.bin", content.clone());
    origin.put("/object.bin.sapwood", manifest_of(&content, BLOCK));
    let url = origin.url("/object.bin");
    let ended = run(&["-v", "fetch", &url]).must(0);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(
        has(&format!("sapwood: GET {url}.sapwood bytes 0-")),
        "{lines:#?}"
    );
    assert!(has("status 206 in "), "{lines:#?}");
    assert!(has(" to fetch from http://127.0.0.1:"), "{lines:#?}");
    for line in &lines {
        assert!(line.starts_with("sapwood: "), "{line}");
        assert!(!line.contains("::"), "{line}");
    }
    let more = run(&["-vv", "fetch", &url]).must(0).stderr;
    assert!(more.contains("HTTP/1.1 from 127.0.0.1:"), "{more}");
    assert!(!more.contains("hyper"), "{more}");
    let most = run(&["-vvv", "fetch", &url]).must(0).stderr;
    assert!(most.contains("[hyper_util"), "{most}");
    assert_eq!(run(&["fetch", &url]).must(0).stderr, "");
}

/// Nothing was remembered, and nothing said so.
#[test]
fn without_a_home_nothing_is_remembered_and_one_warning_says_so() {
    let origin = Origin::start();
    origin.put("/object.bin", Content::Painted(1000));
    let url = origin.url("/object.bin");
    for (more, warnings) in [
        (&[][..], 1),
        (&["--no-store"], 0),
        (&["--store", "here"], 0),
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = sapwood(folder.path());
        command.args(["fetch", &url]).args(more);
        command.env_remove("HOME").env_remove("XDG_STATE_HOME");
        let ended = program::run(command).must(0);
        let told = ended.stderr.matches("HOME is not set").count();
        assert_eq!(told, warnings, "{more:?}: {}", ended.stderr);
    }
}
