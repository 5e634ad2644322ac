//! When the operator is told what happens to sessions: at least once, whatever crashes.

use crate::format::notice::{Notice, NoticeEvent};

/// Which notices are kept, because the operator is told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeptNotices {
    /// None.
    #[default]
    None,
    /// Those of published objects.
    Published,
    /// All.
    All,
}

impl KeptNotices {
    /// Whether it is kept.
    pub fn has(self, notice: &Notice) -> bool {
        match self {
            KeptNotices::None => false,
            KeptNotices::Published => notice.event == NoticeEvent::Published,
            KeptNotices::All => true,
        }
    }
}

/// A server that tells of something says within this time that it still does, or another one tells of it, in served seconds.
pub const NOTICE_LEASE_S: u64 = 120;
/// The pause after the first time that was in vain, in seconds; twice as long each time, up to the longest.
const PAUSE_S: u64 = 1;
const PAUSE_S_MAX: u64 = 300;

/// The pause after so many times in vain, in seconds.
pub fn pause_s(tries: u32) -> u64 {
    let doubled = PAUSE_S << tries.saturating_sub(1).min(16);
    doubled.min(PAUSE_S_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses = [1, 2, 3, 9, 10, 1_000_000].map(pause_s);
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
    }
}
