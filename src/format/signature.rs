//! The signature area of a manifest, beside its statement (manifest.md, 3.3).

use super::{
    layout::{FRONT_BYTES, STATEMENT_BYTES},
    refused::Refused,
};

/// The length of a signature area.
pub const AREA_BYTES: usize = FRONT_BYTES - STATEMENT_BYTES;
const MINISIGN: [u8; 2] = *b"ED";
const COMMENT_BYTES_MAX: usize = 372;

/// What the signature area holds. Nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureArea {
    /// No signature.
    Unsigned,
    /// A signature in the format of minisign.
    Minisign(Signature),
    /// A signature of a kind that this version does not know, which makes the manifest unsigned for it.
    Unknown {
        /// The first bytes of the area.
        kind: [u8; 2],
        /// Bytes of the signature that lie behind the last section.
        trailer_bytes: u32,
    },
}

impl SignatureArea {
    /// Reads the area.
    pub fn read(area: &[u8; AREA_BYTES]) -> Result<SignatureArea, Refused> {
        let [first, second, rest @ ..] = area;
        let kind = [*first, *second];
        let is_empty = rest.iter().all(|byte| *byte == 0);
        match (kind, is_empty) {
            ([0, 0], true) => Ok(SignatureArea::Unsigned),
            (MINISIGN, false) => Signature::from_area(area).map(SignatureArea::Minisign),
            ([0, 0], false) | (_, true) => Err(Refused::Signature),
            (_, false) => Ok(SignatureArea::Unknown {
                kind,
                trailer_bytes: u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]),
            }),
        }
    }

    /// The signature, if it is one that keys of this version can check.
    pub fn minisign(&self) -> Option<&Signature> {
        match self {
            SignatureArea::Minisign(signature) => Some(signature),
            SignatureArea::Unsigned | SignatureArea::Unknown { .. } => None,
        }
    }

    /// Bytes of the file behind the last section.
    pub fn trailer_bytes(&self) -> u64 {
        match self {
            SignatureArea::Unknown { trailer_bytes, .. } => u64::from(*trailer_bytes),
            SignatureArea::Unsigned | SignatureArea::Minisign(_) => 0,
        }
    }
}

/// A signature of a statement, in the format of minisign. Not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The ID of the key that made it.
    pub key_id: [u8; 8],
    /// Signs the statement.
    pub signature: [u8; 64],
    /// Signs the signature and the comment.
    pub global_signature: [u8; 64],
    /// Signed by the global signature.
    pub trusted_comment: String,
}

impl Signature {
    /// Reads an area of this kind.
    fn from_area(area: &[u8; AREA_BYTES]) -> Result<Signature, Refused> {
        let length = usize::from(u16::from_le_bytes([area[138], area[139]]));
        if length > COMMENT_BYTES_MAX {
            return Err(Refused::Signature);
        }
        let (comment, rest) = area[140..].split_at(length);
        let comment = std::str::from_utf8(comment).map_err(|_| Refused::Signature)?;
        if !comment_is_allowed(comment) || rest.iter().any(|byte| *byte != 0) {
            return Err(Refused::Signature);
        }
        Ok(Signature {
            key_id: *area[2..].first_chunk().expect("the area is longer"),
            signature: *area[10..].first_chunk().expect("the area is longer"),
            global_signature: *area[74..].first_chunk().expect("the area is longer"),
            trusted_comment: comment.to_owned(),
        })
    }

    /// The signature area with this signature.
    pub fn to_area(&self) -> [u8; AREA_BYTES] {
        let comment = self.trusted_comment.as_bytes();
        let mut area = [0; FRONT_BYTES - STATEMENT_BYTES];
        area[..2].copy_from_slice(&MINISIGN);
        area[2..10].copy_from_slice(&self.key_id);
        area[10..74].copy_from_slice(&self.signature);
        area[74..138].copy_from_slice(&self.global_signature);
        area[138..140].copy_from_slice(&(comment.len() as u16).to_le_bytes());
        area[140..140 + comment.len()].copy_from_slice(comment);
        area
    }

    /// The key id as minisign prints it.
    pub fn key_id_hex(&self) -> String {
        format!("{:016X}", u64::from_le_bytes(self.key_id))
    }
}

/// Whether a manifest allows this trusted comment. The default comment of minisign has tabs; no other control character is
/// allowed.
pub fn comment_is_allowed(comment: &str) -> bool {
    comment.len() <= COMMENT_BYTES_MAX && !comment.contains(|c: char| c.is_control() && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_area() {
        let signature = Signature {
            key_id: [1, 2, 3, 4, 5, 6, 7, 8],
            signature: [5; 64],
            global_signature: [6; 64],
            trusted_comment: "c".repeat(COMMENT_BYTES_MAX),
        };
        assert_eq!(signature.key_id_hex(), "0807060504030201");
        let area = signature.to_area();
        assert_eq!(
            SignatureArea::read(&area),
            Ok(SignatureArea::Minisign(signature))
        );
        assert_eq!(SignatureArea::read(&[0; 512]), Ok(SignatureArea::Unsigned));
        let with = |at: usize, byte: u8| {
            let mut bad = area;
            bad[at] = byte;
            SignatureArea::read(&bad)
        };
        assert_eq!(with(139, 9), Err(Refused::Signature));
        assert_eq!(with(138, 0), Err(Refused::Signature));
        assert_eq!(with(150, 0xFF), Err(Refused::Signature));
        assert_eq!(with(150, b'\n'), Err(Refused::Signature));
    }

    #[test]
    fn a_signature_of_an_unknown_kind_is_none() {
        let mut area = [0; AREA_BYTES];
        area[..2].copy_from_slice(b"ML");
        assert_eq!(SignatureArea::read(&area), Err(Refused::Signature));
        area[2..6].copy_from_slice(&7_u32.to_le_bytes());
        let found = SignatureArea::read(&area).unwrap();
        assert_eq!((found.minisign(), found.trailer_bytes()), (None, 7));
        area[..2].fill(0);
        assert_eq!(SignatureArea::read(&area), Err(Refused::Signature));
    }
}
