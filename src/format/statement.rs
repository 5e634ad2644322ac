//! The statement of a manifest, the part that is signed, and the place of its signature (manifest.md, 3.1 to 3.3).

use super::{
    codec::{self, RawDigest, RawHeader, RawSection},
    digests::{Algorithm, Digest},
    geometry::{BlockSize, ByteRange, Geometry},
    layout::{FRONT_BYTES, Layout, STATEMENT_BYTES},
    tree::Root,
};

/// The first bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"\x89SAPWOOD";
const VERSION: u16 = 1;
/// The start of the header, after magic, version and its own length.
const HEADER_START: usize = 12;
/// The space for the header before the checksum.
const HEADER_BYTES_MAX: usize = CHECKED_BYTES - HEADER_START;
/// Bytes that the checksum at the end of the statement covers.
const CHECKED_BYTES: usize = STATEMENT_BYTES - 32;
const NAME_BYTES_MAX: usize = 255;
const SECTIONS_MAX: usize = 8;
const COMMENT_BYTES_MAX: usize = 372;

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

/// The kinds of sections that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "manifest.md says what they are")]
pub enum Known {
    Tree = 1,
    Pages = 2,
    Pieces = 3,
}

/// A row of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// See [`Known`].
    pub kind: u8,
    /// A reader that does not know the kind must refuse the manifest.
    pub critical: bool,
    /// Its place in the manifest.
    pub bytes: ByteRange,
    /// The hash of these bytes.
    pub blake3: [u8; 32],
}

impl Section {
    /// The row of a kind that this version knows.
    pub fn known(kind: Known, bytes: ByteRange, blake3: [u8; 32]) -> Section {
        Section {
            kind: kind as u8,
            critical: kind != Known::Pieces,
            bytes,
            blake3,
        }
    }
}

/// The description of an object in its manifest. A value of this type is consistent in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length and block size of the object.
    pub geometry: Geometry,
    /// The name of the object.
    pub root: Root,
    /// Empty: not given. Never used to name a file.
    pub name: String,
    /// 0: not given.
    pub sequence: u64,
    /// Unix seconds; 0: not given.
    pub published: u64,
    /// Unix seconds; 0: not given.
    pub expires: u64,
    /// Digests of the whole object, at most one per algorithm, sorted by it.
    pub digests: Vec<Digest>,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// The statement: its header and the exact bytes that are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    header: Header,
    bytes: Box<[u8; STATEMENT_BYTES]>,
}

impl Header {
    /// Whether there are anchors and pieces.
    pub fn hints(&self) -> bool {
        self.sections
            .iter()
            .any(|section| section.kind == Known::Pieces as u8)
    }

    /// Where the sections lie.
    pub fn layout(&self) -> Layout {
        Layout {
            geometry: self.geometry,
            hints: self.hints(),
        }
    }

    /// The length of the manifest file.
    pub fn file_length(&self) -> u64 {
        self.sections
            .last()
            .map_or(FRONT_BYTES as u64, |section| section.bytes.end)
    }

    fn to_raw(&self) -> RawHeader {
        RawHeader {
            length: self.geometry.length(),
            block_size: self.geometry.block_size().bytes() as u32,
            root: self.root.0,
            name: self.name.clone().into_bytes(),
            sequence: self.sequence,
            published: self.published,
            expires: self.expires,
            digests: self
                .digests
                .iter()
                .map(|digest| RawDigest {
                    kind: digest.algorithm().kind(),
                    value: digest.value().to_vec(),
                })
                .collect(),
            sections: self
                .sections
                .iter()
                .map(|section| RawSection {
                    kind: section.kind,
                    critical: u8::from(section.critical),
                    offset: section.bytes.start,
                    length: section.bytes.length(),
                    blake3: section.blake3,
                })
                .collect(),
        }
    }

    fn from_raw(raw: RawHeader) -> Result<Header, Refused> {
        let block_size = BlockSize::new(u64::from(raw.block_size)).ok_or(Refused::Geometry)?;
        let geometry = Geometry::new(raw.length, block_size).ok_or(Refused::Geometry)?;
        let root = Root(raw.root);
        let name = String::from_utf8(raw.name).map_err(|_| Refused::Name)?;
        if !name_is_allowed(&name) {
            return Err(Refused::Name);
        }
        let digests = digests_from_raw(raw.digests, root)?;
        let sections = sections_from_raw(&raw.sections, geometry)?;
        let (sequence, published, expires) = (raw.sequence, raw.published, raw.expires);
        Ok(Header {
            geometry,
            root,
            name,
            sequence,
            published,
            expires,
            digests,
            sections,
        })
    }
}

/// Whether a manifest may carry this name: one segment of at most 255 bytes.
pub fn name_is_allowed(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.contains(['\0', '/'])
}

