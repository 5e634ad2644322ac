//! Every kind of digest, by every way it can be offered, right and wrong: how it ends, what is there then, and the trust.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sapwood::format::digests::{Algorithm, DigestHasher};

use crate::support::{
    objects::Content,
    origin::{Object, Origin},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene, names},
};

const LENGTH: u64 = 300 * 1024 + 5;
const BLOCK: u64 = 64 * 1024;

const ALL: [Algorithm; 7] = [
    Algorithm::Sha256,
    Algorithm::Sha512,
    Algorithm::Sha1,
    Algorithm::Md5,
    Algorithm::Crc32c,
    Algorithm::Crc64Nvme,
    Algorithm::Blake3,
];

/// The digest of the object, or of another one.
fn digest(algorithm: Algorithm, right: bool) -> Vec<u8> {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(&Content::Painted(LENGTH).all());
    hasher.update(if right { b"" } else { b"x" });
    hex::decode(hasher.finish().hex()).unwrap()
}

fn is_strong(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Sha256 | Algorithm::Sha512 | Algorithm::Blake3
    )
}

fn without_manifest() -> Scene {
    let scene = Scene::new(LENGTH, BLOCK);
    scene.origin.remove(MANIFEST);
    scene
}

/// Serves the object with one more header.
fn put_with_header(origin: &Origin, name: &str, value: String) {
    let mut object = Object::from(Content::Painted(LENGTH));
    object.headers.push((name.to_owned(), value));
    origin.put(OBJECT, object);
}

/// A right digest: published with this trust. A wrong one: exit 3, nothing under the final name, what came set aside; with
/// --discard nothing at all.
#[track_caller]
fn must_end(what: &str, scene: &Scene, more: &[&str], right: bool, trust: &str) {
    let ended = scene.fetch(more);
    if right {
        assert_eq!(ended.exit, Some(0), "{what}: {}", ended.stderr);
        assert_eq!(ended.event("published")["trust"], trust, "{what}");
        scene.must_be_published();
        fs::remove_file(scene.target()).unwrap();
        return;
    }
    must_be_refused(what, &ended);
    assert_eq!(names(scene.folder.path()), ["out.quarantined"], "{what}");
    let kept = fs::read(scene.path("out.quarantined")).unwrap();
    assert!(
        kept == scene.content.all(),
        "{what}: what is kept differs from what came"
    );
    fs::remove_file(scene.path("out.quarantined")).unwrap();
    must_be_refused(what, &scene.fetch(&[more, &["--discard"]].concat()));
    scene.must_be_empty();
}

#[track_caller]
fn must_be_refused(what: &str, ended: &Ended) {
    assert_eq!(
        ended.exit,
        Some(3),
        "{what}: {}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(
        ended.all("published"),
        Vec::<serde_json::Value>::new(),
        "{what}"
    );
    let failed = ended.event("failed");
    assert_eq!(failed["class"], "not-verified", "{what}: {failed}");
}

#[test]
fn offered_in_headers() {
    let in_header = |algorithm: Algorithm, bytes: &[u8]| {
        let text = STANDARD.encode(bytes);
        let mut offers = Vec::new();
        // RFC 9530; its registry calls SHA-1 `sha`. Not all of ours are registered; they are understood all the same.
        let name = match algorithm {
            Algorithm::Sha1 => "sha",
            other => other.name(),
        };
        offers.push(("Repr-Digest", format!("{name}=:{text}:")));
        offers.push(("repr-digest", format!("unixsum=:AAA=:, {name}=:{text}:")));
        match algorithm {
            Algorithm::Sha256 => offers.push(("x-amz-checksum-sha256", text.clone())),
            Algorithm::Sha512 => offers.push(("x-amz-checksum-sha512", text.clone())),
            Algorithm::Sha1 => offers.push(("x-amz-checksum-sha1", text.clone())),
            Algorithm::Md5 => {
                offers.push(("x-amz-checksum-md5", text.clone()));
                offers.push(("x-goog-hash", format!("md5={text}")));
                offers.push(("Content-MD5", text.clone()));
            }
            Algorithm::Crc32c => {
                offers.push(("x-amz-checksum-crc32c", text.clone()));
                offers.push(("x-goog-hash", format!("crc32c={text}")));
            }
            Algorithm::Crc64Nvme => offers.push(("x-amz-checksum-crc64nvme", text.clone())),
            // No storage offers it.
            Algorithm::Blake3 => (),
        }
        offers
    };
    for algorithm in ALL {
        for right in [true, false] {
            for (name, value) in in_header(algorithm, &digest(algorithm, right)) {
                let what = format!(
                    "{name}: {value} ({})",
                    if right { "right" } else { "wrong" }
                );
                let scene = without_manifest();
                put_with_header(&scene.origin, name, value);
                must_end(&what, &scene, &[], right, "digest");
            }
        }
    }
}

