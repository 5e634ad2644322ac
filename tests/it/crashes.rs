//! The n-th call on our own files fails, once and for ever, and what a failed sync leaves behind. The long sweeps of the same kind,
//! with kills and power cuts, are in `tools/torture`.

use std::{fs, path::Path, process::Command};

use rustix::process::Signal;

use crate::support::{
    objects::Content,
    program::{self, Ended},
    scene::{MANIFEST, Scene},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// No call on our files comes so often in one thread of a fetch of 1 MiB.
const CALLS_MAX: u32 = 40;

/// The fetch under strace, which makes calls on our files fail.
fn failing(scene: &Scene, calls: &str, how: &str) -> Ended {
    let (part, journal, target) = (scene.part(), scene.journal(), scene.target());
    failing_on(
        &[&part, &journal, &target, scene.folder.path()],
        scene,
        calls,
        how,
    )
}

/// As [`failing`], for calls on these paths.
fn failing_on(paths: &[&Path], scene: &Scene, calls: &str, how: &str) -> Ended {
    let inner = scene.command(&[]);
    let mut command: Command = program::command("strace", scene.folder.path());
    command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    command.args([&format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:{how}"));
    // The loader's own files are not ours. Open files are known by their paths, those below a folder by their names.
    for path in paths {
        let name = Path::new(path.file_name().expect("a name"));
        command.arg("-P").arg(path).arg("-P").arg(name);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    let ended = program::run(command);
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    ended
}

#[test]
fn every_call_that_fails_once_or_for_ever_is_told_and_loses_nothing() {
    every_call_fails(true);
}

#[test]
fn likewise_without_a_manifest() {
    every_call_fails(false);
}

fn every_call_fails(manifest: bool) {
    let old = b"the version before";
    let mut failures = 0;
    for calls in [
        "pwritev",
        "pwrite64",
        "fsync,fdatasync",
        "openat",
        "renameat,renameat2",
        "ftruncate",
    ] {
        for (error, ever) in [("EIO", ""), ("ENOSPC", "+")] {
            let scene = Scene::new(MIB, 64 * KIB);
            if !manifest {
                scene.origin.remove(MANIFEST);
            }
            for number in 1.. {
                assert!(number < CALLS_MAX, "{calls} never succeeds");
                let how = format!("error={error}:when={number}{ever}");
                fs::write(scene.target(), old).unwrap();
                let ended = failing(&scene, calls, &how);
                match ended.exit {
                    Some(0) => {
                        scene.must_be_published();
                        break;
                    }
                    Some(7) => {
                        failures += 1;
                        let found = fs::read(scene.target()).unwrap();
                        let whole = found == old || found == scene.content.all();
                        assert!(whole, "{calls}, {how}: the target is damaged");
                    }
                    _ => panic!("{calls}, {how}: {ended:?}"),
                }
                scene.fetch(&[]).must(0);
                scene.must_be_published();
            }
        }
    }
    assert!(
        failures > 10,
        "{failures} failures: strace did not inject them"
    );
}

/// After a failed sync the kernel shows data that may be on no disk. The next run found it, judged it, and renamed it.
#[test]
fn what_a_failed_sync_did_not_save_is_not_used_by_the_next_run() {
    for manifest in [true, false] {
        let scene = Scene::new(4 * MIB, 64 * KIB);
        if !manifest {
            scene.origin.remove(MANIFEST);
        }
        failing_on(&[&scene.part()], &scene, "fsync", "error=EIO:when=1").must(7);
        assert_eq!(fs::metadata(scene.part()).unwrap().len(), 4 * MIB);
        let ended = scene.fetch(&[]).must(0);
        assert_eq!(
            ended.event("published")["bytes_resumed"],
            0,
            "manifest: {manifest}"
        );
        scene.must_be_published();
    }
}

/// A disk that cannot read one block of the part ended every run with exit 1.
#[test]
fn a_block_of_the_part_that_cannot_be_read_is_fetched_again() {
    let scene = Scene::new(4 * MIB, 64 * KIB);
    let running = scene.run_until(scene.command(&[]), 2 * MIB);
    running.kill();
    scene.origin.allow_all();
    failing(&scene, "pread64", "error=EIO:when=3").must(0);
    scene.must_be_published();
}

/// A disk that became read-only was told as exit 1, which is for what no later run can mend.
#[test]
fn a_part_that_cannot_be_opened_for_writing_is_exit_7() {
    let scene = Scene::of(Content::Painted(MIB), 64 * KIB);
    let mut running = scene.run_until(scene.command(&[]), MIB / 2);
    running.signal(Signal::KILL);
    running.finish();
    scene.origin.allow_all();
    failing_on(&[&scene.journal()], &scene, "openat", "error=EROFS:when=1+").must(7);
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

/// The journal was synced with the first barrier only, so that a power cut could leave a part that nobody knew.
#[test]
fn without_a_manifest_the_journal_is_on_the_disk_before_the_first_byte_of_the_part() {
    let scene = Scene::new(MIB, 64 * KIB);
    scene.origin.remove(MANIFEST);
    // Neither the journal nor the folder can be synced: then nothing may be in the part.
    for calls in ["fdatasync", "fsync"] {
        failing(&scene, calls, "error=EIO:when=1").must(7);
        assert!(
            !scene.part().exists(),
            "{calls}: bytes came before the journal was safe"
        );
    }
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

/// One flipped bit in the journal made the part a stranger's, and the run ended with exit 6 until somebody removed it.
#[test]
fn a_damaged_journal_still_tells_whose_part_it_is() {
    let scene = Scene::new(4 * MIB, 64 * KIB);
    scene.origin.remove(MANIFEST);
    failing_on(&[&scene.part()], &scene, "fsync", "error=EIO:when=1").must(7);
    let mut journal = fs::read(scene.journal()).unwrap();
    journal[30] ^= 1;
    fs::write(scene.journal(), journal).unwrap();
    let ended = scene.fetch(&[]).must(0);
    assert_eq!(ended.event("published")["bytes_resumed"], 0);
    scene.must_be_published();
}
