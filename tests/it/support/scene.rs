//! An origin with one object, a folder, and the program that fetches the one into the other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    objects::{Content, manifest_of, tree_of},
    origin::Origin,
    program::{self, Ended, Running, bytes_of, sapwood, verified},
};

pub const OBJECT: &str = "/object.bin";
pub const MANIFEST: &str = "/object.bin.sapwood";

pub struct Scene {
    pub origin: Origin,
    pub folder: TempDir,
    pub content: Content,
    pub block: u64,
}

impl Scene {
    /// A painted object with its manifest.
    pub fn new(length: u64, block: u64) -> Scene {
        Scene::of(Content::Painted(length), block)
    }

    pub fn of(content: Content, block: u64) -> Scene {
        let origin = Origin::start();
        origin.put(OBJECT, content.clone());
        origin.put(MANIFEST, manifest_of(&content, block));
        Scene {
            origin,
            folder: TempDir::new().expect("a folder"),
            content,
            block,
        }
    }

    pub fn url(&self) -> String {
        self.origin.url(OBJECT)
    }

    pub fn root(&self) -> String {
        tree_of(&self.content, self.block).root().to_string()
    }

    pub fn length(&self) -> u64 {
        self.content.length()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn target(&self) -> PathBuf {
        self.path("out")
    }

    pub fn part(&self) -> PathBuf {
        self.path("out.part")
    }

    pub fn journal(&self) -> PathBuf {
        self.path("out.part.journal")
    }

    /// The fetch of the object to `out`, with JSON events.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = sapwood(self.folder.path());
        command
            .args(["--json", "fetch", &self.url(), "-o", "out"])
            .args(more);
        command
    }

    pub fn fetch(&self, more: &[&str]) -> Ended {
        program::run(self.command(more))
    }

    pub fn start(&self, more: &[&str]) -> Running {
        program::start(self.command(more))
    }

    /// Runs until the judge saw about so many bytes; then the origin is silent.
    #[track_caller]
    pub fn run_until(&self, command: Command, bytes: u64) -> Running {
        let wanted = bytes.saturating_sub(self.unproven());
        let mut running = program::start(command);
        let mut allowed = 0;
        self.origin.allow(OBJECT, bytes);
        running.wait_for(&format!("{wanted} verified bytes"), |events| {
            // Bytes that a connection brought although another one had taken them over do not count: there are more.
            allowed += u64::from(self.origin.is_spent(OBJECT));
            if allowed == 100 {
                self.origin.allow(OBJECT, self.block);
                allowed = 0;
            }
            bytes_of(&verified(events), self.block, self.length()) >= wanted
        });
        running
    }

    /// A run that was killed there; returns the blocks that it had reported, and the bytes that were sent.
    #[track_caller]
    pub fn killed_at(&self, bytes: u64) -> (BTreeSet<u64>, u64) {
        let running = self.run_until(self.command(&[]), bytes);
        let verified = verified(&running.kill());
        self.origin.wait_until_idle();
        let sent = self.origin.sent(OBJECT);
        self.origin.allow_all();
        self.origin.forget_log();
        (verified, sent)
    }

    /// How many bytes can be on their way into blocks that are not complete: one block a connection.
    pub fn unproven(&self) -> u64 {
        8 * self.block
    }

    /// The target is the object, and nothing else is left.
    #[track_caller]
    pub fn must_be_published(&self) {
        self.must_hold(&self.content);
        assert!(!self.part().exists(), "the part is left");
        assert!(!self.journal().exists(), "the journal is left");
    }

    #[track_caller]
    pub fn must_hold(&self, content: &Content) {
        let found = std::fs::read(self.target()).expect("the target");
        assert_eq!(
            found.len() as u64,
            content.length(),
            "the length of the target"
        );
        let expected = content.all();
        if found != expected {
            let at = found.iter().zip(&expected).position(|(a, b)| a != b);
            panic!("the target differs at byte {at:?}");
        }
    }

    /// Nothing at all is left.
    #[track_caller]
    pub fn must_be_empty(&self) {
        assert_eq!(names(self.folder.path()), Vec::<String>::new());
    }

    /// None of these blocks was asked for.
    #[track_caller]
    pub fn must_not_have_asked_for(&self, blocks: &BTreeSet<u64>) {
        for asked in self.origin.bodies_of(OBJECT) {
            let range = asked.range.clone().expect("a range");
            let touched =
                range.start / self.block..range.end.min(self.length()).div_ceil(self.block);
            let again: Vec<u64> = touched.filter(|block| blocks.contains(block)).collect();
            assert!(again.is_empty(), "{range:?} asks again for {again:?}");
        }
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
