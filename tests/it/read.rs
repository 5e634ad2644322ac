//! Readers with seek over one transfer: what they get, what is fetched for them, and how they end.

use std::{future::Future, ops::Range, process::Command, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use sapwood::{
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        events::Event,
        read::{self, BlockState, ReadOptions, Reader, SharedObject},
    },
    format::{
        geometry::{BlockIndex, ByteRange},
        manifest::{self, Particulars, Tree},
        paint,
        tree::{self, Cv},
        trust::Trust,
    },
    net::location::Location,
};
use tempfile::TempDir;

use crate::support::{
    objects::{Content, geometry, manifest_of},
    origin::{Asks, Lie, Of, Origin},
    program::run_measured,
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const BLOCK: u64 = 64 * KIB;
/// The first read-ahead of a reader, and what a block more costs at both ends.
const FIRST: u64 = 256 * KIB + 2 * BLOCK;

/// A painted object of which only these blocks, and the last one, are what the manifest says: hashing all of it takes too long.
fn sparse(length: u64, block: u64, known: impl Iterator<Item = u64>) -> Scene {
    let (content, geometry) = (Content::Painted(length), geometry(length, block));
    let mut leaves: Vec<Cv> = vec![[7; 32]; geometry.blocks() as usize];
    for index in known
        .map(|block| BlockIndex(block as u32))
        .chain([geometry.last()])
    {
        let bytes = geometry.bytes_of(index);
        let leaf = tree::leaf_of(&geometry, index, &content.read(bytes.start..bytes.end));
        leaves[index.0 as usize] = leaf;
    }
    let tree = Tree::new(geometry, leaves, None);
    let origin = Origin::start();
    origin.put(OBJECT, content.clone());
    origin.put(
        MANIFEST,
        manifest::to_bytes(&tree, None, Particulars::default()),
    );
    Scene {
        origin,
        folder: TempDir::new().expect("a folder"),
        content,
        block,
    }
}

fn options(scene: &Scene) -> ReadOptions {
    options_of(&scene.url())
}

fn options_of(url: &str) -> ReadOptions {
    ReadOptions {
        url: Location::parse(url).unwrap(),
        manifest: None,
        root: None,
        key: None,
        require: Trust::None,
        max_size: None,
        mirrors: Vec::new(),
        name: None,
        length: None,
    }
}

/// Few tries, so that a failure comes soon.
fn context(scene: &Scene, store: bool) -> Context {
    let mut context = Context::default();
    context.limits.tries = 2;
    if store {
        context.store = StoreHandle::at(scene.path("store"));
    }
    context
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Opens the object of a scene, and runs its transfer beside the test.
async fn opened(context: &Context, options: ReadOptions) -> SharedObject {
    let opened = read::open(context, options, &mut |_: Event| ()).await;
    let (object, mut transfer) = opened.expect("it opens");
    tokio::spawn(async move {
        transfer.run(&mut |_: Event| ()).await;
        transfer.finish().await;
    });
    object
}

/// Reads to the end, or to the error.
async fn all_of(mut reader: Reader) -> (Vec<u8>, Option<Arc<Error>>) {
    let mut all = Vec::new();
    loop {
        match reader.next().await {
            Some(Ok(chunk)) => all.extend_from_slice(&chunk),
            Some(Err(error)) => return (all, Some(error)),
            None => return (all, None),
        }
    }
}

/// Takes at least so many bytes.
async fn take(reader: &mut Reader, bytes: u64) -> u64 {
    let mut taken = 0;
    while taken < bytes {
        let chunk = reader.next().await.expect("more").expect("no error");
        taken += chunk.len() as u64;
    }
    taken
}

/// Waits until the origin is not asked and sends nothing.
async fn quiet(scene: &Scene) {
    let seen = || (scene.origin.sent(OBJECT), scene.origin.log().len());
    let mut before = seen();
    loop {
        // On a busy machine a connection may have no turn for so long.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if seen() == before {
            return;
        }
        before = seen();
    }
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end)
}

/// Runs with the object of a scene, whose length is proven, in one runtime.
fn with<F: Future<Output = ()>>(scene: &Scene, store: bool, run: impl FnOnce(SharedObject) -> F) {
    let context = context(scene, store);
    runtime().block_on(async {
        let object = opened(&context, options(scene)).await;
        assert_eq!(
            object.proven_length().await.expect("no error"),
            scene.length()
        );
        run(object).await;
    });
}

