//! Durations and names as all output prints them.

use crate::cli::units;

/// A duration: `1.4 s` below a minute, then `1:02:03`.
pub fn human_seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => units::human_time(ms / 1000),
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
}
