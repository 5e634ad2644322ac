//! `sapwood manifest FOLDER`: libraries (manifest-spec/library.md).

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sapwood::format::paint;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    packed,
    support::{
        program::{Ended, run, sapwood},
        programs::{library_reference, output_of},
    },
};

const INDEX: &str = "library.sapwood";
const MANIFEST: &str = "library.sapwood.sapwood";
const MANIFESTS: &str = "library.sapwood.d";

/// Files are as old as this, so that no run of a test is in the second in which they changed.
const OLD: Duration = Duration::from_secs(3600);

struct Library {
    folder: TempDir,
}

impl Library {
    /// One file of each kind: empty, small, of one block, larger, twice the same, executable, deep.
    fn new() -> Library {
        let library = Library {
            folder: TempDir::new().unwrap(),
        };
        for (path, length) in [
            ("films/a.mp4", 300_000),
            ("films/copy.mp4", 300_000),
            ("films/a-b", 1),
            ("films/deep/er/x", 65_536),
            ("films/deep/y", 65_537),
            ("empty", 0),
            ("gemälde.bin", 5000),
        ] {
            library.write(path, length);
        }
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(library.path("films/a-b"), mode).unwrap();
        library
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("media").join(name)
    }

    fn write(&self, name: &str, length: usize) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, paint::bytes(0, length)).unwrap();
        set_modified(&path, SystemTime::now() - OLD);
    }

    fn publish(&self, more: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "manifest", "media"]).args(more);
        run(command)
    }

    /// Publishes, and returns what it said.
    #[track_caller]
    fn published(&self, more: &[&str]) -> Value {
        self.publish(more).must(0).event("library")
    }

    fn entries(&self) -> Vec<Value> {
        let read = output_of(library_reference().arg("read").arg(self.path(INDEX)), b"");
        let lines = String::from_utf8(read).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The files that belong to the library, with their bytes.
    fn own_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut paths = vec![self.path(INDEX), self.path(MANIFEST)];
        let manifests = fs::read_dir(self.path(MANIFESTS)).unwrap();
        paths.extend(manifests.map(|entry| entry.unwrap().path()));
        paths.sort();
        paths
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    /// Lets the clock go on: what changed within a second of a run is read again by the next one.
    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(1100));
        // Its bytes are the same, its time is that of this run.
        self.published(&["--read-all"]);
    }
}

fn set_modified(path: &Path, to: SystemTime) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(to).unwrap();
}

#[test]
fn a_library_is_byte_for_byte_that_of_the_second_implementation() {
    let library = Library::new();
    let said = library.published(&[]);
    assert_eq!(said["files"], 7);
    assert_eq!(said["files_read"], 7);
    assert_eq!(said["bytes_total"], 736_074);
    let ours = library.own_files();
    // The index, its manifest, one for the two copies, one for the file of 65,537 bytes.
    assert_eq!(ours.len(), 4);
    output_of(library_reference().arg("verify").arg(library.path("")), b"");
    for (path, _) in &ours {
        fs::remove_file(path).unwrap();
    }
    output_of(library_reference().arg("write").arg(library.path("")), b"");
    assert!(library.own_files() == ours);
}

#[test]
fn a_folder_without_files_is_a_library() {
    let library = Library {
        folder: TempDir::new().unwrap(),
    };
    fs::create_dir_all(library.path("empty")).unwrap();
    assert_eq!(library.published(&[])["files"], 0);
    assert!(library.entries().is_empty());
}

#[test]
fn only_what_changed_is_read_again() {
    let library = Library::new();
    library.published(&[]);
    library.wait();
    let before = library.own_files();
    let read = |library: &Library| library.published(&[])["files_read"].clone();
    assert_eq!(read(&library), 0);
    assert!(library.own_files() == before);
    library.write("empty", 3);
    library.write("new", 70_000);
    assert_eq!(read(&library), 2);
    // A manifest that is gone is made again.
    library.wait();
    fs::remove_dir_all(library.path(MANIFESTS)).unwrap();
    assert_eq!(read(&library), 4);
    // Of files that are gone, nothing stays.
    for name in ["films/a.mp4", "films/copy.mp4", "films/deep/y", "new"] {
        fs::remove_file(library.path(name)).unwrap();
    }
    library.published(&[]);
    assert_eq!(library.own_files().len(), 2);
    assert_eq!(library.published(&["--read-all"])["files_read"], 4);
}