#[test]
fn any_range_is_what_the_origin_has() {
    let scene = Scene::new(40 * BLOCK + 17, BLOCK);
    let length = scene.length();
    let ranges = [
        (0, length),
        (0, 0),
        (length, length),
        (length - 1, length),
        (BLOCK - 1, BLOCK + 1),
        (7 * BLOCK, 9 * BLOCK),
        (3, 39 * BLOCK),
    ];
    // The second time with a store all of it is there.
    for store in [false, true, true] {
        with(&scene, store, async |object| {
            for (start, end) in ranges {
                let (bytes, error) = all_of(object.reader(range(start, end))).await;
                assert!(error.is_none(), "{start}..{end}: {error:?}");
                assert!(bytes == scene.content.read(start..end), "{start}..{end}");
            }
        });
    }
    scene.origin.forget_log();
    with(&scene, true, async |object| {
        let (bytes, _) = all_of(object.reader(range(0, length))).await;
        assert!(bytes == scene.content.all());
    });
    assert_eq!(scene.origin.sent(OBJECT), 0, "it was in the store");
}

#[test]
fn an_empty_object_is_proven_by_its_leaf() {
    let scene = Scene::of(Content::Bytes(Vec::new()), BLOCK);
    with(&scene, false, async |object| {
        assert_eq!(all_of(object.reader(range(0, 9))).await.0.len(), 0);
    });
    assert!(scene.origin.log_of(OBJECT).is_empty());
}

#[test]
fn read_ahead_stops_when_it_is_full_and_when_its_reader_goes() {
    let scene = Scene::new(64 * MIB, BLOCK);
    with(&scene, false, async |object| {
        let mut reader = object.reader(range(0, 64 * MIB));
        let taken = take(&mut reader, 2 * MIB).await;
        // It takes no more: the read-ahead becomes full.
        quiet(&scene).await;
        let sent = scene.origin.sent(OBJECT);
        assert!(
            sent >= taken + MIB && sent <= 2 * taken + FIRST,
            "{taken} taken, {sent} sent"
        );

        // From now on bytes come slowly. Another reader begins elsewhere, and goes.
        scene.origin.pace(Some(MIB));
        let mut other = object.reader(range(32 * MIB, 64 * MIB));
        take(&mut other, 1).await;
        drop((reader, other));
        quiet(&scene).await;
        let more = scene.origin.sent(OBJECT) - sent;
        assert!(more <= FIRST, "{more} sent");
        scene.origin.pace(None);
    });
}

#[test]
fn two_readers_of_one_place_share_one_fetch() {
    let scene = Scene::new(24 * MIB, BLOCK);
    for store in [false, true] {
        scene.origin.forget_log();
        with(&scene, store, async |object| {
            let all = || all_of(object.reader(range(0, 24 * MIB)));
            for (bytes, error) in join_all([all(), all()]).await {
                assert!(error.is_none() && bytes == scene.content.all());
            }
        });
        let sent = scene.origin.sent(OBJECT);
        // A little more, where a connection took over the rest of a slow one.
        assert!(sent <= 30 * MIB, "{sent} sent, store: {store}");
    }
}

#[test]
fn a_seek_within_the_read_ahead_requests_nothing() {
    let scene = Scene::new(32 * MIB, BLOCK);
    for store in [false, true] {
        with(&scene, store, async |object| {
            let mut reader = object.reader(range(0, 32 * MIB));
            let taken = take(&mut reader, 4 * MIB).await;
            quiet(&scene).await;
            drop(reader);
            scene.origin.forget_log();
            let (start, end) = (taken + 100, taken + MIB + 100);
            let (bytes, error) = all_of(object.reader(range(start, end))).await;
            assert!(error.is_none() && bytes == scene.content.read(start..end));
            assert!(scene.origin.log().is_empty(), "{:?}", scene.origin.log());
        });
    }
}

