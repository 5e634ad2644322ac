//! Faults below the requests: TLS that is not acceptable or ends too early (S32), and HTTP/2 that ends connections and streams
//! (S34).

use std::time::Duration;

use crate::support::{
    objects::{Content, manifest_of},
    origin::{Asks, Lie, Of},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene, names},
    tls::{Authority, Front, OnlyOldTls},
    two::{Breaks, Two},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn fetch(scene: &Scene, url: &str, more: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command
        .args(["--json", "fetch", url, "-o", "out", "--patience", "60s"])
        .args(more);
    program::run(command)
}

#[test]
fn tls_that_is_not_acceptable_is_refused_at_once() {
    let authority = Authority::new();
    let unknown = Authority::new();
    let (good, days) = ("subjectAltName=DNS:localhost,IP:127.0.0.1", "2");
    for (what, certificate, trusted) in [
        (
            "of an unknown authority",
            unknown.certify(good, days),
            &authority,
        ),
        ("that expired", authority.certify(good, "-1"), &authority),
        (
            "for another name",
            authority.certify("subjectAltName=DNS:other.example", days),
            &authority,
        ),
    ] {
        let scene = Scene::new(MIB, 16 * KIB);
        let front = Front::before(
            scene.origin.address().port(),
            &certificate,
            &["http/1.1"],
            false,
        );
        let began = std::time::Instant::now();
        let ended = fetch(
            &scene,
            &front.url(&OBJECT[1..]),
            &["--cacert", &trusted.certificate()],
        )
        .must(1);
        assert!(
            ended.stderr.contains("secure connection was refused"),
            "{what}: {}",
            ended.stderr
        );
        assert!(ended.all("retry").is_empty(), "{what}");
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        assert!(scene.origin.log().is_empty(), "{what}");
        assert_eq!(names(scene.folder.path()), Vec::<String>::new(), "{what}");
    }
}

/// It said "CaUsedAsEndEntity".
#[test]
fn a_self_signed_certificate_of_an_authority_is_named_in_plain_words() {
    let authority = Authority::new();
    let scene = Scene::new(MIB, 16 * KIB);
    let port = scene.origin.address().port();
    let front = Front::before(port, &authority.own(), &["http/1.1"], false);
    let ended = fetch(&scene, &front.url(&OBJECT[1..]), &[]).must(1);
    let words = "certificate of a certificate authority as its own";
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

/// What `openssl req -x509` makes is the certificate of an authority. The user who names it trusts the server that shows it, under its
/// own names and in its own time.
#[test]
fn a_self_signed_certificate_that_is_named_is_trusted() {
    let authority = Authority::new();
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    for (what, names, days, named, exit) in [
        ("named", names, "2", true, 0),
        ("not named", names, "2", false, 1),
        ("expired", names, "-1", true, 1),
        (
            "of another name",
            "subjectAltName=DNS:other.example",
            "2",
            true,
            1,
        ),
    ] {
        let certificate = authority.self_signed(names, days);
        let scene = Scene::new(MIB, 16 * KIB);
        let port = scene.origin.address().port();
        for http in ["auto", "2"] {
            let protocol = if http == "2" { "h2" } else { "http/1.1" };
            // The origin speaks HTTP/1.1 alone: of HTTP/2 the handshake is enough.
            if http == "2" && exit == 0 {
                continue;
            }
            let front = Front::before(port, &certificate, &[protocol], false);
            let file = match named {
                true => certificate.file(),
                false => authority.certificate(),
            };
            let more = ["--cacert", &file, "--http", http];
            let ended = fetch(&scene, &front.url(&OBJECT[1..]), &more);
            assert_eq!(ended.exit, Some(exit), "{what}: {}", ended.stderr);
        }
        if exit == 0 {
            scene.must_be_published();
        }
    }
}

#[test]
fn what_is_no_certificate_is_refused() {
    let scene = Scene::new(MIB, 16 * KIB);
    let authority = Authority::new();
    let own = std::fs::read_to_string(authority.certificate()).unwrap();
    let cut = own.replacen("MII", "MIC", 1);
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text) in [
        ("text", "no certificate\n"),
        ("malformed", empty),
        ("one of two", &format!("{own}{empty}")),
        ("changed", &cut),
    ] {
        std::fs::write(scene.path(name), text).unwrap();
        let ended = fetch(&scene, &scene.url(), &["--cacert", name]).must(2);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
    assert!(scene.origin.log().is_empty());
}

#[test]
fn tls_of_the_last_century_is_refused_at_once() {
    let authority = Authority::new();
    let old = OnlyOldTls::start(&authority);
    assert!(old.serves_the_old(&authority), "the server does not serve");
    let scene = Scene::new(MIB, 16 * KIB);
    let more = ["--cacert", &authority.certificate()];
    let ended = fetch(&scene, &old.url("object.bin"), &more).must(1);
    assert!(
        ended.stderr.contains("secure connection was refused"),
        "{}",
        ended.stderr
    );
    assert!(ended.all("retry").is_empty(), "{}", ended.stdout);
    assert_eq!(names(scene.folder.path()), Vec::<String>::new());
}

/// A connection that ends without the end of its TLS has perhaps been cut: what it brought is no whole body.
#[test]
fn the_end_of_a_connection_is_no_end_of_a_body() {
    let authority = Authority::new();
    for manifest in [true, false] {
        for lies in [
            vec![Lie::CloseAfter(300 * KIB)],
            vec![Lie::CloseAfter(300 * KIB), Lie::Chunked],
            // Without any length only the end of the connection would tell.
            vec![Lie::CloseAfter(300 * KIB), Lie::NoRanges, Lie::Endless],
        ] {
            let scene = Scene::new(MIB, 16 * KIB);
            if !manifest {
                scene.origin.remove(MANIFEST);
            }
            let certificate = authority.certify("subjectAltName=DNS:localhost,IP:127.0.0.1", "2");
            let front = Front::before(
                scene.origin.address().port(),
                &certificate,
                &["http/1.1"],
                true,
            );
            for lie in &lies {
                scene
                    .origin
                    .lie(OBJECT, Asks::Body, Of::First(2), lie.clone());
            }
            let ended = fetch(
                &scene,
                &front.url(&OBJECT[1..]),
                &["--cacert", &authority.certificate()],
            );
            assert_eq!(ended.exit, Some(0), "{lies:?}, {manifest}: {ended:?}");
            scene.must_be_published();
        }
    }
}

#[test]
fn http_2_that_breaks_is_asked_again() {
    let content = Content::Painted(11 * MIB + 17);
    for breaks in [
        Breaks::Nothing,
        Breaks::GoAway,
        Breaks::GoAwayNow,
        Breaks::Reset,
        Breaks::Refuse,
        Breaks::Silence,
        Breaks::OneStream,
    ] {
        for manifest in [true, false] {
            let scene = Scene::of(content.clone(), 64 * KIB);
            let two = Two::start(OBJECT, content.all(), breaks);
            let described = scene.path("m.sapwood");
            let mut more = vec!["--http", "2"];
            let path = described.display().to_string();
            if manifest {
                std::fs::write(&described, manifest_of(&content, 64 * KIB)).expect("a file");
                more.extend(["--manifest", path.as_str()]);
            }
            let ended = fetch(&scene, &two.url(OBJECT), &more);
            assert_eq!(ended.exit, Some(0), "{breaks:?}, {manifest}: {ended:?}");
            scene.must_be_published();
        }
    }
}
