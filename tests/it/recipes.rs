//! What README.md and the pages in `src/docs/` say is typed, is typed here, and shows what they show: up to sizes, times and hashes. A
//! new block runs here too, or stands in [`NOT_RUN`] with the reason.

use serde_json::Value;

use crate::support::{
    pages::pages,
    tls::Authority,
    transcript::{Block, Machine, Step, blocks, normalized, steps},
};

/// Blocks that are not run here: their page, their first line, and why.
const NOT_RUN: &[(&str, &str, &str)] = &[
    (
        "src/docs/other-clients.md",
        "import Uppy from",
        "a part of a page; tools/web/clients runs this client in Chromium",
    ),
    (
        "src/docs/other-clients.md",
        "const send = window.fetch",
        "a part of a page",
    ),
    (
        "src/docs/other-clients.md",
        "import * as tus",
        "a part of a page; tools/web/clients runs this client",
    ),
    (
        "src/docs/other-clients.md",
        "$ curl -H 'Upload-Draft-Interop-Version: 6'",
        "`ingest_streams::` sends the same request",
    ),
    (
        "src/docs/browser.md",
        "<!doctype html>",
        "a page; a test of tools/web runs it in Chromium",
    ),
    (
        "src/docs/browser.md",
        "{\"CORSRules\"",
        "a setting of a bucket",
    ),
    (
        "README.md",
        "cargo install --locked --path .",
        "compiles for minutes; tools/fresh does it on a bare system",
    ),
    (
        "src/docs/layout.md",
        "cargo run --example fetch",
        "compiles; the step `example` of tools/test runs it",
    ),
    (
        "src/docs/operating.md",
        "$ cargo build --release --locked --features postgres",
        "compiles for minutes; the tests have this feature",
    ),
    (
        "src/docs/operating.md",
        "$ export SAPWOOD_SESSIONS=",
        "needs a bucket, a database and a certificate; `postgres::` and `push_s3::` test both",
    ),
    (
        "src/docs/publishing.md",
        "$ pip install distributed",
        "needs a cluster; `python::` runs the script",
    ),
    (
        "src/docs/recipes.md",
        "location / {",
        "a part of a configuration; `nginx::` runs servers that have it",
    ),
    (
        "src/docs/recipes.md",
        "aws s3 cp master.mov ",
        "needs the AWS command line, a bucket and a CDN",
    ),
];

/// Blocks that nobody types, which tests of their own read.
const READ: &[(&str, &str)] = &[
    ("src/docs/fetching.md", "toml"),
    ("src/docs/events.md", "json"),
];

/// What does not end with 0: the page, what is typed, the exit code.
const EXITS: &[(&str, &str, i32)] = &[("src/docs/session.md", "sapwood verify talk.mp4", 3)];

