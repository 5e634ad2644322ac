//! A rate limit: what it costs beyond the bytes of the object.

use std::{fs, time::Duration};

use sapwood::format::paint;

use crate::support::{
    objects::Content,
    origin::{Asks, Lie, Of},
    program::{self, sapwood},
    scene::{MANIFEST, OBJECT, Scene},
};

const LENGTH: u64 = 10_000_000;
/// So many connections that some are idle at the end, while the buffers of others are full.
const RATE: [&str; 2] = ["--limit-rate", "10MB"];

/// From afar a connection that is idle takes over the end of another one's span.
fn far(scene: &Scene) {
    let late = Lie::Late(Duration::from_millis(40));
    scene.origin.lie("*", Asks::Anything, Of::All, late);
}

/// The bytes that the origin handed to its sockets, in parts of the length.
fn share_sent(scene: &Scene) -> f64 {
    // Connections that were given up take bytes until they are closed.
    scene.origin.wait_until_idle();
    let sent: u64 = scene
        .origin
        .log()
        .iter()
        .map(|asked| asked.bytes_sent)
        .sum();
    sent as f64 / scene.length() as f64
}

#[test]
fn a_rate_limit_moved_a_quarter_of_the_bytes_twice() {
    for manifest in [true, false] {
        let scene = Scene::new(LENGTH, 64 * 1024);
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        far(&scene);
        scene.fetch(&RATE).must(0);
        scene.must_be_published();
        let share = share_sent(&scene);
        assert!(share <= 1.02, "manifest {manifest}: {share}");
    }
}

/// With all hints, over an old file that has nothing in common with the object.
#[test]
fn a_delta_of_unlike_files_under_a_rate_limit_moved_bytes_twice() {
    let scene = Scene::of(Content::Painted(LENGTH), 64 * 1024);
    fs::write(scene.path("new"), scene.content.all()).unwrap();
    let mut command = sapwood(scene.folder.path());
    command.args(["--quiet", "manifest", "new", "-o", "manifest"]);
    program::run(command).must(0);
    let manifest = fs::read(scene.path("manifest")).unwrap();
    scene.origin.put(MANIFEST, manifest);
    fs::remove_file(scene.path("new")).unwrap();
    fs::write(scene.target(), paint::bytes(1 << 40, LENGTH as usize)).unwrap();
    far(&scene);
    let more = [&RATE[..], &["--no-store"]].concat();
    scene.fetch(&more).must(0);
    scene.must_hold(&scene.content);
    let log = scene.origin.log_of(OBJECT);
    let share = share_sent(&scene);
    assert!(share <= 1.02, "{share}: {log:?}");
}
