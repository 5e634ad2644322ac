//! Passwords, typed at a terminal.

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    program::{run, sapwood},
    terminal::AtTerminal,
};

#[test]
fn a_suspended_prompt_shows_what_is_typed_to_the_shell_and_hides_it_again() {
    let folder = TempDir::new().expect("a folder");
    let mut keygen = AtTerminal::start(&folder, "keygen -o key");
    keygen.wait_for_prompts(1);
    // Ctrl-Z.
    keygen.types("\x1a");
    keygen.wait_until("suspended", |it| it.state() == 'T');
    assert!(keygen.echoes(), "the shell's input must be shown");
    keygen.signal(Signal::CONT);
    keygen.wait_for_prompts(2);
    keygen.types("open sesame\n");
    keygen.wait_for_prompts(3);
    keygen.types("open sesame\n");
    assert_eq!(keygen.exit(), Some(0), "{}", keygen.shown());
    assert!(keygen.echoes());
    assert!(!keygen.shown().contains("sesame"), "{}", keygen.shown());

    std::fs::write(folder.path().join("data"), "data").expect("a file");
    let mut manifest = sapwood(folder.path());
    manifest.args(["manifest", "data", "--sign", "key.key"]);
    manifest.env("SAPWOOD_KEY_PASSWORD", "open sesame");
    run(manifest).must(0);
    let mut sign = AtTerminal::start(&folder, "sign data --key key.key");
    sign.wait_for_prompts(1);
    sign.types("open sesame\n");
    assert_eq!(sign.exit(), Some(0), "{}", sign.shown());
}

#[test]
fn a_signal_at_a_prompt_leaves_the_terminal_as_it_was() {
    let folder = TempDir::new().expect("a folder");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let mut keygen = AtTerminal::start(&folder, "keygen -o key");
        keygen.wait_for_prompts(1);
        match signal {
            // Ctrl-C.
            Signal::INT => keygen.types("\x03"),
            other => keygen.signal(other),
        }
        assert_eq!(keygen.exit(), Some(5), "{signal:?}: {}", keygen.shown());
        assert!(keygen.echoes(), "{signal:?}");
        assert!(!folder.path().join("key.key").exists());
    }
}

#[test]
fn a_new_password_is_typed_twice() {
    let folder = TempDir::new().expect("a folder");
    for (typed, told) in [
        (&["one\n", "two\n"][..], "differ"),
        (&["\n", "n\n"], "--no-password"),
        // Ctrl-D: the end of the input.
        (&["\x04"], "SAPWOOD_KEY_PASSWORD"),
    ] {
        let mut keygen = AtTerminal::start(&folder, "keygen -o key");
        for (index, line) in typed.iter().enumerate() {
            match *line {
                "n\n" => keygen.wait_until("a question", |it| it.shown().contains("(y/n)")),
                _ => keygen.wait_for_prompts(index + 1),
            }
            keygen.types(line);
        }
        assert_eq!(keygen.exit(), Some(2), "{typed:?}: {}", keygen.shown());
        keygen.wait_until(told, |it| it.shown().contains(told));
        assert!(!folder.path().join("key.key").exists());
    }
}

/// An empty password was refused, and nobody was asked what is meant.
#[test]
fn an_empty_password_is_a_question() {
    let folder = TempDir::new().expect("a folder");
    let mut keygen = AtTerminal::start(&folder, "keygen -o key");
    keygen.wait_for_prompts(1);
    keygen.types("\n");
    keygen.wait_until("a question", |it| it.shown().contains("(y/n)"));
    assert!(keygen.echoes(), "the answer is no secret");
    keygen.types("y\n");
    assert_eq!(keygen.exit(), Some(0), "{}", keygen.shown());
    std::fs::write(folder.path().join("data"), "data").expect("a file");
    let mut manifest = sapwood(folder.path());
    manifest.args(["manifest", "data", "--sign", "key.key"]);
    run(manifest).must(0);
}
