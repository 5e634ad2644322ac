//! The progress bars.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::units,
    engine::events::{Planned, Progress, PushPlanned},
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

/// One line on the terminal: how much, how fast, how long still, how much of it is proven and was here before.
struct Bar {
    drawn: ProgressBar,
    resumed: u64,
    reused: u64,
}

impl Bar {
    fn new(all: &MultiProgress, name: &str, bytes_total: u64) -> Bar {
        let bar = all.add(ProgressBar::new(bytes_total));
        bar.set_style(
            ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {msg}")
                .expect("a fixed template")
                .progress_chars("=> "),
        );
        bar.set_prefix(super::words::printable(name));
        Bar {
            drawn: bar,
            resumed: 0,
            reused: 0,
        }
    }

    fn update(&self, progress: &Progress) {
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
        if progress.rate_bps > 0 {
            text += &format!("  {}/s", bytes(progress.rate_bps));
        }
        if progress.rate_bps > 0 && progress.bytes_total > 0 {
            let seconds = left.div_ceil(progress.rate_bps);
            text += &format!("  {} left", units::human_time(seconds));
        }
        if progress.bytes_proven > 0 {
            text += &format!("  proven {}", bytes(progress.bytes_proven));
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
