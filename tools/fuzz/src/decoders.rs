//! Every decoder of bytes that come from outside, as a function that tells whether it accepts them.
//!
//! None may panic, or take long or much memory, whatever it is given. What one accepts must mean the same when it is written
//! and read once more. Where a checksum would keep the decoder behind it out of reach, it is mended first.

use std::str::from_utf8;

use sapwood::{
    format::{
        compression::{self, Unpacker},
        journal::{self, FILE_HEADER_BYTES, Place},
        keys::PublicKey,
        layout::{FRONT_BYTES, STATEMENT_BYTES},
        library::{self, Index, IndexHeader},
        pack::{PackIndex, PackLayout, PackPage},
        paint,
        part::PartHeader,
        reader::Manifest,
        receipt::Receipt,
        signature::{Signature, SignatureArea},
        statement::{self, Statement},
        upload::PartRecord,
    },
    net::{
        auth::netrc::Netrc,
        content_range,
        location::{self, Location},
        multipart::{Multipart, Next},
        repr_digest::{self, Sidecar},
    },
    serve::range,
};

/// Whether it accepts these bytes.
type Decoder = fn(&[u8]) -> bool;

/// By name, which is also that of the folder with its corpus.
pub const DECODERS: &[(&str, Decoder)] = &[
    ("manifest", manifest),
    ("statement", mended_statement),
    ("signature", signature),
    ("journal", mended_journal),
    ("library", library),
    ("part", part),
    ("packed", packed),
    ("pack-index", pack_index),
    ("pack-page", pack_page),
    ("record", record),
    ("receipt", receipt),
    ("content-range", in_content_range),
    ("digest-header", digest_header),
    ("sidecar", sidecar),
    ("minisig", minisig),
    ("public-key", public_key),
    ("netrc", netrc),
    ("url", url),
    ("redirect", redirect),
    ("range", in_range),
    ("multipart", in_parts),
];

fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::from_bytes(bytes) else {
        return false;
    };
    let header = manifest.statement.header();
    let end = header.sections_end() + manifest.signature.trailer_bytes();
    assert_eq!(end, bytes.len() as u64);
    assert_eq!(manifest.tree.root(), header.root);
    true
}

/// With the checksum that it should have.
fn mended_statement(bytes: &[u8]) -> bool {
    let mut front = vec![0; FRONT_BYTES];
    let count = bytes.len().min(FRONT_BYTES);
    front[..count].copy_from_slice(&bytes[..count]);
    let checked = STATEMENT_BYTES - blake3::OUT_LEN;
    let checksum = blake3::hash(&front[..checked]);
    front[checked..STATEMENT_BYTES].copy_from_slice(checksum.as_bytes());
    let Ok((statement, _)) = statement::read_front(&front) else {
        return false;
    };
    let again = Statement::new(statement.header().clone());
    assert_eq!(again.bytes(), statement.bytes(), "one header, one form");
    true
}

fn signature(bytes: &[u8]) -> bool {
    let mut area = [0; FRONT_BYTES - STATEMENT_BYTES];
    let count = bytes.len().min(area.len());
    area[..count].copy_from_slice(&bytes[..count]);
    match SignatureArea::read(&area) {
        Ok(SignatureArea::Minisign(signature)) => {
            assert_eq!(signature.to_area(), area);
            // What it writes it reads.
            assert_eq!(
                Signature::from_minisig(&signature.to_minisig()).ok(),
                Some(signature)
            );
            true
        }
        Ok(SignatureArea::Unknown { .. }) => true,
        Ok(SignatureArea::Unsigned) | Err(_) => false,
    }
}

/// With the chain of checks that its records should have.
fn mended_journal(bytes: &[u8]) -> bool {
    let (header, _) = journal::RecordWriter::begin();
    let mut mended = header.to_vec();
    let mut check = header;
    let mut rest = bytes.get(FILE_HEADER_BYTES..).unwrap_or_default();
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*size) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else {
            break;
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&check).update(size).update(payload);
        check.copy_from_slice(&hasher.finalize().as_bytes()[..FILE_HEADER_BYTES]);
        mended.extend_from_slice(size);
        mended.extend_from_slice(payload);
        mended.extend_from_slice(&check);
        rest = after.get(FILE_HEADER_BYTES..).unwrap_or_default();
    }
    let here = Place {
        boot_id: [7; 16],
        device: 1,
        inode: 2,
        local: true,
    };
    let Some(claims) = journal::read(&mended, &here) else {
        return false;
    };
    assert!(claims.end <= mended.len() as u64);
    let blocks = claims.identity.geometry.blocks();
    assert!(claims.claimed.ranges().all(|range| range.end <= blocks));
    // What was sound is sound by itself.
    let end = claims.end as usize;
    assert!(journal::read(&mended[..end], &here).is_some());
    true
}