/// Of the same length and with the old time of its last change: only the system knows.
/// To make files durable can take seconds while other programs write.
#[test]
fn a_run_that_finds_nothing_changed_writes_nothing() {
    let library = Library::new();
    library.wait();
    let files = || {
        [INDEX, MANIFEST].map(|name| {
            let found = fs::metadata(library.path(name)).unwrap();
            (found.ino(), found.modified().unwrap())
        })
    };
    let before = files();
    assert_eq!(library.published(&[])["files_read"], 0);
    assert_eq!(files(), before);
    // What it says is not what is asked for.
    library.published(&["--name", "other"]);
    let named = files();
    assert!(named[1] != before[1]);
    assert_eq!(library.published(&["--name", "other"])["files_read"], 0);
    assert_eq!(files(), named);
    library.published(&["--name", "other", "--seq", "2"]);
    assert!(files()[1] != named[1]);
    assert_eq!(files()[0], before[0]);
}

#[test]
fn a_file_that_hides_its_change_is_read_again() {
    let library = Library::new();
    library.published(&[]);
    library.wait();
    let path = library.path("films/a.mp4");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] ^= 1;
    fs::write(&path, bytes).unwrap();
    set_modified(&path, modified);
    assert_eq!(library.published(&[])["files_read"], 1);
    output_of(library_reference().arg("verify").arg(library.path("")), b"");
}

/// An index that is damaged, or not that of its manifest, is not believed.
#[test]
fn without_a_proven_index_everything_is_read() {
    let library = Library::new();
    library.published(&[]);
    library.wait();
    let path = library.path(INDEX);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    set_modified(&path, modified);
    assert_eq!(library.published(&[])["files_read"], 7);
    output_of(library_reference().arg("verify").arg(library.path("")), b"");
}

#[test]
fn what_no_library_lists_is_left_out_and_counted() {
    let library = Library::new();
    for name in [
        "x.part",
        "films/x.part.journal",
        "films/X.Quarantined",
        "back\\slash",
        "line\nbreak",
        "films/a.mp4.sapwood",
        "sub/library.sapwood",
    ] {
        library.write(name, 10);
    }
    let no_text = OsStr::from_bytes(b"\xff");
    fs::write(library.path("").join(no_text), b"not UTF-8").unwrap();
    let outside = library.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    symlink(&outside, library.path("folder-link")).unwrap();
    symlink(outside.join("secret"), library.path("file-link")).unwrap();
    symlink("nowhere", library.path("films/dangling")).unwrap();
    let said = library.published(&[]);
    assert_eq!(said["files"], 8);
    assert_eq!(said["left_out"], 10);
    let paths: Vec<String> = library
        .entries()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect();
    // In the order of the index: a folder before a name that begins like it.
    assert_eq!(
        paths,
        [
            "empty",
            "films/a-b",
            "films/a.mp4",
            "films/copy.mp4",
            "films/deep/er/x",
            "films/deep/y",
            "gemälde.bin",
            "sub/library.sapwood",
        ]
    );
    assert_eq!(library.entries()[1]["executable"], true);
}

#[test]
fn two_runs_on_one_folder_do_not_mix() {
    let library = Library::new();
    let lock = File::open(library.path("")).unwrap();
    lock.lock().unwrap();
    library.publish(&[]).must(5);
    drop(lock);
    library.publish(&[]).must(0);
}

