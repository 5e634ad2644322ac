//! Durations and counts as all output prints them.

use crate::cli::units::{self, human_bytes};

/// A longer wait of the whole run is told without `--verbose` too.
pub const WAIT_TOLD_MS: u64 = 2_000;

/// A duration: `1.4 s` below a minute, then `1:02:03`.
pub fn human_seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => units::human_time(ms / 1000),
    }
}

/// Bytes that were here already, those that an earlier run left among them; `None`: there were none.
pub fn local(bytes: u64, resumed: u64) -> Option<String> {
    let text = format!("local {}", human_bytes(bytes));
    match resumed {
        _ if bytes == 0 => None,
        0 => Some(text),
        resumed if resumed >= bytes => Some(text + " (resumed)"),
        resumed => Some(text + &format!(" ({} resumed)", human_bytes(resumed))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let shown = [0, 1449, 59_999, 60_000, 3_723_000].map(human_seconds);
        assert_eq!(shown, ["0.0 s", "1.4 s", "59.9 s", "1:00", "1:02:03"]);
    }

    #[test]
    fn one_word_for_what_was_here() {
        let text = |bytes, resumed| local(bytes, resumed).unwrap_or_default();
        assert_eq!(text(0, 0), "");
        assert_eq!(text(476_000_000, 0), "local 476 MB");
        assert_eq!(text(146_000_000, 146_000_000), "local 146 MB (resumed)");
        assert_eq!(text(10_000_000, 2_000_000), "local 10 MB (2.0 MB resumed)");
    }
}
