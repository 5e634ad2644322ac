//! Passwords, typed at a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tempfile::TempDir;

use crate::support::program::{LONG_ENOUGH, command, run, sapwood};

/// The program at a terminal of its own, whose other end is here.
struct AtTerminal {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<String>>,
}

impl AtTerminal {
    fn start(folder: &TempDir, line: &str) -> AtTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let inner: OwnedFd = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
        let end = || Stdio::from(inner.try_clone().expect("a descriptor"));
        let mut session = command("setsid", folder.path());
        session.arg("--ctty").arg(env!("CARGO_BIN_EXE_sapwood"));
        session.args(line.split_whitespace());
        session.stdin(end()).stdout(end()).stderr(end());
        let child = session.spawn().expect("setsid is a part of every Debian");
        let terminal = File::from(terminal);
        let shown = Arc::<Mutex<String>>::default();
        let (mut from, to) = (terminal.try_clone().expect("a descriptor"), shown.clone());
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // An error: no process has the terminal any more.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                to.lock().unwrap().push_str(&text);
            }
        });
        AtTerminal {
            child,
            terminal,
            shown,
        }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&AtTerminal) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            let late = since.elapsed() > LONG_ENOUGH;
            assert!(!late, "{what}: never; shown: {}", self.shown());
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn wait_for_prompts(&self, count: usize) {
        self.wait_until("a prompt", |it| {
            it.shown().matches(": ").count() >= count && !it.echoes()
        });
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its modes");
        modes.local_modes.contains(LocalModes::ECHO)
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("it reads");
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.child);
        kill_process(process, signal).expect("it runs");
    }

    /// The state of the process as the kernel shows it; `T`: suspended.
    fn state(&self) -> char {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("it runs");
        let (_, rest) = stat.rsplit_once(") ").expect("a state");
        rest.chars().next().expect("a state")
    }

    fn exit(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

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
        (&["\n"], "--no-password"),
        // Ctrl-D: the end of the input.
        (&["\x04"], "SAPWOOD_KEY_PASSWORD"),
    ] {
        let mut keygen = AtTerminal::start(&folder, "keygen -o key");
        for (index, line) in typed.iter().enumerate() {
            keygen.wait_for_prompts(index + 1);
            keygen.types(line);
        }
        assert_eq!(keygen.exit(), Some(2), "{typed:?}: {}", keygen.shown());
        keygen.wait_until(told, |it| it.shown().contains(told));
        assert!(!folder.path().join("key.key").exists());
    }
}
