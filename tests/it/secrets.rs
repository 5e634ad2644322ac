//! What is said to people, at the highest verbosity, holds no secret. Events, journals and receipts are looked through in the
//! scenes of `storms.rs`.

use std::process::Command;

use crate::support::{
    faults::{Fault, Place},
    origin::{Asks, Lie, Of, Origin},
    program::{self, Ended},
    scene::{OBJECT, Scene, names},
    secrets::{self, SECRET, must_be_clean},
    tls::{Authority, Front},
};

const KIB: u64 = 1024;
const LENGTH: u64 = 300 * KIB;

fn run(mut command: Command) -> Ended {
    program::run({
        command.args(["--tries", "2", "--patience", "5s"]);
        command
    })
}

/// Everything was said, and nothing that must not be.
fn must_be_discreet(scene: &Scene, ended: &Ended, exit: i32) {
    assert_eq!(ended.exit, Some(exit), "{}", ended.stderr);
    must_be_clean(scene.folder.path(), ended);
    assert!(ended.stderr.contains("[hyper_util"), "{}", ended.stderr);
}

#[test]
fn people_are_told_of_faults_without_secrets() {
    for (id, exit) in [("S05b", 0), ("S10b", 3), ("S19a", 5), ("S22b", 1)] {
        for login in [true, false] {
            let scene = Scene::new(LENGTH, 16 * KIB);
            let place = Place {
                path: OBJECT.into(),
                length: LENGTH,
                at: LENGTH / 2,
                seed: 1,
                secret: SECRET,
            };
            let fault = Fault::named(id).expect("it is in the list");
            for lie in fault.lies(&place) {
                scene.origin.lie(OBJECT, fault.asks, Of::All, lie);
            }
            let expired = format!("{OBJECT}.expired");
            let refused = Lie::Status(403);
            scene.origin.lie(&expired, Asks::Anything, Of::All, refused);
            let url = secrets::url("http", &scene.origin.address(), login);
            let ended = run(secrets::fetch(scene.folder.path(), &url, &[]));
            must_be_discreet(&scene, &ended, exit);
        }
    }
}

#[test]
fn people_are_told_of_refused_tls_without_secrets() {
    let (authority, unknown) = (Authority::new(), Authority::new());
    for login in [true, false] {
        let scene = Scene::new(LENGTH, 16 * KIB);
        let certificate = unknown.certify("subjectAltName=IP:127.0.0.1", "2");
        let port = scene.origin.address().port();
        let front = Front::before(port, &certificate, &["http/1.1"], false);
        let host = front.address();
        let url = secrets::url("https", &host, login);
        let mut command = secrets::fetch(scene.folder.path(), &url, &[]);
        command.args(["--cacert", &authority.certificate()]);
        must_be_discreet(&scene, &run(command), 1);
    }
}

/// A redirect that leads nowhere names where it leads.
#[test]
fn people_are_told_of_redirects_without_secrets() {
    let (scene, other) = (Scene::new(LENGTH, 16 * KIB), Origin::start());
    let there = other.url(&format!("/nothing?sig={SECRET}"));
    let leads = Lie::Redirect(302, there);
    scene.origin.lie(OBJECT, Asks::Anything, Of::All, leads);
    let url = secrets::url("http", &scene.origin.address(), true);
    let ended = run(secrets::fetch(scene.folder.path(), &url, &[]));
    must_be_discreet(&scene, &ended, 1);
    assert!(ended.stderr.contains("/nothing"), "{}", ended.stderr);
    assert_eq!(names(scene.folder.path()), ["store"]);
}