#[test]
fn twenty_seeks_in_an_object_of_100_gb_read_little_of_its_manifest() {
    let (length, block) = (100_000_000_000, 128 * KIB);
    let places: Vec<u64> = (0..20)
        .map(|index| (index * 7919 + 13) % 97 * 1_000_000_007)
        .collect();
    let known = places
        .iter()
        .flat_map(|place| place / block..place / block + 9);
    let scene = sparse(length, block, known);
    let manifest = scene.origin.sent(MANIFEST);
    with(&scene, false, async |object| {
        for place in &places {
            let (bytes, error) = all_of(object.reader(range(*place, *place + 1000))).await;
            assert!(
                error.is_none() && bytes == paint::bytes(*place, 1000),
                "{place}: {error:?}"
            );
        }
        quiet(&scene).await;
        // Of each place one page, and one group of the level above it; of the object one block.
        let of_manifest = scene.origin.sent(MANIFEST) - manifest;
        assert!(
            of_manifest <= 4096 + 21 * 2 * 8192,
            "{of_manifest} of the manifest"
        );
        let of_object = scene.origin.sent(OBJECT);
        assert!(of_object <= 21 * 2 * block, "{of_object} of the object");
    });
}

#[test]
fn a_cold_seek_takes_one_round_trip_more_than_its_bytes() {
    let (length, block) = (100_000_000_000, 128 * KIB);
    let place = 55_555_555_555;
    let scene = sparse(length, block, place / block..place / block + 9);
    with(&scene, false, async |object| {
        quiet(&scene).await;
        scene.origin.forget_log();
        let late = Duration::from_millis(250);
        for path in [OBJECT, MANIFEST] {
            scene
                .origin
                .lie(path, Asks::Anything, Of::All, Lie::Late(late));
        }
        let mut reader = object.reader(range(place, length));
        take(&mut reader, 1).await;
        drop(reader);
        // Tree and page at once, and then the block; for an answer that is very late there may be another request.
        let log = scene.origin.log();
        let (tree, object) = log.split_at(
            log.iter()
                .take_while(|asked| asked.path == MANIFEST)
                .count(),
        );
        assert!(
            tree.len() <= 2 && tree[tree.len() - 1].at - tree[0].at < late,
            "{tree:?}"
        );
        assert!((1..=2).contains(&object.len()), "{object:?}");
    });
}

/// As a player opens a film: the head, the tail, the head again, and then from 80 % on.
#[test]
fn a_player_that_seeks_fetches_little_of_a_film() {
    let length = 400 * MIB;
    let of = |start: u64, bytes: u64| start / BLOCK..(start + bytes) / BLOCK;
    let known = of(0, 16 * MIB)
        .chain(of(length - MIB, MIB))
        .chain(of(length / 5 * 4, 16 * MIB));
    let scene = sparse(length, BLOCK, known);
    with(&scene, true, async |object| {
        let read = async |start: u64, bytes: u64| {
            let mut reader = object.reader(range(start, length));
            take(&mut reader, bytes).await
        };
        let mut taken = 0;
        for (start, bytes) in [
            (0, 64 * KIB),
            (length - 512 * KIB, 512 * KIB),
            (64 * KIB, 3 * MIB),
            (length / 5 * 4, 4 * MIB),
        ] {
            taken += read(start, bytes).await;
        }
        quiet(&scene).await;
        let sent = scene.origin.sent(OBJECT);
        assert!(sent <= 2 * taken + 4 * FIRST, "{taken} taken, {sent} sent");
        assert!(sent < length * 15 / 100, "{sent} sent");
    });
}

