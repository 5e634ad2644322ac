//! Signatures: made and checked by minisign too, and everything that must be refused before any byte of the body.

use std::{fs, path::Path, process::Command};

use sapwood::{
    engine::{
        create::{self, CreateOptions, Input, Output},
        sign::Signer,
    },
    format::signature::{Signature, SignatureArea},
};
use tempfile::TempDir;

use crate::support::{
    nginx,
    objects::Content,
    origin::Origin,
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, names},
};

const LENGTH: u64 = 200 * 1024 + 5;
const STATEMENT_BYTES: usize = 1024;
const FRONT_BYTES: usize = 1536;

/// A publisher with two keys, an origin, and a place to fetch to.
struct Signed {
    publisher: TempDir,
    origin: Origin,
    reader: TempDir,
}

impl Signed {
    fn new() -> Signed {
        let signed = Signed {
            publisher: TempDir::new().unwrap(),
            origin: Origin::start(),
            reader: TempDir::new().unwrap(),
        };
        let content = Content::Painted(LENGTH);
        fs::write(signed.path("object.bin"), content.all()).unwrap();
        signed.origin.put(OBJECT, content);
        for key in ["ours", "other"] {
            signed
                .sapwood(&["keygen", "--no-password", "-o", key])
                .must(0);
        }
        signed
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.publisher.path().join(name)
    }

    /// The program where the keys are.
    fn sapwood(&self, args: &[&str]) -> Ended {
        let mut command = sapwood(self.publisher.path());
        command.args(args);
        program::run(command)
    }

    fn minisign(&self, args: &[&str]) -> Ended {
        let mut command = program::command(nginx::program("minisign"), self.publisher.path());
        command.args(args);
        program::run(command)
    }

    /// A manifest of the object, made with these arguments.
    fn manifest(&self, more: &[&str]) -> Vec<u8> {
        let _ = fs::remove_file(self.path("object.bin.sapwood"));
        // Another publisher each time: one and the same signs no lower sequence number.
        let store = TempDir::new().unwrap();
        let store = store.path().display().to_string();
        self.sapwood(&[&["manifest", "object.bin", "--store", &store], more].concat())
            .must(0);
        fs::read(self.path("object.bin.sapwood")).unwrap()
    }

    /// Signed with our key; sequence 5. The program makes no manifest that expired already.
    fn expired(&self) -> Vec<u8> {
        let manifest = self.path("object.bin.sapwood");
        let _ = fs::remove_file(&manifest);
        let key = fs::read_to_string(self.path("ours.key")).unwrap();
        let signer = Signer::from_text(&key, &mut || unreachable!("it has no password"));
        let options = CreateOptions {
            sequence: 5,
            expires: 1_577_836_800,
            ..CreateOptions::default()
        };
        let (input, output) = (
            Input::File(self.path("object.bin")),
            Output::File(manifest.clone()),
        );
        create::create(input, output, &options, Some(&signer.unwrap())).unwrap();
        fs::read(manifest).unwrap()
    }

    /// Signed with our key; sequence 5.
    fn good(&self) -> Vec<u8> {
        self.manifest(&["--sign", "ours.key", "--seq", "5"])
    }

    fn public(&self) -> String {
        self.path("ours.pub").display().to_string()
    }

    fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut sapwood = sapwood(self.reader.path());
        sapwood.args([
            "--json",
            command,
            &self.origin.url(OBJECT),
            "--key",
            &self.public(),
        ]);
        if command == "fetch" {
            sapwood.args(["-o", "out"]);
        }
        sapwood.args(more);
        sapwood
    }

    /// With a memory of this name.
    fn run(&self, command: &str, store: &str, more: &[&str]) -> Ended {
        program::run(self.command(command, &[more, &["--store", store]].concat()))
    }

    /// Accepted, and what comes is the object.
    #[track_caller]
    fn must_accept(&self, store: &str) {
        let ended = self.run("fetch", store, &[]).must(0);
        assert_eq!(ended.event("published")["trust"], "signed");
        let out = self.reader.path().join("out");
        assert!(fs::read(&out).unwrap() == Content::Painted(LENGTH).all());
        fs::remove_file(out).unwrap();
        let mut cat = self.command("cat", &["--store", store]);
        let output = cat.output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout == Content::Painted(LENGTH).all());
    }

    /// Refused by fetch and cat, again in the next process, before any byte of the body; nothing is left.
    #[track_caller]
    fn must_refuse(&self, what: &str, store: &str, message: &str) {
        self.origin.forget_log();
        for command in ["fetch", "cat"] {
            for run in ["first", "second"] {
                let ended = self.run(command, store, &[]);
                let said = format!("{}{}", ended.stdout, ended.stderr);
                assert_eq!(ended.exit, Some(3), "{what}, {command}, {run} run: {said}");
                assert!(
                    said.contains(message),
                    "{what}, {command}: {said} does not say {message:?}"
                );
                assert!(
                    command == "fetch" || ended.stdout.is_empty(),
                    "{what}: {}",
                    ended.stdout
                );
            }
        }
        let bodies = self.origin.bodies_of(OBJECT);
        assert!(
            bodies.is_empty(),
            "{what}: bytes of the body were asked for: {bodies:?}"
        );
        let left: Vec<String> = names(self.reader.path());
        let left: Vec<&String> = left
            .iter()
            .filter(|name| !name.starts_with("store"))
            .collect();
        assert!(left.is_empty(), "{what}: {left:?} is left");
    }
}

