//! Durations and names as all output prints them.

use crate::cli::units;

/// A duration: `1.4 s` below a minute, then `1:02:03`.
pub fn human_seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => units::human_time(ms / 1000),
    }
}

/// A text with its control characters escaped: names come from outside, and a terminal would act on them.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        let shown = printable("a\u{1b}[2J\nb\té");
        assert_eq!(shown, "a\\u{1b}[2J\\nb\\té");
        assert_eq!(printable(&shown), shown, "once more");
    }

    #[test]
    fn durations() {
        let shown = [0, 1449, 59_999, 60_000, 3_723_000].map(human_seconds);
        assert_eq!(shown, ["0.0 s", "1.4 s", "60.0 s", "1:00", "1:02:03"]);
    }
}