#[test]
fn a_wrong_block_ends_its_reader_exactly_before_it() {
    let scene = Scene::new(8 * MIB, BLOCK);
    let bad = 70 * BLOCK;
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::FlipAt(bad + 5));
    with(&scene, true, async |object| {
        let (one, other) = (
            all_of(object.reader(range(3, 8 * MIB))),
            all_of(object.reader(range(bad + BLOCK, 8 * MIB))),
        );
        let ((bytes, error), (after, no_error)) = futures_util::future::join(one, other).await;
        assert!(bytes == scene.content.read(3..bad), "{} bytes", bytes.len());
        assert!(
            matches!(
                error.as_deref(),
                Some(Error::Wrong {
                    block: BlockIndex(70),
                    ..
                })
            ),
            "{error:?}"
        );
        assert!(no_error.is_none() && after == scene.content.read(bad + BLOCK..8 * MIB));
        let state = object.state();
        assert_eq!(state.wrong[0].bytes, range(bad, bad + BLOCK));
        assert_ne!(state.wrong[0].found, state.wrong[0].expected);
        let at = state
            .blocks
            .iter()
            .find(|(blocks, _)| blocks.contains(BlockIndex(70)));
        assert_eq!(
            at.map(|(blocks, state)| (blocks.count(), *state)),
            Some((1, BlockState::Wrong))
        );
        assert!(
            state
                .blocks
                .iter()
                .all(|(_, state)| *state != BlockState::Missing)
        );
        // A later reader tries again.
        scene.origin.be_honest();
        let (bytes, error) = all_of(object.reader(range(0, 8 * MIB))).await;
        assert!(error.is_none() && bytes == scene.content.all());
        assert_eq!(object.state().blocks.len(), 1);
    });
}

#[test]
fn another_mirror_serves_what_one_has_wrong() {
    let scene = Scene::new(8 * MIB, BLOCK);
    scene
        .origin
        .lie(OBJECT, Asks::Anything, Of::All, Lie::FlipAt(70 * BLOCK));
    let mirror = Scene::new(8 * MIB, BLOCK);
    let mut options = options(&scene);
    options.mirrors = vec![Location::parse(&mirror.url()).unwrap()];
    let context = context(&scene, false);
    runtime().block_on(async {
        let object = opened(&context, options).await;
        let (bytes, error) = all_of(object.reader(range(0, 8 * MIB))).await;
        assert!(error.is_none() && bytes == scene.content.all(), "{error:?}");
    });
}

#[test]
fn a_failed_transfer_ends_who_waits_and_the_next_reader_tries_again() {
    let scene = Scene::new(4 * MIB, BLOCK);
    with(&scene, false, async |object| {
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::All, Lie::Status(404));
        let all = || all_of(object.reader(range(0, MIB)));
        for (bytes, error) in join_all([all(), all()]).await {
            assert!(
                bytes.is_empty() && matches!(error.as_deref(), Some(Error::Net { .. })),
                "{error:?}"
            );
        }
        // Nobody waits: nothing is requested.
        scene.origin.forget_log();
        let idle = object.reader(range(0, MIB));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(scene.origin.log().is_empty());
        scene.origin.be_honest();
        let (bytes, error) = all_of(idle).await;
        assert!(error.is_none() && bytes == scene.content.read(0..MIB));
    });
}

#[test]
fn a_wrong_page_of_the_manifest_ends_who_needs_it() {
    // Four pages of leaves. The tree is one group of four nodes.
    let scene = Scene::new(16 * MIB, 16 * KIB);
    let page = |page: u64| 1536 + 4 * 32 + page * 8192;
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::All, Lie::FlipAt(page(1) + 9));
    with(&scene, false, async |object| {
        let (bytes, error) = all_of(object.reader(range(0, 16 * MIB))).await;
        assert!(
            bytes == scene.content.read(0..4 * MIB),
            "{} bytes",
            bytes.len()
        );
        assert!(
            matches!(error.as_deref(), Some(Error::Manifest { .. })),
            "{error:?}"
        );
        let (bytes, error) = all_of(object.reader(range(8 * MIB, 16 * MIB))).await;
        assert!(error.is_none() && bytes == scene.content.read(8 * MIB..16 * MIB));
        scene.origin.be_honest();
        let (bytes, error) = all_of(object.reader(range(4 * MIB, 5 * MIB))).await;
        assert!(error.is_none() && bytes == scene.content.read(4 * MIB..5 * MIB));
    });
}

#[test]
fn no_length_before_the_last_block_proves_it() {
    let scene = Scene::new(4 * MIB + 9, BLOCK);
    let lie = Lie::FlipAt(4 * MIB + 8);
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, lie);
    let context = context(&scene, false);
    runtime().block_on(async {
        let object = opened(&context, options(&scene)).await;
        for _ in 0..2 {
            let error = object.proven_length().await.expect_err("it is wrong");
            assert!(matches!(*error, Error::Wrong { .. }), "{error:?}");
        }
        assert!(!object.state().length_proven);
        scene.origin.be_honest();
        assert_eq!(object.proven_length().await.expect("no error"), 4 * MIB + 9);
    });
}

