//! The check of a piece at every place of a stretch of bytes: CRC-32C of a window that rolls by one byte.
//!
//! A CRC is linear. With `F(s, w)` the register after the bytes `w` from `s`, the check of a piece is the low half of
//! `F(FFFFFFFF, w) ^ FFFFFFFF = F(0, w) ^ CONSTANT`, and a byte that leaves a window of n bytes is taken out of
//! `F(0, w)` by XOR with `F(0, byte followed by n zeros)`.

use std::sync::LazyLock;

use crate::format::{geometry::PIECE, pieces};

const WINDOW: usize = PIECE as usize;
/// Runs of windows that roll side by side, because each step of one waits for two look-ups.
const LANES: usize = 4;

/// Castagnoli, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;

struct Tables {
    step: [u32; 256],
    leave: [u32; 256],
    constant: u32,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let step: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ POLYNOMIAL
            } else {
                crc >> 1
            }
        })
    });
    let zeros = |crc: u32| (0..PIECE).fold(crc, |crc, _| crc >> 8 ^ step[(crc & 0xFF) as usize]);
    let leave = std::array::from_fn(|byte| zeros(step[byte]));
    Tables {
        step,
        leave,
        constant: zeros(u32::MAX) ^ u32::MAX,
    }
});

/// The checks of all windows of a KiB, in order.
pub fn checks(bytes: &[u8]) -> Vec<u16> {
    let windows = (bytes.len() + 1).saturating_sub(WINDOW);
    let mut checks = vec![0; windows];
    let run = windows / LANES;
    if run > 0 {
        let (mut lanes, mut rest) = (Vec::with_capacity(LANES), &mut checks[..]);
        for lane in 0..LANES {
            let (own, others) = rest.split_at_mut(run);
            lanes.push((own, &bytes[lane * run..(lane + 1) * run + WINDOW - 1]));
            rest = others;
        }
        let lanes: [_; LANES] = lanes.try_into().expect("as many as there are");
        side_by_side(lanes);
    }
    for (place, check) in checks.iter_mut().enumerate().skip(run * LANES) {
        *check = pieces::piece_of(&bytes[place..place + WINDOW]);
    }
    checks
}

/// The checks of several runs of windows at once.
fn side_by_side(lanes: [(&mut [u16], &[u8]); LANES]) {
    let Tables {
        step,
        leave,
        constant,
    } = &*TABLES;
    let into = |register: u32, byte: u8| register >> 8 ^ step[usize::from(register as u8 ^ byte)];
    let run = lanes[0].0.len();
    let mut registers = lanes
        .each_ref()
        .map(|(_, bytes)| pieces::crc_of(&bytes[..WINDOW]) ^ constant);
    let mut lanes = lanes.map(|(checks, bytes)| {
        let (leaving, entering) = (&bytes[..run - 1], &bytes[WINDOW..][..run - 1]);
        let (first, others) = checks.split_first_mut().expect("a run has windows");
        (first, &mut others[..run - 1], leaving, entering)
    });
    for ((first, ..), register) in lanes.iter_mut().zip(registers) {
        **first = (register ^ constant) as u16;
    }
    for place in 0..run - 1 {
        for ((_, checks, leaving, entering), register) in lanes.iter_mut().zip(&mut registers) {
            *register = into(*register, entering[place]) ^ leave[usize::from(leaving[place])];
            checks[place] = (*register ^ constant) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::paint;

    #[test]
    fn every_window_has_the_check_of_a_piece() {
        let bytes = paint::bytes(5, 9000);
        for length in (0..=1030).chain([3000, 5121, 8999, 9000]) {
            let expected: Vec<u16> = bytes[..length]
                .windows(1024)
                .map(pieces::piece_of)
                .collect();
            assert_eq!(checks(&bytes[..length]), expected, "{length}");
        }
    }
}