/// What is not an index is never replaced by one.
#[test]
fn a_file_of_the_user_in_the_place_of_the_index_stays() {
    for name in [INDEX, MANIFEST] {
        let library = Library::new();
        fs::write(library.path(name), b"mine").unwrap();
        library.publish(&[]).must(6);
        assert_eq!(fs::read(library.path(name)).unwrap(), b"mine");
    }
}

#[test]
fn options_without_meaning_are_refused() {
    let library = Library::new();
    for more in [
        &["-o", "out"][..],
        &["--digest", "md5"],
        &["--name", "a/b"],
        &["--expires", "2001-01-01T00:00:00Z"],
    ] {
        library.publish(more).must(2);
    }
    let mut command = sapwood(library.folder.path());
    command.args(["manifest", "media/empty", "--read-all"]);
    run(command).must(2);
    assert!(!library.path(INDEX).exists());
}

#[test]
fn a_signed_library_has_a_name_a_sequence_and_an_expiry() {
    let library = Library::new();
    let mut command = sapwood(library.folder.path());
    command.args(["keygen", "--no-password", "-o", "studio"]);
    run(command).must(0);
    let signed = ["--sign", "studio.key", "--seq", "7", "--expires", "7d"];
    library.published(&signed);
    let inspected = |library: &Library| {
        let mut command = sapwood(library.folder.path());
        command.args(["--json", "inspect", "media/library.sapwood"]);
        let ended = run(command).must(0);
        serde_json::from_str::<Value>(&ended.stdout).unwrap()
    };
    let said = inspected(&library);
    assert_eq!(said["name"], "media");
    assert_eq!(said["sequence"], 7);
    assert!(said["expires"].as_u64().unwrap() > said["published"].as_u64().unwrap());
    assert!(said["key_id"].is_string());
    assert_eq!(said["block_size"], 16_384);
    // The manifests of objects are those of any library with these objects.
    for (path, manifest) in library.own_files() {
        if path == library.path(INDEX) {
            continue;
        }
        let is_of_index = path == library.path(MANIFEST);
        assert_eq!(
            manifest[1024..1026] == *b"ED",
            is_of_index,
            "{}",
            path.display()
        );
    }
    let ended = library.publish(&[]).must(0);
    assert!(
        ended.event("warning")["message"]
            .as_str()
            .unwrap()
            .contains("signed")
    );
    library.published(&["--name", "other"]);
    assert_eq!(inspected(&library)["name"], "other");
}

impl Library {
    fn verify(&self, more: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "verify", "media"]).args(more);
        run(command)
    }

    /// Each damaged place: the path below the folder, the block, the bytes, and whether something was found there.
    fn damaged(&self) -> Vec<(String, Option<u64>, u64, u64, bool)> {
        let told = self.verify(&[]).must(3).all("damaged");
        let mut damaged: Vec<_> = told
            .iter()
            .map(|event| {
                let path = event["path"].as_str().unwrap();
                (
                    path.strip_prefix("media/").unwrap().to_owned(),
                    event["block"].as_u64(),
                    event["offset"].as_u64().unwrap(),
                    event["length"].as_u64().unwrap(),
                    event["found"].is_string(),
                )
            })
            .collect();
        damaged.sort();
        damaged
    }
}