/// What happens elsewhere before the blocks below a heading of a page.
type Before = (&'static str, fn(&mut Machine));

fn page(path: &str) -> String {
    let found = pages().into_iter().find(|(name, _)| name == path);
    found.unwrap_or_else(|| panic!("no page {path}")).1
}

fn is_listed(path: &str, block: &Block) -> bool {
    let line = block.first_line();
    NOT_RUN
        .iter()
        .any(|(page, first, _)| *page == path && line.starts_with(first))
        || READ
            .iter()
            .any(|(page, language)| *page == path && block.language == *language)
}

/// Runs the blocks of a page, one after the other, on one machine.
#[track_caller]
fn run_page(path: &str, machine: &mut Machine, before: &[Before]) {
    let mut count = 0;
    let mut heading = String::new();
    for block in blocks(&page(path)) {
        if block.heading != heading {
            heading.clone_from(&block.heading);
            let due = before.iter().filter(|(above, _)| *above == heading);
            due.for_each(|(_, happens)| happens(machine));
        }
        if is_listed(path, &block) {
            continue;
        }
        let steps = steps(&block).unwrap_or_else(|| panic!("{path}: {block:?} cannot be run"));
        for step in steps {
            let exit = EXITS
                .iter()
                .find(|(page, typed, _)| *page == path && step.typed == *typed)
                .map_or(0, |(_, _, exit)| *exit);
            machine.follow(&step, exit);
            count += 1;
        }
    }
    assert!(count > 0, "nothing is run");
}

#[test]
fn the_readme() {
    let mut machine = Machine::new();
    run_page("README.md", &mut machine, &[]);
    // Somebody signs it now.
    let line = "sapwood manifest talk.mp4 --sign studio.key && cp talk.mp4.sapwood www/";
    machine.must(line);
    // The second column of the cheat sheet.
    let readme = page("README.md");
    let rows = readme.lines().filter_map(|line| {
        let (_, typed) = line.strip_prefix("| ")?.split_once(" | `sapwood ")?;
        Some(format!("sapwood {}", typed.strip_suffix("` |")?))
    });
    let rows: Vec<String> = rows.collect();
    assert!(rows.len() > 15, "{rows:?}");
    for typed in rows {
        let shown = String::new();
        machine.follow(&Step { typed, shown }, 0);
    }
}

#[test]
fn a_session() {
    let mut machine = Machine::new();
    // As on another machine: nothing of it is here.
    machine.must("rm talk.mp4 talk.mp4.sapwood");
    let update: Before = ("Update", |machine| {
        let mut film = machine.read("site/talk.mp4");
        film.rotate_right(100_000);
        machine.write("site/new.mp4", &film);
        let line = "mv site/new.mp4 site/talk.mp4 && sapwood --quiet manifest site/talk.mp4";
        machine.must(line);
    });
    run_page("src/docs/session.md", &mut machine, &[update]);
    machine.must("sapwood fetch http://127.0.0.1:8093/talk.mp4");
    assert!(machine.read("talk.mp4") == machine.read("site/talk.mp4"));
}

#[test]
fn fetching() {
    let mut machine = Machine::new();
    run_page("src/docs/fetching.md", &mut machine, &[]);
    assert_eq!(machine.read("player.out").len(), 1_000_000);
}

#[test]
fn publishing() {
    let mut machine = Machine::new();
    let lines = (0..40_000).map(|n| format!("let line_{n} = {};\n", n % 97));
    machine.write("site/app.tar", lines.collect::<String>().as_bytes());
    run_page("src/docs/publishing.md", &mut machine, &[]);
    assert!(!machine.read("site/app.tar.sapwood.pack").is_empty());
}

#[test]
fn uploading() {
    let mut machine = Machine::new();
    with_certificate(&mut machine);
    machine.write("other.mp4", b"another film");
    run_page("src/docs/uploading.md", &mut machine, &[]);
    for name in ["talk.mp4", "other.mp4"] {
        let arrived = machine.read(&format!("taken/shows/{name}"));
        assert!(arrived == machine.read(name), "{name}");
    }
    assert_eq!(machine.read("taken/shows/live.ts"), vec![0; 3_000_000]);
}

#[test]
fn operating() {
    let mut machine = Machine::new();
    run_page("src/docs/operating.md", &mut machine, &[]);
    assert!(machine.read("decrypted.mp4") == machine.read("talk.mp4"));
}

#[test]
fn s3() {
    let mut machine = Machine::new();
    for name in ["a.mp4", "b.mp4", "more/c.mp4", "d.txt"] {
        let bytes = machine.read(&format!("www/media/{name}"));
        machine.write(&format!("published/{name}"), &bytes);
    }
    machine.must("sapwood manifest published");
    let files = machine.must("cd published && find . -type f -printf '%P\\n'");
    for name in files.lines() {
        let bytes = machine.read(&format!("published/{name}"));
        machine.bucket.put(&format!("rushes/{name}"), &bytes);
    }
    run_page("src/docs/s3.md", &mut machine, &[]);
    assert!(machine.read("rushes/more/c.mp4") == machine.read("www/media/more/c.mp4"));
}

#[test]
fn folders_in_step() {
    let mut machine = Machine::new();
    // A copy of the version before.
    machine.must("sapwood sync https://a.example/media copy --key studio.pub");
    machine.write("www/media/e.mp4", &[7; 100_000]);
    machine.must("mv www/media/a.mp4 www/media/moved.mp4");
    run_page("src/docs/library.md", &mut machine, &[]);
}

#[test]
fn playing() {
    let mut machine = Machine::new();
    let record: Before = ("A recording", |machine| {
        let id = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";
        machine.write("live.ts", &[9; 3_000_000]);
        let push = "sapwood push --follow live.ts https://media.example/shows/ --follow-idle 10s";
        machine.must(&format!("{push} --session {id}"));
        machine.place("/uploads/ID/", &format!("/uploads/{id}/"));
    });
    run_page("src/docs/playing.md", &mut machine, &[record]);
    assert_eq!(machine.read("ffplay.out"), vec![9; 3_000_000]);
    assert!(machine.read("mpv.out") == machine.read("talk.mp4"));
}

#[test]
fn the_store() {
    run_page("src/docs/store.md", &mut Machine::new(), &[]);
}

#[test]
fn others() {
    let mut machine = Machine::new();
    with_certificate(&mut machine);
    run_page("src/docs/recipes.md", &mut machine, &[]);
    let log = machine.read("var/log/sapwood.jsonl");
    serde_json::from_slice::<Value>(log.split(|byte| *byte == b'\n').next().expect("a line"))
        .expect("JSON");
    assert!(machine.read("srv/library/rushes.mov") == machine.read("www/rushes.mov"));
    assert!(machine.read("srv/inbox/talk.mp4") == machine.read("www/talk.mp4"));
    assert!(machine.read("srv/www/master.mov") == machine.read("master.mov"));
}

/// As `fullchain.pem` and `privkey.pem`, which curl trusts.
fn with_certificate(machine: &mut Machine) {
    let authority = Authority::new();
    for (name, path) in [
        ("fullchain.pem", authority.chain()),
        ("privkey.pem", authority.key()),
        ("ca.pem", authority.certificate().into()),
    ] {
        machine.write(name, &std::fs::read(path).expect("a file"));
    }
    machine.write(".curlrc", b"cacert = ca.pem\nsilent\nfail\n");
}

#[test]
fn the_configuration() {
    let machine = Machine::new();
    let blocks = blocks(&page("src/docs/fetching.md"));
    let shown = blocks.iter().find(|block| block.language == "toml");
    let shown = &shown.expect("a configuration").text;
    let write = |text: &str| {
        machine.write("shown.toml", text.as_bytes());
        let folder = "\"$XDG_CONFIG_HOME/sapwood\"";
        machine.must(&format!(
            "mkdir -p {folder} && cp shown.toml {folder}/config.toml"
        ))
    };
    write(shown);
    // All of it is understood: only what is asked is refused.
    assert_eq!(machine.run("sapwood fetch file:///x").1, 6);
    write(&format!("{shown}requires = \"root\"\n"));
    assert_eq!(machine.run("sapwood fetch file:///x").1, 2);
}

#[test]
fn the_events() {
    let blocks = blocks(&page("src/docs/events.md"));
    let shown = blocks.iter().find(|block| block.language == "json");
    let events = shown.expect("events").text.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|cause| panic!("{line}: {cause}"))
    });
    let events: Vec<Value> = events.collect();
    for event in &events {
        assert!(
            event["event"].is_string() && event["time_ms"].is_u64(),
            "{event}"
        );
    }
    assert_eq!(events.last().expect("events")["event"], "done");
}