/// The statement with one byte of its header changed, sound again but for the signature.
fn with_other_byte(manifest: &[u8], at: usize) -> Vec<u8> {
    let mut changed = manifest.to_vec();
    changed[at] ^= 1;
    let sum = blake3::hash(&changed[..STATEMENT_BYTES - 32]);
    changed[STATEMENT_BYTES - 32..STATEMENT_BYTES].copy_from_slice(sum.as_bytes());
    changed
}

fn signature_of(manifest: &[u8]) -> Signature {
    let area = manifest[STATEMENT_BYTES..FRONT_BYTES].try_into().unwrap();
    let area = SignatureArea::read(area).unwrap();
    area.minisign().expect("it is signed").clone()
}

fn with_signature(manifest: &[u8], change: impl FnOnce(&mut Signature)) -> Vec<u8> {
    let mut signature = signature_of(manifest);
    change(&mut signature);
    let mut changed = manifest.to_vec();
    changed[STATEMENT_BYTES..FRONT_BYTES].copy_from_slice(&signature.to_area());
    changed
}

/// Signed in a way that no key of ours can check, with a trailer.
fn with_unknown_kind(manifest: &[u8]) -> Vec<u8> {
    let mut changed = manifest.to_vec();
    changed[STATEMENT_BYTES..][..6].copy_from_slice(b"ML\x03\0\0\0");
    changed.extend(b"abc");
    changed
}

/// Found: no signature but minisign's could ever come: a manifest with another one was malformed.
#[test]
fn without_a_key_a_signature_of_an_unknown_kind_is_none() {
    let signed = Signed::new();
    let good = signed.good();
    let place = signed.path("object.bin.sapwood");
    fs::write(&place, with_unknown_kind(&good)).unwrap();
    signed.sapwood(&["verify", "object.bin"]).must(0);
    let shown = signed.sapwood(&["inspect", "object.bin"]).must(0).stdout;
    assert!(shown.contains("signature   of the kind 4D4C"), "{shown}");
    let shown = signed.sapwood(&["--json", "inspect", "object.bin"]);
    assert!(shown.must(0).stdout.contains("\"key_id\":null"));
    signed.origin.put(MANIFEST, fs::read(&place).unwrap());
    let mut fetch = sapwood(signed.reader.path());
    let url = signed.origin.url(OBJECT);
    fetch.args(["--json", "fetch", &url, "--no-store", "-o", "out"]);
    let ended = program::run(fetch).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    // A signature that replaces it takes its trailer along.
    signed
        .sapwood(&["sign", "--key", "ours.key", "object.bin.sapwood"])
        .must(0);
    assert_eq!(fs::read(&place).unwrap().len(), good.len());
}