fn digests_from_raw(raw: Vec<RawDigest>, root: Root) -> Result<Vec<Digest>, Refused> {
    if !raw.is_sorted_by(|a, b| a.kind < b.kind) {
        return Err(Refused::Digests);
    }
    raw.into_iter()
        .map(|raw| {
            let algorithm = Algorithm::from_kind(raw.kind).ok_or(Refused::Digests)?;
            if algorithm == Algorithm::Blake3 && raw.value != root.0 {
                return Err(Refused::Digests);
            }
            Digest::new(algorithm, raw.value).map_err(|_| Refused::Digests)
        })
        .collect()
}

fn sections_from_raw(raw: &[RawSection], geometry: Geometry) -> Result<Vec<Section>, Refused> {
    if raw.len() > SECTIONS_MAX {
        return Err(Refused::Sections);
    }
    let hints = raw
        .get(2)
        .is_some_and(|section| section.kind == Known::Pieces as u8);
    let layout = Layout { geometry, hints };
    let mut known = vec![(Known::Tree, layout.tree()), (Known::Pages, layout.pages())];
    if hints {
        known.push((Known::Pieces, layout.pieces()));
    }
    let mut sections: Vec<Section> = Vec::new();
    for section in raw {
        let end = section
            .offset
            .checked_add(section.length)
            .ok_or(Refused::Sections)?;
        let start = sections
            .last()
            .map_or(FRONT_BYTES as u64, |last| last.bytes.end);
        if section.critical > 1 || section.offset != start {
            return Err(Refused::Sections);
        }
        let section = Section {
            kind: section.kind,
            critical: section.critical == 1,
            bytes: ByteRange::new(start, end),
            blake3: section.blake3,
        };
        match known.get(sections.len()) {
            Some((kind, bytes)) if section != Section::known(*kind, *bytes, section.blake3) => {
                return Err(Refused::Sections);
            }
            Some(_) => (),
            None if section.kind <= Known::Pieces as u8
                || sections.iter().any(|other| other.kind == section.kind) =>
            {
                return Err(Refused::Sections);
            }
            None if section.critical => return Err(Refused::CriticalSection(section.kind)),
            None => (),
        }
        sections.push(section);
    }
    match sections.len() < known.len() {
        true => Err(Refused::Sections),
        false => Ok(sections),
    }
}

impl Statement {
    /// Encodes a header as a statement.
    pub fn new(header: Header) -> Statement {
        let encoded = codec::encode_header(&header.to_raw());
        assert!(
            encoded.len() <= HEADER_BYTES_MAX,
            "the largest header fits (manifest.md, 3.2)"
        );
        let mut bytes = Box::new([0; STATEMENT_BYTES]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(encoded.len() as u16).to_le_bytes());
        bytes[HEADER_START..HEADER_START + encoded.len()].copy_from_slice(&encoded);
        let checksum = blake3::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(checksum.as_bytes());
        Statement { header, bytes }
    }

