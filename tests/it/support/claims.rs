//! Manifests that claim more blocks than anybody has, for a few MiB of memory: nearly all of their pages are the same.

use std::sync::Arc;

use sapwood::format::{
    anchors::BlockAnchor,
    geometry::{FANOUT, Geometry},
    layout::Layout,
    manifest,
    statement::{Header, Known, Section, Statement},
    tree::{self, Cv, Root},
};

use super::objects::Content;

/// One entry of each level of the tree: of all nodes but the last one, and of the last one.
type Values = (Cv, Cv);

/// A manifest that passes every check. Its number of blocks is a power of two, and only its last block can be had: it is of zeros.
/// All blocks and nodes have the window of this anchor; their pieces are these, again and again.
pub fn manifest_of_claims(geometry: Geometry, anchor: BlockAnchor, pieces: &[u16]) -> Content {
    assert!(geometry.blocks().is_power_of_two() && geometry.blocks() > FANOUT);
    let layout = Layout {
        geometry,
        hints: true,
    };
    let size = geometry.block_size().bytes();
    let zeros = vec![0; size as usize];
    let leaf = tree::leaf_of(&geometry, geometry.last(), &zeros);
    let mut levels: Vec<Values> = vec![([7; 32], leaf)];
    for _ in 0..geometry.levels() {
        let (value, last) = levels[levels.len() - 1];
        let mut values = [value; FANOUT as usize];
        let same = tree::merge(&values);
        values[FANOUT as usize - 1] = last;
        levels.push((same, tree::merge(&values)));
    }
    let (value, last) = levels[levels.len() - 1];
    let mut top = vec![value; geometry.nodes(geometry.levels()) as usize];
    *top.last_mut().expect("there is one") = last;
    let root = tree::merge_root(&top);

    let mut nodes = Vec::new();
    for level in (1..=geometry.levels()).rev() {
        let count = geometry.nodes(level);
        let (value, last) = levels[level as usize];
        let under = u64::from(FANOUT).pow(level) * size;
        for group in 0..layout.groups(level) {
            let indices = group * FANOUT..count.min((group + 1) * FANOUT);
            for index in indices.clone() {
                let is_last = index == count - 1;
                nodes.extend(if is_last { last } else { value });
            }
            for index in indices {
                let (tag, offset) = anchor.window().expect("a window");
                nodes.extend(tag.value().to_le_bytes());
                nodes.extend((u64::from(index) * under + u64::from(offset)).to_le_bytes());
            }
        }
    }
    let page = |last: Cv| {
        let mut page = [levels[0].0; FANOUT as usize];
        page[FANOUT as usize - 1] = last;
        let anchors = [anchor.0.to_le_bytes(); FANOUT as usize];
        [page.as_flattened(), anchors.as_flattened()].concat()
    };
    let pieces = pieces.repeat(4096 / pieces.len());
    let pieces = pieces
        .iter()
        .flat_map(|piece| piece.to_le_bytes())
        .collect();
    let (page, last_page) = (page(levels[0].0), page(levels[0].1));
    let (pages, last_bytes) = (layout.pages().length(), last_page.len() as u64);
    let nodes_bytes = nodes.len() as u64;
    let mut parts = vec![
        (nodes, nodes_bytes),
        (page, pages - last_bytes),
        (last_page, last_bytes),
        (pieces, layout.pieces().length()),
    ];
    let mut header = header_of_claims(layout, root);
    for (section, of) in header.sections.iter_mut().zip([0..1, 1..3, 3..4]) {
        section.blake3 = hash_of(&parts[of]);
    }
    let front = manifest::front(&Statement::new(header), None).to_vec();
    let front_bytes = front.len() as u64;
    parts.insert(0, (front, front_bytes));
    let content = Content::Repeated(Arc::new(parts));
    assert_eq!(content.length(), layout.pieces().end);
    content
}

fn hash_of(parts: &[(Vec<u8>, u64)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (unit, length) in parts {
        let mut rest = *length;
        while rest > 0 {
            let now = rest.min(unit.len() as u64);
            hasher.update(&unit[..now as usize]);
            rest -= now;
        }
    }
    *hasher.finalize().as_bytes()
}

/// The header of a manifest of which only the front is sound.
pub fn header_of_claims(layout: Layout, root: Root) -> Header {
    let sections = [
        (Known::Tree, layout.tree()),
        (Known::Pages, layout.pages()),
        (Known::Pieces, layout.pieces()),
    ];
    Header {
        geometry: layout.geometry,
        root,
        name: String::new(),
        sequence: 0,
        published: 0,
        expires: 0,
        digests: Vec::new(),
        unknown_digests: Vec::new(),
        sections: sections
            .map(|(kind, bytes)| Section::known(kind, bytes, [7; 32]))
            .to_vec(),
    }
}
