//! One line of shell for each exit code, run for real. src/docs/exit-codes.md shows the same lines.

use std::fs;

use crate::support::{
    objects::Content,
    origin::{Asks, Lie, Of},
    program,
    scene::{MANIFEST, OBJECT, Scene},
};

/// The lines of the table on that page, in the order of their codes. `URL` is an object with a manifest beside it.
const LINES: [&str; 8] = [
    "sapwood fetch URL -o film.mp4",
    "sapwood fetch URL.missing -o film.mp4",
    "sapwood fetch URL --no-such-flag",
    "sapwood fetch URL -o film.mp4 --root 0000000000000000000000000000000000000000000000000000000000000000",
    "sapwood fetch URL -o film.mp4  # while its new version is published",
    "sapwood fetch URL -o film.mp4 --patience 2s  # while the server is down",
    "sapwood fetch file:///etc/passwd -o film.mp4",
    "sapwood fetch URL -o /proc/film.mp4",
];

#[test]
fn a_line_of_shell_for_each() {
    for (exit, line) in LINES.into_iter().enumerate() {
        let scene = Scene::new(100_000, 16 * 1024);
        match exit {
            // Another version lies beside the manifest of the one before.
            4 => scene.origin.put(OBJECT, Content::Painted(100_001)),
            5 => {
                for path in [OBJECT, MANIFEST] {
                    scene.origin.lie(path, Asks::Anything, Of::All, Lie::Refuse);
                }
            }
            _ => (),
        }
        let (command, _) = line.split_once("  #").unwrap_or((line, ""));
        let command = command.replace("URL", &scene.url());
        let mut shell = program::command("sh", scene.folder.path());
        let path = std::path::Path::new(env!("CARGO_BIN_EXE_sapwood"))
            .parent()
            .expect("a folder")
            .display()
            .to_string();
        let path = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
        shell.env("PATH", path).args(["-c", &command]);
        let ended = program::run(shell).must(exit as i32);
        // Whatever went wrong is said, in one place.
        assert_eq!(
            ended.stderr.is_empty(),
            exit == 0,
            "{line}: {}",
            ended.stderr
        );
        let there = fs::read(scene.path("film.mp4")).ok();
        assert_eq!(there, (exit == 0).then(|| scene.content.all()), "{line}");
    }
}

#[test]
fn the_page_shows_these_lines() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/exit-codes.md");
    let page = fs::read_to_string(page).expect("a page");
    for (exit, line) in LINES.into_iter().enumerate() {
        let shown = page
            .lines()
            .find(|shown| shown.starts_with(&format!("| {exit} |")))
            .unwrap_or_else(|| panic!("no row for {exit}"));
        assert!(
            shown.contains(&format!("`{line}`")),
            "{shown} does not show {line}"
        );
    }
}