#[test]
fn what_is_refused_before_any_byte_of_the_body() {
    let signed = Signed::new();
    let good = signed.good();
    let name = good
        .windows(10)
        .position(|bytes| bytes == b"object.bin")
        .expect("the name is in the statement");
    let cut = {
        // The second half of a signature is what a write that was cut short leaves.
        let mut cut = good.clone();
        cut[STATEMENT_BYTES + 74..FRONT_BYTES].fill(0);
        cut
    };
    let ours = ["--sign", "ours.key", "--seq", "5"];
    let cases = [
        (
            "a changed statement",
            with_other_byte(&good, name + 11),
            "signature is not valid",
        ),
        (
            "a changed name",
            with_other_byte(&good, name),
            "signature is not valid",
        ),
        (
            "another key",
            signed.manifest(&["--sign", "other.key", "--seq", "5"]),
            "another key",
        ),
        (
            "another key under the id of ours",
            with_signature(
                &signed.manifest(&["--sign", "other.key", "--seq", "5"]),
                |signature| {
                    signature.key_id = signature_of(&good).key_id;
                },
            ),
            "signature is not valid",
        ),
        (
            "another signed name",
            signed.manifest(&[&ours[..], &["--name", "other.bin"]].concat()),
            "other.bin",
        ),
        (
            "no signed name",
            signed.manifest(&[&ours[..], &["--name", "object.bi"]].concat()),
            "object.bi",
        ),
        ("expired", signed.expired(), "expired"),
        ("a truncated signature", cut, "signature is not valid"),
        (
            "a signature with a changed bit",
            with_signature(&good, |s| s.signature[20] ^= 4),
            "signature is not valid",
        ),
        (
            "a changed global signature",
            with_signature(&good, |s| s.global_signature[20] ^= 4),
            "signature is not valid",
        ),
        (
            "a changed trusted comment",
            with_signature(&good, |s| s.trusted_comment.push('!')),
            "signature is not valid",
        ),
        (
            "no signature",
            signed.manifest(&["--seq", "5"]),
            "not signed",
        ),
        (
            "a signature of an unknown kind",
            with_unknown_kind(&good),
            "in a way that this program does not know",
        ),
        ("a cut manifest", good[..1300].to_vec(), "refused"),
    ];
    for (what, manifest, message) in cases {
        signed.origin.put(MANIFEST, manifest.clone());
        signed.must_refuse(what, "store-fresh", message);
        // The same with a memory of the good one.
        signed.origin.put(MANIFEST, good.clone());
        signed.must_accept("store-used");
        signed.origin.put(MANIFEST, manifest);
        signed.must_refuse(what, "store-used", message);
    }
    signed.origin.put(MANIFEST, good);
    signed.must_accept("store-fresh");
}

/// Found: without a manifest a fetch with --key went on as if none had been given, and published what nobody had signed.
#[test]
fn with_a_key_an_object_without_a_manifest_is_refused() {
    let signed = Signed::new();
    signed.origin.forget_log();
    for more in [&[][..], &["--require", "none"], &["--root", &signed_root()]] {
        let ended = signed.run("fetch", "store", more).must(3);
        assert!(ended.stderr.contains("signed"), "{}", ended.stderr);
    }
    assert!(signed.origin.bodies_of(OBJECT).is_empty());
    assert_eq!(names(signed.reader.path()), ["store"]);
    // A stream without a manifest is none at all.
    signed.run("cat", "store", &[]).must(1);
}

fn signed_root() -> String {
    blake3::hash(&Content::Painted(LENGTH).all())
        .to_hex()
        .to_string()
}

#[test]
fn an_older_sequence_is_refused_by_every_process_that_remembers() {
    let signed = Signed::new();
    let (old, new) = (
        signed.manifest(&["--sign", "ours.key", "--seq", "4"]),
        signed.good(),
    );
    // Nothing is remembered yet.
    signed.origin.put(MANIFEST, old.clone());
    signed.must_accept("store");
    signed.origin.put(MANIFEST, new.clone());
    signed.must_accept("store");
    signed.must_accept("store");
    signed.origin.put(MANIFEST, old.clone());
    signed.must_refuse("an older sequence", "store", "lower than 5");
    // One without any is older than all.
    signed
        .origin
        .put(MANIFEST, signed.manifest(&["--sign", "ours.key"]));
    signed.must_refuse("no sequence", "store", "lower than 5");
    // cat remembers too.
    signed.origin.put(MANIFEST, new.clone());
    signed
        .run("cat", "store-of-cat", &["--range", "0-0"])
        .must(0);
    signed.origin.put(MANIFEST, old.clone());
    signed.must_refuse(
        "an older sequence after cat",
        "store-of-cat",
        "lower than 5",
    );
    // Another memory, and none.
    signed.must_accept("store-other");
    for (manifest, _) in [(&new, 5), (&old, 4)] {
        signed.origin.put(MANIFEST, manifest.clone());
        let ended = signed.run("fetch", "store-unused", &["--no-store"]).must(0);
        assert_eq!(ended.event("published")["trust"], "signed");
        fs::remove_file(signed.reader.path().join("out")).unwrap();
        signed
            .run("cat", "store-unused", &["--no-store", "--range", "0-0"])
            .must(0);
    }
    assert!(!signed.reader.path().join("store-unused").exists());
}

