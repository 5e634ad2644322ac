//! Programs that tests run: ours, and others to be compared with. One that is missing is a failure that says so.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A path in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Our program, without the settings of who runs the tests.
pub fn sapwood() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sapwood"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SAPWOOD_"))
    {
        command.env_remove(name);
    }
    command
}

/// The second implementation of the manifest.
pub fn reference() -> Command {
    let mut command = Command::new("python3");
    command.arg(repository("tools/sapwood_ref.py"));
    command
}

/// The second implementation of the library.
pub fn library_reference() -> Command {
    let mut command = Command::new("python3");
    // No compiled file is left in the repository.
    command
        .arg("-B")
        .arg(repository("tools/sapwood_library.py"));
    command
}

/// The program of the BLAKE3 authors: where `tools/bench` builds it, or wherever it is installed.
pub fn b3sum() -> Command {
    let ours = repository("target/bench-tools/bin/b3sum");
    Command::new(if ours.exists() { ours } else { "b3sum".into() })
}

/// Runs a command that must succeed, and returns what it wrote to standard output.
pub fn output_of(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(command, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed with {}: {said}",
        output.status
    );
    output.stdout
}

/// Runs a command with this standard input to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|cause| {
        panic!(
            "this test needs {:?} ({cause}); see fixtures/README.md",
            command.get_program()
        );
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        // A program that does not read all of it is no failure of this side.
        scope.spawn(move || drop(stdin.write_all(input)));
        child
            .wait_with_output()
            .expect("the output of a child can be read")
    })
}
