//! Several URLs of one object: which of them is opened, and when.

use std::time::{Duration, Instant};

use crate::support::{
    origin::{Asks, Lie, Of, Origin},
    program::Ended,
    scene::{MANIFEST, OBJECT, Scene},
};

const KIB: u64 = 1024;
const LENGTH: u64 = 2048 * KIB;

/// The object and its manifest at the first URL and at a mirror, or no manifest at the mirror.
fn pair(manifest_of_mirror: bool) -> (Scene, Scene) {
    let (first, mirror) = (Scene::new(LENGTH, 64 * KIB), Scene::new(LENGTH, 64 * KIB));
    if !manifest_of_mirror {
        mirror.origin.remove(MANIFEST);
    }
    (first, mirror)
}

fn late(origin: &Origin, seconds: u64) {
    let late = Lie::Late(Duration::from_secs(seconds));
    origin.lie("*", Asks::Anything, Of::All, late);
}

fn fetch(first: &Scene, mirror: &Scene, more: &[&str]) -> Ended {
    first.fetch(&[&["--mirror", &mirror.url()], more].concat())
}

#[test]
fn a_silent_first_url_was_awaited_before_its_mirror_was_tried() {
    for more in [&[][..], &["--require", "manifest"]] {
        let (first, mirror) = pair(true);
        late(&first.origin, 600);
        let began = Instant::now();
        let ended = fetch(&first, &mirror, more).must(0);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}: {}", ended.stdout);
        assert_eq!(ended.event("published")["trust"], "manifest");
        first.must_be_published();
    }
}

#[test]
fn a_first_url_that_responds_costs_its_mirror_no_requests_before_the_transfer() {
    let (first, mirror) = pair(true);
    fetch(&first, &mirror, &["--connections", "1"]).must(0);
    first.must_be_published();
    assert!(mirror.origin.log_of(MANIFEST).is_empty());
    let looks = mirror.origin.log_of(OBJECT).into_iter();
    assert_eq!(looks.filter(|asked| asked.range == Some(0..1)).count(), 0);
}

#[test]
fn a_mirror_without_a_manifest_does_not_decide_for_a_slow_first_url() {
    let (first, mirror) = pair(false);
    late(&first.origin, 3);
    let ended = fetch(&first, &mirror, &[]).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    first.must_be_published();
}

/// A failure needs no wait for the next URL.
#[test]
fn a_first_url_that_fails_is_followed_at_once() {
    let (first, mirror) = pair(true);
    for path in [OBJECT, MANIFEST] {
        first.origin.remove(path);
    }
    let began = Instant::now();
    fetch(&first, &mirror, &[]).must(0);
    first.must_be_published();
    assert!(began.elapsed() < Duration::from_secs(10));
}
