//! The versions of HTTP, against nginx and Caddy: the same file over each, killed in the middle and gone on with.

use std::{fs, path::Path, process::Command};

use sapwood::format::paint;
use tempfile::TempDir;

use crate::support::{
    caddy::Caddy,
    nginx::{Nginx, Sent},
    program::{self, bytes_of, sapwood, verified},
    tls::{Authority, Front},
};

const LENGTH: u64 = 12 * 1024 * 1024 + 4321;
const BLOCK: u64 = 64 * 1024;
/// So slow that no run ends before it is killed. A connection is made for each megabyte a second.
const RATE: &str = "6MB";
const CONNECTIONS: u64 = 6;

/// A painted object and its manifest, made by the program, in the folder that a server serves.
fn put_object(folder: &Path) {
    fs::write(
        folder.join("www/object.bin"),
        paint::bytes(0, LENGTH as usize),
    )
    .unwrap();
    let mut command = sapwood(folder);
    command.args(["manifest", "www/object.bin"]);
    program::run(command).must(0);
}

fn fetch(url: &str, folder: &Path, more: &[&str]) -> Command {
    let mut command = sapwood(folder);
    command
        .args(["--json", "fetch", url, "-o", "out"])
        .args(more);
    command
}

/// Fetches, is killed when a third is proven, and goes on with the same command. What was proven is never asked for again; what
/// comes twice are blocks that were on their way: at most two for each connection, one at the kill and one where a connection
/// takes over the rest of another one's span.
#[track_caller]
fn killed_once(what: &str, url: &str, more: &[&str]) {
    let folder = TempDir::new().unwrap();
    let more = [more, &["--limit-rate", RATE]].concat();
    let mut running = program::start(fetch(url, folder.path(), &more));
    running.wait_until_verified(LENGTH / 3, BLOCK, LENGTH);
    let held = verified(&running.kill());
    assert!(!folder.path().join("out").exists());
    let ended = program::run(fetch(url, folder.path(), &more)).must(0);
    assert!(fs::read(folder.path().join("out")).unwrap() == paint::bytes(0, LENGTH as usize));
    let again = verified(&ended.events());
    assert!(again.is_disjoint(&held), "{what}: proven twice");
    let published = ended.event("published");
    let number = |name: &str| published[name].as_u64().unwrap();
    let held = bytes_of(&held, BLOCK, LENGTH);
    assert!(number("bytes_resumed") >= held, "{what}: {published}");
    // Of the object, without the first byte that is asked for before all others.
    let fetched = number("bytes_fetched") - number("bytes_manifest") - 1;
    let twice = (fetched + held).saturating_sub(LENGTH);
    println!(
        "{what}: killed with {held} bytes proven, {fetched} fetched after that, {twice} of them again"
    );
    assert!(
        twice <= CONNECTIONS * 2 * BLOCK,
        "{what}: {twice} bytes came again"
    );
}

/// All requests that were logged were of this version, and ranges were answered as ranges.
#[track_caller]
fn must_all_be(log: &[Sent], protocol: &str) {
    assert!(!log.is_empty(), "nothing was asked for");
    for sent in log {
        assert_eq!(sent.protocol, protocol, "{sent:?}");
        assert_eq!(sent.status, 206, "{sent:?}");
    }
}

fn nginx() -> (Authority, Nginx) {
    let authority = Authority::new();
    let nginx = Nginx::with_tls(&authority);
    put_object(nginx.folder.path());
    (authority, nginx)
}

fn caddy() -> (Authority, Caddy) {
    let authority = Authority::new();
    let caddy = Caddy::start(&authority);
    put_object(caddy.folder.path());
    (authority, caddy)
}

#[test]
fn nginx_over_tls_speaks_http_1_unless_asked_otherwise() {
    let (authority, nginx) = nginx();
    let url = nginx.url_over_tls("object.bin");
    killed_once(
        "nginx, HTTP/1.1 over TLS",
        &url,
        &["--cacert", &authority.certificate()],
    );
    must_all_be(&nginx.log_of("object.bin"), "HTTP/1.1");
}

