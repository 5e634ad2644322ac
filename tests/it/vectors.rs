//! Every value of `fixtures/vectors` against the core; the second implementation wrote them (fixtures/README.md).

use std::{convert::Infallible, fs::Permissions, os::unix::fs::PermissionsExt, path::Path};

use sapwood::{
    engine::{
        events::Event,
        manifest_file::ManifestFile,
        verify::{self, Against, Verdict},
    },
    format::{
        anchors::{self, BlockAnchor, GEAR, Tag},
        blockset::BlockSet,
        compression::{self, Unpacker},
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{BLOCKS_MAX, BlockRange, BlockSize, ByteRange, Geometry},
        journal::{self, Claims, Place, Record},
        keys::PublicKey,
        library::{self, Index, IndexHeader, LibraryPath, RefusedIndex},
        manifest::{self, Particulars, Tree},
        pack::{BadIndex, PackIndex, PackLayout, PackedLengths},
        paint,
        pieces::append_pieces,
        reader::Manifest,
        trust::Trust,
        upload::{PartRecord, RecordHeader, SessionId, Sha256},
    },
    policy::parts::PartPlan,
};
use serde_json::{Value, json};

use super::support::{
    painted::tree_and_pieces,
    programs::{output_of, repository, sapwood},
};

fn read(name: &str) -> Value {
    let path = repository("fixtures/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A list that must not be empty.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().unwrap();
    assert!(!list.is_empty(), "{key}");
    list
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is no text in {value}"))
}

fn hexadecimal(value: &Value, key: &str) -> u64 {
    u64::from_str_radix(text(value, key), 16).unwrap()
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    hex::decode(text(value, key)).unwrap()
}

fn painted(value: &Value) -> Vec<u8> {
    paint::bytes(0, number(value, "length") as usize)
}

fn digests_of_painted(length: u64, algorithms: impl IntoIterator<Item = Algorithm>) -> Vec<Digest> {
    let bytes = paint::bytes(0, length as usize);
    let digest = |algorithm| {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(&bytes);
        hasher.finish()
    };
    algorithms.into_iter().map(digest).collect()
}

#[test]
fn paint_hashes_and_digests() {
    let parts = read("parts.json");
    for case in list(&parts, "paint") {
        assert_eq!(painted(case), bytes(case, "hex"));
    }
    for case in list(&parts, "blake3") {
        let (tree, _) = tree_and_pieces(number(case, "length"), BlockSize::MIN, false);
        assert_eq!(tree.root().to_string(), text(case, "root"), "{case}");
    }
    let digests = &parts["digests"];
    assert_eq!(
        digests["digests"].as_object().unwrap().len(),
        Algorithm::ALL.len()
    );
    for digest in digests_of_painted(number(digests, "length"), Algorithm::ALL) {
        assert_eq!(
            digest.hex(),
            text(&digests["digests"], digest.algorithm().name())
        );
    }
}

/// Found: the specification gave objects over 2^44 bytes blocks of 32 MiB, which every reader refuses.
#[test]
fn the_default_block_size_stops_at_16_mib() {
    for case in list(&read("parts.json"), "default_block_size") {
        let length = number(case, "length");
        let block_size = BlockSize::auto(length);
        assert_eq!(block_size.bytes(), number(case, "block_size"), "{length}");
        assert!(Geometry::new(length, block_size).is_some(), "{length}");
    }
}

#[test]
fn gear_tags_and_windows() {
    let parts = read("parts.json");
    for case in list(&parts, "gear") {
        assert_eq!(
            GEAR[number(case, "i") as usize],
            hexadecimal(case, "g"),
            "{case}"
        );
    }
    for case in list(&parts, "tags") {
        assert_eq!(
            Tag::of(hexadecimal(case, "h")).value(),
            hexadecimal(case, "tag"),
            "{case}"
        );
    }
    for case in list(&parts, "windows") {
        let hash = anchors::gear(bytes(case, "window").first_chunk().unwrap());
        assert_eq!(hash, hexadecimal(case, "h"), "{case}");
        assert_eq!(Tag::of(hash).value(), hexadecimal(case, "tag"), "{case}");
    }
}

#[test]
fn anchors_and_pieces() {
    let parts = read("parts.json");
    for case in list(&parts, "anchors") {
        assert_eq!(
            anchors::anchor_of(&painted(case)),
            BlockAnchor(hexadecimal(case, "anchor")),
            "{case}"
        );
        let (tree, _) = tree_and_pieces(number(case, "length"), BlockSize::MAX, true);
        assert_eq!(
            tree.anchors(),
            [BlockAnchor(hexadecimal(case, "anchor"))],
            "{case}"
        );
    }
    let twice = paint::bytes(0, 16384).repeat(2);
    for case in list(&parts, "equal_tags") {
        let data = match case["blake3"].as_str() {
            None => bytes(case, "hex"),
            Some(hash) => [vec![0; 16384], vec![0; 65536], twice.clone()]
                .into_iter()
                .find(|data| blake3::hash(data).to_string() == hash)
                .unwrap_or_else(|| panic!("this test does not know how to make {case}")),
        };
        assert_eq!(
            anchors::anchor_of(&data),
            BlockAnchor(hexadecimal(case, "anchor")),
            "{case}"
        );
    }
    for case in list(&parts, "pieces") {
        let mut found = Vec::new();
        append_pieces(&painted(case), &mut found);
        let found: Vec<String> = found
            .as_chunks()
            .0
            .iter()
            .map(|piece| format!("{:04x}", u16::from_le_bytes(*piece)))
            .collect();
        assert_eq!(Value::from(found), case["pieces"], "{case}");
    }
}

#[test]
fn leaves_and_nodes() {
    let parts = read("parts.json");
    let cases = list(&parts, "nodes");
    let (tree, _) = tree_and_pieces(
        number(&cases[0], "length"),
        BlockSize::new(number(&cases[0], "block_size")).unwrap(),
        true,
    );
    for case in cases {
        assert_eq!(
            (number(case, "length"), number(case, "block_size")),
            (tree.geometry().length(), 16384)
        );
        let index = number(case, "index") as usize;
        let found = match number(case, "level") {
            0 => {
                assert_eq!(
                    tree.anchors()[index],
                    BlockAnchor(hexadecimal(case, "anchor")),
                    "{case}"
                );
                tree.leaves()[index]
            }
            level => {
                let level = &tree.levels()[level as usize - 1];
                let anchor = level.anchors[index];
                assert_eq!(
                    (anchor.tag, anchor.place),
                    (
                        hexadecimal(case, "anchor_tag"),
                        hexadecimal(case, "anchor_place")
                    )
                );
                level.values[index]
            }
        };
        assert_eq!(found.to_vec(), bytes(case, "cv"), "{case}");
    }
}

#[test]
fn journals_claim_what_the_document_says() {
    let all = read("journals.json");
    for case in all.as_array().unwrap() {
        let here = &case["here"];
        let here = Place {
            boot_id: bytes(here, "boot_id").try_into().unwrap(),
            device: number(here, "device"),
            inode: number(here, "inode"),
            local: here["local"].as_bool().unwrap(),
        };
        let mut file = bytes(case, "journal");
        let what = text(case, "what");
        let found = journal::read(&file, &here);
        let shown = found.as_ref().map(claims_as_json);
        assert_eq!(Value::from(shown), case["claims"], "{what}");
        // A writer goes on where the list ends.
        if let Some(mut claims) = found {
            file.truncate(claims.end as usize);
            let blocks = Record::Blocks(vec![BlockRange::new(6, 7)]);
            file.extend(claims.writer.append(&blocks));
            let end = journal::read(&file, &here).unwrap().end;
            assert_eq!(end, file.len() as u64, "{what}");
        }
    }
}

/// As the vectors have it: what is empty is left out.
fn claims_as_json(claims: &Claims) -> Value {
    let ranges = |set: &BlockSet| -> Value {
        set.ranges()
            .map(|range| Value::from(vec![range.start, range.count()]))
            .collect()
    };
    let leaves: serde_json::Map<String, Value> = claims
        .leaves
        .iter()
        .map(|(block, leaf)| (block.to_string(), hex::encode(leaf).into()))
        .collect();
    let identity = &claims.identity;
    let mut all = json!({
        "root": identity.root.map(|root| root.to_string()), "length": identity.geometry.length(),
        "block_size": identity.geometry.block_size().bytes(), "etag": identity.etag,
        "last_modified": identity.last_modified, "url": claims.url, "claimed": ranges(&claims.claimed),
        "durable": ranges(&claims.durable), "dropped": ranges(&claims.dropped), "leaves": leaves, "end": claims.end,
    });
    all.as_object_mut().unwrap().retain(|key, value| {
        key == "claimed" || !(value.is_null() || *value == json!([]) || *value == json!({}))
    });
    all
}

/// Found: no vector had a signature that is one.
#[test]
fn a_signed_manifest_and_what_its_key_must_refuse() {
    let case = &read("parts.json")["signed"];
    let key = PublicKey::from_text(text(case, "public_key")).unwrap();
    let good = bytes(case, "manifest");
    let check = |manifest: &[u8]| {
        let manifest = Manifest::from_bytes(manifest).unwrap();
        key.check(manifest.statement.bytes(), &manifest.signature)
    };
    assert_eq!(check(&good), Ok(()));
    let read = Manifest::from_bytes(&good).unwrap();
    let signature = read.signature.minisign().unwrap();
    assert_eq!(signature.trusted_comment, text(case, "comment"));
    assert_eq!(signature.key_id.to_vec(), bytes(case, "key_id"));
    for change in list(case, "refused") {
        let checked = check(&changed(&good, change));
        assert!(checked.is_err(), "{change}");
    }
}

/// Found: nothing compared the files of the store with their document.
#[test]
fn the_store_knows_an_own_object_by_its_leaves_file() {
    let case = &read("parts.json")["leaves_file"];
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("objects").join(text(case, "root"));
    std::fs::create_dir(place.parent().unwrap()).unwrap();
    let file_length = number(case, "file_length") as usize;
    let leaves = changed(&vec![0; file_length], case);
    // One block of three is there.
    std::fs::write(&place, paint::bytes(0, number(case, "block_size") as usize)).unwrap();
    let object = std::fs::File::options().write(true).open(&place).unwrap();
    object.set_len(number(case, "length")).unwrap();
    std::fs::write(place.with_extension("leaves"), &leaves).unwrap();
    for path in [&place, &place.with_extension("leaves")] {
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    let store = |command: &str| {
        let mut store = sapwood();
        store.args(["--json", "store", command, "--store"]);
        String::from_utf8(output_of(store.arg(folder.path()), b"")).unwrap()
    };
    store("gc");
    let listed: Value = serde_json::from_str(store("list").lines().next().unwrap()).unwrap();
    assert_eq!(listed["root"], case["root"], "{listed}");
    assert_eq!(
        (&listed["own"], &listed["bytes_held"]),
        (&json!(true), &case["block_size"])
    );
    assert_eq!(listed["bytes_total"], case["length"]);
}

/// Leaves by rule, since nobody has 256 GiB at hand.
#[test]
fn manifests_of_as_many_blocks_as_there_can_be() {
    let case = &read("parts.json")["many_blocks"];
    let block_size = BlockSize::new(number(case, "block_size")).unwrap();
    let geometry = Geometry::new(number(case, "length"), block_size).unwrap();
    assert_eq!(geometry.blocks(), BLOCKS_MAX);
    let mut leaves = vec![[0; 32]; BLOCKS_MAX as usize];
    paint::fill(0, leaves.as_flattened_mut());
    let tree = Tree::new(geometry, leaves, None);
    assert_eq!(tree.root().to_string(), text(case, "root"));
    let written: Result<_, Infallible> = tree.write_sections(|_| Ok(()));
    let Ok(sections) = written;
    for (section, key) in sections.iter().zip(["tree_blake3", "pages_blake3"]) {
        assert_eq!(hex::encode(section.blake3), text(case, key));
    }
    let statement = Particulars::default().statement(&tree, sections);
    assert_eq!(hex::encode(statement.bytes()), text(case, "statement"));
}

/// Two levels of nodes; one pass over a GiB serves all cases.
const LARGE: u64 = 1 << 30;

#[test]
fn manifests_up_to_257_blocks() {
    manifests(|length| length < LARGE);
}

#[test]
fn manifests_of_65537_blocks() {
    manifests(|length| length > LARGE);
}

fn manifests(wanted: impl Fn(u64) -> bool) {
    let all = read("manifests.json");
    let mut painted_tree: Option<(Tree, Vec<u8>)> = None;
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for case in all
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| wanted(number(case, "length")))
    {
        let block_size = BlockSize::new(number(case, "block_size")).unwrap();
        let geometry = Geometry::new(number(case, "length"), block_size).unwrap();
        if painted_tree
            .as_ref()
            .is_none_or(|(tree, _)| *tree.geometry() != geometry)
        {
            painted_tree = Some(tree_and_pieces(geometry.length(), block_size, true));
        }
        let (tree, pieces) = painted_tree.as_ref().unwrap();
        let manifest = made(case, tree, pieces);
        refused(case, &manifest);
        accepted(case, &manifest, folder.path());
        count += 1;
    }
    assert!(count >= 2, "{count} manifests");
}

fn name(case: &Value) -> String {
    format!(
        "{} bytes, blocks of {}, hints: {}",
        case["length"], case["block_size"], case["hints"]
    )
}

/// Made by rule, the manifest is exactly the given one.
fn made(case: &Value, tree: &Tree, pieces: &[u8]) -> Vec<u8> {
    let geometry = *tree.geometry();
    let without_hints = Tree::new(geometry, tree.leaves().to_vec(), None);
    let (tree, pieces) = match case["hints"].as_bool().unwrap() {
        true => (tree, Some(pieces)),
        false => (&without_hints, None),
    };
    let claimed = case["digests"].as_object().unwrap();
    let algorithms = Algorithm::ALL
        .into_iter()
        .filter(|algorithm| claimed.contains_key(algorithm.name()));
    let digests = match claimed.is_empty() {
        true => Vec::new(),
        false => digests_of_painted(geometry.length(), algorithms),
    };
    assert_eq!(digests.len(), claimed.len());
    let particulars = Particulars {
        name: text(case, "name").to_owned(),
        sequence: number(case, "sequence"),
        published: number(case, "published"),
        expires: number(case, "expires"),
        digests,
    };
    let bytes = manifest::to_bytes(tree, pieces, particulars);
    let name = name(case);
    assert_eq!(
        u64::from(geometry.blocks()),
        number(case, "blocks"),
        "{name}"
    );
    assert_eq!(tree.root().to_string(), text(case, "root"), "{name}");
    assert_eq!(
        hex::encode(&bytes[..1024]),
        text(case, "statement"),
        "{name}"
    );
    assert_eq!(
        bytes.len() as u64,
        number(case, "manifest_length"),
        "{name}"
    );
    assert_eq!(
        blake3::hash(&bytes).to_string(),
        text(case, "manifest_blake3"),
        "{name}"
    );
    if let Some(whole) = case["manifest"].as_str() {
        assert_eq!(hex::encode(&bytes), whole, "{name}");
    }
    let read = Manifest::from_bytes(&bytes).unwrap_or_else(|cause| panic!("{name}: {cause}"));
    assert_eq!(read.tree, *tree, "{name}");
    let sections = &read.statement.header().sections;
    for (index, key) in ["tree_blake3", "pages_blake3", "pieces_blake3"]
        .into_iter()
        .enumerate()
    {
        let found = sections
            .get(index)
            .map(|section| hex::encode(section.blake3));
        assert_eq!(Value::from(found), case[key], "{name}: {key}");
    }
    bytes
}

/// Each change is refused by the row that it breaks first.
fn refused(case: &Value, manifest: &[u8]) {
    for change in list(case, "corruption")
        .iter()
        .chain(list(case, "resealed"))
    {
        match Manifest::from_bytes(&changed(manifest, change)) {
            Ok(_) => panic!("{}: accepted in spite of {change}", name(case)),
            Err(cause) => assert_eq!(
                u64::from(cause.rule()),
                number(change, "rule"),
                "{}: {cause}: {change}",
                name(case)
            ),
        }
    }
}

/// Each change is accepted by a whole reader, and by one that has the object where the vector says so.
fn accepted(case: &Value, manifest: &[u8], folder: &Path) {
    let changes = case["accepted"].as_array().unwrap();
    let length = number(case, "length");
    if changes.is_empty() {
        assert!(length > LARGE, "only the largest objects have none");
        return;
    }
    let (object, place) = (folder.join("object"), folder.join("object.sapwood"));
    std::fs::write(&object, paint::bytes(0, length as usize)).unwrap();
    for change in changes {
        let bytes = changed(manifest, change);
        if let Err(cause) = Manifest::from_bytes(&bytes) {
            panic!("{}: {cause}, with {change}", name(case));
        }
        std::fs::write(&place, bytes).unwrap();
        for (wanted, hints) in [("verify", false), ("verify_hints", true)] {
            let against = Against::Manifest {
                manifest: Box::new(ManifestFile::open(&place).unwrap()),
                trust: Trust::Manifest,
                hints,
            };
            let verdict = verify::verify(&object, &against, &mut |_: Event| ());
            let verified = matches!(verdict, Ok(Verdict::Verified));
            assert_eq!(
                Value::from(verified),
                *change.get(wanted).unwrap_or(&change["verify"]),
                "{}: {wanted}: {verdict:?}, with {change}",
                name(case)
            );
        }
    }
}

/// A manifest with a change (fixtures/README.md).
fn changed(manifest: &[u8], change: &Value) -> Vec<u8> {
    let mut bytes = manifest.to_vec();
    for patch in change["patch"].as_array().unwrap_or(&Vec::new()) {
        let (at, new) = (number(patch, "offset") as usize, self::bytes(patch, "hex"));
        bytes.resize(bytes.len().max(at + new.len()), 0);
        bytes[at..at + new.len()].copy_from_slice(&new);
    }
    if let Some(xor) = change["xor"].as_u64() {
        bytes[number(change, "offset") as usize] ^= xor as u8;
    }
    if let Some(length) = change["truncate"].as_u64() {
        bytes.truncate(length as usize);
    }
    assert_ne!(bytes, manifest, "a change that changes nothing: {change}");
    bytes
}

fn read_index(bytes: &[u8]) -> Result<(IndexHeader, Index), RefusedIndex> {
    let header = IndexHeader::read(bytes, bytes.len() as u64)?;
    let entries = header.entries();
    let index = Index::read(
        &header,
        &bytes[entries.start as usize..entries.end as usize],
    )?;
    Ok((header, index))
}

#[test]
fn libraries() {
    let vectors = read("libraries.json");
    for vector in list(&vectors, "accepted") {
        let what = text(vector, "what");
        let bytes = bytes(vector, "index");
        let (header, index) = read_index(&bytes).unwrap();
        let pieces: Vec<Vec<u8>> = index
            .pieces(&header)
            .map(|(_, range)| bytes[range.start as usize..range.end as usize].to_vec())
            .collect();
        let shown = |entry: &library::Entry| {
            json!({
                "path": entry.path.as_str(), "length": entry.length, "root": entry.root.to_string(),
                "modified": entry.modified_ns, "executable": entry.is_executable,
            })
        };
        let entries: Vec<Value> = index.entries().iter().map(shown).collect();
        assert_eq!(json!(entries), vector["entries"], "{what}");
        let as_hex: Vec<String> = pieces.iter().map(hex::encode).collect();
        assert_eq!(json!(as_hex), vector["pieces"], "{what}");
        for entry in index.entries() {
            assert_eq!(index.find(&entry.path), Some(entry), "{what}");
        }
        // A writer writes no bytes of later versions.
        let mut files: Vec<_> = index.entries().iter().cloned().zip(pieces).collect();
        files.reverse();
        let written = library::write(files).unwrap();
        assert_eq!(
            written == bytes,
            !what.starts_with("bytes behind"),
            "{what}"
        );
        assert_eq!(read_index(&written).unwrap().1, index, "{what}");
    }
    for vector in list(&vectors, "refused") {
        let refused = read_index(&bytes(vector, "index")).err();
        let found = refused.as_ref().map(|refused| u64::from(refused.rule()));
        assert_eq!(
            found,
            vector["rule"].as_u64(),
            "{}: {refused:?}",
            vector["what"]
        );
    }
    let path = |value: &Value| LibraryPath::new(value.as_str().unwrap());
    for allowed in list(&vectors, "allowed_paths") {
        assert!(path(allowed).is_some(), "{allowed}");
    }
    let order: Vec<_> = list(&vectors, "order")
        .iter()
        .map(|value| path(value).unwrap())
        .collect();
    assert!(order.is_sorted(), "{order:?}");
}

/// The record of a part of a painted object.
fn staged_record(vector: &Value) -> PartRecord {
    let (start, end) = (number(vector, "start"), number(vector, "end"));
    let size = BlockSize::new(number(vector, "block_size")).unwrap();
    let (tree, _) = tree_and_pieces(number(vector, "length"), size, true);
    let header = RecordHeader {
        session: text(vector, "session").parse::<SessionId>().unwrap(),
        index: number(vector, "index") as u32,
        block_size: size,
        bytes: ByteRange::new(start, end),
        is_whole: vector["whole"].as_bool().unwrap(),
        sha256: text(vector, "sha256").parse::<Sha256>().unwrap(),
    };
    let part = paint::bytes(start, (end - start) as usize);
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    hasher.update(&part);
    assert_eq!(hasher.finish().hex(), header.sha256.to_string());
    let first = (start / size.bytes()) as usize;
    let blocks = first..first + header.blocks() as usize;
    let mut pieces = Vec::new();
    append_pieces(&part, &mut pieces);
    PartRecord {
        header,
        leaves: tree.leaves()[blocks.clone()].to_vec(),
        anchors: tree.anchors()[blocks].to_vec(),
        pieces,
    }
}

#[test]
fn uploads() {
    let vectors = read("uploads.json");
    for vector in list(&vectors, "records") {
        let record = staged_record(vector);
        let written = record.to_bytes();
        let hash = blake3::hash(&written).to_hex();
        assert_eq!(hash.as_str(), text(vector, "record_blake3"), "{vector}");
        assert_eq!(PartRecord::read(&written), Ok(record));
    }
    for vector in list(&vectors, "refused") {
        let read = PartRecord::read(&bytes(vector, "record"));
        assert!(read.is_err(), "{}", vector["what"]);
    }
    let sizes = |values: &Value| {
        let at = |index: usize| values[index].as_u64();
        (at(0), at(1))
    };
    for vector in list(&vectors, "plans") {
        let (part_size, block_size) = sizes(&vector["asked"]);
        let block_size = block_size.and_then(BlockSize::new);
        let plan = PartPlan::choose(vector["length"].as_u64(), part_size, block_size).unwrap();
        assert_eq!(plan.part_size(), number(vector, "part_size"), "{vector}");
        assert_eq!(plan.block_size().bytes(), number(vector, "block_size"));
        assert_eq!(plan.length_max(), number(vector, "length_max"), "{vector}");
        let count = number(vector, "count") as u32;
        assert!(plan.count().is_none_or(|found| found == count), "{vector}");
        assert_eq!(plan.part(count), None, "{vector}");
        for part in list(vector, "parts") {
            let index = part[0].as_u64().unwrap() as u32;
            let range = plan
                .part(index)
                .map(|range| json!([index, range.start, range.end]));
            assert_eq!(range.as_ref(), Some(part), "{vector}");
        }
    }
    for vector in list(&vectors, "known_later") {
        let plan = PartPlan::choose(None, None, None).unwrap();
        let plan = plan.with_length(number(vector, "length")).unwrap();
        let count = plan.count().unwrap();
        assert_eq!(u64::from(count), number(vector, "count"), "{vector}");
        let last = plan.part(count - 1).unwrap();
        assert_eq!(json!([last.start, last.end]), vector["last"]);
    }
    for vector in list(&vectors, "refused_plans") {
        let block_size = vector[2].as_u64().and_then(BlockSize::new);
        let plan = PartPlan::choose(vector[0].as_u64(), vector[1].as_u64(), block_size);
        assert!(plan.is_err(), "{vector}");
    }
}

#[test]
fn indices_of_packs() {
    let vectors = read("packs.json");
    for vector in list(&vectors, "indices") {
        let length = number(vector, "length");
        let what = format!("{}, {length} bytes", text(vector, "what"));
        let numbers = |key| list(vector, key).iter().map(|n| n.as_u64().unwrap());
        let lengths = PackedLengths {
            frames: numbers("frames").map(|n| n as u32).collect(),
            clusters: numbers("clusters").map(|n| n as u16).collect(),
        };
        let hash = bytes(vector, "blake3").try_into().unwrap();
        let index = lengths.to_index(PackLayout::new(length).unwrap(), hash);
        assert_eq!(index.len() as u64, number(vector, "index_length"), "{what}");
        match vector["index"].as_str() {
            Some(whole) => assert_eq!(hex::encode(&index), whole, "{what}"),
            None => assert_eq!(
                blake3::hash(&index).to_string(),
                text(vector, "index_blake3"),
                "{what}"
            ),
        }
        let read = PackIndex::from_bytes(&index, length).unwrap();
        assert_eq!(read.lengths, lengths, "{what}");
        assert_eq!(read.head.length, number(vector, "pack_length"), "{what}");
        assert_eq!(read.head.blake3, hash, "{what}");
    }
}

/// The rule of the document (pack.md, 4); a codec that is not known breaks none.
fn rule_of(bad: BadIndex) -> Option<&'static str> {
    match bad {
        BadIndex::Codec(_) => None,
        BadIndex::Form => Some("a"),
        BadIndex::Offsets(0) => Some("b"),
        BadIndex::Offsets(_) => Some("c"),
        BadIndex::End { .. } => Some("d"),
        BadIndex::Length => Some("e"),
    }
}

