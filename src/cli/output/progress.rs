//! The progress bars.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::units,
    engine::events::{Planned, Progress},
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
        let bar = Bar::new(&self.all, plan);
        self.bars.insert(of, bar);
    }

    pub fn update(&self, of: Option<&str>, progress: &Progress) {
        if let Some(bar) = self.bars.get(&of.map(str::to_owned)) {
            bar.update(progress);
        }
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
    fn new(all: &MultiProgress, plan: &Planned) -> Bar {
        let bar = all.add(ProgressBar::new(plan.bytes_total));
        bar.set_style(
            ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {msg}")
                .expect("a fixed template")
                .progress_chars("=> "),
        );
        let name = plan.path.file_name().unwrap_or(plan.path.as_os_str());
        bar.set_prefix(super::words::printable(&name.to_string_lossy()));
        let (resumed, reused) = (plan.bytes_held, plan.bytes_local);
        bar.set_position(resumed + reused);
        Bar {
            drawn: bar,
            resumed,
            reused,
        }
    }

    fn update(&self, progress: &Progress) {
        let bytes = units::human_bytes;
        let left = progress.bytes_total.saturating_sub(progress.bytes_done);
        let mut text = format!(
            "{} of {}",
            bytes(progress.bytes_done),
            bytes(progress.bytes_total)
        );
        if progress.rate_bps > 0 {
            text += &format!(
                "  {}/s  {} left",
                bytes(progress.rate_bps),
                units::human_time(left.div_ceil(progress.rate_bps))
            );
        }
        text += &format!("  proven {}", bytes(progress.bytes_proven));
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
