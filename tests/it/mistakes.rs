//! The mistakes of newcomers: each ends with the right exit code, names the place, and says what to do next.
//!
//! `mistakes.txt` is the transcript, as a reader would see it; folders and ports are replaced by words. After a message was
//! changed on purpose, run this test with SAPWOOD_BLESS=1 and read the difference.

use std::{fmt::Write, fs, net::TcpListener, path::Path};

use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of},
    origin::Origin,
    program::{self, command, sapwood},
};

/// A mistake: what is typed, how it ends, what of the message names the place and what the next step.
struct Mistake {
    title: &'static str,
    typed: &'static str,
    exit: i32,
    place: &'static str,
    next: &'static str,
}

/// In what is typed: URL is a good object, NOMANIFEST one without a manifest, PAGE one whose manifest is a page, GONE one that
/// is not there, DEAD a server that is not there, TAKEN a port that is in use.
const MISTAKES: &[Mistake] = &[
    Mistake {
        title: "nothing typed",
        typed: "",
        exit: 2,
        place: "Usage: sapwood",
        next: "fetch",
    },
    Mistake {
        title: "a command that is not there",
        typed: "download URL",
        exit: 2,
        place: "download",
        next: "--help",
    },
    Mistake {
        title: "a wrong flag",
        typed: "fetch URL --output-file x",
        exit: 2,
        place: "--output-file",
        next: "--help",
    },
    Mistake {
        title: "no URL",
        typed: "fetch",
        exit: 2,
        place: "<URL>",
        next: "--help",
    },
    Mistake {
        title: "a URL without a scheme",
        typed: "fetch example.com/file",
        exit: 2,
        place: "example.com/file",
        next: "http://",
    },
    Mistake {
        title: "a scheme that cannot be fetched",
        typed: "fetch ftp://example.com/file",
        exit: 6,
        place: "ftp://example.com/file",
        next: "only http and https",
    },
    Mistake {
        title: "a path instead of a URL",
        typed: "fetch ./file.bin",
        exit: 2,
        place: "./file.bin",
        next: "http://",
    },
    Mistake {
        title: "a stream to standard output",
        typed: "fetch URL -o -",
        exit: 2,
        place: "-o -",
        next: "sapwood cat",
    },
    Mistake {
        title: "two URLs and one root",
        typed: "fetch URL PAGE --root ROOT",
        exit: 2,
        place: "--root",
        next: "one URL",
    },
    Mistake {
        title: "two URLs and one file",
        typed: "fetch URL PAGE -o file",
        exit: 2,
        place: "-o",
        next: "a folder",
    },
    Mistake {
        title: "two URLs of one name",
        typed: "fetch URL URL",
        exit: 2,
        place: "object.bin",
        next: "one by one",
    },
    Mistake {
        title: "a root that is none",
        typed: "fetch URL --root abc",
        exit: 2,
        place: "--root",
        next: "64",
    },
    Mistake {
        title: "a size with an unknown unit",
        typed: "fetch URL --max-size 5parsecs",
        exit: 2,
        place: "--max-size",
        next: "KiB",
    },
    Mistake {
        title: "a header without a colon",
        typed: "fetch URL -H Bearer",
        exit: 2,
        place: "headers",
        next: "'Name: value'",
    },
    Mistake {
        title: "an unknown trust",
        typed: "fetch URL --require sure",
        exit: 2,
        place: "--require",
        next: "manifest",
    },
    Mistake {
        title: "a folder that is not there",
        typed: "fetch URL -o missing/file",
        exit: 7,
        place: "missing",
        next: "its folder does not exist",
    },
    Mistake {
        title: "a folder that cannot be written to",
        typed: "fetch URL -o /proc/file",
        exit: 7,
        place: "/proc/file",
        next: "takes no files",
    },
    Mistake {
        title: "a URL without a name",
        typed: "fetch ROOTURL",
        exit: 6,
        place: "PORT/",
        next: "-o FILE",
    },
    Mistake {
        title: "no server there",
        typed: "fetch DEAD --patience 1s",
        exit: 5,
        place: "DEAD",
        next: "run the same command again",
    },
    Mistake {
        title: "nothing under the URL",
        typed: "fetch GONE",
        exit: 1,
        place: "PORT/gone.bin",
        next: "check the URL",
    },
    Mistake {
        title: "no manifest beside the object",
        typed: "fetch NOMANIFEST --require manifest",
        exit: 3,
        place: "--require",
        next: "manifest",
    },
    Mistake {
        title: "a page instead of a manifest",
        typed: "fetch PAGE --manifest PAGE",
        exit: 3,
        place: "page.bin",
        next: "name another manifest",
    },
    Mistake {
        title: "a file instead of a manifest",
        typed: "fetch URL --manifest text",
        exit: 3,
        place: "text",
        next: "name another manifest",
    },
    Mistake {
        title: "signed is required, nothing is signed",
        typed: "fetch URL --require signed",
        exit: 3,
        place: "manifest",
        next: "--key",
    },
    Mistake {
        title: "another root than asked for",
        typed: "fetch URL --root ROOT",
        exit: 3,
        place: "object.bin.sapwood",
        next: "--root",
    },
    Mistake {
        title: "verify without a manifest",
        typed: "verify text",
        exit: 2,
        place: "text",
        next: "--manifest",
    },
    Mistake {
        title: "verify what is not there",
        typed: "verify missing",
        exit: 1,
        place: "missing",
        next: "check the path",
    },
    Mistake {
        title: "a manifest of something that is not there",
        typed: "manifest missing/folder",
        exit: 1,
        place: "missing/folder",
        next: "check the path",
    },
    Mistake {
        title: "a manifest of a folder",
        typed: "manifest folder",
        exit: 6,
        place: "folder",
        next: "a file is needed",
    },
    Mistake {
        title: "a manifest of standard input without a place",
        typed: "manifest -",
        exit: 2,
        place: "standard input",
        next: "-o OUT",
    },
    Mistake {
        title: "a block size that is none",
        typed: "manifest text --block-size 3",
        exit: 2,
        place: "--block-size",
        next: "powers of two",
    },
    Mistake {
        title: "inspect something else",
        typed: "inspect text",
        exit: 1,
        place: "text.sapwood",
        next: "--manifest",
    },
    Mistake {
        title: "serve what is not there",
        typed: "serve missing",
        exit: 1,
        place: "missing",
        next: "check the path",
    },
    Mistake {
        title: "serve on a port in use",
        typed: "serve folder --listen TAKEN",
        exit: 1,
        place: "TAKEN",
        next: "--listen",
    },
];

