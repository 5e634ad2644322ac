//! The index of a long pack, of which only the pages are read that are needed.

use std::{
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use sapwood::{
    engine::create::{self, CreateOptions, Input, Output},
    format::{
        compression::PackOptions,
        geometry::{BlockSize, ByteRange},
        pack::{HEAD_BYTES, PackLayout},
        paint, statement,
    },
};
use tempfile::TempDir;

use crate::{
    packed::PACK,
    support::{
        objects::Content,
        origin::{Asks, Lie, Of, Origin},
        program::{run, sapwood},
        scene::{MANIFEST, OBJECT},
    },
};

const MIB: u64 = 1 << 20;
/// The index is longer than an eighth of what is wanted.
const LENGTH: u64 = 1100 * MIB;
/// Where the content begins; the rest of the object are holes.
const CONTENT: u64 = 703 * MIB;
/// What is wanted of it: of two pages, and of the second one too little to be worth reading it, unless whole blocks are read.
const WANTED: ByteRange = ByteRange {
    start: 704 * MIB - 265_000,
    end: 704 * MIB + 5_000,
};
const PAGES: [u64; 2] = [10, 11];

/// It compresses much, and no part of it occurs twice.
fn content() -> Vec<u8> {
    let noise = paint::bytes(0, 200);
    let rows = (0u32..).flat_map(|n| [&noise[..], &n.to_le_bytes()].concat());
    rows.take(3 * MIB as usize).collect()
}

/// Where in the content the wanted bytes are.
fn wanted() -> Range<usize> {
    (WANTED.start - CONTENT) as usize..(WANTED.end - CONTENT) as usize
}

struct Site {
    origin: Origin,
    folder: TempDir,
    manifest: Vec<u8>,
    /// Its bytes that are the index.
    index: ByteRange,
}

impl Site {
    fn new() -> Site {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("object.bin");
        write(&path, &content());
        let place = folder.path().join("object.bin.sapwood");
        let options = CreateOptions {
            pack: Some(PackOptions {
                level: 1,
                whole: false,
            }),
            block_size: BlockSize::new(64 << 10),
            ..CreateOptions::default()
        };
        let input = Input::File(path.clone());
        create::create(input, Output::File(place.clone()), &options, None).expect("a manifest");
        let manifest = fs::read(&place).expect("it was made");
        let (statement, _) = statement::read_front(&manifest).expect("a manifest");
        let index = statement.header().pack().expect("a pack").bytes;
        let origin = Origin::start();
        origin.put(OBJECT, Content::File(path, LENGTH));
        origin.put(MANIFEST, manifest.clone());
        let pack = fs::read(folder.path().join("object.bin.sapwood.pack"));
        origin.put(PACK, pack.expect("it was made"));
        Site {
            origin,
            folder,
            manifest,
            index,
        }
    }

    /// Reads what is wanted, which must be right.
    fn cat(&self) {
        self.origin.forget_log();
        let range = format!("{}-{}", WANTED.start, WANTED.end - 1);
        let mut command = sapwood(self.folder.path());
        command.args([
            "cat",
            &self.origin.url(OBJECT),
            "--no-store",
            "--range",
            &range,
        ]);
        let output = command.output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(output.stdout == content()[wanted()]);
    }

    /// Bytes of the index that were requested.
    fn index_read(&self) -> u64 {
        let asked = self.origin.bodies_of(MANIFEST).into_iter();
        let ranges = asked.filter_map(|asked| asked.range);
        let of_index = |range: Range<u64>| {
            range
                .end
                .min(self.index.end)
                .saturating_sub(range.start.max(self.index.start))
        };
        ranges.map(of_index).sum()
    }
}

/// A file with this content, and holes around it.
fn write(path: &Path, content: &[u8]) {
    let file = fs::File::create(path).expect("a file");
    file.set_len(LENGTH).expect("a hole");
    file.write_all_at(content, CONTENT).expect("room");
}

#[test]
fn pages_are_read_as_they_are_needed() {
    let site = Site::new();
    let layout = PackLayout::new(LENGTH).expect("it is not empty");
    assert!(site.index.length() * 8 > WANTED.length());
    let pages = PAGES.map(|page| layout.page(page));
    let needed = HEAD_BYTES as u64 + pages[0].length() + pages[1].length();
    site.cat();
    assert!(site.origin.sent(PACK) > 0);
    assert!(
        site.origin.sent(OBJECT) <= 64 << 10,
        "{}",
        site.origin.sent(OBJECT)
    );
    assert_eq!(site.index_read(), needed);

    // The same for an update of what is there.
    let mut old = content();
    old[wanted()].fill(0);
    let target = site.folder.path().join("out");
    write(&target, &old);
    site.origin.forget_log();
    let mut command = sapwood(site.folder.path());
    command.args([
        "--json",
        "fetch",
        &site.origin.url(OBJECT),
        "-o",
        "out",
        "--no-store",
    ]);
    run(command).must(0);
    let mut published = vec![0; content().len()];
    let file = fs::File::open(&target).expect("it was published");
    file.read_exact_at(&mut published, CONTENT)
        .expect("all of it");
    assert!(published == content());
    assert!(site.origin.sent(PACK) > 0);
    assert_eq!(site.index_read(), needed - pages[1].length());

    // A page that says anything costs no more than itself and two requests.
    for (at, bytes) in [
        (0, &[0xff; 8][..]),
        (0, &[0; 8]),
        (0, &layout.table().end.to_le_bytes()),
        (8, &u64::MAX.to_le_bytes()),
        (16, &[0xff; 4 * 64]),
    ] {
        for page in pages {
            let mut manifest = site.manifest.clone();
            let start = (site.index.start + page.start) as usize + at;
            manifest[start..start + bytes.len()].copy_from_slice(bytes);
            site.origin.put(MANIFEST, manifest);
            site.cat();
            assert_eq!(site.index_read(), needed);
            let sent = site.origin.sent(PACK);
            assert!(sent < 3 * MIB, "{sent}");
        }
    }
    // The head as well.
    for (at, byte) in [(0, 2), (9, 7), (15, 0xff)] {
        let mut manifest = site.manifest.clone();
        manifest[site.index.start as usize + at] = byte;
        site.origin.put(MANIFEST, manifest);
        site.cat();
        assert!(site.index_read() <= needed);
    }
    // Pages that cannot be read.
    site.origin.put(MANIFEST, site.manifest.clone());
    let within = site.index.start + pages[0].start + 20;
    for lie in [
        Lie::Status(404),
        Lie::NoRanges,
        Lie::CloseAfter(10),
        Lie::SilentHeaders,
        Lie::Trickle(0, Duration::from_millis(20)),
    ] {
        site.origin.be_honest();
        site.origin
            .lie(MANIFEST, Asks::Byte(within), Of::All, lie.clone());
        let began = Instant::now();
        site.cat();
        let seconds = began.elapsed().as_secs();
        println!("{lie:?}: {seconds} s");
        assert!(seconds < 40, "{lie:?}: {seconds} s");
    }
}