fn library(bytes: &[u8]) -> bool {
    let Ok(header) = IndexHeader::read(bytes, bytes.len() as u64) else {
        return false;
    };
    let slice = |range: std::ops::Range<u64>| &bytes[range.start as usize..range.end as usize];
    let Ok(index) = Index::read(&header, slice(header.entries())) else {
        return false;
    };
    let paths = index.entries().iter().map(|entry| &entry.path);
    assert!(paths.is_sorted_by(|a, b| a < b && !a.is_folder_of(b)));
    let pieces = index.pieces(&header);
    let files = pieces.map(|(entry, range)| (entry.clone(), slice(range).to_vec()));
    // Only what a later version put behind a path is not written again.
    let again = library::write(files.collect()).unwrap();
    let header = IndexHeader::read(&again, again.len() as u64).unwrap();
    let range = header.entries();
    let entries = &again[range.start as usize..range.end as usize];
    assert_eq!(Index::read(&header, entries), Ok(index));
    true
}

/// A packed frame or piece. The first five bytes: its plain length, of its prefix the length in steps of 256 bytes, and in how large
/// steps the packed bytes arrive.
fn packed(bytes: &[u8]) -> bool {
    let Some((&[low, middle, high, prefix, step], packed)) = bytes.split_first_chunk() else {
        return false;
    };
    let length = (usize::from(high % 16) << 16 | usize::from(middle) << 8 | usize::from(low)) + 1;
    let prefix = paint::bytes(0, usize::from(prefix) * 256);
    let whole = compression::unpack(packed, &prefix, length);
    let mut unpacker = Unpacker::new(&prefix, length).expect("a decoder");
    let mut plain = Some(Vec::new());
    for some in packed.chunks(usize::from(step) + 1) {
        let more = unpacker.push(some);
        plain = plain.and_then(|mut plain| {
            plain.extend(more?);
            Some(plain)
        });
        assert!(plain.as_ref().is_none_or(|plain| plain.len() <= length));
        if plain.is_none() {
            break;
        }
    }
    let plain = plain.filter(|_| unpacker.is_complete());
    assert_eq!(plain, whole, "it does not matter how the bytes arrive");
    whole.is_some_and(|plain| plain.len() == length)
}

/// The index of a pack, behind the length of its object.
fn pack_index(bytes: &[u8]) -> bool {
    let Some((length, bytes)) = bytes.split_first_chunk() else {
        return false;
    };
    let length = u64::from(u32::from_le_bytes(*length));
    let Ok(index) = PackIndex::from_bytes(bytes, length) else {
        return false;
    };
    let layout = PackLayout::new(length).expect("it has an index");
    let again = index.lengths.to_index(layout, index.head.blake3);
    assert_eq!(again, bytes, "one index, one form");
    let places = index.places(layout);
    let last = places.last().expect("a frame");
    assert_eq!(last.1.end, index.head.length);
    for (frame, place) in (0..).zip(places) {
        let page = layout.pages_of(layout.frame(frame)).start;
        let at = layout.page(page);
        let page = PackPage::from_bytes(&bytes[at.start as usize..at.end as usize], layout, page);
        let page = page.expect("of a sound index");
        assert!(page.is_within(layout, index.head.length));
        assert_eq!(page.frame(frame), place.0);
    }
    true
}

/// A page of the index of a pack by itself, behind the lengths of object and pack.
fn pack_page(bytes: &[u8]) -> bool {
    let Some((lengths, bytes)) = bytes.split_first_chunk::<12>() else {
        return false;
    };
    let length = u64::from(u32::from_le_bytes(
        lengths[..4].try_into().expect("4 bytes"),
    ));
    let pack = u64::from_le_bytes(lengths[4..].try_into().expect("8 bytes"));
    let Some(layout) = PackLayout::new(length) else {
        return false;
    };
    let last = layout.pages() - 1;
    let Ok(page) = PackPage::from_bytes(bytes, layout, last) else {
        return false;
    };
    if !page.is_within(layout, pack) {
        return false;
    }
    let (frames, clusters) = (layout.frames(), layout.clusters());
    for place in (last * 64..frames)
        .map(|frame| page.frame(frame))
        .chain((last * 1024..clusters).map(|cluster| page.cluster(cluster)))
    {
        assert!(place.start >= layout.table().end && place.end <= pack);
    }
    true
}

