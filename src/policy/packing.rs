//! Whether the packed form of an object is faster than its plain bytes: on most lines it is, because it is shorter. Where the line is
//! faster than the processor decodes, or the pack comes from a slower place, it is not.

/// Packed responses give bytes for so long before anything is decided: in a transfer that ends earlier, there is no time to save.
const DECIDED_NS_MIN: u64 = 5_000_000_000;
/// So many plain bytes tell the rate of the line.
const PROBE_BYTES: u64 = 256 << 10;
/// The line may be faster if decoding takes more than this share of all cores.
const BUSY_SHARE: f64 = 0.3;
/// A packed response that gives fewer plain bytes a second than this is slow.
const SLOW_BYTES_PER_S: f64 = (256 << 10) as f64;
/// Fewer bytes are worth this factor in time.
const FASTER_MIN: f64 = 2.0;

/// What is requested next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Packed bytes.
    Packed,
    /// Some plain bytes, to learn how fast they come.
    Probe,
    /// Plain bytes.
    Plain,
}

/// Plain bytes, and the nanoseconds in which one connection gave them.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    bytes: u64,
    ns: u64,
}

impl Given {
    fn rate(self) -> f64 {
        self.bytes as f64 / self.ns.max(1) as f64
    }
}

/// The measured rates of a transfer.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackRates {
    packed: Given,
    plain: Given,
    decoding_ns: u64,
    /// A packed response was slow.
    is_slow: bool,
}

impl PackRates {
    /// A packed response gave so many plain bytes after so many nanoseconds, in part of which it decoded.
    pub fn note_packed(&mut self, bytes: u64, ns: u64) {
        self.packed.bytes += bytes;
        self.packed.ns += ns;
    }

    /// Decoding took so many nanoseconds of one core.
    pub fn note_decoding(&mut self, ns: u64) {
        self.decoding_ns += ns;
    }

    /// A plain response gave so many bytes after so many nanoseconds.
    pub fn note_plain(&mut self, bytes: u64, ns: u64) {
        self.plain.bytes += bytes;
        self.plain.ns += ns;
    }

    /// Whether a packed response that gave so many plain bytes after so many nanoseconds is to be given up: it is slow, and plain
    /// bytes were not compared, or were faster.
    pub fn gives_up(&mut self, bytes: u64, ns: u64) -> bool {
        let given = Given { bytes, ns };
        let is_slow = ns >= DECIDED_NS_MIN && given.rate() * 1e9 < SLOW_BYTES_PER_S;
        let gives_up = is_slow
            && (self.plain.bytes < PROBE_BYTES || self.plain.rate() > FASTER_MIN * given.rate());
        self.is_slow |= gives_up;
        gives_up
    }

    /// What is requested next. `elapsed_ns`: since the first packed bytes came.
    pub fn choice(&self, elapsed_ns: u64, cores: usize) -> Choice {
        let share = self.decoding_ns as f64 / (elapsed_ns.max(1) as f64 * cores as f64);
        let is_busy = elapsed_ns >= DECIDED_NS_MIN && share >= BUSY_SHARE;
        if !(is_busy || self.is_slow) {
            return Choice::Packed;
        }
        match self.plain.bytes < PROBE_BYTES {
            true => Choice::Probe,
            false if self.plain.rate() > FASTER_MIN * self.packed.rate() => Choice::Plain,
            false => Choice::Packed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELAPSED_NS: u64 = 10_000_000_000;

    /// Two connections took all of ten seconds for 20 GiB, and decoded for so many of them.
    fn rates(decoding_s: u64, plain_ms: Option<u64>) -> PackRates {
        let mut rates = PackRates::default();
        rates.note_packed(20 << 30, 20_000_000_000);
        rates.note_decoding(decoding_s * 1_000_000_000);
        if let Some(plain_ms) = plain_ms {
            rates.note_plain(4 << 20, plain_ms * 1_000_000);
        }
        rates
    }

    #[test]
    fn a_slow_line_is_never_probed() {
        for plain in [None, Some(1)] {
            assert_eq!(rates(5, plain).choice(ELAPSED_NS, 2), Choice::Packed);
        }
    }

    #[test]
    fn a_busy_processor_is_compared_with_the_line() {
        let choice = |plain, elapsed_ns| rates(8, plain).choice(elapsed_ns, 2);
        assert_eq!(choice(None, ELAPSED_NS), Choice::Probe);
        // A MiB in a millisecond is as fast.
        assert_eq!(choice(Some(4), ELAPSED_NS), Choice::Packed);
        assert_eq!(choice(Some(3), ELAPSED_NS), Choice::Packed);
        assert_eq!(choice(Some(1), ELAPSED_NS), Choice::Plain);
        assert_eq!(choice(None, DECIDED_NS_MIN - 1), Choice::Packed);
    }

    #[test]
    fn a_slow_pack_is_compared_with_plain_bytes() {
        let mut rates = PackRates::default();
        assert!(!rates.gives_up(0, DECIDED_NS_MIN - 1));
        assert!(!rates.gives_up(2 << 20, DECIDED_NS_MIN));
        assert_eq!(rates.choice(DECIDED_NS_MIN, 2), Choice::Packed);
        assert!(rates.gives_up(1 << 20, DECIDED_NS_MIN));
        rates.note_packed(1 << 20, DECIDED_NS_MIN);
        assert_eq!(rates.choice(DECIDED_NS_MIN, 2), Choice::Probe);
        // The line itself is slow.
        let mut slow = rates;
        slow.note_plain(256 << 10, 2_000_000_000);
        assert_eq!(slow.choice(DECIDED_NS_MIN, 2), Choice::Packed);
        assert!(!slow.gives_up(1 << 20, DECIDED_NS_MIN));
        rates.note_plain(256 << 10, 10_000_000);
        assert_eq!(rates.choice(DECIDED_NS_MIN, 2), Choice::Plain);
    }
}