#[test]
fn a_memory_that_cannot_be_opened_is_one_warning() {
    let signed = Signed::new();
    signed.origin.put(MANIFEST, signed.good());
    fs::write(signed.reader.path().join("store"), b"a file").unwrap();
    for command in ["fetch", "cat"] {
        let ended = signed.run(command, "store", &[]).must(0);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let warnings = said.matches("\"event\":\"warning\"").count();
        assert_eq!(warnings, 1, "{command}: {said}");
    }
}

#[test]
fn less_trust_than_required_is_refused() {
    let signed = Signed::new();
    signed.origin.put(MANIFEST, signed.good());
    let root = signed_root();
    for command in ["fetch", "cat"] {
        for (require, more, exit) in [
            ("signed", &[][..], 3),
            ("signed", &["--root", &root], 3),
            ("root", &[], 3),
            ("root", &["--root", &root], 0),
            ("manifest", &[], 0),
            ("digest", &[], 0),
        ] {
            signed.origin.forget_log();
            let mut sapwood = sapwood(signed.reader.path());
            sapwood.args([
                command,
                &signed.origin.url(OBJECT),
                "--require",
                require,
                "--no-store",
            ]);
            if command == "fetch" {
                sapwood.args(["-o", "out"]);
            }
            sapwood.args(more);
            let output = sapwood.output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(exit),
                "{command} --require {require} {more:?}"
            );
            assert!(
                exit == 0 || signed.origin.bodies_of(OBJECT).is_empty(),
                "{command} {require}"
            );
            let _ = fs::remove_file(signed.reader.path().join("out"));
        }
    }
}

// ---- minisign

/// `inspect --statement` and `--signature`, as files.
fn taken_apart(signed: &Signed) {
    for (part, file) in [("--statement", "s"), ("--signature", "s.minisig")] {
        let mut command = sapwood(signed.publisher.path());
        command.args(["inspect", "object.bin", part]);
        let output = command.output().unwrap();
        assert!(output.status.success());
        fs::write(signed.path(file), output.stdout).unwrap();
    }
}

#[test]
fn minisign_accepts_what_we_sign() {
    let signed = Signed::new();
    let sign_later = |signed: &Signed| {
        signed.manifest(&["--seq", "7"]);
        signed
            .sapwood(&["sign", "--key", "ours.key", "object.bin"])
            .must(0);
    };
    let sign_at_once = |signed: &Signed| drop(signed.good());
    for sign in [&sign_later as &dyn Fn(&Signed), &sign_at_once] {
        sign(&signed);
        taken_apart(&signed);
        let check = ["-V", "-H", "-p", "ours.pub", "-m", "s", "-x", "s.minisig"];
        signed.minisign(&check).must(0);
        // It would not accept just anything.
        signed
            .minisign(&["-V", "-p", "other.pub", "-m", "s", "-x", "s.minisig"])
            .must(1);
        let mut statement = fs::read(signed.path("s")).unwrap();
        statement[500] ^= 1;
        fs::write(signed.path("s"), statement).unwrap();
        signed.minisign(&check).must(1);
    }
}

/// A manifest, its statement in the file `s`, and minisign's own keys in `mini.key` and `mini.pub`.
fn with_keys_of_minisign() -> Signed {
    let signed = Signed::new();
    signed
        .minisign(&["-G", "-W", "-p", "mini.pub", "-s", "mini.key"])
        .must(0);
    signed.manifest(&["--seq", "3"]);
    let mut command = sapwood(signed.publisher.path());
    let output = command
        .args(["inspect", "object.bin", "--statement"])
        .output()
        .unwrap();
    fs::write(signed.path("s"), output.stdout).unwrap();
    signed
}

