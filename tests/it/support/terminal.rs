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
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use tempfile::TempDir;

use super::program::{LONG_ENOUGH, command};

/// Erases from the cursor to the end of the line.
const ERASE: &str = "\x1b[K";

/// The program at a terminal of its own, whose other end is here.
pub struct AtTerminal {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<String>>,
}

impl AtTerminal {
    pub fn start(folder: &TempDir, line: &str) -> AtTerminal {
        AtTerminal::start_with(folder, line, 0, &[])
    }

    /// `columns`: how wide the terminal is; 0: it does not know.
    pub fn start_with(
        folder: &TempDir,
        line: &str,
        columns: u16,
        variables: &[(&str, &str)],
    ) -> AtTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = openpt(flags).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let size = Winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).expect("a size");
        let inner: OwnedFd = ioctl_tiocgptpeer(&terminal, flags).expect("its other end");
        let end = || Stdio::from(inner.try_clone().expect("a descriptor"));
        let mut session = command("setsid", folder.path());
        session.arg("--ctty").arg(env!("CARGO_BIN_EXE_sapwood"));
        session.args(line.split_whitespace());
        // Tests may run where there is no terminal.
        session.env("TERM", "xterm").env_remove("NO_COLOR");
        session.envs(variables.iter().copied());
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

    /// The lines that were drawn over each other, each as it was.
    pub fn drawn(&self) -> Vec<String> {
        let shown = self.shown();
        let drawn = shown.split('\r').filter_map(|text| text.split_once(ERASE));
        let drawn = drawn.map(|(line, _)| line.to_owned());
        drawn.filter(|line| !line.is_empty()).collect()
    }

    /// What a terminal of so many columns shows after that: its lines, the last of which has the cursor, and its column.
    pub fn screen(&self, columns: usize) -> (Vec<String>, usize) {
        let (mut lines, mut column) = (vec![Vec::new()], 0);
        let shown = self.shown().replace(ERASE, "\0");
        for c in shown.chars() {
            let line = lines.last_mut().expect("a line");
            match c {
                '\r' => column = 0,
                '\n' => {
                    lines.push(Vec::new());
                    column = 0;
                }
                '\0' => line.truncate(column),
                c => {
                    assert!(!c.is_control(), "{c:?} in {shown:?}");
                    if column == columns {
                        lines.push(Vec::new());
                        column = 0;
                    }
                    let line = lines.last_mut().expect("a line");
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = c;
                    column += 1;
                }
            }
        }
        let lines = lines.into_iter().map(String::from_iter);
        (lines.collect(), column)
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