#[test]
fn several_offers_must_all_be_right() {
    let [crc, md5] = [Algorithm::Crc32c, Algorithm::Md5]
        .map(|algorithm| [true, false].map(|right| STANDARD.encode(digest(algorithm, right))));
    for (crc_is, md5_is) in [(0, 0), (0, 1), (1, 0)] {
        let scene = without_manifest();
        let value = format!("crc32c={},md5={}", crc[crc_is], md5[md5_is]);
        put_with_header(&scene.origin, "x-goog-hash", value.clone());
        must_end(&value, &scene, &[], crc_is + md5_is == 0, "digest");
    }
}

#[test]
fn offered_beside_the_object() {
    for right in [true, false] {
        let hex = hex::encode(digest(Algorithm::Sha256, right));
        for text in [format!("{hex}\n"), format!("{hex}  object.bin\n")] {
            let scene = without_manifest();
            scene
                .origin
                .put("/object.bin.sha256", text.clone().into_bytes());
            must_end(&text, &scene, &[], right, "digest");
        }
    }
    // Other kinds are not looked for: that would be a request each, of every server, for what few have.
    let scene = without_manifest();
    scene.origin.put(
        "/object.bin.md5",
        hex::encode(digest(Algorithm::Md5, false)).into_bytes(),
    );
    must_end(".md5", &scene, &[], true, "none");
}

/// A strong digest of the user's own is as good as a root; a weak one is no better than a server's.
#[test]
fn given_by_the_user() {
    for algorithm in ALL {
        for right in [true, false] {
            let hex = hex::encode(digest(algorithm, right));
            let given = format!("{algorithm}={hex}");
            let trust = if is_strong(algorithm) {
                "root"
            } else {
                "digest"
            };
            must_end(
                &given,
                &without_manifest(),
                &["--digest", &given],
                right,
                trust,
            );
            if algorithm == Algorithm::Sha256 {
                must_end(
                    &given,
                    &without_manifest(),
                    &["--sha256", &hex],
                    right,
                    trust,
                );
            }
            if algorithm == Algorithm::Blake3 {
                must_end(&given, &without_manifest(), &["--root", &hex], right, trust);
            }
            // Beside a manifest that does not have this digest.
            let trust = if is_strong(algorithm) {
                "root"
            } else {
                "manifest"
            };
            let scene = Scene::new(LENGTH, BLOCK);
            must_end(
                &format!("{given} and a manifest"),
                &scene,
                &["--digest", &given],
                right,
                trust,
            );
        }
    }
}

/// What the user gives is compared with what the manifest says before any byte of the body comes.
#[test]
fn given_by_the_user_and_said_by_the_manifest() {
    for algorithm in ALL {
        let scene = Scene::new(LENGTH, BLOCK);
        fs::write(scene.path("object.bin"), scene.content.all()).unwrap();
        let mut command = sapwood(scene.folder.path());
        command.args(["manifest", "object.bin", "--digest", algorithm.name()]);
        program::run(command).must(0);
        scene.origin.put(
            MANIFEST,
            fs::read(scene.path("object.bin.sapwood")).unwrap(),
        );
        fs::remove_file(scene.path("object.bin")).unwrap();
        fs::remove_file(scene.path("object.bin.sapwood")).unwrap();
        let given = |right| format!("{algorithm}={}", hex::encode(digest(algorithm, right)));
        let trust = if is_strong(algorithm) {
            "root"
        } else {
            "manifest"
        };
        must_end(
            &given(true),
            &scene,
            &["--digest", &given(true)],
            true,
            trust,
        );
        scene.origin.forget_log();
        let ended = scene.fetch(&["--digest", &given(false)]);
        must_be_refused(&given(false), &ended);
        assert!(
            scene.origin.bodies_of(OBJECT).is_empty(),
            "{algorithm}: a byte of the body was asked for"
        );
        scene.must_be_empty();
    }
}

/// What a user's own digest proved was called a root, which no user had given.
#[test]
fn what_a_digest_of_the_user_proved_is_named_after_it() {
    let scene = without_manifest();
    let sha256 = hex::encode(digest(Algorithm::Sha256, true));
    let root = scene.root();
    let told = |more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        command
            .args(["fetch", &scene.url(), "-o", "out"])
            .args(more);
        let told = program::run(command).must(0).stdout;
        fs::remove_file(scene.target()).unwrap();
        told
    };
    for (more, basis) in [
        (&["--sha256", &sha256][..], "SHA-256;"),
        (&["--root", &root, "--sha256", &sha256], "root;"),
        (&["--digest", &format!("blake3={root}")], "BLAKE3;"),
    ] {
        let told = told(more);
        assert!(
            told.contains(&format!("proven against its {basis}")),
            "{told}"
        );
    }
    let ended = scene.fetch(&["--sha256", &sha256]).must(0);
    assert_eq!(ended.event("published")["trust"], "root");
}
