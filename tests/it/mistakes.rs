//! The mistakes of newcomers: each ends with the right exit code, names the place, and says what to do next.
//!
//! `mistakes.txt` is the transcript, as a reader would see it; folders and ports are replaced by words. After a message was
//! changed on purpose, run this test with SAPWOOD_BLESS=1 and read the difference.

use std::{
    fmt::Write,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of},
    origin::Origin,
    program::{self, command, sapwood},
    scene::names,
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
/// is not there, OTHER one with the manifest of another object, DEAD a server that is not there, PLAIN https to a server without TLS, TAKEN a port that is in use. `film` has a signed
/// manifest, `cut` one of a longer file.
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
        next: "only http, https and s3",
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
        title: "a rate in bits",
        typed: "fetch URL --limit-rate 100Mb",
        exit: 2,
        place: "--limit-rate",
        next: "write B",
    },
    Mistake {
        title: "a time with an unknown unit",
        typed: "fetch URL --patience soon",
        exit: 2,
        place: "--patience",
        next: "a bare number is seconds",
    },
    Mistake {
        title: "no patience",
        typed: "fetch URL --patience 0",
        exit: 2,
        place: "--patience",
        next: "longer than 0",
    },
    Mistake {
        title: "a header without a colon",
        typed: "fetch URL -H Bearer",
        exit: 2,
        place: "-H",
        next: "'Name: value'",
    },
    Mistake {
        title: "a key instead of a certificate",
        typed: "fetch URL --cacert text",
        exit: 2,
        place: "text",
        next: "BEGIN CERTIFICATE",
    },
    Mistake {
        title: "a receipt to standard output",
        typed: "fetch URL --receipt -",
        exit: 2,
        place: "--receipt -",
        next: "--json",
    },
    Mistake {
        title: "a list with a line that is no URL",
        typed: "fetch -i list",
        exit: 2,
        place: "list, line 2",
        next: "http://",
    },
    Mistake {
        title: "a list with a blank instead of a tab",
        typed: "fetch -i blanks",
        exit: 2,
        place: "blanks, line 1",
        next: "put a tab",
    },
    Mistake {
        title: "a list without URLs",
        typed: "fetch -i empty",
        exit: 0,
        place: "empty",
        next: "no URL",
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
        title: "a hidden name",
        typed: "fetch HIDDEN",
        exit: 6,
        place: "/.hidden",
        next: "begins with a dot",
    },
    Mistake {
        title: "no server there",
        typed: "fetch DEAD --patience 1s",
        exit: 5,
        place: "cannot reach 127.0.0.1:1 (connection refused), trying until",
        next: "run the same command again",
    },
    Mistake {
        title: "https to a port of http",
        typed: "fetch PLAIN --patience 1s",
        exit: 1,
        place: "https://127.0.0.1:PORT/object.bin",
        next: "check the scheme and the port",
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
        title: "a manifest of another object",
        typed: "fetch OTHER",
        exit: 4,
        place: "has 70000 bytes, but its manifest",
        next: "sapwood manifest FILE",
    },
    Mistake {
        title: "HTTP/2 from a server without it",
        typed: "fetch URL --http 2",
        exit: 1,
        place: "/object.bin",
        next: "leave out --http 2",
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
        title: "verify a folder",
        typed: "verify folder",
        exit: 2,
        place: "folder",
        next: "sapwood manifest FOLDER",
    },
    Mistake {
        title: "verify against an object instead of its manifest",
        typed: "verify text --manifest URL",
        exit: 3,
        place: "/object.bin",
        next: "name another manifest",
    },
    Mistake {
        title: "verify with a secret key",
        typed: "verify film --key studio.key",
        exit: 2,
        place: "--key studio.key",
        next: "NAME.pub",
    },
    Mistake {
        title: "verify a file that was cut",
        typed: "verify cut",
        exit: 3,
        place: "blocks 1-6 are missing",
        next: "Fetch it again",
    },
    Mistake {
        title: "quarantine an unfinished download",
        typed: "verify film.part --quarantine",
        exit: 2,
        place: "film.part",
        next: "without --quarantine",
    },
    Mistake {
        title: "a manifest of something that is not there",
        typed: "manifest missing/folder",
        exit: 1,
        place: "missing/folder",
        next: "check the path",
    },
    Mistake {
        title: "a manifest of a folder in another place",
        typed: "manifest folder -o out",
        exit: 2,
        place: "folder",
        next: "library.sapwood",
    },
    Mistake {
        title: "a manifest of a device",
        typed: "manifest /dev/null",
        exit: 6,
        place: "/dev/null",
        next: "name a regular file",
    },
    Mistake {
        title: "a manifest where no file can be",
        typed: "manifest text -o /proc/text.sapwood",
        exit: 7,
        place: "/proc/text.sapwood",
        next: "takes no files",
    },
    Mistake {
        title: "a manifest that expired already",
        typed: "manifest text --expires 2020-01-01T00:00:00Z",
        exit: 2,
        place: "--expires",
        next: "in the past",
    },
    Mistake {
        title: "a signed manifest that is made again",
        typed: "manifest film",
        exit: 0,
        place: "film.sapwood was signed",
        next: "sapwood sign",
    },
    Mistake {
        title: "a secret key that is not there",
        typed: "manifest text --sign no.key",
        exit: 2,
        place: "no.key",
        next: "no such file",
    },
    Mistake {
        title: "a new key where no password can be typed",
        typed: "keygen -o new",
        exit: 2,
        place: "a password is needed",
        next: "--no-password",
    },
    Mistake {
        title: "a manifest signed with a public key",
        typed: "manifest text --sign studio.pub",
        exit: 2,
        place: "studio.pub",
        next: "NAME.key",
    },
    Mistake {
        title: "signed with a public key",
        typed: "sign --key studio.pub film",
        exit: 2,
        place: "studio.pub",
        next: "NAME.key",
    },
    Mistake {
        title: "sign a folder",
        typed: "sign --key studio.key folder",
        exit: 2,
        place: "folder",
        next: "name a file",
    },
    Mistake {
        title: "sign a file without a manifest",
        typed: "sign --key studio.key text",
        exit: 1,
        place: "text.sapwood",
        next: "sapwood manifest",
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
        next: "sapwood manifest",
    },
    Mistake {
        title: "a gateway for other machines",
        typed: "gateway URL --listen 0.0.0.0:0",
        exit: 6,
        place: "0.0.0.0",
        next: "--listen",
    },
    Mistake {
        title: "a gateway to an object without a manifest",
        typed: "gateway NOMANIFEST",
        exit: 1,
        place: "PORT",
        next: "--manifest",
    },
    Mistake {
        title: "a gateway to two URLs of one name",
        typed: "gateway URL URL",
        exit: 2,
        place: "object.bin",
        next: "another gateway",
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
    Mistake {
        title: "serve on a port in use, without a host",
        typed: "serve folder --listen :TAKEN",
        exit: 1,
        place: "TAKEN",
        next: "--listen",
    },
    Mistake {
        title: "serve on a name alone",
        typed: "serve folder --listen localhost",
        exit: 2,
        place: "--listen",
        next: "HOST:PORT",
    },
    Mistake {
        title: "sessions in a database that cannot be used",
        typed: "serve folder --ingest --sessions mysql://user:secret@db.example/x",
        exit: 2,
        place: "--sessions",
        next: "postgres://",
    },
    Mistake {
        title: "a web origin without its scheme",
        typed: "serve folder --ingest --cors app.example",
        exit: 2,
        place: "app.example",
        next: "https://app.example",
    },
    Mistake {
        title: "a storage in S3 without a bucket",
        typed: "serve folder --ingest --storage s3://",
        exit: 2,
        place: "s3://",
        next: "a bucket has",
    },
    Mistake {
        title: "when a recording has ended, of a file that is not followed",
        typed: "push film DEAD --follow-idle 3s",
        exit: 2,
        place: "--follow",
        next: "--help",
    },
    Mistake {
        title: "uploads of a server that is not there",
        typed: "push --list DEAD --patience 1s",
        exit: 5,
        place: "cannot reach 127.0.0.1:1 (connection refused), trying until",
        next: "run the same command again",
    },
    Mistake {
        title: "forget a host that is not known",
        typed: "hosts forget localhost",
        exit: 1,
        place: "localhost",
        next: "sapwood hosts list",
    },
    Mistake {
        title: "list hosts when none is known",
        typed: "hosts list",
        exit: 0,
        place: "none",
        next: "none",
    },
];

