//! What is staged in a folder, by calls of the storage: two contents of a part, two uploads of a name, and crashes between their steps.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use sapwood::{
    engine::{
        manifest_file::ManifestFile,
        storage::{OfferedPart, Staged, Storage, StorageError, Verdict, folder::FolderStorage},
    },
    format::{
        geometry::BlockSize,
        library::LibraryPath,
        paint,
        tree::Root,
        upload::{SessionId, Sha256},
    },
    policy::{
        parts::{PART_BYTES_MIN, PartPlan},
        upload::{Declared, FinishedPart, Goal, Now, Owner, Protocol, Session, Staging},
    },
};
use sha2::Digest;
use tempfile::TempDir;

const BLOCK: u64 = 16 << 10;
const NAME: &str = "talk.bin";

/// A folder that takes uploads.
struct Scene {
    folder: TempDir,
    storage: FolderStorage,
}

/// One upload of one object.
struct Upload {
    session: Session,
    object: Vec<u8>,
    parts: Vec<FinishedPart>,
}

impl Upload {
    fn root(&self) -> Root {
        Root(*blake3::hash(&self.object).as_bytes())
    }

    /// It may take the place of another object.
    fn goal(&self) -> Goal {
        Goal {
            length: self.object.len() as u64,
            root: Some(self.root()),
            sha256: None,
            replace: true,
        }
    }
}

fn offer(index: u32, bytes: &[u8]) -> OfferedPart {
    OfferedPart {
        index,
        length: bytes.len() as u64,
        sha256: Sha256(sha2::Sha256::digest(bytes).into()),
        leaves: None,
    }
}

impl Scene {
    fn new() -> Scene {
        let folder = TempDir::new_in("/dev/shm").expect("a folder");
        let storage = FolderStorage::open(folder.path()).expect("a storage");
        Scene { folder, storage }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn staged(&self, upload: &Upload, name: &str) -> PathBuf {
        let id = upload.session.id.to_string();
        self.path("sapwood-staging").join(id).join(name)
    }

    async fn open(&self, number: u8, length: Option<u64>) -> Session {
        let block_size = BlockSize::new(BLOCK).expect("a size");
        let declared = Declared {
            name: LibraryPath::new(NAME).expect("a name"),
            plan: PartPlan::new(length, PART_BYTES_MIN, block_size).expect("a plan"),
            root: None,
            sha256: None,
            replace: true,
            growing: false,
            protocol: Protocol::default(),
        };
        let now = Now {
            unix_s: 0,
            served_s: 0,
        };
        let id = SessionId::from_random([number; 16]);
        let mut session = Session::open(id, Owner("ann".into()), declared, now);
        let handle = self.storage.begin(&session).await.expect("a handle");
        session.staging = Staging::Begun(handle);
        session
    }

    async fn send(
        &self,
        session: &Session,
        part: &OfferedPart,
        from: u64,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let mut writer = self.storage.receive(session, part, from).await?;
        writer.write(Bytes::copy_from_slice(bytes)).await?;
        writer.finish().await
    }

    /// A small object, all of it sent.
    async fn uploaded(&self, number: u8, length: usize) -> Upload {
        let object = paint::bytes(u64::from(number) * 7919, length);
        let session = self.open(number, Some(length as u64)).await;
        let part = offer(0, &object);
        self.send(&session, &part, 0, &object).await.expect("sent");
        let finished = self.storage.checkpoint(&session, &part, None).await;
        Upload {
            session,
            object,
            parts: vec![finished.expect("finished")],
        }
    }

    async fn finalize(&self, upload: &Upload) {
        let goal = upload.goal();
        let verdict = self.storage.finalize(&upload.session, &upload.parts, &goal);
        match verdict.await.expect("a verdict") {
            Verdict::Published(published) => assert_eq!(published.root, upload.root()),
            Verdict::Disproved(why) => panic!("{why}"),
        }
    }

    /// As after a crash behind the rename of the object: `published` is not there, and the manifest has not its name.
    fn crash_behind_the_object(&self, upload: &Upload) {
        let of = |name: &str| self.staged(upload, name);
        fs::rename(of("published"), of("publishing")).expect("it is published");
        let beside = self.path(&format!("{NAME}.sapwood"));
        fs::rename(beside, of("manifest")).expect("it has a manifest");
    }

    /// Object and manifest are those of this upload.
    #[track_caller]
    fn must_be(&self, upload: &Upload) {
        assert!(fs::read(self.path(NAME)).expect("an object") == upload.object);
        let manifest = ManifestFile::open(&self.path(&format!("{NAME}.sapwood")));
        let manifest = manifest.expect("a manifest").manifest;
        assert_eq!(manifest.tree.root(), upload.root());
    }
}

/// The first crashed when its object had its name; then the second was published, whole. Its manifest was replaced by that of the first.
#[tokio::test]
async fn a_publication_that_is_finished_late_leaves_what_has_the_name_now() {
    let scene = Scene::new();
    let first = scene.uploaded(1, 3 * BLOCK as usize).await;
    scene.finalize(&first).await;
    scene.must_be(&first);
    scene.crash_behind_the_object(&first);
    let second = scene.uploaded(2, 5 * BLOCK as usize).await;
    scene.finalize(&second).await;
    scene.finalize(&first).await;
    scene.must_be(&second);
}

/// Both crashed when their objects had the name. The first one that went on put its manifest beside the object of the other, and that
/// of the other was thrown away.
#[tokio::test]
async fn of_two_crashed_publications_the_manifest_is_that_of_the_object() {
    for second_goes_on_first in [false, true] {
        let scene = Scene::new();
        let first = scene.uploaded(1, 3 * BLOCK as usize).await;
        scene.finalize(&first).await;
        scene.crash_behind_the_object(&first);
        let second = scene.uploaded(2, 3 * BLOCK as usize).await;
        scene.finalize(&second).await;
        scene.crash_behind_the_object(&second);
        match second_goes_on_first {
            true => {
                scene.finalize(&second).await;
                scene.finalize(&first).await;
            }
            false => {
                scene.finalize(&first).await;
                scene.finalize(&second).await;
            }
        }
        scene.must_be(&second);
    }
}

/// Each of many pairs left the object of one and the manifest of the other now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_publications_of_one_name_at_once_are_never_mixed() {
    let scene = Arc::new(Scene::new());
    for round in 0..40u8 {
        let both = [
            Arc::new(scene.uploaded(2 * round + 1, BLOCK as usize).await),
            Arc::new(scene.uploaded(2 * round + 2, BLOCK as usize).await),
        ];
        let tasks = both.clone().map(|upload| {
            let scene = scene.clone();
            tokio::spawn(async move { scene.finalize(&upload).await })
        });
        for task in tasks {
            task.await.expect("it is published");
        }
        let object = fs::read(scene.path(NAME)).expect("an object");
        let last = both.iter().find(|upload| upload.object == object);
        scene.must_be(last.expect("one of both"));
        for upload in both {
            let Staging::Begun(handle) = upload.session.staging.clone() else {
                panic!("it was begun");
            };
            let staged = Staged {
                session: None,
                handle,
                bytes: 0,
            };
            scene.storage.remove(&staged).await.expect("removed");
        }
    }
}