#[test]
fn nginx_speaks_http_2_over_tls() {
    let (authority, nginx) = nginx();
    let url = nginx.url_over_tls("object.bin");
    let more = ["--cacert", &authority.certificate(), "--http", "2"];
    killed_once("nginx, HTTP/2 over TLS", &url, &more);
    must_all_be(&nginx.log_of("object.bin"), "HTTP/2.0");
}

#[test]
fn nginx_speaks_http_2_in_the_clear() {
    let (_authority, nginx) = nginx();
    let url = nginx.url_of_two_in_the_clear("object.bin");
    killed_once("nginx, HTTP/2 in the clear", &url, &["--http", "2"]);
    must_all_be(&nginx.log_of("object.bin"), "HTTP/2.0");
}

#[test]
fn caddy_speaks_http_1_and_2() {
    let (authority, caddy) = caddy();
    let cacert = authority.certificate();
    let url = caddy.url("object.bin");
    killed_once("caddy, HTTP/1.1", &url, &["--cacert", &cacert]);
    must_all_be(&caddy.log_of("object.bin"), "HTTP/1.1");
    let before = caddy.log_of("object.bin").len();
    killed_once("caddy, HTTP/2", &url, &["--cacert", &cacert, "--http", "2"]);
    // Lines of killed requests come when their connections are found dead.
    let log = caddy.log_of("object.bin");
    let late = |sent: &&Sent| sent.protocol != "HTTP/1.1";
    let log: Vec<Sent> = log[before..].iter().filter(late).cloned().collect();
    must_all_be(&log, "HTTP/2.0");
}

/// The conditions that our requests carry, as this server keeps them: what differs from the origin of the other tests would
/// show here.
#[track_caller]
fn keeps_conditions(url: &str, cacert: &str) {
    let folder = TempDir::new().unwrap();
    let ask = |condition: &str| {
        let mut command = program::command(crate::support::nginx::program("curl"), folder.path());
        command.args([
            "-sS", "--cacert", cacert, "-r", "5-9", "-o", "body", "-D", "-",
        ]);
        command.args(["-H", condition, url]);
        let head = program::run(command).must(0).stdout;
        let status = head.split(' ').nth(1).unwrap().to_owned();
        let etag = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("etag")
                .then(|| value.trim().to_owned())
        });
        (
            status,
            etag,
            fs::read(folder.path().join("body")).unwrap().len() as u64,
        )
    };
    let (status, etag, length) = ask("X-Nothing: 1");
    assert_eq!((status.as_str(), length), ("206", 5));
    let etag = etag.expect("an entity tag");
    assert!(etag.starts_with('"'), "{etag} is weak");
    assert_eq!(ask(&format!("If-Match: {etag}")).0, "206");
    assert_eq!(ask("If-Match: \"another\"").0, "412");
    assert_eq!(ask(&format!("If-Range: {etag}")).0, "206");
    let (status, _, length) = ask("If-Range: \"another\"");
    assert_eq!((status.as_str(), length), ("200", LENGTH));
}

#[test]
fn nginx_and_caddy_keep_the_conditions_that_we_send() {
    let (authority, nginx) = nginx();
    keeps_conditions(&nginx.url_over_tls("object.bin"), &authority.certificate());
    let (authority, caddy) = caddy();
    keeps_conditions(&caddy.url("object.bin"), &authority.certificate());
}

