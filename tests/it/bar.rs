//! The bar at a terminal.

use std::fs;

use tempfile::TempDir;

use crate::support::{
    objects::{Content, manifest_of},
    origin::Origin,
    terminal::AtTerminal,
};

const LENGTH: u64 = 4_000_000;
const NAME: &str = "a-name-that-is-wider-than-the-terminal-of-forty-columns.bin";
/// Nothing reads so many bytes before a test has seen its bar.
const ENDLESS: u64 = 1 << 42;

fn origin() -> Origin {
    let origin = Origin::start();
    let content = Content::Painted(LENGTH);
    origin.put(
        &format!("/{NAME}.sapwood"),
        Content::Bytes(manifest_of(&content, 1 << 16)),
    );
    origin.put(&format!("/{NAME}"), content);
    origin
}

/// A file that is long, and takes no room.
fn endless(folder: &TempDir, name: &str) {
    let file = fs::File::create(folder.path().join(name)).expect("a file");
    file.set_len(ENDLESS).expect("a hole");
}

/// Every line fits, none is left over, and the next prompt begins a line.
#[track_caller]
fn assert_clean(at: &AtTerminal, columns: usize) {
    let drawn = at.drawn();
    assert!(!drawn.is_empty(), "{:?}", at.shown());
    for line in &drawn {
        assert!(line.chars().count() < columns, "{line:?}");
    }
    let (lines, column) = at.screen(columns);
    assert_eq!((lines.last().map(String::as_str), column), (Some(""), 0));
    // A terminal shows the key behind the line.
    let left = |line: &&String| drawn.iter().any(|drawn| line.starts_with(drawn.as_str()));
    assert_eq!(lines.iter().find(left), None, "{lines:?}");
    assert!(!at.shown().contains("\x1b[?25l"), "the cursor is hidden");
}

/// Starts a command, waits until a drawn line has all these words, and stops it by Ctrl-C.
#[track_caller]
fn stopped_at_bar(folder: &TempDir, line: &str, columns: u16, words: &[&str]) -> AtTerminal {
    let mut at = AtTerminal::start_with(folder, line, columns, &[]);
    let has_all = |line: &String| words.iter().all(|word| line.contains(word));
    at.wait_until("a bar", |it| it.drawn().iter().any(has_all));
    at.types("\x03");
    assert_eq!(at.exit(), Some(5), "{}", at.shown());
    at.wait_until("an end of the line", |it| it.shown().ends_with('\n'));
    assert_clean(&at, columns.into());
    at
}

#[test]
fn the_bar_of_a_fetch_fits_40_columns_and_200_and_leaves_nothing_at_ctrl_c() {
    let origin = origin();
    origin.pace(Some(400_000));
    let folder = TempDir::new().unwrap();
    let fetch = format!("fetch {}", origin.url(&format!("/{NAME}")));
    let at = stopped_at_bar(&folder, &fetch, 40, &["a-", ".bin", "%", "/s", " left"]);
    assert!(!at.drawn().iter().any(|line| line.contains("fetched")));
    let (lines, _) = at.screen(40);
    assert!(
        lines.concat().contains("verified blocks are kept"),
        "{lines:?}"
    );
    // The next run tells all.
    let all = [
        NAME,
        "[",
        "% of 4.0 MB",
        "/s",
        " left",
        "local ",
        " (resumed)",
        "fetched ",
        "verified ",
    ];
    stopped_at_bar(&folder, &fetch, 200, &all);
    origin.pace(None);
    let mut at = AtTerminal::start_with(&folder, &fetch, 80, &[]);
    assert_eq!(at.exit(), Some(0), "{}", at.shown());
    at.wait_until("the last line", |it| it.shown().ends_with('\n'));
    let (lines, _) = at.screen(usize::MAX);
    let last = lines.iter().rev().nth(1).expect("a line");
    assert!(
        last.starts_with(NAME) && last.contains(", local "),
        "{lines:?}"
    );
}

#[test]
fn a_fetch_to_which_nothing_comes_stalls() {
    let origin = origin();
    origin.allow(&format!("/{NAME}"), 1_000_000);
    let folder = TempDir::new().unwrap();
    let fetch = format!("fetch {}", origin.url(&format!("/{NAME}")));
    stopped_at_bar(&folder, &fetch, 40, &["...", "%", "stalled 0:0"]);
}

#[test]
fn what_reads_local_files_has_a_bar_too() {
    let origin = origin();
    let folder = TempDir::new().unwrap();
    endless(&folder, "endless.bin");
    let root = "0".repeat(64);
    for command in [
        "manifest endless.bin".to_owned(),
        "manifest endless.bin --digest md5".to_owned(),
        "store add endless.bin".to_owned(),
        format!("verify endless.bin --root {root}"),
    ] {
        stopped_at_bar(&folder, &command, 40, &["end", "%", "/s"]);
        stopped_at_bar(&folder, &command, 80, &["endless.bin [>", "% of 4.4 TB"]);
    }
    let url = origin.url(&format!("/{NAME}"));
    let fetch = format!("fetch {url} --seed endless.bin");
    stopped_at_bar(&folder, &fetch, 40, &["a-na", "searching, ", " read"]);
    stopped_at_bar(&folder, &fetch, 80, &["searching local files, ", "B read"]);
}

#[test]
fn no_control_characters_where_they_are_not_wanted() {
    let origin = origin();
    origin.pace(Some(1_500_000));
    let url = origin.url(&format!("/{NAME}"));
    let folder = TempDir::new().unwrap();
    let dumb = [("TERM", "dumb")];
    let mut at = AtTerminal::start_with(&folder, &format!("fetch {url}"), 80, &dumb);
    assert_eq!(at.exit(), Some(0), "{}", at.shown());
    at.wait_until("the last line", |it| it.shown().ends_with('\n'));
    // The terminal itself writes a return before a line feed.
    let shown = at.shown().replace("\r\n", "");
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}
