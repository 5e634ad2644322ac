//! The corpora of the fuzz targets: every decoder accepts some of its inputs, and none of them does harm.
//!
//! With SAPWOOD_BLESS=1 the inputs that are made here are written to `fixtures/fuzz`; those that a fuzzer found are added by hand.

#[path = "../../tools/fuzz/src/decoders.rs"]
mod decoders;

use std::{collections::BTreeMap, fs, path::PathBuf};

use sapwood::format::{
    anchors::BlockAnchor,
    geometry::{BlockIndex, BlockRange, BlockSize, ByteRange, Geometry},
    journal::{Identity, Place, Record, RecordWriter},
    layout::{FRONT_BYTES, STATEMENT_BYTES},
    library::{self, Entry, LibraryPath},
    pack::{PackLayout, PackedLengths},
    paint,
    part::PartHeader,
    pieces,
    tree::Root,
    upload::{PartRecord, RecordHeader, SessionId, Sha256},
};

use crate::support::objects::{Content, manifest_of};

const KIB: u64 = 1024;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz")
}

fn journal() -> Vec<u8> {
    let geometry = Geometry::new(100 * KIB, BlockSize::new(16 * KIB).unwrap()).unwrap();
    let place = Place {
        boot_id: [7; 16],
        device: 1,
        inode: 2,
        local: true,
    };
    let records = |root: Option<Root>| {
        vec![
            Record::Begin {
                identity: Identity {
                    root,
                    geometry,
                    etag: Some("\"tag\"".to_owned()),
                    last_modified: Some("Mon, 02 Nov 2026 10:00:00 GMT".to_owned()),
                },
                url: "https://media.example/clip.mov".to_owned(),
            },
            Record::Run { place, time: 1 },
            Record::Blocks(vec![BlockRange::new(0, 2), BlockRange::new(3, 4)]),
            Record::Leaves {
                first: BlockIndex(4),
                leaves: vec![[9; 32]; 2],
            },
            Record::Barrier { records: 4 },
            Record::Dropped(vec![BlockRange::new(1, 2)]),
            Record::Run { place, time: 2 },
        ]
    };
    let (header, mut writer) = RecordWriter::begin();
    let mut bytes = header.to_vec();
    for record in records(Some(Root([1; 32]))) {
        bytes.extend(writer.append(&record));
    }
    bytes
}

/// One input of each kind that an honest writer makes.
fn made() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let object = |length| manifest_of(&Content::Painted(length), 16 * KIB);
    let signed = include_bytes!("../../fixtures/media/clip.mp4.sapwood").to_vec();
    let minisig = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";
    let public = "untrusted comment: minisign public key\n\
        RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    BTreeMap::from([
        (
            "manifest",
            vec![object(0), object(1), object(40 * KIB), signed],
        ),
        (
            "statement",
            [object(0), object(40 * KIB)]
                .map(|manifest| manifest[..STATEMENT_BYTES].to_vec())
                .to_vec(),
        ),
        (
            "signature",
            vec![signature_area(), unknown_signature_area()],
        ),
        ("journal", vec![journal()]),
        ("packed", packed_frames()),
        (
            "pack-index",
            vec![
                pack_index(1),
                pack_index(100_000),
                pack_index((65 << 20) + 5),
            ],
        ),
        ("pack-page", vec![pack_page(1), pack_page((65 << 20) + 5)]),
        ("library", vec![library(&[]), library(&["a", "b/c", "b-c"])]),
        ("part", vec![part(false), part(true)]),
        ("record", vec![record()]),
        ("receipt", vec![receipt()]),
        (
            "content-range",
            texts(&[
                "bytes 0-0/1",
                "bytes 5-9/*",
                "bytes */77",
                "bytes 0-18446744073709551614/18446744073709551615",
            ]),
        ),
        (
            "multipart",
            texts(&[
                "\r\n--B\r\nContent-Type: a/b\r\nContent-Range: bytes 1-3/10\r\n\r\nabc\r\n--B\r\n\
                 content-range: bytes 7-8/*\r\n\r\n--\r\n--B--\r\n",
                "--B--",
            ]),
        ),
        (
            "digest-header",
            texts(&[
                "repr-digest:sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:, sha-512=:AA==:",
                "content-md5: 1B2M2Y8AsgTpgAmY7PhCfg==",
                "x-goog-hash: crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==",
                "x-amz-checksum-sha256: 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
                "x-amz-checksum-crc64nvme: AAAAAAAAAAA=",
            ]),
        ),
        (
            "sidecar",
            texts(&[
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 *clip.mov\n",
                "SHA256 (clip.mov) = e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
            ]),
        ),
        ("minisig", texts(&[minisig])),
        (
            "public-key",
            texts(&[
                public,
                "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
            ]),
        ),
        (
            "netrc",
            texts(&[
                "machine media.example login me password secret\n",
                "machine other login a password b\ndefault login c password d\n",
            ]),
        ),
        (
            "url",
            texts(&[
                "https://user:word@media.example:8443/a/clip%20one.mov?token=x#part",
                "http://[::1]/x",
            ]),
        ),
        (
            "redirect",
            texts(&[
                "/elsewhere",
                "https://cdn.example/x?sig=1",
                "../c",
                "//other.example/",
            ]),
        ),
        (
            "range",
            texts(&["bytes=0-0", "bytes=5-", "bytes=-7", "bytes=990-2000"]),
        ),
    ])
}

