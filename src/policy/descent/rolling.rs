//! The check of a piece at every place of a stretch of bytes: CRC-32C of a window that rolls by one byte.
//!
//! A CRC is linear. With `F(s, w)` the register after the bytes `w` from `s`, the check of a piece is the low half of
//! `F(FFFFFFFF, w) ^ FFFFFFFF = F(0, w) ^ CONSTANT`, and a byte that leaves a window of n bytes is taken out of
//! `F(0, w)` by XOR with `F(0, byte followed by n zeros)`.

use std::{mem, sync::LazyLock};

use crate::format::{geometry::PIECE, pieces};

const WINDOW: usize = PIECE as usize;
/// Runs of windows that roll side by side, because each step of one waits for two look-ups.
const LANES: usize = 4;
/// Steps that the lanes take together before bounds are checked again.
const STEPS: usize = 512;

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

/// The checks of several runs of windows at once; all have as many windows.
fn side_by_side<'a>(mut lanes: [(&'a mut [u16], &'a [u8]); LANES]) {
    let tables: &Tables = &TABLES;
    let mut registers = lanes.each_mut().map(|(checks, bytes)| {
        let register = pieces::crc_of(&bytes[..WINDOW]) ^ tables.constant;
        let (first, others) = mem::take(checks)
            .split_first_mut()
            .expect("a run has windows");
        *first = (register ^ tables.constant) as u16;
        *checks = others;
        register
    });
    while let Some(steps) = next_steps(&mut lanes) {
        roll_all(tables, &mut registers, steps);
    }
    for ((checks, bytes), register) in lanes.into_iter().zip(&mut registers) {
        for (check, (entering, leaving)) in checks.iter_mut().zip(bytes[WINDOW..].iter().zip(bytes))
        {
            *register = roll(tables, *register, *entering, *leaving);
            *check = (*register ^ tables.constant) as u16;
        }
    }
}

/// The next steps of a lane: a place for each check, and the bytes from the first window to the last.
type Steps<'a> = (&'a mut [u16; STEPS], &'a [u8; STEPS + WINDOW]);

fn next_steps<'a>(lanes: &mut [(&'a mut [u16], &'a [u8]); LANES]) -> Option<[Steps<'a>; LANES]> {
    (lanes[0].0.len() >= STEPS).then(|| {
        lanes.each_mut().map(|(checks, bytes)| {
            let (steps, others) = mem::take(checks).split_at_mut(STEPS);
            let window = &bytes[..STEPS + WINDOW];
            (*checks, *bytes) = (others, &bytes[STEPS..]);
            let why = "of this length";
            (steps.try_into().expect(why), window.try_into().expect(why))
        })
    })
}

/// The lanes are written out: in a loop over them the compiler keeps their registers in memory.
fn roll_all(tables: &Tables, registers: &mut [u32; LANES], steps: [Steps<'_>; LANES]) {
    let constant = tables.constant as u16;
    let [mut a, mut b, mut c, mut d] = *registers;
    let [(to_a, of_a), (to_b, of_b), (to_c, of_c), (to_d, of_d)] = steps;
    for place in 0..STEPS {
        a = roll(tables, a, of_a[place + WINDOW], of_a[place]);
        to_a[place] = a as u16 ^ constant;
        b = roll(tables, b, of_b[place + WINDOW], of_b[place]);
        to_b[place] = b as u16 ^ constant;
        c = roll(tables, c, of_c[place + WINDOW], of_c[place]);
        to_c[place] = c as u16 ^ constant;
        d = roll(tables, d, of_d[place + WINDOW], of_d[place]);
        to_d[place] = d as u16 ^ constant;
    }
    *registers = [a, b, c, d];
}

#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "four calls in a loop, which a compiler for size leaves"
)]
fn roll(tables: &Tables, register: u32, entering: u8, leaving: u8) -> u32 {
    // XOR in 32 bits: in 8 bits each look-up waits for that of the lane before, whose register it writes in part.
    let index = (register ^ u32::from(entering)) as usize & 0xFF;
    register >> 8 ^ tables.step[index] ^ tables.leave[usize::from(leaving)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::paint;

    #[test]
    fn every_window_has_the_check_of_a_piece() {
        let bytes = paint::bytes(5, 9000);
        for length in (0..=1030).chain([3000, 3071, 3072, 3075, 3076, 5121, 8999, 9000]) {
            let expected: Vec<u16> = bytes[..length]
                .windows(1024)
                .map(pieces::piece_of)
                .collect();
            assert_eq!(checks(&bytes[..length]), expected, "{length}");
        }
    }
}