// ---- Nothing is left out --------------------------------------------------------------------------------------------

/// Pages that tests above run.
const RUN: &[&str] = &[
    "README.md",
    "src/docs/fetching.md",
    "src/docs/library.md",
    "src/docs/operating.md",
    "src/docs/playing.md",
    "src/docs/publishing.md",
    "src/docs/recipes.md",
    "src/docs/s3.md",
    "src/docs/session.md",
    "src/docs/store.md",
    "src/docs/uploading.md",
];

/// Blocks that are neither run nor listed.
fn left_out(path: &str, text: &str) -> Vec<String> {
    blocks(text)
        .iter()
        .filter(|block| !is_listed(path, block))
        .filter(|block| {
            let runs = steps(block).is_some_and(|steps| !steps.is_empty());
            !RUN.contains(&path) || !runs
        })
        .map(|block| format!("{path}: {}", block.first_line()))
        .collect()
}

#[test]
fn every_block_is_run_or_listed() {
    let pages = pages();
    let wrong: Vec<String> = pages
        .iter()
        .flat_map(|(path, text)| left_out(path, text))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for (path, first, _) in NOT_RUN {
        let blocks = blocks(&page(path));
        let is_there = blocks
            .iter()
            .any(|block| block.first_line().starts_with(first));
        assert!(is_there, "{path} has no block {first:?} any more");
    }
    for (path, typed, _) in EXITS {
        let blocks = blocks(&page(path));
        let mut typed_there = blocks.iter().filter_map(steps).flatten();
        assert!(
            typed_there.any(|step| step.typed == *typed),
            "{path}: {typed}"
        );
    }
}

#[test]
fn new_blocks_and_other_output_are_seen() {
    let bad = "# T\n\n```\n$ x\n```\n\n```nginx\nserver {\n```\n\n```ini\n[Unit]\n```\n\n```sh\ntrue\n```\n";
    assert_eq!(left_out("README.md", bad).len(), 3);
    assert_eq!(left_out("src/docs/new.md", bad).len(), 4);

    let shown = "talk.mp4: 291 MB proven against its manifest; fetched 1.5 kB in 5.9 s\n";
    assert_eq!(
        normalized(shown),
        normalized("talk.mp4: 8 MB proven against its manifest; fetched 870 B in 12 ms")
    );
    for other in [
        "talk.mp3: 8 MB proven against its manifest; fetched 870 B in 12 ms",
        "talk.mp4: 8 MB proven against its length; fetched 870 B in 12 ms",
        "talk.mp4: 8 MB proven against its manifest; fetched 870 B",
    ] {
        assert_ne!(normalized(shown), normalized(other));
    }
    assert_eq!(
        normalized("1864df5e8c3831d15a2e053e71bf2dd936eb83c4d294c188bc48f02e35a4fc39  x"),
        "HEX  x"
    );
    let block = &blocks("# T\n\n```console\n$ a \\\n  b\nout\n$ c\n```\n")[0];
    let steps = steps(block).expect("steps");
    assert_eq!(steps[0].typed, "a \\\n  b");
    assert_eq!(steps[0].shown, "out\n");
    assert_eq!((steps[1].typed.as_str(), steps.len()), ("c", 2));
}