fn part(bytes: &[u8]) -> bool {
    let Ok(part) = PartHeader::read(bytes) else {
        return false;
    };
    assert_eq!(part.to_bytes(), bytes[..part.to_bytes().len()]);
    assert!(part.length() > part.pieces().end && part.blocks.end <= part.geometry.blocks());
    true
}

fn record(bytes: &[u8]) -> bool {
    let Ok(record) = PartRecord::read(bytes) else {
        return false;
    };
    assert_eq!(record.to_bytes(), bytes);
    true
}

fn receipt(bytes: &[u8]) -> bool {
    let Ok(receipt) = Receipt::from_json(bytes) else {
        return false;
    };
    let again = Receipt::from_json(receipt.to_json().as_bytes());
    assert_eq!(again.ok(), Some(receipt));
    true
}

fn in_content_range(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else {
        return false;
    };
    let unsatisfied = content_range::parse_unsatisfied(text).is_some();
    match content_range::parse(text) {
        Some(part) => {
            assert!(part.bytes.start < part.bytes.end);
            assert!(part.total.is_none_or(|total| part.bytes.end <= total));
            true
        }
        None => unsatisfied,
    }
}

/// The name of a header, a colon, its value.
fn digest_header(bytes: &[u8]) -> bool {
    let Some((name, value)) = from_utf8(bytes).ok().and_then(|text| text.split_once(':')) else {
        return false;
    };
    !repr_digest::in_header(name, value.trim()).is_empty()
}

fn sidecar(bytes: &[u8]) -> bool {
    let kinds = [
        Sidecar::Sha256,
        Sidecar::Sha512,
        Sidecar::Sums,
        Sidecar::Md5,
    ];
    let digests = from_utf8(bytes)
        .map(|text| kinds.map(|kind| repr_digest::in_sidecar(kind, text, "clip.mov")));
    digests.is_ok_and(|digests| digests.iter().any(Option::is_some))
}

fn minisig(bytes: &[u8]) -> bool {
    let Some(signature) = from_utf8(bytes)
        .ok()
        .and_then(|text| Signature::from_minisig(text).ok())
    else {
        return false;
    };
    assert_eq!(
        Signature::from_minisig(&signature.to_minisig()).ok(),
        Some(signature)
    );
    true
}

fn public_key(bytes: &[u8]) -> bool {
    from_utf8(bytes).is_ok_and(|text| PublicKey::from_text(text).is_ok())
}

fn netrc(bytes: &[u8]) -> bool {
    from_utf8(bytes).is_ok_and(|text| Netrc::parse(text).login("media.example").is_some())
}

fn url(bytes: &[u8]) -> bool {
    let Some(url) = from_utf8(bytes)
        .ok()
        .and_then(|text| Location::parse(text).ok())
    else {
        return false;
    };
    if let Some(name) = url.safe_name() {
        assert!(location::unsafe_name(&name).is_none() && !name.contains('/') && !name.is_empty());
    }
    // What is shown of it has neither query nor login.
    let shown = url.to_string();
    assert!(!shown.contains('?') && !shown.contains('#'));
    let authority = shown.split('/').nth(2).unwrap_or_default();
    assert!(!authority.contains('@'));
    let _ = url.of_manifest();
    true
}

/// Where a Location header leads from a place.
fn redirect(bytes: &[u8]) -> bool {
    let from = Location::parse("https://media.example/a/b?c").expect("a URL");
    let target = from_utf8(bytes).ok().and_then(|text| from.join(text));
    target.and_then(Location::from_url).is_some()
}

fn in_range(bytes: &[u8]) -> bool {
    let Ok(text) = from_utf8(bytes) else {
        return false;
    };
    match range::wanted(Some(text), 1000) {
        range::Wanted::Part(part) => {
            assert!(part.start < part.end && part.end <= 1000);
            true
        }
        range::Wanted::Parts(parts) => {
            assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(
                parts
                    .iter()
                    .all(|part| part.start < part.end && part.end <= 1000)
            );
            true
        }
        _ => false,
    }
}

/// In steps, as a connection brings it. Every part that has ended had all its bytes.
fn in_parts(bytes: &[u8]) -> bool {
    let mut multipart = Multipart::new("B");
    let mut left = 0;
    for step in bytes.chunks(7) {
        multipart.push(step);
        loop {
            match multipart.take() {
                Ok(Some(Next::Part(part))) => {
                    assert_eq!(left, 0);
                    left = part.bytes.length();
                }
                Ok(Some(Next::Bytes(bytes))) => {
                    assert!(!bytes.is_empty());
                    left -= bytes.len() as u64;
                }
                Ok(Some(Next::End)) => {
                    assert_eq!(left, 0);
                    return true;
                }
                Ok(None) => break,
                Err(_) => return false,
            }
        }
    }
    false
}