#[test]
fn refused_indices_of_packs() {
    let vectors = read("packs.json");
    for vector in list(&vectors, "refused") {
        let what = text(vector, "what");
        let bad = PackIndex::from_bytes(&bytes(vector, "index"), number(vector, "length"));
        let bad = bad.expect_err(what);
        assert_eq!(rule_of(bad), vector["rule"].as_str(), "{what}: {bad}");
    }
}

/// What comes of a packed frame or piece that arrives byte by byte.
fn unpack_slowly(packed: &[u8], prefix: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut unpacker = Unpacker::new(prefix, length)?;
    let mut plain = Vec::new();
    for byte in packed.chunks(1) {
        plain.extend(unpacker.push(byte)?);
    }
    unpacker.is_complete().then_some(plain)
}

#[test]
fn frames_and_pieces_of_packs() {
    let vectors = read("packs.json");
    let (mut good, mut bad) = (0, 0);
    for vector in list(&vectors, "frames") {
        let what = text(vector, "what");
        let packed = bytes(vector, "packed");
        let prefix = match vector["prefix"].as_u64() {
            Some(length) => paint::bytes(0, length as usize),
            None => bytes(vector, "prefix"),
        };
        let length = number(vector, "length") as usize;
        let plain = compression::unpack(&packed, &prefix, length);
        match vector.get("plain") {
            Some(expected) => {
                assert_eq!(json!(plain.as_ref().map(hex::encode)), *expected, "{what}")
            }
            None => assert_eq!(
                blake3::hash(plain.as_ref().expect(what)).to_string(),
                text(vector, "plain_blake3"),
                "{what}"
            ),
        }
        assert!(unpack_slowly(&packed, &prefix, length) == plain, "{what}");
        *(if plain.is_some() { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad");
}