/// Makes the files that are named in what is typed.
fn fill(folder: &Path, keys: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    write("text", b"just some text\n");
    write("list", b"# films\nfilm.bin\n");
    write("blanks", b"http://127.0.0.1:1/1.bin first.bin\n");
    write("empty", b"\n");
    write("film", b"a film\n");
    write("film.part", b"a fi");
    let cut = Content::Painted(100_000);
    write("cut", &cut.all()[..20_000]);
    write("cut.sapwood", &manifest_of(&cut, 16 * 1024));
    fs::create_dir(folder.join("folder")).unwrap();
    for key in ["studio.key", "studio.pub"] {
        fs::copy(keys.join(key), folder.join(key)).unwrap();
    }
    let mut signed = sapwood(folder);
    signed.args(["manifest", "film", "--sign", "studio.key"]);
    program::run(signed).must(0);
}

/// The text with the word TIME after each "until ".
fn without_times(text: &str) -> String {
    let mut parts = text.split("until ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_time = |c: char| c.is_ascii_digit() || c == ':';
        shown.push_str("until TIME");
        shown.push_str(part.trim_start_matches(is_time));
    }
    shown
}

/// A server that speaks plain HTTP, and says so to everybody who connects.
fn without_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn every_mistake_is_told_with_its_place_and_the_next_step() {
    let origin = Origin::start();
    let content = Content::Painted(100_000);
    origin.put("/object.bin", content.clone());
    origin.put("/object.bin.sapwood", manifest_of(&content, 16 * 1024));
    origin.put("/plain.bin", content.clone());
    origin.put("/other.bin", Content::Painted(70_000));
    origin.put("/other.bin.sapwood", manifest_of(&content, 16 * 1024));
    origin.put("/page.bin", content);
    origin.put("/page.bin.sapwood", b"<html>hello</html>".to_vec());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = without_tls();
    // Nobody listens on port 1 of this address.
    let dead = "127.0.0.1:1";
    let words = [
        ("ROOTURL", origin.url("/")),
        ("NOMANIFEST", origin.url("/plain.bin")),
        ("PAGE", origin.url("/page.bin")),
        ("GONE", origin.url("/gone.bin")),
        ("OTHER", origin.url("/other.bin")),
        ("HIDDEN", origin.url("/.hidden")),
        ("PLAIN", format!("https://{plain}/object.bin")),
        ("URL", origin.url("/object.bin")),
        ("DEAD", format!("http://{dead}/file")),
        ("TAKEN", taken.local_addr().unwrap().to_string()),
        (":TAKEN", format!(":{}", taken.local_addr().unwrap().port())),
        ("ROOT", "1".repeat(64)),
    ];
    let named = [
        (origin.address().to_string(), "127.0.0.1:PORT"),
        (format!("http://{dead}/file"), "DEAD"),
        (plain.to_string(), "127.0.0.1:PORT"),
        (taken.local_addr().unwrap().to_string(), "TAKEN"),
    ];
    let keys = TempDir::new().unwrap();
    let mut keygen = sapwood(keys.path());
    keygen.args(["keygen", "--no-password", "-o", "studio"]);
    program::run(keygen).must(0);
    let mut transcript = String::new();
    for mistake in MISTAKES {
        let (folder, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fill(folder.path(), keys.path());
        let before = names(folder.path());
        let mut command = sapwood(folder.path());
        command.env("XDG_STATE_HOME", state.path());
        for word in mistake.typed.split_whitespace() {
            let known = words.iter().find(|(name, _)| *name == word);
            command.arg(known.map_or(word, |(_, meant)| meant));
        }
        let ended = program::run(command);
        let mut told = format!("{}{}", ended.stdout, ended.stderr);
        for (real, name) in &named {
            told = told.replace(real, name);
        }
        told = without_times(&told);
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
        let left = names(folder.path());
        assert_eq!(left, before, "{title} left something behind");
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

/// It ended after a second with "no new bytes for 1 s", because another try would have come too late.
#[test]
fn patience_with_a_dead_host_lasts_as_long_as_it_says() {
    let folder = TempDir::new().unwrap();
    let mut command = sapwood(folder.path());
    command.args(["fetch", "http://127.0.0.1:1/x", "--patience", "1500ms"]);
    let began = Instant::now();
    program::run(command).must(5);
    assert!(
        began.elapsed() >= Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
}

/// It said that verified blocks are kept, and there was no part.
#[test]
fn a_stop_before_the_first_byte_keeps_nothing() {
    let folder = TempDir::new().unwrap();
    let mut command = sapwood(folder.path());
    command.args(["--json", "fetch", "http://127.0.0.1:1/x"]);
    let mut running = program::start(command);
    running.wait_for("a retry", |events| {
        events.iter().any(|event| event["event"] == "retry")
    });
    running.signal(Signal::INT);
    let ended = running.finish().must(5);
    assert!(!ended.stderr.contains("are kept"), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped before"), "{}", ended.stderr);
}

/// The part was renamed, and its journal stayed behind.
#[test]
fn a_part_is_not_quarantined() {
    let folder = TempDir::new().unwrap();
    for name in ["film.part", "film.part.journal", "film.quarantined"] {
        fs::write(folder.path().join(name), "not verified").unwrap();
        let before = names(folder.path());
        let root = "1".repeat(64);
        let mut command = sapwood(folder.path());
        command.args(["verify", name, "--root", &root, "--quarantine"]);
        program::run(command).must(2);
        assert_eq!(names(folder.path()), before);
    }
}

/// A size of the manual of curl and wget was refused.
#[test]
fn rates_as_curl_and_wget_take_them() {
    let origin = Origin::start();
    origin.put("/object.bin", Content::Painted(100_000));
    for rate in [
        "0", "100M", "10m", "9G", "9g", "900K", "900k", "1MB", "1MiB",
    ] {
        let folder = TempDir::new().unwrap();
        let mut command = sapwood(folder.path());
        command.args(["fetch", &origin.url("/object.bin"), "--limit-rate", rate]);
        program::run(command).must(0);
    }
}