#[test]
fn without_the_authority_the_connection_is_refused_at_once() {
    let (_authority, nginx) = nginx();
    let folder = TempDir::new().unwrap();
    let ended = program::run(fetch(&nginx.url_over_tls("object.bin"), folder.path(), &[])).must(1);
    let failed = ended.event("failed");
    let message = failed["message"].as_str().unwrap();
    assert!(message.contains("certificate"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn http_2_is_spoken_where_nothing_else_is_offered() {
    let (authority, nginx) = nginx();
    let cacert = authority.certificate();
    let front = Front::only_two(nginx.port_of_two_in_the_clear(), &authority);
    let url = front.url("object.bin");
    killed_once("HTTP/2 alone", &url, &["--cacert", &cacert]);
    must_all_be(&nginx.log_of("object.bin"), "HTTP/2.0");
    // Who asks for HTTP/1.1 is told that there is none.
    let folder = TempDir::new().unwrap();
    let more = ["--cacert", &cacert, "--http", "1.1"];
    let ended = program::run(fetch(&url, folder.path(), &more)).must(1);
    let failed = ended.event("failed");
    assert!(
        failed["message"]
            .as_str()
            .unwrap()
            .contains("secure connection"),
        "{failed}"
    );
}

#[cfg(not(feature = "http3"))]
#[test]
fn a_build_without_http_3_says_so() {
    let folder = TempDir::new().unwrap();
    let more = ["--http", "3"];
    let ended = program::run(fetch(
        "https://127.0.0.1:9/object.bin",
        folder.path(),
        &more,
    ))
    .must(2);
    let failed = ended.event("failed");
    assert!(
        failed["message"]
            .as_str()
            .unwrap()
            .contains("feature http3"),
        "{failed}"
    );
}

/// Only in builds with the feature; tools/test makes one for them.
#[cfg(feature = "http3")]
mod http3 {
    use std::{net::UdpSocket, time::Instant};

    use rustix::process::Signal;

    use super::*;

    #[test]
    fn caddy_speaks_http_3() {
        let (authority, caddy) = caddy();
        let more = ["--cacert", &authority.certificate(), "--http", "3"];
        killed_once("caddy, HTTP/3", &caddy.url("object.bin"), &more);
        must_all_be(&caddy.log_of("object.bin"), "HTTP/3.0");
    }

    /// Names are resolved, and addresses tried, by other code than for TCP.
    #[test]
    fn a_server_is_found_by_its_name() {
        let (authority, caddy) = caddy();
        let folder = TempDir::new().unwrap();
        let url = caddy.url("object.bin").replace("127.0.0.1", "localhost");
        let more = ["--cacert", &authority.certificate(), "--http", "3"];
        program::run(fetch(&url, folder.path(), &more)).must(0);
        must_all_be(&caddy.log_of("object.bin"), "HTTP/3.0");
    }

    #[test]
    fn silence_is_noticed_and_a_server_that_comes_back_is_used() {
        let (authority, caddy) = caddy();
        let folder = TempDir::new().unwrap();
        let more = [
            "--cacert",
            &authority.certificate(),
            "--http",
            "3",
            "--limit-rate",
            RATE,
        ];
        let mut running = program::start(fetch(&caddy.url("object.bin"), folder.path(), &more));
        running.wait_until_verified(LENGTH / 3, BLOCK, LENGTH);
        caddy.signal(Signal::STOP);
        let stopped = Instant::now();
        running.wait_for("a retry", |events| {
            events.iter().any(|event| event["event"] == "retry")
        });
        println!("silence noticed after {:?}", stopped.elapsed());
        caddy.signal(Signal::CONT);
        running.finish().must(0);
        assert!(fs::read(folder.path().join("out")).unwrap() == paint::bytes(0, LENGTH as usize));
    }

    #[test]
    fn a_server_that_is_not_there_is_waited_for() {
        // Taken, so that nobody else answers there, and silent.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/object.bin", socket.local_addr().unwrap());
        let folder = TempDir::new().unwrap();
        let more = ["--http", "3", "--patience", "5s"];
        let ended = program::run(fetch(&url, folder.path(), &more)).must(5);
        let message = ended.event("failed")["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(message.contains("no new bytes"), "{message}");
        assert!(message.contains("cannot reach"), "{message}");
    }

    #[test]
    fn an_unknown_authority_and_a_url_in_the_clear_are_refused() {
        let (_authority, caddy) = caddy();
        for (url, why) in [
            (caddy.url("object.bin"), "certificate"),
            ("http://127.0.0.1:9/object.bin".to_owned(), "https"),
        ] {
            let folder = TempDir::new().unwrap();
            let ended = program::run(fetch(&url, folder.path(), &["--http", "3"])).must(1);
            let failed = ended.event("failed");
            assert!(
                failed["message"].as_str().unwrap().contains(why),
                "{failed}"
            );
        }
    }
}
