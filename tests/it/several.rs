//! Many URLs in one run, and receipts of what landed.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use sapwood::format::{receipt::Receipt, trust::Trust};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of, tree_of},
    origin::{Asks, Lie, Of, Origin},
    program::{self, Ended, run_with_input, sapwood},
    scene::{OBJECT, Scene, names},
};

const KIB: u64 = 1024;

/// Ten objects of different lengths, half of them with manifests.
struct Shelf {
    origin: Origin,
    folder: TempDir,
    contents: BTreeMap<String, Content>,
}

impl Shelf {
    fn new() -> Shelf {
        let origin = Origin::start();
        let mut contents = BTreeMap::new();
        for number in 0..10 {
            let (name, content) = (
                format!("{number}.bin"),
                Content::Painted(number * 50 * KIB + 1),
            );
            origin.put(&format!("/{name}"), content.clone());
            if number % 2 == 0 {
                origin.put(&format!("/{name}.sapwood"), manifest_of(&content, 16 * KIB));
            }
            contents.insert(name, content);
        }
        let folder = TempDir::new().unwrap();
        Shelf {
            origin,
            folder,
            contents,
        }
    }

    fn list(&self) -> String {
        let line = |name: &String| self.origin.url(&format!("/{name}")) + "\n";
        self.contents.keys().map(line).collect()
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "fetch", "-i", "-"]).args(more);
        command
    }

    fn fetch(&self, list: &str, more: &[&str]) -> Ended {
        run_with_input(self.command(more), list.as_bytes())
    }

    #[track_caller]
    fn must_be_there(&self, name: &str) {
        let found = fs::read(self.folder.path().join(name)).expect(name);
        assert_eq!(
            found,
            self.contents[name].read(0..self.contents[name].length())
        );
    }
}

#[test]
fn a_list_lands_file_by_file() {
    let shelf = Shelf::new();
    let ended = shelf.fetch(&shelf.list(), &[]).must(0);
    for name in shelf.contents.keys() {
        shelf.must_be_there(name);
    }
    assert_eq!(names(shelf.folder.path()).len(), 10);
    let done = ended.event("done");
    assert_eq!(
        (&done["published"], &done["failed"]),
        (&10.into(), &0.into())
    );
    let fetched: u64 = ended
        .all("published")
        .iter()
        .map(|event| event["bytes_fetched"].as_u64().unwrap())
        .sum();
    assert_eq!(done["bytes_fetched"], fetched);
    for event in ended.events() {
        let path = event["path"].as_str().map(str::to_owned);
        let of_file = event["event"] != "done";
        assert_eq!(path.is_some(), of_file, "{event}");
        assert!(path.is_none_or(|path| shelf.contents.contains_key(&path)));
    }
}

#[test]
fn a_list_names_its_files_and_takes_a_folder() {
    let shelf = Shelf::new();
    fs::create_dir(shelf.folder.path().join("films")).unwrap();
    let list = format!(
        "# two of them\n\n{}\tfirst.mov\r\n{}\n",
        shelf.origin.url("/3.bin"),
        shelf.origin.url("/4.bin")
    );
    fs::write(shelf.folder.path().join("list"), list).unwrap();
    let mut command = sapwood(shelf.folder.path());
    command.args(["--json", "fetch", "-i", "list", "-o", "films"]);
    program::run(command).must(0);
    assert_eq!(
        names(&shelf.folder.path().join("films")),
        ["4.bin", "first.mov"]
    );
}

/// Whatever becomes of one line, the others land, and the exit code is that of the worst.
#[test]
fn the_rest_of_a_list_goes_on() {
    let shelf = Shelf::new();
    shelf
        .origin
        .lie("/2.bin", Asks::Anything, Of::All, Lie::Status(404));
    let cases = [
        (String::new(), 1),
        (format!("{}\t../../escape\n", shelf.origin.url("/3.bin")), 6),
        (
            format!("{}\tsub/../folder\n", shelf.origin.url("/3.bin")),
            6,
        ),
        ("ftp://example.org/x\n".to_owned(), 6),
        ("not a url\n".to_owned(), 2),
        (shelf.origin.url("/") + "\n", 6),
    ];
    for (line, exit) in cases {
        let ended = shelf
            .fetch(&format!("{line}{}", shelf.list()), &[])
            .must(exit);
        let (published, failed) = (ended.all("published"), ended.all("failed"));
        assert_eq!(published.len(), 9, "{line}");
        assert_eq!(failed.len(), 1 + usize::from(!line.is_empty()), "{line}");
        assert!(!shelf.folder.path().join("2.bin").exists());
        assert_eq!(names(shelf.folder.path()).len(), 9);
    }
}

