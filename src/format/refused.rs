//! Why a manifest is refused (manifest.md, section 5).

use super::layout::FRONT_BYTES;

/// The version of manifests that this program reads and writes.
pub const VERSION: u16 = 1;

/// Why a manifest is refused, each with its row in the table of manifest.md, section 5.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum Refused {
    #[error("it is not a Sapwood manifest")]
    NotAManifest,
    #[error("it ends after {bytes} bytes, inside its first {FRONT_BYTES}")]
    Short { bytes: u64 },
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u16),
    #[error("its statement is damaged (checksum)")]
    Checksum,
    #[error("its header cannot be decoded")]
    Header,
    #[error("its length and block size are impossible")]
    Geometry,
    #[error("its name is not allowed")]
    Name,
    #[error("its digests are not allowed")]
    Digests,
    #[error("its table of sections is not allowed")]
    Sections,
    #[error(
        "it has a section of kind {0} that this program must understand and does not; a newer sapwood may"
    )]
    CriticalSection(u8),
    #[error("its signature is malformed")]
    Signature,
    #[error("it is {found} bytes long and should be {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its section of kind {0} is damaged (checksum)")]
    SectionChecksum(u8),
    #[error("group {index} of level {level} of its tree is damaged")]
    Tree { level: u32, index: u32 },
    #[error("the anchor of block {0} is impossible")]
    BlockAnchor(u32),
    #[error("the anchor of node {index} of level {level} is not that of its children")]
    NodeAnchor { level: u32, index: u32 },
    #[error("its pieces are not those of the object")]
    Pieces,
}

impl Refused {
    /// The row of the refusal table.
    pub fn rule(&self) -> u8 {
        match self {
            Refused::NotAManifest | Refused::Short { .. } => 1,
            Refused::Version(_) => 2,
            Refused::Checksum => 3,
            Refused::Header => 4,
            Refused::Geometry => 5,
            Refused::Name => 6,
            Refused::Digests => 7,
            Refused::Sections | Refused::CriticalSection(_) => 8,
            Refused::Signature => 9,
            Refused::Length { .. } => 10,
            Refused::Tree { .. } => 11,
            Refused::SectionChecksum(_) => 12,
            Refused::BlockAnchor(_) => 13,
            Refused::NodeAnchor { .. } => 14,
            // Seen only with the object: the paragraph after the table.
            Refused::Pieces => 15,
        }
    }
}