/// The index of files of these paths.
fn library(paths: &[&str]) -> Vec<u8> {
    let file = |(number, path): (u64, &&str)| {
        let bytes = paint::bytes(0, number as usize * 2000);
        let mut checks = Vec::new();
        pieces::append_pieces(&bytes, &mut checks);
        let entry = Entry {
            path: LibraryPath::new(path).unwrap(),
            length: bytes.len() as u64,
            root: Root(*blake3::hash(&bytes).as_bytes()),
            modified_ns: 1_700_000_000_123_456_789,
            is_executable: number == 1,
        };
        (entry, checks)
    };
    library::write((0..).zip(paths).map(file).collect()).unwrap()
}

/// The header of a part of 100 KiB.
fn part(hints: bool) -> Vec<u8> {
    let geometry = Geometry::new(100 * KIB, BlockSize::new(16 * KIB).unwrap()).unwrap();
    let bytes = ByteRange::new(32 * KIB, 100 * KIB);
    let part = PartHeader::of_bytes(geometry, hints, bytes).unwrap();
    part.to_bytes().to_vec()
}

/// A signature as minisign writes it, laid into the area of a manifest.
/// The record of a staged part of one byte.
fn record() -> Vec<u8> {
    let header = RecordHeader {
        session: SessionId::from_random([7; 16]),
        index: 0,
        block_size: BlockSize::MIN,
        bytes: ByteRange::new(0, 1),
        is_whole: true,
        sha256: Sha256([5; 32]),
    };
    let record = PartRecord {
        header,
        leaves: vec![[6; 32]],
        anchors: vec![BlockAnchor::NONE],
        pieces: vec![1, 2],
    };
    record.to_bytes()
}

fn signature_area() -> Vec<u8> {
    let comment = b"timestamp:1633700835\tfile:test\tprehashed";
    let mut area = vec![0; FRONT_BYTES - STATEMENT_BYTES];
    area[..2].copy_from_slice(b"ED");
    area[2..74].fill(5);
    area[74..138].fill(6);
    area[138..140].copy_from_slice(&(comment.len() as u16).to_le_bytes());
    area[140..140 + comment.len()].copy_from_slice(comment);
    area
}

/// A kind that no reader knows, with a trailer.
fn unknown_signature_area() -> Vec<u8> {
    let mut area = vec![0; FRONT_BYTES - STATEMENT_BYTES];
    area[..6].copy_from_slice(b"ML\x07\0\0\0");
    area
}

