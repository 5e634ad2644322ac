//! Publishing: which file gets the final name, what it may replace, and what it inherits.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::support::{
    objects::{Content, manifest_of},
    program::{self, Ended, Running, sapwood},
    scene::{MANIFEST, Scene, names},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The fetch under strace.
fn under_strace(scene: &Scene, inject: &[&str]) -> Command {
    let inner = scene.command(&[]);
    let mut command: Command = program::command("strace", scene.folder.path());
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    for inject in inject {
        command.args(["-e", &format!("inject={inject}")]);
    }
    for path in [&scene.part(), &scene.journal(), &scene.folder.path().into()] {
        let name = Path::new(path.file_name().expect("a name"));
        command.arg("-P").arg(path).arg("-P").arg(name);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// A fetch whose every block is proven and in the part, and that takes a while to sync it.
fn before_the_name(scene: &Scene) -> Running {
    held_up(scene, "fsync")
}

/// A fetch whose every block is proven and in the part, and that takes a while for these calls.
fn held_up(scene: &Scene, calls: &str) -> Running {
    let delay = format!("{calls}:delay_enter=1200000");
    let mut running = program::start(under_strace(scene, &[&delay]));
    running.wait_until_verified(scene.length(), scene.block, scene.length());
    thread::sleep(Duration::from_millis(300));
    running
}

fn scenes() -> [Scene; 2] {
    let without = Scene::new(MIB, 64 * KIB);
    without.origin.remove(MANIFEST);
    [Scene::new(MIB, 64 * KIB), without]
}

/// The part was renamed by its name: who could write to the folder could put another file there.
#[test]
fn a_file_that_was_put_in_the_place_of_the_part_is_not_published() {
    for old in [None, Some(b"the version before")] {
        let scene = Scene::new(MIB, 64 * KIB);
        if let Some(old) = old {
            fs::write(scene.target(), old).unwrap();
        }
        let mut running = before_the_name(&scene);
        fs::write(scene.path("evil"), b"never proven").unwrap();
        fs::rename(scene.path("evil"), scene.part()).unwrap();
        let ended = running.finish().must(6);
        assert!(ended.stderr.contains("out.part"), "{}", ended.stderr);
        assert_eq!(fs::read(scene.target()).ok(), old.map(|old| old.to_vec()));
    }
}

/// As before, between the check of the part and the call that renames it.
#[test]
fn a_file_that_was_put_in_the_place_of_the_part_at_the_last_moment_is_removed() {
    let scene = Scene::new(MIB, 64 * KIB);
    let mut running = held_up(&scene, "rename,renameat,renameat2");
    fs::write(scene.path("evil"), b"never proven").unwrap();
    fs::rename(scene.path("evil"), scene.part()).unwrap();
    running.finish().must(6);
    assert!(!scene.target().exists());
}

/// The advice was to move a file away that was not there, with exit code 6.
#[test]
fn a_part_that_vanished_is_fetched_again() {
    let scene = Scene::new(MIB, 64 * KIB);
    let mut running = before_the_name(&scene);
    fs::remove_file(scene.part()).unwrap();
    let ended = running.finish().must(5);
    assert!(
        ended.stderr.contains("run the same command again"),
        "{}",
        ended.stderr
    );
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

/// It was proven, then another program wrote to it, and it was published.
#[test]
fn a_part_that_changed_after_its_proof_is_judged_again() {
    for scene in scenes() {
        let mut running = before_the_name(&scene);
        let part = fs::OpenOptions::new().write(true).open(scene.part());
        std::os::unix::fs::FileExt::write_all_at(&part.unwrap(), b"!", 300_000).unwrap();
        let ended = running.finish().must(5);
        assert!(ended.stderr.contains("out.part"), "{}", ended.stderr);
        assert!(!scene.target().exists());
        // The other blocks are kept.
        let ended = scene.fetch(&[]).must(0);
        let fetched = ended.event("published")["bytes_fetched"].as_u64().unwrap();
        assert!(fetched < 300_000, "{fetched} bytes came again");
        scene.must_be_published();
    }
}

/// Backups and virus scanners change times and attributes, not bytes.
#[test]
fn a_part_that_was_only_touched_is_published() {
    for scene in scenes() {
        let mut running = before_the_name(&scene);
        let part = fs::OpenOptions::new().write(true).open(scene.part());
        part.unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        running.finish().must(0);
        scene.must_be_published();
    }
}

/// `fetch A -o x` beside `fetch B -o x.part` left B under x.
#[test]
fn a_target_with_a_name_of_ours_is_refused() {
    let scene = Scene::new(MIB, 64 * KIB);
    for name in ["x.part", "x.part.journal", "x.quarantined", "x.PART"] {
        let mut command = sapwood(scene.folder.path());
        command.args(["--json", "fetch", &scene.url(), "-o", name]);
        let ended = program::run(command).must(2);
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
        scene.must_be_empty();
    }
}

/// The mode of the file before was taken over with its setuid and setgid bits, whoever owned it.
#[test]
fn setuid_and_setgid_are_not_taken_over() {
    for scene in scenes() {
        for (before, after) in [(0o6755, 0o755), (0o1640, 0o640), (0o600, 0o600)] {
            fs::write(scene.target(), b"before").unwrap();
            fs::set_permissions(scene.target(), fs::Permissions::from_mode(before)).unwrap();
            scene.fetch(&["--no-store"]).must(0);
            let mode = fs::metadata(scene.target()).unwrap().mode() & 0o7777;
            assert_eq!(mode, after, "{before:o} became {mode:o}");
        }
    }
    // A manifest that replaces another one.
    let scene = Scene::new(MIB, 64 * KIB);
    fs::write(scene.path("x"), b"x").unwrap();
    run(&scene, &["manifest", "x"]).must(0);
    let mode = fs::Permissions::from_mode(0o6755);
    fs::set_permissions(scene.path("x.sapwood"), mode).unwrap();
    run(&scene, &["manifest", "x"]).must(0);
    let mode = fs::metadata(scene.path("x.sapwood")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o755);
}

fn run(scene: &Scene, args: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command.args(args);
    program::run(command)
}

/// `manifest x -o x` replaced the master by its manifest.
#[test]
fn a_manifest_replaces_nothing_but_a_manifest() {
    let scene = Scene::new(MIB, 64 * KIB);
    let write = |name: &str, text: &str| fs::write(scene.path(name), text).unwrap();
    let read = |name: &str| fs::read_to_string(scene.path(name)).unwrap();
    write("x", "the master");
    write("notes", "of somebody");
    write("empty", "");
    std::os::unix::fs::symlink("x", scene.path("link")).unwrap();
    fs::hard_link(scene.path("x"), scene.path("hard")).unwrap();
    for (args, exit) in [
        (["manifest", "x", "-o", "x"], 2),
        (["manifest", "x", "-o", "./x"], 2),
        (["manifest", "link", "-o", "x"], 2),
        (["manifest", "x", "-o", "link"], 2),
        (["manifest", "x", "-o", "hard"], 2),
        (["manifest", "x", "-o", "notes"], 6),
        (["manifest", "x", "-o", "nodir/"], 6),
    ] {
        let ended = run(&scene, &args).must(exit);
        assert!(ended.stderr.contains(args[3]), "{}", ended.stderr);
        assert_eq!(
            (read("x"), read("notes")),
            ("the master".into(), "of somebody".into())
        );
        assert!(!scene.path("nodir").exists());
    }
    // What is beside a file and is no manifest stays too.
    write("y", "y");
    write("y.sapwood", "of somebody");
    run(&scene, &["manifest", "y"]).must(6);
    assert_eq!(read("y.sapwood"), "of somebody");
    for place in ["empty", "new", "new", "x.sapwood", "x.sapwood"] {
        run(&scene, &["manifest", "x", "-o", place]).must(0);
        run(&scene, &["verify", "x", "--manifest", place]).must(0);
    }
}

/// `--receipt` onto the download replaced it.
#[test]
fn a_receipt_replaces_nothing_but_a_receipt() {
    let scene = Scene::new(MIB, 64 * KIB);
    fs::write(scene.path("notes"), "of somebody").unwrap();
    fs::write(scene.path("m"), manifest_of(&scene.content, scene.block)).unwrap();
    for (receipt, exit) in [
        ("out", 2),
        ("./out", 2),
        ("out.part", 2),
        ("m", 2),
        ("notes", 6),
    ] {
        let ended = scene
            .fetch(&["--receipt", receipt, "--manifest", "m"])
            .must(exit);
        assert!(ended.stderr.contains(receipt), "{}", ended.stderr);
        assert_eq!(names(scene.folder.path()), ["m", "notes"], "{receipt}");
    }
    let mut onto_manifest = sapwood(scene.folder.path());
    onto_manifest.args(["fetch", &scene.url(), "-o", "m", "--manifest", "m"]);
    program::run(onto_manifest).must(2);
    for _ in 0..2 {
        scene.fetch(&["--receipt", "r.json"]).must(0);
        scene.must_be_published();
    }
    fs::remove_file(scene.target()).unwrap();
    fs::hard_link(scene.path("notes"), scene.target()).unwrap();
    scene.fetch(&["--receipt", "notes"]).must(2);
    assert_eq!(fs::read(scene.path("notes")).unwrap(), b"of somebody");
}

/// With several URLs a receipt could replace the target of another one, and a list itself.
#[test]
fn no_receipt_and_no_target_replaces_another_file_of_the_run() {
    let scene = Scene::new(MIB, 64 * KIB);
    scene
        .origin
        .put("/object.bin.receipt.json", Content::Painted(MIB));
    let urls = [scene.url(), scene.url() + ".receipt.json"];
    fs::write(scene.path("list"), &urls[0]).unwrap();
    for args in [
        &["fetch", &urls[0], &urls[1], "--receipt", "./"][..],
        &["fetch", &urls[0], &urls[1], "-o", "d/", "--receipt", "d/"],
        &["fetch", "-i", "list", "-o", "./list"],
    ] {
        run(&scene, args).must(2);
        assert_eq!(names(scene.folder.path()), ["list"], "{args:?}");
    }
}

/// The second quarantine replaced the first one.
#[test]
fn a_quarantine_replaces_nothing() {
    let scene = Scene::new(MIB, 64 * KIB);
    fs::write(scene.path("x"), "right").unwrap();
    run(&scene, &["manifest", "x"]).must(0);
    for text in ["wrong", "Wrong", "WRONG"] {
        fs::write(scene.path("x"), text).unwrap();
        run(&scene, &["verify", "x", "--quarantine"]).must(3);
    }
    let read = |name: &str| fs::read_to_string(scene.path(name)).unwrap();
    assert_eq!(read("x.quarantined"), "wrong");
    assert_eq!(read("x.2.quarantined"), "Wrong");
    assert_eq!(read("x.3.quarantined"), "WRONG");
    // And that of a fetch.
    fs::write(scene.path("out.quarantined"), "of somebody").unwrap();
    let sha256 = "0".repeat(64);
    let ended = scene.fetch(&["--sha256", &sha256]).must(3);
    assert!(
        ended.stderr.contains("out.2.quarantined"),
        "{}",
        ended.stderr
    );
    assert_eq!(read("out.quarantined"), "of somebody");
    assert_eq!(
        fs::read(scene.path("out.2.quarantined")).unwrap(),
        scene.content.all()
    );
}

/// The fetch with calls on its files that fail.
fn with_failing(scene: &Scene, inject: &[&str]) -> Ended {
    program::run(under_strace(scene, inject))
}

/// After a whole download, a mode that could not be set was the end: exit 7.
#[test]
fn a_mode_that_cannot_be_set_is_a_warning() {
    for scene in scenes() {
        let ended = with_failing(&scene, &["fchmod:error=EPERM"]).must(0);
        let warning = ended.event("warning")["message"].to_string();
        assert!(warning.contains("permissions"), "{warning}");
        scene.must_be_published();
    }
}

/// A file system without locks or without syncs took no downloads at all.
#[test]
fn locks_and_syncs_that_a_file_system_does_not_have_are_warnings() {
    for (call, errors) in [
        ("flock", &["ENOLCK", "EOPNOTSUPP", "EINVAL", "ENOSYS"][..]),
        ("fsync,fdatasync", &["EINVAL", "EOPNOTSUPP", "ENOSYS"]),
    ] {
        for error in errors {
            for scene in scenes() {
                let ended = with_failing(&scene, &[&format!("{call}:error={error}")]).must(0);
                let warnings = ended.all("warning");
                assert_eq!(warnings.len(), 1, "{call} {error}: {warnings:?}");
                scene.must_be_published();
            }
        }
    }
}

/// SIGXFSZ killed the program.
#[test]
fn a_limit_on_the_size_of_files_is_exit_7() {
    for scene in scenes() {
        let inner = scene.command(&[]);
        let mut command = program::command("prlimit", scene.folder.path());
        command.arg("--fsize=500000").arg(inner.get_program());
        let ended = program::run({
            command.args(inner.get_args());
            command
        })
        .must(7);
        assert!(ended.stderr.contains("out.part"), "{}", ended.stderr);
        scene.fetch(&[]).must(0);
        scene.must_be_published();
    }
    let scene = Scene::new(MIB, 64 * KIB);
    fs::write(scene.path("x"), vec![7; 1 << 20]).unwrap();
    let mut command = program::command("prlimit", scene.folder.path());
    command.args([
        "--fsize=2000",
        env!("CARGO_BIN_EXE_sapwood"),
        "manifest",
        "x",
    ]);
    program::run(command).must(7);
}

/// With two processes allowed a fetch hung, with one or three it panicked.
#[test]
fn a_limit_on_processes_is_told() {
    let scene = Scene::new(MIB, 64 * KIB);
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(scene.folder.path(), everybody).unwrap();
    for limit in 1..=3 {
        let inner = scene.command(&["--patience", "10s", "--no-store"]);
        let mut command = program::command("prlimit", scene.folder.path());
        command.arg(format!("--nproc={limit}"));
        // For root there is no limit.
        if rustix::process::geteuid().is_root() {
            let user = (70_000 + limit).to_string();
            command.args([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ]);
        }
        command.arg(inner.get_program()).args(inner.get_args());
        let ended = program::run(command).must(1);
        assert!(ended.stderr.contains("threads"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// A few descriptors were a panic, or a full disk.
#[test]
fn a_limit_on_open_files_is_told() {
    for limit in 5..=11 {
        let scene = Scene::new(MIB, 64 * KIB);
        let inner = scene.command(&[]);
        let mut command = program::command("prlimit", scene.folder.path());
        command
            .arg(format!("--nofile={limit}"))
            .arg(inner.get_program());
        command.args(inner.get_args());
        let ended = program::run(command).must(1);
        assert!(ended.stderr.contains("ulimit -n"), "{}", ended.stderr);
    }
}

/// SIGTERM killed `verify`, `manifest` and `store add`.
#[test]
fn a_signal_ends_what_reads_a_file_with_5() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("x")).unwrap();
    // Holes, which take long to hash.
    file.set_len(200 << 30).unwrap();
    let root = "0".repeat(64);
    for args in [
        &["verify", "x", "--root", &root][..],
        &["manifest", "x"],
        &["manifest", "x", "--no-hints"],
        &["store", "add", "x", "--store", "s"],
    ] {
        let signals = match args[0] {
            "verify" => &[Signal::TERM, Signal::INT, Signal::HUP][..],
            _ => &[Signal::TERM],
        };
        for signal in signals {
            let mut command = sapwood(folder.path());
            command.args(args);
            let mut running = program::start(command);
            thread::sleep(Duration::from_millis(700));
            running.signal(*signal);
            let ended = running.finish().must(5);
            assert!(ended.stderr.contains("stopped"), "{}", ended.stderr);
            let left = names(folder.path());
            assert!(left == ["x"] || left == ["s", "x"], "{args:?}: {left:?}");
        }
    }
    // Standard input that brings nothing.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let mut command = sapwood(folder.path());
    command.args(["manifest", "-", "-o", "m"]).stdin(reader);
    let mut running = program::start(command);
    thread::sleep(Duration::from_millis(700));
    running.signal(Signal::TERM);
    running.finish().must(5);
    drop(writer);
    assert!(!folder.path().join("m").exists());
}

/// Where holes look like data, all of the part was told as held.
#[test]
fn holes_that_a_file_system_does_not_show_are_not_told_as_held() {
    let scene = Scene::new(4 * MIB, 64 * KIB);
    scene.killed_at(2 * MIB);
    assert_eq!(fs::metadata(scene.part()).unwrap().len(), 4 * MIB);
    let ended = with_failing(&scene, &["lseek:error=EINVAL"]).must(0);
    let held = ended.event("planned")["bytes_held"].as_u64().unwrap();
    assert!(held < 3 * MIB, "{held} bytes");
    scene.must_be_published();
}

/// A part with a hole was told by its length: 4 MiB held, where there was half of it.
#[test]
fn a_sparse_part_is_told_as_what_it_holds() {
    let scene = Scene::of(Content::Painted(4 * MIB), 64 * KIB);
    let all = scene.content.all();
    let file = fs::File::create(scene.part()).unwrap();
    let at = 3 * MIB as usize;
    std::os::unix::fs::FileExt::write_all_at(&file, &all[at..], at as u64).unwrap();
    drop(file);
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.event("part_reused")["bytes"], MIB);
    assert_eq!(ended.event("published")["bytes_resumed"], MIB);
    scene.must_be_published();
}
