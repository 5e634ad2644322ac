//! The statement of a manifest, the part that is signed (manifest.md, 3.1 and 3.2).

use super::{
    characters,
    codec::{self, RawDigest, RawHeader, RawSection},
    digests::{Algorithm, Digest},
    geometry::{BlockSize, ByteRange, Geometry},
    layout::{FRONT_BYTES, Layout, STATEMENT_BYTES},
    refused::VERSION,
    signature::SignatureArea,
    tree::Root,
};

pub use super::refused::Refused;

/// The first bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"\x89SAPWOOD";
/// The start of the header, after magic, version and its own length.
const HEADER_START: usize = 12;
/// The space for the header before the checksum.
const HEADER_BYTES_MAX: usize = CHECKED_BYTES - HEADER_START;
/// Bytes that the checksum at the end of the statement covers.
const CHECKED_BYTES: usize = STATEMENT_BYTES - 32;
const NAME_BYTES_MAX: usize = 255;
const SECTIONS_MAX: usize = 8;

/// The kinds of sections that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "manifest.md says what they are")]
pub enum Known {
    Tree = 1,
    Pages = 2,
    Pieces = 3,
    /// Where it is there; its content is checked by who uses the pack.
    Pack = 4,
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
            critical: matches!(kind, Known::Tree | Known::Pages),
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
    /// Digests of kinds that this version does not know, sorted by kind. They are kept, and never count as checked.
    pub unknown_digests: Vec<RawDigest>,
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

    /// The section with the index of the pack, if there is a pack.
    pub fn pack(&self) -> Option<&Section> {
        let mut sections = self.sections.iter();
        sections.find(|section| section.kind == Known::Pack as u8)
    }

    /// Where the sections lie.
    pub fn layout(&self) -> Layout {
        Layout {
            geometry: self.geometry,
            hints: self.hints(),
        }
    }

    /// The end of the last section, which is the length of the manifest if its signature has no trailer.
    pub fn sections_end(&self) -> u64 {
        self.sections
            .last()
            .map_or(FRONT_BYTES as u64, |section| section.bytes.end)
    }

    fn to_raw(&self) -> RawHeader {
        let known = self.digests.iter().map(|digest| RawDigest {
            kind: digest.algorithm().kind(),
            value: digest.value().to_vec(),
        });
        // Every kind that is known is below every kind that is not.
        let digests = known.chain(self.unknown_digests.iter().cloned()).collect();
        RawHeader {
            length: self.geometry.length(),
            block_size: self.geometry.block_size().bytes() as u32,
            root: self.root.0,
            name: self.name.clone().into_bytes(),
            sequence: self.sequence,
            published: self.published,
            expires: self.expires,
            digests,
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
        let (digests, unknown_digests) = digests_from_raw(raw.digests, root)?;
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
            unknown_digests,
            sections,
        })
    }
}

/// Whether a manifest may carry this name: one segment of at most 255 bytes, without characters that hide what it is.
pub fn name_is_allowed(name: &str) -> bool {
    let bad = |c: char| matches!(c, '/' | '\\') || characters::turns_text(c);
    name.len() <= NAME_BYTES_MAX && name != "." && name != ".." && !name.contains(bad)
}

/// The name of a file in its manifest: its own, if a manifest may carry that, else none.
pub fn default_name(file: &str) -> String {
    match name_is_allowed(file) {
        true => file.to_owned(),
        false => String::new(),
    }
}

/// The known and the unknown ones.
fn digests_from_raw(
    raw: Vec<RawDigest>,
    root: Root,
) -> Result<(Vec<Digest>, Vec<RawDigest>), Refused> {
    let ascend = raw.is_sorted_by(|a, b| a.kind < b.kind);
    if !ascend || raw.first().is_some_and(|first| first.kind == 0) {
        return Err(Refused::Digests);
    }
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for raw in raw {
        match Algorithm::from_kind(raw.kind) {
            Some(Algorithm::Blake3) if raw.value != root.0 => return Err(Refused::Digests),
            Some(algorithm) => {
                known.push(Digest::new(algorithm, raw.value).map_err(|_| Refused::Digests)?);
            }
            None => unknown.push(raw),
        }
    }
    Ok((known, unknown))
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

    /// That of the same object without name, sequence, times and digests, as the manifests of a library have it (library.md, 1).
    #[must_use]
    pub fn without_particulars(&self) -> Statement {
        Statement::new(Header {
            name: String::new(),
            sequence: 0,
            published: 0,
            expires: 0,
            digests: Vec::new(),
            unknown_digests: Vec::new(),
            ..self.header.clone()
        })
    }

    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8; STATEMENT_BYTES] {
        &self.bytes
    }
}

/// Statement and signature area from the first 1,536 bytes of a manifest, or from all of a shorter one.
pub fn read_front(bytes: &[u8]) -> Result<(Statement, SignatureArea), Refused> {
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
    let signature = SignatureArea::read(front.last_chunk().expect("a signature is shorter"))?;
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
            unknown_digests: Vec::new(),
            sections,
        }
    }

    #[test]
    fn the_largest_header_fits() {
        let statement = Statement::new(largest());
        assert_eq!(codec::encode_header(&largest().to_raw()).len(), 937);
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
        for name in [
            ".",
            "..",
            "a\\b",
            "a\0",
            "\t",
            "\u{9b}",
            "a\u{202e}b",
            "\u{2066}",
        ] {
            check(&|h| h.name = name.into(), Refused::Name);
        }
        check(&|h| h.digests.swap(0, 1), Refused::Digests);
        check(&|h| h.root = Root([8; 32]), Refused::Digests);
        let unknown = |kind| RawDigest {
            kind,
            value: vec![1],
        };
        check(
            &|h| h.unknown_digests = vec![unknown(9), unknown(8)],
            Refused::Digests,
        );
        check(
            &|h| {
                h.digests.clear();
                h.unknown_digests = vec![unknown(0)];
            },
            Refused::Digests,
        );
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
    fn a_digest_of_an_unknown_kind_is_skipped_and_kept() {
        let mut header = largest();
        header.name.clear();
        let unknown = |kind, value: &[u8]| RawDigest {
            kind,
            value: value.to_vec(),
        };
        header.unknown_digests = vec![unknown(8, b""), unknown(200, &[5; 40])];
        let statement = Statement::new(header.clone());
        let read = Statement::from_bytes(statement.bytes()).unwrap();
        assert_eq!(*read.header(), header);
        assert_eq!(read.header().digests.len(), Algorithm::ALL.len());
        // As many as there are kinds: the list of none of them is too large for the decoder.
        header.digests.clear();
        header.sections.truncate(3);
        header.unknown_digests = (8..=255).map(|kind| unknown(kind, b"")).collect();
        let statement = Statement::new(header.clone());
        assert_eq!(
            Statement::from_bytes(statement.bytes()).map(|read| read.header().clone()),
            Ok(header)
        );
    }

    #[test]
    fn files_with_odd_names_have_manifests_without_one() {
        assert_eq!(default_name("a b.mp4"), "a b.mp4");
        for name in ["..", "a\\b", "a\nb", "\u{202e}4pm.exe"] {
            assert_eq!(default_name(name), "");
        }
    }
}
