//! Durations and names as all output prints them.

use crate::{cli::units, format::characters};

/// A duration: `1.4 s` below a minute, then `1:02:03`.
pub fn human_seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => units::human_time(ms / 1000),
    }
}

/// A text with its control, bidirectional and invisible characters escaped: names come from outside, a terminal acts on some, and
/// others deceive its reader.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match characters::turns_text(c) || characters::is_invisible(c) {
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
        assert_eq!(printable("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
        assert_eq!(printable("a\u{200b}b"), "a\\u{200b}b");
    }

    #[test]
    fn durations() {
        let shown = [0, 1449, 59_999, 60_000, 3_723_000].map(human_seconds);
        assert_eq!(shown, ["0.0 s", "1.4 s", "59.9 s", "1:00", "1:02:03"]);
    }
}