#[test]
fn we_accept_what_minisign_signs() {
    let signed = with_keys_of_minisign();
    signed
        .minisign(&[
            "-S",
            "-s",
            "mini.key",
            "-m",
            "s",
            "-x",
            "s.minisig",
            "-t",
            "by minisign itself",
        ])
        .must(0);
    signed
        .sapwood(&["sign", "--attach", "s.minisig", "object.bin"])
        .must(0);
    let manifest = fs::read(signed.path("object.bin.sapwood")).unwrap();
    assert_eq!(
        signature_of(&manifest).trusted_comment,
        "by minisign itself"
    );
    signed
        .sapwood(&["verify", "object.bin", "--key", "mini.pub"])
        .must(0);
    signed
        .sapwood(&["verify", "object.bin", "--key", "ours.pub"])
        .must(3);
    signed.origin.put(MANIFEST, manifest);
    for (key, exit) in [("mini.pub", 0), ("ours.pub", 3)] {
        let key = signed.path(key).display().to_string();
        for command in ["fetch", "cat"] {
            let mut sapwood = sapwood(signed.reader.path());
            sapwood.args([
                command,
                &signed.origin.url(OBJECT),
                "--no-store",
                "--key",
                &key,
            ]);
            assert_eq!(
                sapwood.output().unwrap().status.code(),
                Some(exit),
                "{command} --key {key}"
            );
        }
    }
}

#[test]
fn signatures_that_do_not_fit_are_not_attached() {
    let signed = with_keys_of_minisign();
    let before = fs::read(signed.path("object.bin.sapwood")).unwrap();
    let long = "c".repeat(373);
    let fits = "c".repeat(372);
    for (more, message) in [(&["-l"][..], "legacy"), (&["-t", &long], "too long")] {
        let args = [
            &["-S", "-s", "mini.key", "-m", "s", "-x", "s.minisig"],
            more,
        ]
        .concat();
        signed.minisign(&args).must(0);
        let ended = signed
            .sapwood(&["sign", "--attach", "s.minisig", "object.bin"])
            .must(2);
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
        assert!(
            fs::read(signed.path("object.bin.sapwood")).unwrap() == before,
            "the manifest changed"
        );
    }
    signed
        .minisign(&[
            "-S",
            "-s",
            "mini.key",
            "-m",
            "s",
            "-x",
            "s.minisig",
            "-t",
            &fits,
        ])
        .must(0);
    signed
        .sapwood(&["sign", "--attach", "s.minisig", "object.bin"])
        .must(0);
    signed
        .sapwood(&["verify", "object.bin", "--key", "mini.pub"])
        .must(0);
}

/// A signature over another statement was put into the manifest.
#[test]
fn a_signature_of_another_file_is_not_attached() {
    let signed = with_keys_of_minisign();
    let before = fs::read(signed.path("object.bin.sapwood")).unwrap();
    let must_stay = |what: &str| {
        let now = fs::read(signed.path("object.bin.sapwood")).unwrap();
        assert!(now == before, "{what}: the manifest changed");
    };
    let sign = |statement: &str| {
        let sign = ["-S", "-s", "mini.key", "-x", "s.minisig", "-m", statement];
        signed.minisign(&sign).must(0);
    };
    let attach = ["sign", "--attach", "s.minisig", "object.bin"];
    fs::write(signed.path("other"), [7; 1024]).unwrap();
    sign("other");
    for more in [&[][..], &["--key", "mini.pub"]] {
        let ended = signed.sapwood(&[&attach[..], more].concat()).must(3);
        assert!(ended.stderr.contains("not valid"), "{}", ended.stderr);
        must_stay("a signature of another file");
    }
    sign("s");
    signed
        .sapwood(&[&attach[..], &["--key", "ours.pub"]].concat())
        .must(3);
    must_stay("a signature by another key");
    // Nothing to check it with.
    fs::rename(signed.path("mini.pub"), signed.path("mini.public")).unwrap();
    let ended = signed.sapwood(&attach).must(2);
    assert!(ended.stderr.contains("--key"), "{}", ended.stderr);
    must_stay("a signature that cannot be checked");
    signed
        .sapwood(&[&attach[..], &["--key", "mini.public"]].concat())
        .must(0);
}

/// Found: with --root, a missing manifest was no reason to miss its signature.
#[test]
fn verify_with_a_key_and_a_root_still_wants_the_signature() {
    let signed = Signed::new();
    let root = signed_root();
    let verify = |more: &[&str]| {
        let args = ["verify", "object.bin", "--root", &root, "--key", "ours.pub"];
        signed.sapwood(&[&args[..], more].concat())
    };
    verify(&[]).must(3);
    signed.manifest(&[]);
    verify(&[]).must(3);
    signed.manifest(&["--sign", "other.key"]);
    verify(&[]).must(3);
    fs::write(signed.path("object.bin.sapwood"), b"no manifest").unwrap();
    verify(&[]).must(3);
    signed.good();
    verify(&[]).must(0);
}

