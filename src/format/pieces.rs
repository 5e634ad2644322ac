//! Pieces: of each KiB of an object the low 16 bits of its CRC-32C (manifest.md, 3.4). Hints only; they prove nothing.

use super::geometry::PIECE;

/// The check of one piece; the last of an object may be shorter than a KiB.
pub fn piece_of(bytes: &[u8]) -> u16 {
    crc_of(bytes) as u16
}

/// The whole CRC, of which a check is the lower half.
pub fn crc_of(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Appends the checks of these bytes, which begin at a border of pieces, as the manifest holds them.
pub fn append_pieces(bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(PIECE as usize) {
        out.extend_from_slice(&piece_of(piece).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // CRC-32C of "123456789" is E3069283 (RFC 3720, B.4 uses the same polynomial).
        assert_eq!(piece_of(b"123456789"), 0x9283);
        let mut out = Vec::new();
        append_pieces(&[0; 1025], &mut out);
        assert_eq!(out.len(), 4);
        append_pieces(&[], &mut out);
        assert_eq!(out.len(), 4);
    }
}
