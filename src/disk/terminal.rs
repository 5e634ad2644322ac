//! The terminal that controls this process, and others that it writes to.

use std::{fs::File, io, os::fd::AsFd};

use rustix::{
    process::{Signal, getpgrp, getpid, kill_process},
    termios::{
        LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
    },
};

/// The terminal, and its modes as they were found.
pub struct Terminal {
    file: File,
    found: Termios,
}

impl Terminal {
    /// Fails where no terminal controls this process.
    pub fn open() -> io::Result<Terminal> {
        let file = File::options().read(true).write(true).open("/dev/tty")?;
        let found = tcgetattr(&file)?;
        Ok(Terminal { file, found })
    }

    /// To read lines from, and to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// From now on shows nothing of what is typed but the ends of lines.
    pub fn hide_input(&self) -> io::Result<()> {
        let mut modes = self.found.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ECHONL);
        Ok(tcsetattr(&self.file, OptionalActions::Now, &modes)?)
    }

    /// Restores the modes that were found.
    pub fn restore(&self) -> io::Result<()> {
        Ok(tcsetattr(&self.file, OptionalActions::Now, &self.found)?)
    }
}

/// The width of a terminal; `None`: it does not know.
pub fn columns(terminal: impl AsFd) -> Option<usize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Whether this process is not in the background of a terminal that controls it.
pub fn is_in_foreground(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// The signal of Ctrl-Z (SIGTSTP).
pub fn suspend_signal() -> i32 {
    Signal::TSTP.as_raw()
}

/// The signal that continues a suspended process (SIGCONT).
pub fn continue_signal() -> i32 {
    Signal::CONT.as_raw()
}

/// Suspends this process until it is continued.
pub fn suspend() -> io::Result<()> {
    Ok(kill_process(getpid(), Signal::STOP)?)
}