/// Verifies a file of the publisher's with our key and this store.
fn verify_with_key(signed: &Signed, file: &str, store: &str, more: &[&str]) -> Ended {
    let args = ["verify", file, "--key", "ours.pub", "--store", store];
    signed.sapwood(&[&args[..], more].concat())
}

/// Found: only the signature itself was looked at, so a manifest that expired in 2020, or one for another file, was "signed".
#[test]
fn verify_with_a_key_refuses_what_a_fetch_refuses() {
    let signed = Signed::new();
    let root = signed_root();
    let ours = ["--sign", "ours.key", "--seq", "5"];
    for message in ["expired", "signed for the name"] {
        match message {
            "expired" => signed.expired(),
            _ => signed.manifest(&[&ours[..], &["--name", "other.bin"]].concat()),
        };
        for more in [&[][..], &["--root", &root]] {
            let ended = verify_with_key(&signed, "object.bin", "store", more).must(3);
            assert!(ended.stderr.contains(message), "{}", ended.stderr);
        }
        // Without the key neither means anything.
        signed.sapwood(&["verify", "object.bin"]).must(0);
        signed
            .sapwood(&["verify", "object.bin", "--root", &root])
            .must(0);
    }
    // The signed name is that of the file, wherever the file and its manifest are.
    signed.manifest(&[&ours[..], &["--expires", "2999-01-01T00:00:00Z"]].concat());
    let ended = verify_with_key(&signed, "object.bin", "store", &["--json"]).must(0);
    assert_eq!(ended.event("verified")["trust"], "signed");
    fs::create_dir(signed.path("folder")).unwrap();
    for copy in ["folder/object.bin", "other.bin"] {
        fs::copy(signed.path("object.bin"), signed.path(copy)).unwrap();
    }
    let of_object = ["--manifest", "object.bin.sapwood"];
    verify_with_key(&signed, "folder/object.bin", "store", &of_object).must(0);
    let ended = verify_with_key(&signed, "other.bin", "store", &of_object).must(3);
    assert!(ended.stderr.contains("other.bin"), "{}", ended.stderr);
}

#[test]
fn verify_refuses_a_manifest_older_than_one_that_was_seen() {
    let signed = Signed::new();
    let verify = |store: &str| verify_with_key(&signed, "object.bin", store, &[]);
    let old = signed.manifest(&["--sign", "ours.key", "--seq", "4"]);
    verify("store").must(0);
    let new = signed.good();
    verify("store").must(0);
    verify("store").must(0);
    signed.origin.put(MANIFEST, new);
    let fetched = signed.path("store-of-fetch").display().to_string();
    signed.run("fetch", &fetched, &[]).must(0);
    fs::write(signed.path("object.bin.sapwood"), &old).unwrap();
    // What verify saw, and what a fetch saw.
    for store in ["store", "store-of-fetch"] {
        let ended = verify(store).must(3);
        assert!(ended.stderr.contains("lower than 5"), "{}", ended.stderr);
    }
    // A fetch knows what verify saw.
    signed.origin.put(MANIFEST, old);
    let seen = signed.path("store").display().to_string();
    fs::remove_file(signed.reader.path().join("out")).unwrap();
    signed.must_refuse("an older sequence after verify", &seen, "lower than 5");
    // Another memory, and one that cannot be used.
    verify("store-other").must(0);
    fs::write(signed.path("no-store"), b"a file").unwrap();
    let ended = verify("no-store").must(0);
    assert!(ended.stderr.contains("warning"), "{}", ended.stderr);
    // Without a key nothing is looked up, let alone warned of.
    let args = ["verify", "object.bin", "--store", "no-store"];
    let ended = signed.sapwood(&args).must(0);
    assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
}

#[test]
fn keys_that_are_none_are_usage_errors() {
    let signed = Signed::new();
    signed.origin.put(MANIFEST, signed.good());
    fs::write(
        signed.path("bad.pub"),
        b"untrusted comment: x\nRWnonsense\n",
    )
    .unwrap();
    let bad = signed.path("bad.pub").display().to_string();
    for command in ["fetch", "cat"] {
        for key in [bad.as_str(), "not-there.pub"] {
            let mut sapwood = sapwood(Path::new(signed.reader.path()));
            sapwood.args([command, &signed.origin.url(OBJECT), "--key", key]);
            assert_eq!(
                sapwood.output().unwrap().status.code(),
                Some(2),
                "{command} --key {key}"
            );
        }
    }
}