/// Frames without compressed blocks, behind what the decoder is told of them.
fn packed_frames() -> Vec<Vec<u8>> {
    let block = |bytes: u32, kind: u32| (bytes << 3 | kind).to_le_bytes()[..3].to_vec();
    let told = |length: u32, step: u8| [&(length - 1).to_le_bytes()[..3], &[0, step]].concat();
    let rle = [told(1000, 0), vec![0, 0], block(1000, 0b011), vec![7]];
    let raw = paint::bytes(0, 600);
    let (first, second) = raw.split_at(300);
    let raw = [
        told(600, 9),
        vec![0, 0],
        block(300, 0b000),
        first.to_vec(),
        block(300, 0b001),
        second.to_vec(),
    ];
    vec![rle.concat(), raw.concat()]
}

/// The index of a pack of an object of this length, behind the length.
fn pack_index(length: u32) -> Vec<u8> {
    let layout = PackLayout::new(u64::from(length)).unwrap();
    let lengths = PackedLengths {
        frames: vec![length.min(60) / 2; layout.frames() as usize],
        clusters: vec![length.min(1000) as u16 / 3; layout.clusters() as usize],
    };
    let index = lengths.to_index(layout, [5; 32]);
    [&length.to_le_bytes()[..], &index].concat()
}

/// The last page of it, behind the lengths of object and pack.
fn pack_page(length: u32) -> Vec<u8> {
    let index = &pack_index(length)[4..];
    let layout = PackLayout::new(u64::from(length)).unwrap();
    let page = layout.page(layout.pages() - 1);
    [
        &length.to_le_bytes()[..],
        &index[8..16],
        &index[page.start as usize..],
    ]
    .concat()
}

fn receipt() -> Vec<u8> {
    use sapwood::format::{
        digests::{Algorithm, Digest},
        receipt::{Receipt, VERSION},
        trust::Trust,
    };
    let receipt = Receipt {
        receipt: VERSION,
        url: "https://media.example/clip.mov".to_owned(),
        path: "clip.mov".to_owned(),
        etag: Some("\"tag\"".to_owned()),
        last_modified: None,
        bytes_total: 100,
        root: Root([1; 32]),
        digests: vec![Digest::new(Algorithm::Md5, vec![3; 16]).unwrap()],
        trust: Trust::Signed,
        key_id: Some("A1B2".to_owned()),
        started: 1_793_000_000,
        ended: 1_793_000_009,
        user: "me".to_owned(),
        host: "here".to_owned(),
        version: "sapwood 0.1.0".to_owned(),
        bytes_fetched: 100,
        bytes_resumed: 0,
        bytes_reused: 0,
        unchanged: false,
    };
    receipt.to_json().into_bytes()
}

#[test]
fn every_decoder_accepts_a_part_of_its_corpus() {
    let made = made();
    let names: Vec<&str> = decoders::DECODERS.iter().map(|(name, _)| *name).collect();
    for (name, inputs) in &made {
        assert!(names.contains(name), "there is no decoder {name}");
        if std::env::var_os("SAPWOOD_BLESS").is_some() {
            fs::create_dir_all(folder().join(name)).unwrap();
            for (number, input) in inputs.iter().enumerate() {
                fs::write(folder().join(name).join(format!("made-{number}")), input).unwrap();
            }
        }
    }
    for (name, decode) in decoders::DECODERS {
        for (number, input) in made[name].iter().enumerate() {
            let kept = fs::read(folder().join(name).join(format!("made-{number}"))).unwrap();
            assert_eq!(
                kept, *input,
                "{name}: made-{number} is not what is made now"
            );
            assert!(decode(input), "{name}: made-{number} is refused");
        }
        for entry in fs::read_dir(folder().join(name)).unwrap() {
            // Whatever else lies there may be refused; it must not panic.
            decode(&fs::read(entry.unwrap().path()).unwrap());
        }
        // Nor may anything that is nearly right.
        for input in &made[name] {
            for at in 0..input.len().min(400) {
                let mut changed = input.clone();
                changed[at] ^= 1 << (at % 8);
                decode(&changed);
                decode(&input[..at]);
            }
        }
    }
}
