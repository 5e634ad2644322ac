//! `inspect URL`: what a remote manifest says, checked as a local one is.

use std::fs;

use tempfile::TempDir;

use crate::support::{
    nginx::Nginx,
    objects::Content,
    origin::{Asks, Lie, Of, Origin},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT},
    tls::Authority,
};

/// Enough blocks for a tree above the pages.
const LENGTH: u64 = 5 * 1024 * 1024 + 9;

/// A signed manifest with hints and digests, as a file and at an origin.
struct Scene {
    folder: TempDir,
    origin: Origin,
    manifest: Vec<u8>,
}

impl Scene {
    fn new() -> Scene {
        let folder = TempDir::new().unwrap();
        fs::write(
            folder.path().join("object.bin"),
            Content::Painted(LENGTH).all(),
        )
        .unwrap();
        for args in [
            &["keygen", "--no-password", "-o", "key"][..],
            &[
                "manifest",
                "object.bin",
                "--block-size",
                "16KiB",
                "--digest",
                "md5",
                "--sign",
                "key.key",
                "--seq",
                "3",
            ],
        ] {
            let mut command = sapwood(folder.path());
            program::run({
                command.args(args);
                command
            })
            .must(0);
        }
        let manifest = fs::read(folder.path().join("object.bin.sapwood")).unwrap();
        let origin = Origin::start();
        origin.put(OBJECT, Content::Painted(LENGTH));
        origin.put(MANIFEST, manifest.clone());
        Scene {
            folder,
            origin,
            manifest,
        }
    }

    fn inspect(&self, place: &str, more: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.args(["inspect", place]).args(more);
        program::run(command)
    }
}

const FORMS: [&[&str]; 5] = [
    &[],
    &["--json"],
    &["--leaves"],
    &["--statement"],
    &["--signature"],
];

#[test]
fn a_url_shows_what_a_file_does() {
    let scene = Scene::new();
    for form in FORMS {
        let of_file = scene.inspect("object.bin.sapwood", form).must(0);
        assert!(!of_file.stdout.is_empty());
        for place in [
            MANIFEST,
            OBJECT,
            "/object.bin.sapwood?signed=SECRET",
            "/object.bin?signed=SECRET",
        ] {
            let of_url = scene.inspect(&scene.origin.url(place), form).must(0);
            assert_eq!(of_url.stdout, of_file.stdout, "{place} {form:?}");
            assert_eq!(of_url.stderr, "", "{place} {form:?}");
        }
    }
    // Of the object itself nothing but its front was asked for.
    assert!(
        scene
            .origin
            .log_of(OBJECT)
            .iter()
            .all(|asked| asked.range == Some(0..1536))
    );
}

#[test]
fn servers_that_know_no_ranges_and_those_that_break_off() {
    let scene = Scene::new();
    let of_file = scene.inspect("object.bin.sapwood", &["--leaves"]).must(0);
    let url = scene.origin.url(MANIFEST);
    for (of, lie) in [
        (Of::All, Lie::NoRanges),
        (Of::All, Lie::Chunked),
        (Of::Nth(2), Lie::ResetAfter(9000)),
        (Of::Nth(1), Lie::Status(503)),
        (Of::Nth(2), Lie::Status(500)),
    ] {
        scene.origin.be_honest();
        scene.origin.lie(MANIFEST, Asks::Anything, of, lie.clone());
        let of_url = scene.inspect(&url, &["--leaves"]);
        assert_eq!(of_url.exit, Some(0), "{lie:?}: {}", of_url.stderr);
        assert_eq!(of_url.stdout, of_file.stdout, "{lie:?}");
    }
    // What a request that broke had brought is not asked for again.
    scene.origin.be_honest();
    scene.origin.forget_log();
    scene.origin.lie(
        MANIFEST,
        Asks::Anything,
        Of::Nth(2),
        Lie::CloseAfter(12_000),
    );
    scene.inspect(&url, &[]).must(0);
    let last = scene.origin.log_of(MANIFEST).pop().unwrap();
    // The front, a group of two nodes and the first page, each with anchors.
    assert_eq!(last.range.unwrap().start, 1536 + 2 * 48 + 256 * 40);
}

/// Every bit of a manifest is covered by a check that needs no object: root, sections, nodes, anchors.
#[test]
fn damage_anywhere_is_refused() {
    let scene = Scene::new();
    let url = scene.origin.url(MANIFEST);
    for at in (8..scene.manifest.len())
        .step_by(997)
        .chain([scene.manifest.len() - 1])
    {
        let mut damaged = scene.manifest.clone();
        damaged[at] ^= 0x10;
        fs::write(scene.folder.path().join("damaged.sapwood"), &damaged).unwrap();
        scene.origin.put(MANIFEST, damaged);
        // A signature is only shown here; without a key it cannot be false.
        let exit = scene.inspect("damaged.sapwood", &[]).exit;
        let ended = scene.inspect(&url, &[]);
        assert_eq!(ended.exit, exit, "byte {at}: {}", ended.stderr);
        assert!(
            (1024..1536).contains(&at) || exit == Some(3),
            "byte {at}: {exit:?}"
        );
    }
    for length in [0, 5, 1024, 1535, 1536, scene.manifest.len() - 1] {
        scene
            .origin
            .put(MANIFEST, scene.manifest[..length].to_vec());
        let exit = if length == 0 { 1 } else { 3 };
        scene.inspect(&url, &[]).must(exit);
    }
    let longer = [&scene.manifest[..], b"x"].concat();
    scene.origin.put(MANIFEST, longer);
    scene.inspect(&url, &[]).must(3);
}

#[test]
fn what_is_not_there_and_what_must_be_asked_for_again() {
    let scene = Scene::new();
    let url = scene.origin.url(OBJECT);
    scene.origin.remove(MANIFEST);
    let ended = scene.inspect(&url, &["--json"]).must(1);
    assert!(
        ended.stdout.contains("object.bin.sapwood"),
        "{}",
        ended.stdout
    );
    scene.origin.remove(OBJECT);
    scene.inspect(&url, &[]).must(1);
    scene.inspect("http://", &[]).must(2);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::Status(500));
    scene.inspect(&url, &["--tries", "2"]).must(5);
}

#[test]
fn the_flags_of_the_network_count() {
    let scene = Scene::new();
    let url = scene.origin.url(MANIFEST);
    scene.inspect(&url, &["-H", "X-Token: abc"]).must(0);
    assert!(
        scene
            .origin
            .log()
            .iter()
            .all(|asked| asked.header("x-token") == Some("abc"))
    );
    let authority = Authority::new();
    let nginx = Nginx::with_tls(&authority);
    fs::write(nginx.www("object.bin.sapwood"), &scene.manifest).unwrap();
    let url = nginx.url_over_tls("object.bin");
    scene.inspect(&url, &[]).must(1);
    let cacert = authority.certificate();
    for http in ["1.1", "2"] {
        scene
            .inspect(&url, &["--cacert", &cacert, "--http", http])
            .must(0);
    }
    let last = nginx.log_of("object.bin.sapwood").pop().unwrap();
    assert_eq!(last.protocol, "HTTP/2.0");
}
