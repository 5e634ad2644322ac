//! The progress bars.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::units,
    engine::events::{Planned, Progress, PushPlanned},
    format::trust::Trust,
};

/// A bar for each file that is being fetched, at the bottom of the terminal.
pub struct Bars {
    all: MultiProgress,
    bars: HashMap<Option<String>, Bar>,
}

impl Bars {
    pub fn new() -> Bars {
        Bars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            bars: HashMap::new(),
        }
    }

    pub fn start(&mut self, of: Option<String>, plan: &Planned) {
        self.finish(of.as_deref());
        let name = plan.path.file_name().unwrap_or(plan.path.as_os_str());
        let mut bar = Bar::new(&self.all, &name.to_string_lossy(), plan.bytes_total);
        (bar.resumed, bar.reused) = (plan.bytes_held, plan.bytes_local);
        bar.proves = match plan.block_size {
            Some(_) => Proves::Blocks,
            None if plan.trust == Trust::default() => Proves::Nothing,
            None => Proves::AtEnd,
        };
        bar.drawn.set_position(bar.resumed + bar.reused);
        self.bars.insert(of, bar);
    }

    pub fn start_push(&mut self, of: Option<String>, plan: &PushPlanned) {
        self.finish(of.as_deref());
        let name = plan.path.file_name().unwrap_or(plan.path.as_os_str());
        let total = plan.bytes_total.unwrap_or(0);
        let mut bar = Bar::new(&self.all, &name.to_string_lossy(), total);
        bar.resumed = plan.bytes_held;
        bar.drawn.set_position(bar.resumed);
        self.bars.insert(of, bar);
    }

    /// Work without a plan has its bar from the first progress on.
    pub fn update(&mut self, of: Option<&str>, progress: &Progress) {
        let bar = self.bars.entry(of.map(str::to_owned));
        let new = || Bar::new(&self.all, of.unwrap_or_default(), progress.bytes_total);
        bar.or_insert_with(new).update(progress);
    }

    /// A file of which nothing is known yet.
    pub fn connect(&mut self, path: &str, host: &str) {
        let bar = Bar::new(&self.all, path, 0);
        bar.drawn.set_message(format!("connecting to {host}"));
        self.bars.insert(Some(path.to_owned()), bar);
    }

    /// Nothing arrives, until this time at the latest. A file that waits for its first response has a bar from now on.
    pub fn wait(&mut self, of: Option<&str>, until: &str) {
        if let Some(path) = of {
            let bar = self.bars.entry(Some(path.to_owned()));
            bar.or_insert_with(|| Bar::new(&self.all, path, 0));
        }
        if let Some(bar) = self.bars.get_mut(&of.map(str::to_owned)) {
            bar.wait(until);
        }
    }

    /// One bar for all files: bytes, bytes of all, and the words.
    pub fn show_total(&mut self, (done, total, text): (u64, u64, String)) {
        let bar = self.bars.entry(None);
        let bar = bar.or_insert_with(|| Bar::new(&self.all, "", total));
        bar.drawn.set_length(total);
        bar.drawn.set_position(done);
        bar.drawn.set_message(text);
    }

    pub fn finish(&mut self, of: Option<&str>) {
        if let Some(bar) = self.bars.remove(&of.map(str::to_owned)) {
            bar.drawn.finish_and_clear();
            self.all.remove(&bar.drawn);
        }
    }

    pub fn finish_all(&mut self) {
        for (_, bar) in self.bars.drain() {
            bar.drawn.finish_and_clear();
        }
    }

    /// What draws them: text is printed while it is suspended.
    pub fn screen(&self) -> MultiProgress {
        self.all.clone()
    }
}

/// What is proven of an object, and when.
#[derive(Clone, Copy)]
enum Proves {
    /// Each block, by a manifest.
    Blocks,
    /// All of it, by a digest.
    AtEnd,
    /// There is neither.
    Nothing,
}

/// One line on the terminal: how much, how fast, how long still, how much of it is proven and was here before.
struct Bar {
    drawn: ProgressBar,
    resumed: u64,
    reused: u64,
    /// What the last progress counted.
    bytes_fetched: u64,
    /// Nothing came since a request failed, which is sent again until this time.
    waits_until: Option<String>,
    /// What of it is proven while it arrives.
    proves: Proves,
}

impl Bar {
    fn new(all: &MultiProgress, name: &str, bytes_total: u64) -> Bar {
        let bar = all.add(ProgressBar::new(bytes_total));
        // Of what has no length yet, no part is done.
        let template = match bytes_total {
            0 => "{prefix}  {msg}",
            _ => "{prefix} {wide_bar} {percent:>3}% {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("a fixed template");
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(super::printable(name));
        Bar {
            drawn: bar,
            resumed: 0,
            reused: 0,
            bytes_fetched: 0,
            waits_until: None,
            proves: Proves::Blocks,
        }
    }

    fn wait(&mut self, until: &str) {
        self.waits_until = Some(until.to_owned());
        self.drawn.set_message(format!("waiting until {until}"));
    }

    fn update(&mut self, progress: &Progress) {
        if progress.bytes_fetched > self.bytes_fetched {
            self.waits_until = None;
        }
        self.bytes_fetched = progress.bytes_fetched;
        let bytes = units::human_bytes;
        let left = progress.bytes_total.saturating_sub(progress.bytes_done);
        let mut text = match progress.bytes_total {
            // A stream.
            0 => bytes(progress.bytes_done),
            total => format!("{} of {}", bytes(progress.bytes_done), bytes(total)),
        };
        if let Some((done, total)) = progress.files {
            text = format!("{done} of {total} files  {text}");
        }
        let rate = progress.rate_bps;
        match &self.waits_until {
            Some(until) => text += &format!("  waiting until {until}"),
            None if rate > 0 => {
                text += &format!("  {}/s", bytes(rate));
                if progress.bytes_total > 0 {
                    text += &format!("  {} left", units::human_time(left.div_ceil(rate)));
                }
            }
            None => (),
        }
        match self.proves {
            Proves::Nothing => text += "  NOT verified",
            Proves::Blocks if progress.bytes_proven > 0 => {
                text += &format!("  proven {}", bytes(progress.bytes_proven));
            }
            Proves::Blocks | Proves::AtEnd => (),
        }
        // The words of the last line.
        for (what, count) in [("resumed", self.resumed), ("reused", self.reused)] {
            if count > 0 {
                text += &format!("  {what} {}", bytes(count));
            }
        }
        self.drawn.set_position(progress.bytes_done);
        self.drawn.set_message(text);
    }
}