#[test]
fn what_may_pass_is_queued_again() {
    let shelf = Shelf::new();
    // More refusals than one round asks for, fewer than all rounds.
    shelf
        .origin
        .lie("/3.bin", Asks::Anything, Of::First(3), Lie::Status(500));
    let ended = shelf.fetch(&shelf.list(), &["--tries", "2"]).must(0);
    shelf.must_be_there("3.bin");
    assert!(ended.all("failed").is_empty());
    let again: Vec<Value> = ended
        .all("retry")
        .into_iter()
        .filter(|event| event["until"].is_null())
        .collect();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0]["path"], "3.bin");
    // Always: it ends after as many rounds as there are tries, and the others are there.
    fs::remove_file(shelf.folder.path().join("3.bin")).unwrap();
    shelf
        .origin
        .lie("/3.bin", Asks::Anything, Of::All, Lie::Status(500));
    let ended = shelf.fetch(&shelf.list(), &["--tries", "2"]).must(5);
    let done = ended.event("done");
    assert_eq!(
        (&done["published"], &done["failed"]),
        (&9.into(), &1.into())
    );
    assert_eq!(ended.event("failed")["path"], "3.bin");
}

#[test]
fn a_folder_with_a_slash_is_made_and_goes_again_if_nothing_came() {
    let shelf = Shelf::new();
    shelf
        .fetch(&shelf.list(), &["-o", "new/", "--receipt", "receipts/"])
        .must(0);
    assert_eq!(names(&shelf.folder.path().join("new")).len(), 10);
    assert_eq!(names(&shelf.folder.path().join("receipts")).len(), 10);
    let nothing = shelf.origin.url("/nothing") + "\n";
    shelf.fetch(&nothing, &["-o", "empty/"]).must(1);
    assert!(!shelf.folder.path().join("empty").exists());
    shelf.fetch(&nothing, &["-o", "no/such/"]).must(7);
    fs::write(shelf.folder.path().join("file"), "x").unwrap();
    shelf.fetch(&nothing, &["-o", "file/"]).must(7);
}

#[test]
fn a_list_that_is_not_there_or_empty() {
    let shelf = Shelf::new();
    let mut command = sapwood(shelf.folder.path());
    command.args(["--json", "fetch", "-i", "missing"]);
    let ended = program::run(command).must(1);
    assert!(ended.stderr.contains("missing"));
    shelf.fetch("\n# nothing\n", &[]).must(0);
}

#[test]
fn what_goes_with_one_url_is_refused_for_a_list() {
    let shelf = Shelf::new();
    for more in [
        &["--root", &"00".repeat(32)][..],
        &["--sha256", &"00".repeat(32)],
        &["--manifest", "m"],
        &["--mirror", "http://127.0.0.1:9/x"],
        &["-o", "file"],
        &["--receipt", "file"],
    ] {
        shelf.fetch(&shelf.list(), more).must(2);
        assert!(names(shelf.folder.path()).is_empty(), "{more:?}");
    }
    let twice = shelf.list() + &shelf.origin.url("/3.bin");
    shelf.fetch(&twice, &[]).must(2);
    let mut command = sapwood(shelf.folder.path());
    command.args(["fetch", "-i", "list", "http://127.0.0.1:9/x"]);
    program::run(command).must(2);
}

/// The ceiling is over all files, and over everything that is asked for.
#[test]
fn all_connections_of_a_run_stay_below_the_ceiling() {
    for most in [1, 2, 5] {
        let shelf = Shelf::new();
        for name in shelf.contents.keys() {
            let late = Lie::Late(Duration::from_millis(20));
            let path = format!("/{name}");
            shelf.origin.lie(&path, Asks::Anything, Of::All, late);
        }
        let ended = shelf
            .fetch(&shelf.list(), &["--connections", &most.to_string()])
            .must(0);
        assert_eq!(ended.all("published").len(), 10);
        let asked = shelf.origin.log();
        assert!(
            shelf.origin.most_at_a_time() <= most,
            "{} instead of {most}: {asked:#?}",
            shelf.origin.most_at_a_time()
        );
    }
}

