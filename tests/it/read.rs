//! Readers with seek over one transfer: what they get, what is fetched for them, and how they end.

use std::sync::Arc;

use futures_util::StreamExt;
use sapwood::{
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        events::Event,
        read::{self, ReadOptions, Reader, SharedObject},
    },
    format::{geometry::ByteRange, trust::Trust},
    net::location::Location,
};

use crate::support::scene::Scene;

const KIB: u64 = 1024;
const BLOCK: u64 = 64 * KIB;

fn options(scene: &Scene) -> ReadOptions {
    ReadOptions {
        url: Location::parse(&scene.url()).unwrap(),
        manifest: None,
        root: None,
        key: None,
        require: Trust::None,
        max_size: None,
        mirrors: Vec::new(),
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
    for store in [false, true] {
        let context = context(&scene, store);
        runtime().block_on(async {
            let object = opened(&context, options(&scene)).await;
            assert_eq!(object.proven_length().await.unwrap(), length);
            for (start, end) in ranges {
                let (bytes, error) = all_of(object.reader(ByteRange::new(start, end))).await;
                assert!(error.is_none(), "{start}..{end}: {error:?}");
                assert!(bytes == scene.content.read(start..end), "{start}..{end}");
            }
        });
    }
}
