//! The program at a terminal.

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

use super::program::{LONG_ENOUGH, command};

/// The program at a terminal of its own, whose other end is here.
pub struct AtTerminal {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<String>>,
}

impl AtTerminal {
    pub fn start(folder: &TempDir, line: &str) -> AtTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let inner: OwnedFd = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
        let end = || Stdio::from(inner.try_clone().expect("a descriptor"));
        let mut session = command("setsid", folder.path());
        session.arg("--ctty").arg(env!("CARGO_BIN_EXE_sapwood"));
        session.args(line.split_whitespace());
        // Tests may run where there is no terminal.
        session.env("TERM", "xterm");
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

    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&AtTerminal) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            let late = since.elapsed() > LONG_ENOUGH;
            assert!(!late, "{what}: never; shown: {}", self.shown());
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub fn wait_for_prompts(&self, count: usize) {
        self.wait_until("a prompt", |it| {
            it.shown().matches(": ").count() >= count && !it.echoes()
        });
    }

    pub fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its modes");
        modes.local_modes.contains(LocalModes::ECHO)
    }

    pub fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("it reads");
    }

    pub fn signal(&self, signal: Signal) {
        let process = Pid::from_child(&self.child);
        kill_process(process, signal).expect("it runs");
    }

    /// The state of the process as the kernel shows it; `T`: suspended.
    pub fn state(&self) -> char {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("it runs");
        let (_, rest) = stat.rsplit_once(") ").expect("a state");
        rest.chars().next().expect("a state")
    }

    pub fn exit(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}