#[test]
fn a_receipt_tells_what_landed() {
    let scene = Scene::new(200 * KIB + 3, 16 * KIB);
    let sha256 = {
        let mut hasher = sapwood::format::digests::DigestHasher::new(
            sapwood::format::digests::Algorithm::Sha256,
        );
        hasher.update(&scene.content.read(0..scene.length()));
        hasher.finish().hex()
    };
    let url = format!("{}?token=planted-secret", scene.url());
    let mut command = sapwood(scene.folder.path());
    command
        .args([
            "--json",
            "fetch",
            &url,
            "-o",
            "out",
            "--receipt",
            "receipt.json",
        ])
        .args([
            "--sha256",
            &sha256,
            "-H",
            "Authorization: Bearer planted-secret",
        ]);
    let ended = program::run(command).must(0);
    let bytes = fs::read(scene.path("receipt.json")).unwrap();
    let receipt = Receipt::from_json(&bytes).unwrap();
    assert_eq!(receipt.root, tree_of(&scene.content, scene.block).root());
    assert_eq!(
        (receipt.bytes_total, receipt.trust),
        (scene.length(), Trust::Root)
    );
    assert_eq!(
        (receipt.url.as_str(), receipt.path.as_str()),
        (scene.url().as_str(), "out")
    );
    assert!(receipt.etag.is_some() && receipt.started <= receipt.ended && receipt.started > 0);
    assert_eq!(receipt.digests.len(), 1);
    assert_eq!(receipt.digests[0].hex(), sha256);
    assert_eq!(
        receipt.bytes_fetched,
        ended.event("published")["bytes_fetched"].as_u64().unwrap()
    );
    assert!(!receipt.user.is_empty() && !receipt.host.is_empty());
    assert_eq!(
        receipt.version,
        concat!("sapwood ", env!("CARGO_PKG_VERSION"))
    );
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("planted-secret"), "{text}");
    assert_eq!(
        Receipt::from_json(receipt.to_json().as_bytes()).unwrap(),
        receipt
    );
    // Once more: it is there already, and the receipt says so.
    let ended = scene.fetch(&["--receipt", "receipt.json"]).must(0);
    assert_eq!(ended.event("published")["unchanged"], true);
    assert!(
        Receipt::from_json(&fs::read(scene.path("receipt.json")).unwrap())
            .unwrap()
            .unchanged
    );
}

#[test]
fn receipts_of_several_files_go_into_a_folder() {
    let shelf = Shelf::new();
    fs::create_dir(shelf.folder.path().join("receipts")).unwrap();
    shelf
        .fetch(&shelf.list(), &["--receipt", "receipts"])
        .must(0);
    let found = names(&shelf.folder.path().join("receipts"));
    assert_eq!(found.len(), 10);
    assert_eq!(found[0], "0.bin.receipt.json");
}

#[test]
fn a_receipt_that_cannot_be_written_is_said_before_anything_is_fetched() {
    let scene = Scene::new(100 * KIB, 16 * KIB);
    scene
        .fetch(&["--receipt", "no/such/folder/receipt"])
        .must(1);
    scene.must_be_empty();
    assert!(scene.origin.bodies_of(OBJECT).is_empty());
    fs::create_dir(scene.path("folder")).unwrap();
    std::os::unix::fs::symlink("/dev/null", scene.path("link")).unwrap();
    scene.fetch(&["--receipt", "link"]).must(6);
    assert!(!scene.target().exists());
}