/// They stayed for ever, and were counted nowhere.
#[tokio::test]
async fn what_a_killed_server_was_writing_is_removed_at_the_next_start() {
    let folder = TempDir::new_in("/dev/shm").expect("a folder");
    let staging = folder.path().join("sapwood-staging");
    fs::create_dir(&staging).expect("a folder");
    let names = [".sapwood-123-0", ".sapwood-4000000-17", "mine", "url.key"];
    for name in names {
        fs::write(staging.join(name), b"x").expect("a file");
    }
    let storage = FolderStorage::open(folder.path()).expect("a storage");
    let left = names.map(|name| staging.join(name).exists());
    assert_eq!(left, [false, false, true, true]);
    // A second server does not take away what the first one writes.
    fs::write(staging.join(".sapwood-123-1"), b"x").expect("a file");
    FolderStorage::open(folder.path()).expect_err("it is locked");
    assert!(staging.join(".sapwood-123-1").exists());
    drop(storage);
}

/// What a longer content left behind its end was taken for bytes of the shorter one, whose checkpoint failed for ever.
#[tokio::test]
async fn a_shorter_content_takes_the_place_of_a_longer_one_that_came_before() {
    let scene = Scene::new();
    let session = scene.open(1, None).await;
    let long = |seed| paint::bytes(seed, PART_BYTES_MIN as usize);
    let short = paint::bytes(99, 3 * BLOCK as usize);
    for bytes in [&long(1), &long(2)] {
        let part = offer(0, bytes);
        scene.send(&session, &part, 0, bytes).await.expect("sent");
    }
    let part = offer(0, &short);
    scene.send(&session, &part, 0, &short).await.expect("sent");
    let finished = scene.storage.checkpoint(&session, &part, None).await;
    let upload = Upload {
        parts: vec![finished.expect("finished")],
        session,
        object: short,
    };
    scene.finalize(&upload).await;
    scene.must_be(&upload);
}

/// A request with other bytes than its URL was acknowledged, because the part was here.
#[tokio::test]
async fn other_bytes_for_a_part_that_is_here_are_refused() {
    let scene = Scene::new();
    let upload = scene.uploaded(1, 4 * BLOCK as usize).await;
    let part = offer(0, &upload.object);
    let mut wrong = upload.object.clone();
    *wrong.last_mut().expect("a byte") ^= 1;
    for from in [0, BLOCK] {
        let from_here = from as usize;
        let sent = scene.send(&upload.session, &part, from, &wrong[from_here..]);
        let failed = sent.await.expect_err("other bytes");
        assert!(
            matches!(failed, StorageError::PartDiffers { index: 0, .. }),
            "{failed}"
        );
        let sent = scene.send(&upload.session, &part, from, &upload.object[from_here..]);
        sent.await.expect("the same bytes");
    }
    let sent = scene.send(&upload.session, &part, part.length, &[]);
    sent.await.expect("nothing more to send");
    scene.finalize(&upload).await;
    scene.must_be(&upload);
}