#[test]
fn every_damaged_file_is_named() {
    let library = Library::new();
    library.verify(&[]).must(2);
    library.published(&[]);
    let verified = library.verify(&[]).must(0).event("verified");
    assert_eq!(verified["bytes_total"], 736_074);
    let flip = |name: &str, at: usize| {
        let mut bytes = fs::read(library.path(name)).unwrap();
        bytes[at] ^= 1;
        fs::write(library.path(name), bytes).unwrap();
    };
    flip("films/a.mp4", 70_000);
    flip("gemälde.bin", 4999);
    fs::write(library.path("empty"), b"more").unwrap();
    fs::write(library.path("films/a-b"), b"").unwrap();
    fs::remove_file(library.path("films/deep/er/x")).unwrap();
    fs::remove_file(library.path("films/deep/y")).unwrap();
    // What a link leads to is not in the folder.
    let target = library.folder.path().join("copy");
    fs::rename(library.path("films/copy.mp4"), &target).unwrap();
    symlink(&target, library.path("films/copy.mp4")).unwrap();
    library.write("unlisted", 10);
    let place =
        |path: &str, block, offset, length, found| (path.to_owned(), block, offset, length, found);
    assert_eq!(
        library.damaged(),
        [
            place("empty", None, 0, 4, false),
            place("films/a-b", Some(0), 0, 1, false),
            place("films/a.mp4", Some(1), 65_536, 65_536, true),
            place("films/copy.mp4", Some(0), 0, 300_000, false),
            place("films/deep/er/x", Some(0), 0, 65_536, false),
            place("films/deep/y", Some(0), 0, 65_537, false),
            place("gemälde.bin", Some(0), 0, 5000, true),
        ]
    );
    library.verify(&["--quarantine"]).must(3);
    for name in ["films/a.mp4", "gemälde.bin", "empty", "films/a-b"] {
        assert!(!library.path(name).exists(), "{name}");
        assert!(
            library.path(&format!("{name}.quarantined")).exists(),
            "{name}"
        );
    }
    assert!(target.exists());
}

#[test]
fn a_library_that_is_not_whole_does_not_verify() {
    let library = Library::new();
    library.published(&[]);
    let manifests = fs::read_dir(library.path(MANIFESTS)).unwrap();
    let manifest = manifests.last().unwrap().unwrap().path();
    let bytes = fs::read(&manifest).unwrap();
    fs::write(&manifest, &bytes[..bytes.len() - 1]).unwrap();
    let ended = library.verify(&[]).must(3);
    let warning = ended.event("warning")["message"].to_string();
    assert!(warning.contains("library.sapwood.d"), "{warning}");
    fs::write(&manifest, bytes).unwrap();
    library.verify(&[]).must(0);
    let mut index = fs::read(library.path(INDEX)).unwrap();
    index[100] ^= 1;
    fs::write(library.path(INDEX), index).unwrap();
    library.verify(&[]).must(3);
    fs::remove_file(library.path(INDEX)).unwrap();
    library.verify(&[]).must(3);
}

#[test]
fn a_key_holds_for_a_library() {
    let library = Library::new();
    for name in ["studio", "other"] {
        let mut command = sapwood(library.folder.path());
        command.args(["keygen", "--no-password", "-o", name]);
        run(command).must(0);
    }
    library.published(&[]);
    library.verify(&["--key", "studio.pub"]).must(3);
    library.published(&["--sign", "studio.key", "--seq", "7"]);
    library.verify(&["--key", "other.pub"]).must(3);
    let verified = library.verify(&["--key", "studio.pub"]).must(0);
    assert_eq!(verified.event("verified")["trust"], "signed");
    // An older one is refused from now on.
    library.published(&["--sign", "studio.key", "--seq", "6", "--store", "another"]);
    library.verify(&["--key", "studio.pub"]).must(3);
    library.verify(&["--manifest", "x"]).must(2);
}