/// What no honest program wrote is refused, and never a panic.
#[test]
fn receipts_that_are_none_are_refused() {
    let scene = Scene::new(KIB, 16 * KIB);
    scene.fetch(&["--receipt", "receipt"]).must(0);
    let bytes = fs::read(scene.path("receipt")).unwrap();
    for cut in 0..bytes.len() - 2 {
        assert!(Receipt::from_json(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let text = String::from_utf8(bytes).unwrap();
    for (from, to) in [
        ("\"receipt\": 1", "\"receipt\": 2"),
        ("\"trust\": \"manifest\"", "\"trust\": \"much\""),
        ("\"root\": \"", "\"root\": \"0"),
        ("\"bytes_total\": 1024", "\"bytes_total\": -1"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert!(
            Receipt::from_json(text.replace(from, to).as_bytes()).is_err(),
            "{to}"
        );
    }
    let more = text.replacen('{', "{\"new_field\": [1, 2],", 1);
    assert!(
        Receipt::from_json(more.as_bytes()).is_ok(),
        "fields may be added"
    );
    assert!(Receipt::from_json(&vec![b' '; 1 << 20]).is_err());
}

// ---- what is remembered of files without a manifest

/// A store of its own and an object without a manifest.
fn plain(content: &Content) -> (Origin, TempDir, impl Fn(&[&str]) -> Ended) {
    let origin = Origin::start();
    origin.put("/film.mov", content.clone());
    let folder = TempDir::new().unwrap();
    let (url, place) = (origin.url("/film.mov"), folder.path().to_owned());
    let fetch = move |more: &[&str]| {
        let mut command = sapwood(&place);
        command
            .args(["--json", "fetch", &url, "--store", "store"])
            .args(more);
        program::run(command)
    };
    (origin, folder, fetch)
}

#[test]
fn the_same_version_without_a_manifest_is_not_fetched_again() {
    let content = Content::Painted(300 * KIB);
    let (origin, folder, fetch) = plain(&content);
    fetch(&[]).must(0);
    origin.forget_log();
    let published = fetch(&[]).must(0).event("published");
    assert_eq!(
        (&published["unchanged"], &published["trust"]),
        (&true.into(), &"none".into())
    );
    assert!(origin.bodies_of("/film.mov").is_empty());
    // Damaged at home: the whole file is judged, not its date or length.
    let film = folder.path().join("film.mov");
    let mut bytes = fs::read(&film).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&film, &bytes).unwrap();
    assert_eq!(fetch(&[]).must(0).event("published")["unchanged"], false);
    bytes[100_000] ^= 1;
    assert_eq!(fs::read(&film).unwrap(), bytes);
    // Another version there, of the same length.
    let other = Content::Bytes(vec![7; 300 * KIB as usize]);
    origin.put("/film.mov", other);
    assert_eq!(fetch(&[]).must(0).event("published")["unchanged"], false);
    assert_eq!(fs::read(&film).unwrap(), vec![7; 300 * KIB as usize]);
}

#[test]
fn no_store_leaves_no_trace_and_remembers_nothing() {
    let (origin, folder, fetch) = plain(&Content::Painted(300 * KIB));
    fetch(&["--no-store"]).must(0);
    origin.forget_log();
    fetch(&["--no-store"]).must(0);
    assert!(!origin.bodies_of("/film.mov").is_empty());
    assert_eq!(names(folder.path()), ["film.mov"]);
}

#[test]
fn a_store_that_cannot_be_used_is_one_warning() {
    let (_origin, folder, fetch) = plain(&Content::Painted(300 * KIB));
    fs::create_dir(folder.path().join("store")).unwrap();
    fs::write(folder.path().join("store/state.sqlite"), vec![b'x'; 5000]).unwrap();
    let ended = fetch(&[]).must(0);
    assert_eq!(ended.all("warning").len(), 1);
    assert_eq!(fetch(&[]).must(0).event("published")["unchanged"], false);
}

#[test]
fn a_run_that_fails_fast_ends_at_the_first_failure() {
    let shelf = Shelf::new();
    let missing = shelf.origin.url("/missing.bin");
    let list = format!("{missing}\n{}", shelf.list());
    let ended = shelf
        .fetch(&list, &["--connections", "1", "--fail-fast"])
        .must(1);
    let failed = ended.all("failed");
    assert_eq!(failed[0]["url"], missing.as_str());
    assert_eq!(failed.len() + ended.all("published").len(), 11);
    let words = "another file failed";
    let stopped = |event: &&Value| {
        event["message"]
            .as_str()
            .is_some_and(|text| text.contains(words))
    };
    assert!(
        failed.iter().filter(stopped).count() >= 5,
        "{}",
        ended.stdout
    );
    // A line of the list that is none counts too, and without the flag all others land.
    let list = format!("ftp://nowhere/x\n{}", shelf.list());
    let none = shelf.fetch(&list, &["--fail-fast"]).must(6);
    assert!(none.all("published").is_empty(), "{}", none.stdout);
    let all = shelf.fetch(&list, &[]).must(6);
    assert_eq!(all.all("published").len(), 10);
}

/// The advice was `-o FILE`, which several URLs cannot have, and `..` "began with a dot".
#[test]
fn a_name_that_is_not_safe_says_why_and_what_can_be_typed() {
    let folder = TempDir::new().unwrap();
    let url = |name: &str| format!("http://127.0.0.1:1/{name}");
    let told = |args: &[&str]| {
        let mut fetch = sapwood(folder.path());
        fetch.arg("fetch").args(args);
        program::run(fetch).must(6).stderr
    };
    let one = told(&[&url("a%3Ab")]);
    assert!(
        one.contains("it has a colon; choose one with -o FILE"),
        "{one}"
    );
    let two = told(&[&url(".x"), &url("y%5C")]);
    assert_eq!(
        two.matches("; fetch it by itself, with -o FILE").count(),
        2,
        "{two}"
    );
    let list: String = ["\tsub/../x", "\t/x", "\tCON", "x/"]
        .map(|rest| format!("{}{rest}\n", url("")))
        .concat();
    fs::write(folder.path().join("list"), list).unwrap();
    let lines = told(&["-i", "list"]);
    for (line, why) in [
        (
            1,
            r#""sub/../x" is not safe as the name of a file: it stands for a folder: ".."; choose another name"#,
        ),
        (
            2,
            r#""/x" is not safe as the name of a file: it has a slash without a name before or after it"#,
        ),
        (
            3,
            r#""CON" is not safe as the name of a file: some systems have a device of this name"#,
        ),
    ] {
        assert!(
            lines.contains(&format!("list, line {line}: {why}")),
            "{lines}"
        );
    }
    let slash = "its path ends with a slash; put one after the URL, with a tab between";
    assert!(lines.contains(slash), "{lines}");
}
