//! Passwords, typed at the terminal without being shown.

use std::{
    future::poll_fn,
    io::{self, BufRead, BufReader, Write},
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    task::Poll,
    thread,
};

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::disk::terminal::{self, Terminal};

/// What ended the wait for a password.
type Answer = io::Result<String>;

/// A terminal at which a password is typed.
struct Prompt {
    terminal: Terminal,
    text: String,
    /// What is typed is not shown.
    hides: bool,
    /// Whether the password is still awaited, and what is typed is hidden.
    open: Mutex<bool>,
}

/// Asks a question whose answer is shown: whether it is yes.
pub fn confirm(text: &str) -> io::Result<bool> {
    let answer = line(text, false)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

/// Reads a password from the terminal, without showing it.
pub fn prompt(text: &str) -> io::Result<String> {
    line(text, true)
}

/// Reads one line from the terminal. A signal that ends programs restores the terminal and is returned as
/// [`io::ErrorKind::Interrupted`]; Ctrl-Z restores it while the program is suspended.
fn line(text: &str, hides: bool) -> io::Result<String> {
    let prompt = Arc::new(Prompt {
        terminal: Terminal::open()?,
        text: text.to_owned(),
        hides,
        open: Mutex::new(true),
    });
    let (sender, answers) = mpsc::channel();
    let (ready, handled) = mpsc::channel();
    let (watched, interrupts) = (prompt.clone(), sender.clone());
    thread::Builder::new().spawn(move || {
        // Without handlers a signal leaves the terminal as it is; the shell restores it.
        if let Err(cause) = handle_signals(&watched, &interrupts, &ready) {
            tracing::debug!("signals are not handled while a password is typed: {cause}");
        }
    })?;
    // An error: the thread has ended already.
    let _ = handled.recv();
    prompt.show()?;
    let reading = prompt.clone();
    thread::Builder::new().spawn(move || sender.send(reading.line()))?;
    let answer = answers.recv();
    prompt.close()?;
    answer.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

impl Prompt {
    /// Shows the text, after hiding what is typed if that is wanted.
    fn show(&self) -> io::Result<()> {
        let open = self.open.lock();
        match *open {
            true => {
                if self.hides {
                    self.terminal.hide_input()?;
                }
                self.terminal.file().write_all(self.text.as_bytes())
            }
            false => Ok(()),
        }
    }

    fn line(&self) -> Answer {
        let mut line = String::new();
        match BufReader::new(self.terminal.file()).read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
        }
    }

    fn suspend(&self) -> io::Result<()> {
        let open = self.open.lock();
        if *open {
            self.terminal.restore()?;
            self.terminal.file().write_all(b"\n")?;
        }
        terminal::suspend()
    }

    fn close(&self) -> io::Result<()> {
        *self.open.lock() = false;
        self.terminal.restore()
    }
}

/// Handles signals as long as the program runs: once handled, a signal never has its default effect again.
fn handle_signals(prompt: &Prompt, answers: &Sender<Answer>, ready: &Sender<()>) -> io::Result<()> {
    let (suspended, continued) = (
        SignalKind::from_raw(terminal::suspend_signal()),
        SignalKind::from_raw(terminal::continue_signal()),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let kinds = [
            suspended,
            continued,
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let handled = |kind| Ok((kind, signal(kind)?));
        let mut signals: Vec<(SignalKind, Signal)> =
            kinds.into_iter().map(handled).collect::<io::Result<_>>()?;
        // The receiver waits for this.
        let _ = ready.send(());
        loop {
            let arrived = poll_fn(|context| {
                let mut arrived = signals.iter_mut().filter_map(|(kind, signal)| {
                    signal.poll_recv(context).is_ready().then_some(*kind)
                });
                arrived.next().map_or(Poll::Pending, Poll::Ready)
            });
            match arrived.await {
                kind if kind == suspended => prompt.suspend()?,
                kind if kind == continued => prompt.show()?,
                // The receiver is gone when the password was typed.
                _ => drop(answers.send(Err(io::ErrorKind::Interrupted.into()))),
            }
        }
    })
}