/// Found: a folder in place of a pack ended the check before anything else was looked at, and a sound file whose manifest was lost
/// was taken for a damaged one, and renamed.
#[test]
fn what_cannot_be_read_beside_a_file_harms_no_other() {
    let library = Library::new();
    let words = packed::text(200_000);
    fs::write(library.path("words.txt"), &words).unwrap();
    library.published(&["--pack"]);
    let root = blake3::hash(&words).to_hex();
    let manifest = library.path(MANIFESTS).join(format!("{root}.sapwood"));
    let pack = manifest.with_extension("sapwood.pack");
    fs::remove_file(&pack).unwrap();
    fs::create_dir(&pack).unwrap();
    let mut film = fs::read(library.path("films/a.mp4")).unwrap();
    film[70_000] ^= 1;
    fs::write(library.path("films/a.mp4"), &film).unwrap();
    let ended = library.verify(&["--hints", "--quarantine"]);
    assert_ne!(ended.exit, Some(0));
    assert!(library.path("films/a.mp4.quarantined").exists());
    fs::remove_file(&manifest).unwrap();
    let ended = library.verify(&["--quarantine"]).must(3);
    assert!(library.path("words.txt").exists());
    let message = ended.event("failed")["message"].to_string();
    let expected = "1 of 8 files differ; the manifests of sound files that are missing or wrong: 1";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn packs_of_large_files() {
    let library = Library::new();
    let words = packed::text(200_000);
    fs::write(library.path("words.txt"), &words).unwrap();
    let old = SystemTime::now() - OLD;
    File::open(library.path("words.txt"))
        .and_then(|file| file.set_modified(old))
        .unwrap();
    library.published(&[]);
    library.wait();
    let root = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let pack = |bytes: &[u8]| {
        library
            .path(MANIFESTS)
            .join(format!("{}.sapwood.pack", root(bytes)))
    };
    let noise = fs::read(library.path("films/a.mp4")).unwrap();
    assert!(!pack(&words).exists());
    // What was described without a pack is read again; what hardly compresses has a front alone, and is not read a third time.
    let read = |more: &[&str]| library.published(more)["files_read"].as_u64().unwrap();
    let without_index = fs::read(pack(&words).with_extension("")).unwrap();
    assert_eq!(read(&["--pack"]), 4);
    assert!(fs::read(pack(&words)).unwrap().len() > 1000);
    assert_eq!(fs::read(pack(&noise)).unwrap().len(), 64);
    assert_eq!((read(&["--pack"]), read(&[])), (0, 0));
    assert!(pack(&words).exists());
    // A damaged pack is made again, and one of a run that was killed before it replaced the manifest.
    let good = fs::read(pack(&words)).unwrap();
    let manifest = pack(&words).with_extension("");
    for damage in [&b"no pack"[..], &good[..1000], b""] {
        fs::write(pack(&words), damage).unwrap();
        assert_eq!(read(&["--pack"]), 1, "{} bytes", damage.len());
        assert!(fs::read(pack(&words)).unwrap() == good);
    }
    // Damage that leaves the length is for --hints to find; no file is bad.
    library.verify(&["--hints"]).must(0);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    fs::write(pack(&words), &flipped).unwrap();
    assert_eq!(read(&["--pack"]), 0);
    library.verify(&[]).must(0);
    let ended = library.verify(&["--hints", "--quarantine"]).must(3);
    let warning = ended.event("warning")["message"].to_string();
    assert!(warning.contains(".sapwood.pack"), "{warning}");
    let message = ended.event("failed")["message"].to_string();
    assert!(
        message
            .contains("0 of 8 files differ; the hints or packs of sound files that are wrong: 1"),
        "{message}"
    );
    assert!(library.path("words.txt").exists());
    // A missing one misleads no reader.
    fs::remove_file(pack(&words)).unwrap();
    let ended = library.verify(&["--hints"]).must(0);
    let warning = ended.event("warning")["message"].to_string();
    assert!(
        warning.contains("pack was not checked: it is missing"),
        "{warning}"
    );
    assert!(read(&["--pack", "--read-all"]) > 0);
    library.verify(&["--hints"]).must(0);
    assert!(fs::read(pack(&words)).unwrap() == good);
    let with_index = fs::read(&manifest).unwrap();
    fs::write(&manifest, &without_index).unwrap();
    assert_eq!(read(&["--pack"]), 1);
    assert!(fs::read(&manifest).unwrap() == with_index);
    // A manifest that is made again without an index has no pack.
    assert!(read(&["--read-all"]) > 4);
    assert!(!pack(&words).exists());
    library.published(&["--pack"]);
    fs::remove_file(library.path("words.txt")).unwrap();
    library.published(&["--pack"]);
    assert!(!pack(&words).exists() && pack(&noise).exists());
}
