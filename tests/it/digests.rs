//! Every kind of digest, by every way it can be offered, right and wrong: how it ends, what is there then, and the trust.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sapwood::format::digests::{Algorithm, DigestHasher};

use tempfile::TempDir;

use crate::support::{
    objects::Content,
    origin::{Object, Origin},
    program::{self, Ended, run_with_input, sapwood},
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
}

/// Nothing but `.sha256` was looked for.
#[test]
fn offered_in_sidecars_of_other_kinds() {
    for right in [true, false] {
        for (path, algorithm, tag, trust) in [
            ("/object.bin.sha512", Algorithm::Sha512, "SHA512", "digest"),
            ("/SHA256SUMS", Algorithm::Sha256, "SHA256", "digest"),
            ("/object.bin.md5", Algorithm::Md5, "MD5", "digest"),
        ] {
            let hex = hex::encode(digest(algorithm, right));
            let other = "00".repeat(hex.len() / 2);
            for text in [
                format!("{other}  other.bin\n{hex} *object.bin\n"),
                format!("{tag} (other.bin) = {other}\n{tag} (object.bin) = {hex}\n"),
                // Longer than what is read of it.
                format!(
                    "{hex}  ./object.bin\n{}",
                    format!("{other}  x\n").repeat(5000)
                ),
            ] {
                let scene = without_manifest();
                scene.origin.put(path, text.clone().into_bytes());
                must_end(&text[..80], &scene, &[], right, trust);
            }
        }
    }
}

/// Of a folder there is one request, whatever is fetched from it.
#[test]
fn a_digest_file_of_a_folder_is_requested_once() {
    let origin = Origin::start();
    let folder = TempDir::new().unwrap();
    let (mut list, mut sums) = (String::new(), String::new());
    for number in 0..40u64 {
        let content = Content::Painted(1000 + number);
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        hasher.update(&content.all());
        let hex = hasher.finish().hex();
        origin.put(&format!("/{number}.bin"), content);
        sums += &format!("{hex}  {number}.bin\n");
        list += &format!("{}\n", origin.url(&format!("/{number}.bin")));
    }
    origin.put("/SHA256SUMS", sums.into_bytes());
    let mut command = sapwood(folder.path());
    command.args(["--json", "fetch", "-i", "-", "--connections", "2"]);
    let ended = run_with_input(command, list.as_bytes()).must(0);
    let trusts = ended
        .all("published")
        .into_iter()
        .map(|one| one["trust"].clone());
    assert!(
        trusts.clone().all(|trust| trust == "digest"),
        "{}",
        ended.stdout
    );
    assert!(origin.log_of("/SHA256SUMS").len() <= 2);
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

/// A sidecar that is anything but one cost a megabyte.
#[test]
fn a_sidecar_with_a_long_body_is_not_read_to_its_end() {
    const READ: usize = 64 * 1024;
    let right = hex::encode(digest(Algorithm::Sha256, true));
    let wrong = hex::encode(digest(Algorithm::Sha256, false));
    let cut = format!("{wrong}  object.bin");
    let filler = format!("{}\n", "#".repeat(READ - cut.len() - 1));
    for (head, trust) in [
        (format!("{right}  object.bin\n"), "digest"),
        // Only the first 64 KiB look like a digest of the object.
        (format!("{filler}{cut}.old\n"), "none"),
    ] {
        let scene = without_manifest();
        let long = head + &"#\n".repeat(1_500_000);
        scene.origin.put("/object.bin.sha256", long.into_bytes());
        let ended = scene.fetch(&[]).must(0);
        let published = ended.event("published");
        assert_eq!(published["trust"], trust, "{published}");
        let fetched = published["bytes_fetched"].as_u64().unwrap();
        let extra = fetched - scene.length();
        // What was on its way when the reading ended counts too.
        assert!(extra < 700_000, "{extra}");
    }
}
