//! Standard output and standard error: full, closed, or read by nobody.

use std::{
    fs::{self, File},
    io::Read,
    process::{Command, Stdio},
};

use crate::support::{
    program::{Ended, run, sapwood},
    scene::{OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// An object of so many blocks that no listing of it fits into a pipe.
fn scene() -> Scene {
    let scene = Scene::new(40 * MIB, 16 * KIB);
    let object = scene.path("object.bin");
    fs::write(&object, scene.content.all()).expect("a file");
    run(command(&scene, "manifest object.bin --name n")).must(0);
    scene
}

/// URL stands for that of the object.
fn command(scene: &Scene, line: &str) -> Command {
    let mut command = sapwood(scene.folder.path());
    command.args(line.replace("URL", &scene.url()).split_whitespace());
    command
}

/// Commands whose result is what they write to standard output.
const TO_STDOUT: [&str; 12] = [
    "cat URL --no-store",
    "cat URL --no-store --json --range 0-9",
    "inspect object.bin",
    "inspect object.bin --json",
    "inspect object.bin --leaves",
    "inspect object.bin --statement",
    "man",
    "completions bash",
    "manifest object.bin -o -",
    "manifest object.bin -o other.sapwood",
    "verify object.bin",
    "store status --store kept",
];

#[test]
fn a_full_disk_behind_standard_output_is_told() {
    let scene = scene();
    for line in TO_STDOUT {
        let full = File::options().write(true).open("/dev/full");
        let mut command = command(&scene, line);
        command.stdout(full.expect("/dev/full"));
        command.stderr(Stdio::piped());
        let child = command.spawn().expect("it runs");
        let ended = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(7), "{line}: {told}");
        assert!(told.contains("No space left"), "{line}: {told}");
        if line.starts_with("cat") && line.contains("--json") {
            assert!(told.contains("\"exit\":7"), "{line}: {told}");
        }
    }
}

#[test]
fn a_closed_pipe_behind_standard_output_is_a_normal_end() {
    let scene = scene();
    for line in TO_STDOUT {
        let mut command = command(&scene, line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut stdout = child.stdout.take().expect("it is piped");
        stdout.read_exact(&mut [0; 9]).expect("the first bytes");
        drop(stdout);
        let ended = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{line}: {told}");
        assert!(!told.contains("sapwood:"), "{line}: {told}");
    }
}

/// Runs with a standard error that nobody reads any more.
fn without_stderr(mut command: Command) -> Ended {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ended = command.stdout(Stdio::piped()).stderr(writer).spawn();
    let output = ended.expect("it runs").wait_with_output();
    let output = output.expect("it ends");
    Ended {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::new(),
    }
}

#[test]
fn messages_that_nobody_reads_end_no_run() {
    let scene = Scene::new(MIB, 16 * KIB);
    for more in ["", "-vvv", "--json -v"] {
        without_stderr(command(&scene, &format!("fetch URL -o out {more}"))).must(0);
        scene.must_be_published();
        fs::remove_file(scene.target()).expect("it is there");
    }
    // A warning and a failure have their own exit codes, and no panic.
    without_stderr(command(&scene, "fetch URL --require signed")).must(3);
    without_stderr(command(&scene, "verify missing")).must(1);
    without_stderr(command(&scene, "fetch nonsense")).must(2);
    scene.origin.remove(OBJECT);
    without_stderr(command(&scene, "fetch URL")).must(1);
}

#[test]
fn events_that_cannot_be_written_end_no_run() {
    for more in ["", "--json"] {
        let scene = Scene::new(MIB, 16 * KIB);
        let mut command = command(&scene, &format!("fetch URL -o out {more}"));
        let full = File::options().write(true).open("/dev/full");
        command.stdout(full.expect("/dev/full"));
        let status = command.stderr(Stdio::null()).status().expect("it runs");
        assert_eq!(status.code(), Some(0), "{more}");
        scene.must_be_published();
    }
}
