//! The check of a piece at every place of a stretch of bytes: CRC-32C of a window that rolls by one byte.
//!
//! A CRC is linear. With `F(s, w)` the register after the bytes `w` from `s`, the check of a piece is the low half of
//! `F(FFFFFFFF, w) ^ FFFFFFFF = F(0, w) ^ CONSTANT`, and a byte that leaves a window of n bytes is taken out of
//! `F(0, w)` by XOR with `F(0, byte followed by n zeros)`.

use std::sync::LazyLock;

use crate::format::geometry::PIECE;

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

/// Calls `see` with the place and the check of every window of a KiB.
pub fn each_window(bytes: &[u8], mut see: impl FnMut(usize, u16)) {
    let Tables {
        step,
        leave,
        constant,
    } = &*TABLES;
    let size = PIECE as usize;
    if bytes.len() < size {
        return;
    }
    let into = |register: u32, byte: u8| register >> 8 ^ step[usize::from(register as u8 ^ byte)];
    let mut register = bytes[..size]
        .iter()
        .fold(0, |register, byte| into(register, *byte));
    see(0, (register ^ constant) as u16);
    for (place, (entering, leaving)) in bytes[size..].iter().zip(bytes).enumerate() {
        register = into(register, *entering) ^ leave[usize::from(*leaving)];
        see(place + 1, (register ^ constant) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{paint, pieces};

    #[test]
    fn every_window_has_the_check_of_a_piece() {
        let bytes = paint::bytes(5, 3000);
        let mut seen = 0;
        each_window(&bytes, |place, check| {
            assert_eq!(place, seen);
            assert_eq!(
                check,
                pieces::piece_of(&bytes[place..place + 1024]),
                "{place}"
            );
            seen += 1;
        });
        assert_eq!(seen, 3000 - 1023);
        each_window(&bytes[..1023], |_, _| panic!("no window fits"));
    }
}
