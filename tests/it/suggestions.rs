//! What servers and documents suggest: names of files, mirrors, digests.

use std::fs;

use sha2::{Digest as _, Sha256};

use crate::support::{
    origin::{Object, Origin},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene, names},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Serves the content of the scene at another path, with this field.
fn put(scene: &Scene, path: &str, name: &str, value: &str) {
    let mut object = Object::from(scene.content.clone());
    object.headers.push((name.to_owned(), value.to_owned()));
    scene.origin.put(path, object);
}

fn fetch(scene: &Scene, args: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "fetch", "--no-store"]).args(args);
    program::run(command)
}

#[test]
fn a_file_is_named_as_its_server_suggests_if_the_user_wants_that() {
    let scene = Scene::new(MIB, 16 * KIB);
    let field = "attachment; filename=\"x\"; filename*=UTF-8''na%C3%AFve.mp4";
    put(&scene, "/get/7", "Content-Disposition", field);
    let url = scene.origin.url("/get/7");
    fetch(&scene, &[&url]).must(0);
    fetch(&scene, &[&url, "--content-disposition"]).must(0);
    // It resumes and repairs under that name, like any other.
    let again = fetch(&scene, &[&url, "--content-disposition", "-o", "inbox/"]).must(0);
    assert_eq!(again.event("published")["path"], "inbox/naïve.mp4");
    // What the user says counts.
    fetch(&scene, &[&url, "--content-disposition", "-o", "own.mp4"]).must(0);
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", "--content-disposition", "--no-store", "-i", "-"]);
    let list = format!("{url}\tlisted.mp4\n{}\n", scene.url());
    program::run_with_input(command, list.as_bytes()).must(0);
    assert_eq!(
        names(scene.folder.path()),
        [
            "7",
            "inbox",
            "listed.mp4",
            "naïve.mp4",
            "object.bin",
            "own.mp4"
        ]
    );
}

#[test]
fn a_server_cannot_choose_a_file_to_replace() {
    let scene = Scene::new(64 * KIB, 16 * KIB);
    let field = "attachment; filename=Makefile";
    put(&scene, "/get/7", "Content-Disposition", field);
    fs::write(scene.path("Makefile"), "all:").unwrap();
    let url = scene.origin.url("/get/7");
    let command = |more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        let args = ["--json", "fetch", &url, "--content-disposition"];
        command.args(args).args(more);
        program::run(command)
    };
    for store in [&["--store", "s"][..], &["--no-store"]] {
        let ended = command(store).must(6);
        assert!(
            ended.event("failed")["message"]
                .to_string()
                .contains("Makefile")
        );
        assert_eq!(fs::read(scene.path("Makefile")).unwrap(), b"all:");
    }
    // What came from the URL is replaced, or repaired, by the same command.
    fs::remove_file(scene.path("Makefile")).unwrap();
    command(&["--store", "s"]).must(0);
    fs::write(scene.path("Makefile"), "damaged").unwrap();
    command(&["--store", "s"]).must(0);
    assert_eq!(
        fs::read(scene.path("Makefile")).unwrap(),
        scene.content.all()
    );
    command(&["--no-store"]).must(6);
}

#[test]
fn an_unsafe_suggestion_is_told_and_not_taken() {
    let scene = Scene::new(64 * KIB, 16 * KIB);
    for (number, name) in ["../../x", "C:\\\\x", "a/b", ".x.part", "x.part", "..", "-x"]
        .into_iter()
        .enumerate()
    {
        let path = format!("/get/{number}");
        let field = format!("attachment; filename=\"{name}\"");
        put(&scene, &path, "Content-Disposition", &field);
        let args = [
            &scene.origin.url(&path)[..],
            "--content-disposition",
            "-o",
            "in/",
        ];
        let ended = fetch(&scene, &args).must(0);
        let warnings = ended.all("warning");
        let message = warnings[0]["message"].as_str().unwrap();
        assert!(message.contains("not safe"), "{message}");
        assert!(scene.path(&format!("in/{number}")).is_file(), "{name}");
    }
    assert_eq!(names(scene.folder.path()), ["in"]);
    assert_eq!(names(&scene.path("in")).len(), 7);
}

#[test]
fn a_name_that_cannot_be_requested_is_a_failure_of_its_file_alone() {
    let scene = Scene::new(64 * KIB, 16 * KIB);
    put(
        &scene,
        "/get/7",
        "Content-Disposition",
        "attachment; filename=x.bin",
    );
    let (here, gone) = (scene.origin.url("/get/7"), scene.origin.url("/gone"));
    let ended = fetch(&scene, &[&gone, &here, "--content-disposition"]).must(1);
    assert_eq!(ended.all("published").len(), 1);
    assert_eq!(names(scene.folder.path()), ["x.bin"]);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("404"), "{message}");
}

