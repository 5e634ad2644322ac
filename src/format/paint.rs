//! Painted objects for tests: every byte is a function of its place, so misplaced bytes show (manifest.md, section 8).

/// Painted bytes `[start, start + count)` of the endless painting.
pub fn bytes(start: u64, count: usize) -> Vec<u8> {
    let mut out = vec![0; count];
    fill(start, &mut out);
    out
}

/// Fills the buffer with the painted bytes from `start`.
pub fn fill(start: u64, out: &mut [u8]) {
    let mut at = start;
    let mut rest = out;
    while !rest.is_empty() {
        let word = mix(at / 8).to_le_bytes();
        let skip = (at % 8) as usize;
        let take = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&word[skip..skip + take]);
        at += take as u64;
        rest = later;
    }
}

fn mix(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