/// "There is no password", for a key that has none.
#[test]
fn keys_of_minisign_without_a_password_were_taken_for_encrypted() {
    let signed = with_keys_of_minisign();
    signed
        .sapwood(&["manifest", "object.bin", "--sign", "mini.key"])
        .must(0);
    signed
        .sapwood(&["verify", "object.bin", "--key", "mini.pub"])
        .must(0);
    // The line with the key alone, as it is pasted.
    let text = fs::read_to_string(signed.path("mini.key")).unwrap();
    let line = text.lines().nth(1).unwrap();
    signed
        .sapwood(&["sign", "object.bin", "--key", line])
        .must(0);
    let ended = signed
        .sapwood(&["verify", "object.bin", "--key", "mini.key"])
        .must(2);
    assert!(ended.stderr.contains("it is a secret key"), "{ended:?}");
}

/// Every reader who had seen sequence 5 refused what was signed with 3, or with none.
#[test]
fn a_publisher_signed_a_lower_sequence_than_before() {
    let signed = Signed::new();
    let sign = |more: &[&str]| {
        let args = ["manifest", "object.bin", "--sign", "ours.key"];
        signed.sapwood(&[&args, more].concat())
    };
    sign(&["--seq", "5"]).must(0);
    sign(&["--seq", "5"]).must(0);
    let before = fs::read(signed.path("object.bin.sapwood")).unwrap();
    for (more, told) in [
        (
            &["--seq", "3"][..],
            "the sequence number 3, but 5 was signed",
        ),
        (&[], "no sequence number, but 5 was signed"),
    ] {
        let ended = sign(more).must(2);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert!(ended.stderr.contains("--seq"), "{}", ended.stderr);
        assert_eq!(fs::read(signed.path("object.bin.sapwood")).unwrap(), before);
    }
    // Under another name or key it is another object.
    sign(&["--seq", "3", "--name", "another"]).must(0);
    let other = [
        "manifest",
        "object.bin",
        "--sign",
        "other.key",
        "--seq",
        "1",
    ];
    signed.sapwood(&other).must(0);
    // What was made without a signature is signed later.
    signed
        .sapwood(&["manifest", "object.bin", "--seq", "4"])
        .must(0);
    signed
        .sapwood(&["sign", "object.bin", "--key", "ours.key"])
        .must(2);
    sign(&["--seq", "6"]).must(0);
}

/// `--manifest` took a file only, although a manifest is a URL or a stream for every other command.
#[test]
fn verify_against_a_manifest_at_a_url_or_in_a_pipe() {
    let signed = Signed::new();
    let manifest = signed.good();
    fs::remove_file(signed.path("object.bin.sapwood")).unwrap();
    signed.origin.put("/m", manifest.clone());
    let url = signed.origin.url("/m");
    let key = signed.public();
    let verify = |more: &[&str]| {
        let mut command = sapwood(signed.publisher.path());
        command.args(["verify", "object.bin", "--hints"]).args(more);
        program::run_with_input(command, &manifest)
    };
    for place in [&*url, "-"] {
        let ended = verify(&["--manifest", place]).must(0);
        assert!(
            ended.stdout.contains("against its manifest"),
            "{}",
            ended.stdout
        );
        let ended = verify(&["--manifest", place, "--key", &key]).must(0);
        assert!(ended.stdout.contains("signed manifest"), "{}", ended.stdout);
    }
    let ended = verify(&["--manifest", &signed.origin.url("/none")]).must(1);
    assert!(ended.stderr.contains("/none"), "{}", ended.stderr);
    let ended = verify(&["--manifest", &signed.origin.url(OBJECT)]).must(3);
    assert!(
        ended.stderr.contains("not a Sapwood manifest"),
        "{}",
        ended.stderr
    );
    let mut bytes = fs::read(signed.path("object.bin")).unwrap();
    bytes[20_000] ^= 1;
    fs::write(signed.path("object.bin"), bytes).unwrap();
    let ended = verify(&["--manifest", &url]).must(3);
    assert!(ended.stdout.contains("is damaged"), "{}", ended.stdout);
}