#[test]
fn readers_of_an_object_that_was_replaced_end_with_changed() {
    let scene = Scene::new(8 * MIB, BLOCK);
    with(&scene, false, async |object| {
        let mut reader = object.reader(range(0, 8 * MIB));
        take(&mut reader, 1).await;
        quiet(&scene).await;
        let other = Content::Bytes(vec![7; 8 * MIB as usize]);
        scene.origin.put(OBJECT, other.clone());
        scene.origin.put(MANIFEST, manifest_of(&other, BLOCK));
        let (_, error) = all_of(reader).await;
        assert!(
            matches!(error.as_deref(), Some(Error::Changed { .. })),
            "{error:?}"
        );
        let (bytes, error) = all_of(object.reader(range(6 * MIB, 8 * MIB))).await;
        assert!(
            matches!(error.as_deref(), Some(Error::Changed { .. })),
            "{error:?}"
        );
        assert!(bytes.len() as u64 <= BLOCK * 32);
        assert_eq!(
            object.proven_length().await.expect("it was proven"),
            8 * MIB
        );
    });
}

/// Of one reader all connections are busy, and its server is slow. Another one seeks.
#[test]
fn a_seek_does_not_wait_for_the_read_ahead_of_others() {
    let scene = Scene::new(64 * MIB, BLOCK);
    with(&scene, false, async |object| {
        let mut first = object.reader(range(0, 64 * MIB));
        take(&mut first, 30 * MIB).await;
        // Every connection that is open now stops in the middle of its bytes.
        scene.origin.allow(OBJECT, 0);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let busy = scene.origin.most_at_a_time();
        let mut second = object.reader(range(48 * MIB, 64 * MIB));
        // Its blocks are wanted as read-ahead before it waits for them.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let is_for_it = |range: &Range<u64>| (48 * MIB..49 * MIB).contains(&range.start);
        let is_requested = || {
            let log = scene.origin.log_of(OBJECT);
            log.iter()
                .any(|asked| asked.range.as_ref().is_some_and(is_for_it))
        };
        let requested = async {
            while !is_requested() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Far less than a stalled connection gets.
        let ended = tokio::time::timeout(Duration::from_secs(8), async {
            tokio::select! {
                _ = take(&mut second, 1) => panic!("no byte may come"),
                () = requested => (),
            }
        });
        assert!(ended.await.is_ok(), "not requested, {busy} busy");
        scene.origin.allow_all();
        take(&mut second, 1).await;
        take(&mut first, MIB).await;
    });
}

const CHILD: &str = "SAPWOOD_TEST_READERS_URL";

/// The program of [`two_hundred_readers_take_bounded_memory`].
fn read_from_200_places(url: &str, length: u64) {
    let context = Context::default();
    runtime().block_on(async {
        let object = opened(&context, options_of(url)).await;
        object.proven_length().await.expect("no error");
        let places = (0..200).map(|index| length / 200 * index);
        let readers = places.map(|place| {
            let mut reader = object.reader(range(place, length));
            let bytes = 2 * MIB;
            async move {
                let mut at = place;
                while at < (place + bytes).min(length) {
                    let chunk = reader.next().await.expect("more").expect("no error");
                    assert!(chunk == paint::bytes(at, chunk.len()), "{at}");
                    at += chunk.len() as u64;
                }
            }
        });
        join_all(readers).await;
    });
}

#[test]
fn two_hundred_readers_take_bounded_memory() {
    let length = 200 * MIB;
    if let Ok(url) = std::env::var(CHILD) {
        return read_from_200_places(&url, length);
    }
    let scene = Scene::new(length, BLOCK);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let name = "read::two_hundred_readers_take_bounded_memory";
    command
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, scene.url());
    let (ended, peak) = run_measured(&command);
    assert_eq!(ended.exit, Some(0), "{ended:?}");
    println!("{} MiB", peak / MIB);
    // 64 MiB of blocks, what is on its way on eight connections, and what the allocator does not give back.
    assert!(peak <= 224 * MIB, "{} MiB", peak / MIB);
}