    /// Reads a statement, with every check that needs nothing else.
    pub fn from_bytes(bytes: &[u8; STATEMENT_BYTES]) -> Result<Statement, Refused> {
        if bytes[..8] != MAGIC {
            return Err(Refused::NotAManifest);
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if u16_at(8) != VERSION {
            return Err(Refused::Version(u16_at(8)));
        }
        let header_end = HEADER_START + usize::from(u16_at(10));
        if header_end > CHECKED_BYTES
            || bytes[CHECKED_BYTES..] != *blake3::hash(&bytes[..CHECKED_BYTES]).as_bytes()
        {
            return Err(Refused::Checksum);
        }
        let raw =
            codec::decode_header(&bytes[HEADER_START..header_end]).map_err(|_| Refused::Header)?;
        if bytes[header_end..CHECKED_BYTES]
            .iter()
            .any(|byte| *byte != 0)
        {
            return Err(Refused::Header);
        }
        let header = Header::from_raw(raw)?;
        Ok(Statement {
            header,
            bytes: Box::new(*bytes),
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8; STATEMENT_BYTES] {
        &self.bytes
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
    /// Reads the signature area; all zeros mean no signature.
    pub fn from_area(
        area: &[u8; FRONT_BYTES - STATEMENT_BYTES],
    ) -> Result<Option<Signature>, Refused> {
        if area.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let length = usize::from(u16::from_le_bytes([area[138], area[139]]));
        if area[..2] != *b"ED" || length > COMMENT_BYTES_MAX {
            return Err(Refused::Signature);
        }
        let (comment, rest) = area[140..].split_at(length);
        let comment = std::str::from_utf8(comment).map_err(|_| Refused::Signature)?;
        if !comment_is_allowed(comment) || rest.iter().any(|byte| *byte != 0) {
            return Err(Refused::Signature);
        }
        Ok(Some(Signature {
            key_id: *area[2..].first_chunk().expect("the area is longer"),
            signature: *area[10..].first_chunk().expect("the area is longer"),
            global_signature: *area[74..].first_chunk().expect("the area is longer"),
            trusted_comment: comment.to_owned(),
        }))
    }

    /// The signature area with this signature.
    pub fn to_area(&self) -> [u8; FRONT_BYTES - STATEMENT_BYTES] {
        let comment = self.trusted_comment.as_bytes();
        let mut area = [0; FRONT_BYTES - STATEMENT_BYTES];
        area[..2].copy_from_slice(b"ED");
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

/// Statement and signature from the first 1,536 bytes of a manifest, or from all of a shorter one.
pub fn read_front(bytes: &[u8]) -> Result<(Statement, Option<Signature>), Refused> {
    let known = bytes.len().min(MAGIC.len());
    if known == 0 || bytes[..known] != MAGIC[..known] {
        return Err(Refused::NotAManifest);
    }
    let Some(front) = bytes.first_chunk::<FRONT_BYTES>() else {
        return Err(Refused::Short {
            bytes: bytes.len() as u64,
        });
    };
    let statement = Statement::from_bytes(front.first_chunk().expect("a statement is shorter"))?;
    let signature = Signature::from_area(front.last_chunk().expect("a signature is shorter"))?;
    Ok((statement, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest() -> Header {
        let geometry = Geometry::new(1 << 30, BlockSize::MIN).unwrap();
        let layout = Layout {
            geometry,
            hints: true,
        };
        let root = Root([9; 32]);
        let mut sections = vec![
            Section::known(Known::Tree, layout.tree(), [1; 32]),
            Section::known(Known::Pages, layout.pages(), [2; 32]),
            Section::known(Known::Pieces, layout.pieces(), [3; 32]),
        ];
        for kind in 10..15 {
            let end = sections.last().unwrap().bytes.end;
            sections.push(Section {
                kind,
                critical: false,
                bytes: ByteRange::new(end, end + 7),
                blake3: [kind; 32],
            });
        }
        let digests = Algorithm::ALL
            .map(|a| Digest::new(a, vec![9; a.bytes()]).unwrap())
            .to_vec();
        Header {
            geometry,
            root,
            name: "n".repeat(255),
            sequence: 1,
            published: 2,
            expires: 3,
            digests,
            sections,
        }
    }

    #[test]
    fn the_largest_header_fits() {
        let statement = Statement::new(largest());
        assert_eq!(codec::encode_header(&largest().to_raw()).len(), 930);
        assert_eq!(Statement::from_bytes(statement.bytes()), Ok(statement));
    }

    #[test]
    fn inconsistent_headers_are_refused() {
        let check = |change: &dyn Fn(&mut Header), refused: Refused| {
            let mut header = largest();
            change(&mut header);
            assert_eq!(
                Statement::from_bytes(Statement::new(header).bytes()),
                Err(refused)
            );
        };
        check(&|h| h.name = "a/b".into(), Refused::Name);
        check(&|h| h.name = "a\0".into(), Refused::Name);
        check(&|h| h.digests.swap(0, 1), Refused::Digests);
        check(&|h| h.root = Root([8; 32]), Refused::Digests);
        check(&|h| _ = h.sections.remove(0), Refused::Sections);
        check(&|h| h.sections.truncate(1), Refused::Sections);
        check(&|h| h.sections[0].critical = false, Refused::Sections);
        check(&|h| h.sections[3].bytes.start += 1, Refused::Sections);
        check(&|h| h.sections[4].kind = 10, Refused::Sections);
        check(&|h| h.sections[4].kind = 2, Refused::Sections);
        check(
            &|h| h.sections[4].critical = true,
            Refused::CriticalSection(11),
        );
        check(
            &|h| h.geometry = Geometry::new(5, BlockSize::MIN).unwrap(),
            Refused::Sections,
        );
    }

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
        assert_eq!(Signature::from_area(&area), Ok(Some(signature)));
        assert_eq!(Signature::from_area(&[0; 512]), Ok(None));
        let with = |at: usize, byte: u8| {
            let mut bad = area;
            bad[at] = byte;
            Signature::from_area(&bad)
        };
        assert_eq!(with(0, b'e'), Err(Refused::Signature));
        assert_eq!(with(139, 9), Err(Refused::Signature));
        assert_eq!(with(138, 0), Err(Refused::Signature));
        assert_eq!(with(150, 0xFF), Err(Refused::Signature));
        assert_eq!(with(150, b'\n'), Err(Refused::Signature));
    }
}
