//! The progress bar.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::events::{Planned, Progress};

use super::units;

/// One line on the terminal: how much, how fast, how long still, how much of it is proven and was here before.
pub struct Bar {
    bar: ProgressBar,
    reused: std::cell::Cell<u64>,
}

impl Bar {
    pub fn new() -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        bar.set_style(
            ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {msg}")
                .expect("a fixed template")
                .progress_chars("=> "),
        );
        Bar {
            bar,
            reused: std::cell::Cell::new(0),
        }
    }

    pub fn start(&self, plan: &Planned) {
        let name = plan
            .path
            .file_name()
            .unwrap_or(plan.path.as_os_str())
            .to_string_lossy();
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_prefix(super::output::printable(&name));
        self.bar.set_length(plan.bytes_total);
        self.bar.set_position(plan.bytes_held + plan.bytes_local);
        self.reused.set(plan.bytes_held + plan.bytes_local);
    }

    pub fn update(&self, progress: &Progress) {
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
        if self.reused.get() > 0 {
            text += &format!("  reused {}", bytes(self.reused.get()));
        }
        self.bar.set_position(progress.bytes_done);
        self.bar.set_message(text);
    }

    /// Makes room for a line of text.
    pub fn hide(&self) {
        self.bar.suspend(|| ());
        self.bar.disable_steady_tick();
    }

    pub fn show(&self) {
        self.bar.tick();
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
        self.bar.reset();
    }
}