#[test]
fn the_query_of_a_program_names_its_file() {
    let scene = Scene::new(64 * KIB, 16 * KIB);
    scene.origin.put("/download", scene.content.clone());
    let url = scene.origin.url("/download?file=pub/x.iso");
    fetch(&scene, &[&url]).must(0);
    assert_eq!(names(scene.folder.path()), ["x.iso"]);
}

/// A scene whose server names others as mirrors, and such a mirror.
fn with_mirror() -> (Scene, Scene) {
    let (first, mirror) = (
        Scene::new(16 * MIB, 64 * KIB),
        Scene::new(16 * MIB, 64 * KIB),
    );
    let links = format!(
        "<{}>; rel=duplicate; pri=1, <http://127.0.0.1:1/gone>; rel=duplicate, <ftp://h/x>; rel=duplicate",
        mirror.url()
    );
    put(&first, OBJECT, "Link", &links);
    (first, mirror)
}

#[test]
fn mirrors_that_a_server_names_send_blocks_too() {
    let (first, mirror) = with_mirror();
    first.origin.pace(Some(4 * MIB));
    first.fetch(&["-H", "X-Secret: s"]).must(0);
    first.must_be_published();
    let requests = mirror.origin.log_of(OBJECT);
    assert!(mirror.origin.sent(OBJECT) > 4 * MIB, "{}", requests.len());
    // Fields of the user are for the typed origin only.
    assert!(
        requests
            .iter()
            .all(|asked| asked.header("x-secret").is_none())
    );
}

#[test]
fn a_mirror_that_a_server_names_proves_nothing() {
    let (first, mirror) = with_mirror();
    mirror.origin.put(OBJECT, vec![7; 16 * MIB as usize]);
    let ended = first.fetch(&[]).must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    first.must_be_published();
    // Without a manifest everything comes from one source.
    first.origin.remove(MANIFEST);
    fs::remove_file(first.target()).unwrap();
    mirror.origin.forget_log();
    first.fetch(&["--no-store"]).must(0);
    first.must_be_published();
    assert!(mirror.origin.log_of(OBJECT).is_empty());
}

fn metalink(files: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">{files}</metalink>\n"
    )
}

#[test]
fn a_metalink_gives_names_mirrors_and_digests() {
    let scene = Scene::new(MIB, 16 * KIB);
    let bare = Origin::start();
    bare.put("/x", scene.content.clone());
    let sha256 = hex::encode(Sha256::digest(scene.content.all()));
    let document = metalink(&format!(
        "<file name=\"films/good.bin\"><size>{MIB}</size><hash type=\"sha-256\">{sha256}</hash>\
         <url priority=\"2\">{}</url><url priority=\"1\">http://127.0.0.1:1/gone</url></file>\n\
         <file name=\"bad.bin\"><hash type=\"sha-256\">{}</hash><url>{}</url></file>\n\
         <file name=\"../../out.bin\"><url>{}</url></file>",
        bare.url("/x"),
        "00".repeat(32),
        bare.url("/x"),
        bare.url("/x"),
    ));
    fs::write(scene.path("films.meta4"), document).unwrap();
    let args = [
        "-i",
        "films.meta4",
        "-o",
        "in/",
        "--discard",
        "--patience",
        "20s",
    ];
    let ended = fetch(&scene, &args).must(6);
    assert_eq!(ended.event("published")["trust"], "root");
    assert_eq!(
        fs::read(scene.path("in/films/good.bin")).unwrap(),
        scene.content.all()
    );
    let exits: Vec<_> = ended
        .all("failed")
        .iter()
        .map(|one| one["exit"].clone())
        .collect();
    assert_eq!(exits, [6, 3]);
    assert_eq!(names(&scene.path("in")), ["films"]);
}

#[test]
fn a_document_that_is_no_metalink_is_refused() {
    let scene = Scene::new(64 * KIB, 16 * KIB);
    fs::write(scene.path("list"), "<html><body>Sign in</body></html>").unwrap();
    let ended = fetch(&scene, &["-i", "list"]).must(2);
    assert!(ended.stderr.contains("no Metalink 4") || ended.stdout.contains("no Metalink 4"));
    assert_eq!(names(scene.folder.path()), ["list"]);
}