#[test]
fn every_mistake_is_told_with_its_place_and_the_next_step() {
    let origin = Origin::start();
    let content = Content::Painted(100_000);
    origin.put("/object.bin", content.clone());
    origin.put("/object.bin.sapwood", manifest_of(&content, 16 * 1024));
    origin.put("/plain.bin", content.clone());
    origin.put("/page.bin", content);
    origin.put("/page.bin.sapwood", b"<html>hello</html>".to_vec());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // Nobody listens on port 1 of this address.
    let dead = "127.0.0.1:1";
    let words = [
        ("ROOTURL", origin.url("/")),
        ("NOMANIFEST", origin.url("/plain.bin")),
        ("PAGE", origin.url("/page.bin")),
        ("GONE", origin.url("/gone.bin")),
        ("URL", origin.url("/object.bin")),
        ("DEAD", format!("http://{dead}/file")),
        ("TAKEN", taken.local_addr().unwrap().to_string()),
        ("ROOT", "1".repeat(64)),
    ];
    let named = [
        (origin.address().to_string(), "127.0.0.1:PORT"),
        (format!("http://{dead}/file"), "DEAD"),
        (taken.local_addr().unwrap().to_string(), "TAKEN"),
    ];
    let mut transcript = String::new();
    for mistake in MISTAKES {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("text"), "just some text\n").unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        let mut command = sapwood(folder.path());
        for word in mistake.typed.split_whitespace() {
            let known = words.iter().find(|(name, _)| *name == word);
            command.arg(known.map_or(word, |(_, meant)| meant));
        }
        let ended = program::run(command);
        let mut told = format!("{}{}", ended.stdout, ended.stderr);
        for (real, name) in &named {
            told = told.replace(real, name);
        }
        let Mistake {
            title,
            typed,
            exit,
            place,
            next,
        } = mistake;
        assert_eq!(ended.exit, Some(*exit), "{title}:\n{told}");
        assert!(
            told.contains(place),
            "{title}: the place {place:?} is not named in:\n{told}"
        );
        assert!(
            told.contains(next),
            "{title}: the next step {next:?} is not told in:\n{told}"
        );
        assert!(!told.contains("panicked"), "{title}:\n{told}");
        let left = crate::support::scene::names(folder.path());
        assert_eq!(left, ["folder", "text"], "{title} left something behind");
        writeln!(
            transcript,
            "# {title}\n$ sapwood {typed}\n{}\n[exit {exit}]\n",
            told.trim_end()
        )
        .unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mistakes.txt");
    if std::env::var_os("SAPWOOD_BLESS").is_some() {
        fs::write(&file, &transcript).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if expected != transcript {
        let (at, (line, wanted)) = transcript
            .lines()
            .zip(expected.lines().chain(std::iter::repeat("")))
            .enumerate()
            .find(|(_, (line, wanted))| line != wanted)
            .unwrap_or((0, ("", "")));
        panic!(
            "the transcript differs from mistakes.txt at line {}:\n  {line}\nbut expected is\n  {wanted}",
            at + 1
        );
    }
}

/// Every mistake with --json is a `failed` line and a `done` line, except those that clap finds.
#[test]
fn mistakes_are_events_too() {
    let folder = TempDir::new().unwrap();
    for (typed, exit) in [
        (&["fetch", "ftp://h/x"][..], 6),
        (&["fetch", "http://127.0.0.1:1/x", "-o", "-"], 2),
        (&["fetch", "http://127.0.0.1:1/x", "-o", "missing/x"], 7),
        (&["verify", "missing"], 1),
        (&["manifest", "missing"], 1),
    ] {
        let mut command = command(env!("CARGO_BIN_EXE_sapwood"), folder.path());
        command.arg("--json").args(typed);
        let ended = program::run(command).must(exit);
        let failed = ended.event("failed");
        assert_eq!(failed["exit"], exit, "{failed}");
        assert!(
            failed["class"].is_string() && failed["message"].is_string(),
            "{failed}"
        );
    }
}
