//! What draws the bar: one line at the bottom of the terminal, by a thread of its own, because some of what it shows is that nothing
//! happens.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{Arc, Once, Weak},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::disk::{streams, terminal};

use super::live::{Live, Now};

/// Between two times that the line is drawn.
const DRAW_TIME: Duration = Duration::from_millis(200);
/// A line that stays the same is drawn as often as this: something else may have written over it.
const SAME_TIME: Duration = Duration::from_secs(1);
/// Where no bar is drawn, a line is printed as often as this.
const LINE_TIME: Duration = Duration::from_secs(60);
/// Of a terminal that does not know its width.
const COLUMNS: usize = 80;
/// The fewest columns behind the line: a blank, and `^C` where Ctrl-C is typed. In the last one some terminals go to the next line.
const RESERVED_MIN: usize = 4;
/// The most: a blank, and what a shell says of a killed program.
const RESERVED_MAX: usize = 8;
/// Erases from the cursor to the end of the line.
const ERASE: &str = "\x1b[K";

/// Standard error, with at most one line that changes at its end. Clones share it.
#[derive(Clone)]
pub struct Screen(Arc<Shared>);

struct Shared {
    start: Once,
    /// What the line is to show. Never locked while something is written, so that no terminal can hold up the work.
    live: Mutex<Option<Live>>,
    is_live: Condvar,
    drawn: Mutex<Drawn>,
}

/// What standard error has. It is locked before `live`, and while something is written.
struct Drawn {
    /// Standard error is a terminal that can draw a line again.
    draws: bool,
    line: String,
    at: Instant,
}

/// Whether a line can be drawn again on standard error. It has no colours, so `NO_COLOR` changes nothing.
fn draws() -> bool {
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !is_dumb
}

impl Screen {
    pub fn new() -> Screen {
        Screen(Arc::new(Shared {
            start: Once::new(),
            live: Mutex::new(None),
            is_live: Condvar::new(),
            drawn: Mutex::new(Drawn {
                draws: draws(),
                line: String::new(),
                at: Instant::now(),
            }),
        }))
    }

    /// Changes what is shown.
    pub fn change<T>(&self, change: impl FnOnce(&mut Option<Live>) -> T) -> T {
        let mut live = self.0.live.lock();
        let outcome = change(&mut live);
        match live.is_some() {
            true => {
                self.0.is_live.notify_one();
                self.0.start.call_once(|| start(Arc::downgrade(&self.0)));
            }
            false => {
                drop(live);
                self.0.drawn.lock().erase();
            }
        }
        outcome
    }

    /// Prints text, without the line that is drawn.
    pub fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        let mut drawn = self.0.drawn.lock();
        drawn.erase();
        print()
    }
}

fn start(shared: Weak<Shared>) {
    // Without it nothing is drawn.
    if let Err(cause) = thread::Builder::new().spawn(move || draw_again(&shared)) {
        tracing::debug!("no progress is shown: {cause}");
    }
}

/// Draws the line again and again, as long as there is a screen.
fn draw_again(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        {
            let mut live = shared.live.lock();
            if live.is_none() {
                shared.is_live.wait_for(&mut live, LINE_TIME);
            }
        }
        // What takes no longer is not shown.
        thread::sleep(DRAW_TIME);
        shared.draw(Now::here());
    }
}

impl Shared {
    fn draw(&self, now: Now) {
        let mut drawn = self.drawn.lock();
        let bar = self.live.lock().as_mut().and_then(|live| live.at(now));
        let Some(bar) = bar else { return };
        match drawn.draws {
            true => drawn.draw(|columns| bar.line(columns), now.time),
            false if now.time < drawn.at + LINE_TIME => (),
            false => {
                drawn.at = now.time;
                // A failure is ignored: no run ends because nobody reads its messages.
                let _ = io::stderr().write_all(format!("sapwood: {}\n", bar.sentence()).as_bytes());
            }
        }
    }
}

impl Drawn {
    fn draw(&mut self, line: impl FnOnce(usize) -> String, now: Instant) {
        let stderr = io::stderr();
        // In the background the terminal belongs to others.
        if !terminal::is_in_foreground(&stderr) {
            return;
        }
        let columns = terminal::columns(&stderr).unwrap_or(COLUMNS);
        let reserved = (columns / 10).clamp(RESERVED_MIN, RESERVED_MAX);
        let line = line(columns.saturating_sub(reserved));
        let is_same = line == self.line && now < self.at + SAME_TIME;
        // The cursor stays behind the line: what the shell says of a killed program does not cover it.
        let text = format!("\r{line}{ERASE} ");
        if !is_same && streams::has_room(&stderr, text.len()) {
            let _ = (&stderr).write_all(text.as_bytes());
            (self.line, self.at) = (line, now);
        }
    }

    fn erase(&mut self) {
        if !self.line.is_empty() {
            self.line.clear();
            let _ = io::stderr().write_all(format!("\r{ERASE}").as_bytes());
        }
    }
}
