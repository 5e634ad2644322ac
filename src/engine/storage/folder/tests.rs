use std::fs;

use bytes::Bytes;
use sha2::Digest as _;
use tempfile::TempDir;

use super::*;
use crate::{
    engine::manifest_file::ManifestFile,
    format::{geometry::BlockSize, paint, tree::Root, upload::Sha256},
    policy::{
        parts::PART_BYTES_MIN,
        upload::{Declared, Disproved, Owner, Protocol, Published, State},
    },
};

const BLOCK: u64 = 16 << 10;

/// A folder that takes uploads, and one upload.
struct Scene {
    folder: TempDir,
    storage: FolderStorage,
    session: Session,
    object: Vec<u8>,
}

impl Scene {
    async fn new(name: &str, length: usize, is_known: bool) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let storage = FolderStorage::open(folder.path()).unwrap();
        let session = session(1, name, is_known.then_some(length as u64));
        let mut scene = Scene {
            folder,
            storage,
            session,
            object: paint::bytes(0, length),
        };
        let handle = scene.storage.begin(&scene.session).await.unwrap();
        scene.session.staging = Handle::Begun(handle);
        scene
    }

    /// The server starts again.
    fn restart(&mut self) {
        let path = self.folder.path().to_owned();
        // The lock goes with the old one.
        let elsewhere = tempfile::tempdir().unwrap();
        self.storage = FolderStorage::open(elsewhere.path()).unwrap();
        self.storage = FolderStorage::open(&path).unwrap();
    }

    fn bytes_of(&self, index: u32) -> Bytes {
        let plan = self.session.declared.plan;
        let range = plan.part(index).unwrap();
        let end = range.end.min(self.object.len() as u64);
        Bytes::copy_from_slice(&self.object[range.start as usize..end as usize])
    }

    fn offer(&self, index: u32) -> OfferedPart {
        let bytes = self.bytes_of(index);
        offer(index, &bytes)
    }

    fn leaves(&self, index: u32) -> Vec<Cv> {
        let plan = self.session.declared.plan;
        let start = plan.part(index).unwrap().start;
        let bytes = self.bytes_of(index);
        let mut describer = PartDescriber::new(start, plan.block_size());
        describer.update(&bytes);
        describer
            .finish(plan.is_whole(index, bytes.len() as u64))
            .leaves
    }

    async fn send(&self, part: &OfferedPart, from: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let mut writer = self.storage.receive(&self.session, part, from).await?;
        for some in bytes.chunks(100_000) {
            writer.write(Bytes::copy_from_slice(some)).await?;
        }
        writer.finish().await
    }

    async fn send_part(&self, index: u32) -> FinishedPart {
        let part = self.offer(index);
        self.send(&part, 0, &self.bytes_of(index)).await.unwrap();
        self.checkpoint(&part).await.unwrap()
    }

    async fn send_all(&self) -> Vec<FinishedPart> {
        let plan = self
            .session
            .declared
            .plan
            .with_length(self.object.len() as u64);
        let mut parts = Vec::new();
        for index in 0..plan.unwrap().count().unwrap() {
            parts.push(self.send_part(index).await);
        }
        parts
    }

    async fn checkpoint(&self, part: &OfferedPart) -> Result<FinishedPart, StorageError> {
        self.storage.checkpoint(&self.session, part, None).await
    }

    async fn from(&self, part: OfferedPart) -> u64 {
        let parts = [part];
        let to = self.storage.destinations(&self.session, &parts).await;
        match to.unwrap().remove(0) {
            Destination::Server { from } => from,
            _ => panic!("the bytes go through the server"),
        }
    }

    fn goal(&self) -> Goal {
        Goal {
            length: self.object.len() as u64,
            root: Some(self.root()),
            sha256: None,
            replace: false,
        }
    }

    fn root(&self) -> Root {
        Root(*blake3::hash(&self.object).as_bytes())
    }

    async fn finalize(&self, parts: &[FinishedPart], goal: &Goal) -> Verdict {
        let finalized = self.storage.finalize(&self.session, parts, goal).await;
        finalized.unwrap()
    }

    /// The object is there with its manifest.
    #[track_caller]
    fn check_published(&self) {
        let path = self.folder.path().join(self.session.declared.name.as_str());
        assert!(fs::read(&path).unwrap() == self.object);
        let beside = format!("{}.sapwood", path.display());
        let manifest = ManifestFile::open(Path::new(&beside)).unwrap();
        assert_eq!(manifest.manifest.tree.root(), self.root());
    }
}

fn session(number: u8, name: &str, length: Option<u64>) -> Session {
    let block_size = BlockSize::new(BLOCK).unwrap();
    Session {
        id: SessionId::from_random([number; 16]),
        owner: Owner("tester".to_owned()),
        declared: Declared {
            name: LibraryPath::new(name).unwrap(),
            plan: PartPlan::new(length, PART_BYTES_MIN, block_size).unwrap(),
            root: None,
            sha256: None,
            replace: false,
            growing: false,
            protocol: Protocol::default(),
        },
        state: State::Open,
        version: 1,
        created_s: 0,
        last_alive_s: 0,
        alive_at_s: 0,
        is_warned: false,
        staging: Handle::None,
        problem: None,
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

#[tokio::test]
async fn objects_of_all_lengths_are_published_with_their_manifests() {
    let part = PART_BYTES_MIN as usize;
    let block = BLOCK as usize;
    for (is_known, lengths) in [
        (true, [0, 1, block, part]),
        (false, [0, block + 1, part, part + 7]),
    ] {
        for length in lengths {
            let scene = Scene::new("a/b/c.bin", length, is_known).await;
            let parts = scene.send_all().await;
            let found = sha2::Sha256::digest(&scene.object);
            let goal = Goal {
                sha256: Some(Sha256(found.into())),
                ..scene.goal()
            };
            let expected = Verdict::Published(Published {
                length: length as u64,
                root: scene.root(),
            });
            assert_eq!(scene.finalize(&parts, &goal).await, expected, "{length}");
            scene.check_published();
            // Also again.
            assert_eq!(scene.finalize(&parts, &goal).await, expected);
            let staged = scene.storage.staged().await.unwrap();
            assert_eq!(staged.len(), 1);
            scene.storage.remove(&staged[0]).await.unwrap();
            scene.storage.remove(&staged[0]).await.unwrap();
            assert_eq!(scene.storage.staged().await.unwrap(), []);
            scene.check_published();
        }
    }
}

#[tokio::test]
async fn blocks_that_came_before_a_stop_are_not_sent_again() {
    let mut scene = Scene::new("x", PART_BYTES_MIN as usize + 9, true).await;
    let part = scene.offer(0);
    let bytes = scene.bytes_of(0);
    for restarts in [false, true] {
        let cut = 40 * BLOCK as usize + 5;
        let sent = scene.send(&part, 0, &bytes[..cut]).await;
        assert!(matches!(
            sent,
            Err(StorageError::PartLength { index: 0, .. })
        ));
        assert!(matches!(
            scene.checkpoint(&part).await,
            Err(StorageError::PartNotStored { index: 0 })
        ));
        if restarts {
            scene.restart();
        }
        // Without leaves nothing is known of them.
        assert_eq!(scene.from(part.clone()).await, 0);
        let mut with_leaves = part.clone();
        with_leaves.leaves = Some(scene.leaves(0));
        assert_eq!(scene.from(with_leaves.clone()).await, 40 * BLOCK);
        with_leaves.leaves.as_mut().unwrap()[7] = [1; 32];
        assert_eq!(scene.from(with_leaves).await, 7 * BLOCK);
    }
    let from = 40 * BLOCK;
    scene
        .send(&part, from, &bytes[from as usize..])
        .await
        .unwrap();
    scene.checkpoint(&part).await.unwrap();
    assert_eq!(scene.from(part.clone()).await, part.length);
    scene.send(&part, part.length, &[]).await.unwrap();
    let last = scene.send_part(1).await;
    let first = scene.checkpoint(&part).await.unwrap();
    scene.finalize(&[first, last], &scene.goal()).await;
    scene.check_published();
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_part_are_never_acknowledged() {
    let scene = Scene::new("x", 3 * BLOCK as usize, true).await;
    let (part, bytes) = (scene.offer(0), scene.bytes_of(0));
    let mut wrong = bytes.to_vec();
    wrong[5] ^= 1;
    let sent = scene.send(&part, 0, &wrong).await;
    assert!(matches!(
        sent,
        Err(StorageError::PartDiffers { index: 0, .. })
    ));
    let longer = [&bytes[..], b"x"].concat();
    for wrong in [&longer[..], &bytes[1..], &[]] {
        let sent = scene.send(&part, 0, wrong).await;
        assert!(matches!(sent, Err(StorageError::PartLength { .. })));
        let checked = scene.checkpoint(&part).await;
        assert!(matches!(checked, Err(StorageError::PartNotStored { .. })));
    }
    // A wrong start, that the client says is here.
    scene.send(&part, 0, &wrong).await.unwrap_err();
    let sent = scene.send(&part, BLOCK, &bytes[BLOCK as usize..]).await;
    assert!(matches!(sent, Err(StorageError::PartDiffers { .. })));
    for from in [1, part.length + 1, u64::MAX] {
        let sent = scene.send(&part, from, &[]).await;
        assert!(
            matches!(sent, Err(StorageError::PartLength { .. })),
            "{from}"
        );
    }
}

#[tokio::test]
async fn one_request_writes_a_part_at_a_time() {
    let scene = Scene::new("x", 2 * PART_BYTES_MIN as usize, true).await;
    let part = scene.offer(0);
    let writer = scene.storage.receive(&scene.session, &part, 0).await;
    let second = scene.storage.receive(&scene.session, &part, 0).await;
    assert!(matches!(
        second,
        Err(StorageError::PartInFlight { index: 0 })
    ));
    let other = scene
        .storage
        .receive(&scene.session, &scene.offer(1), 0)
        .await;
    drop((writer.unwrap(), other.unwrap()));
    scene.send_part(0).await;
}

#[tokio::test]
async fn another_content_of_a_part_waits_for_its_checkpoint() {
    let mut scene = Scene::new("x", PART_BYTES_MIN as usize + 9, true).await;
    let old = scene.offer(0);
    let first = scene.send_part(0).await;
    let last = scene.send_part(1).await;
    let old_bytes = scene.bytes_of(0);
    scene.object[77] ^= 0xff;
    let new = scene.offer(0);
    scene.send(&new, 0, &scene.bytes_of(0)).await.unwrap();
    // Both are here.
    for part in [&old, &new] {
        assert_eq!(scene.from(part.clone()).await, part.length);
    }
    scene.restart();
    assert_eq!(scene.checkpoint(&old).await.unwrap(), first);
    let replaced = scene.checkpoint(&new).await.unwrap();
    assert_eq!(replaced.sha256, new.sha256);
    let gone = scene.checkpoint(&old).await;
    assert!(matches!(gone, Err(StorageError::PartNotStored { .. })));
    // A session that believes in the old one.
    let verdict = scene.finalize(&[first, last.clone()], &scene.goal()).await;
    assert_eq!(verdict, Verdict::Disproved(Disproved::Parts(vec![0])));
    scene.finalize(&[replaced, last], &scene.goal()).await;
    scene.check_published();
    assert!(old_bytes[77] != scene.object[77]);
}

#[tokio::test]
async fn a_wrong_part_is_named_and_forgotten() {
    let scene = Scene::new("x", 2 * PART_BYTES_MIN as usize + 9, true).await;
    let parts = scene.send_all().await;
    let wrong_root = Root([7; 32]);
    let goal = Goal {
        root: Some(wrong_root),
        ..scene.goal()
    };
    let disproved = |wrong_parts: &[u32]| {
        Verdict::Disproved(Disproved::Root {
            expected: wrong_root,
            found: scene.root(),
            wrong_parts: wrong_parts.to_vec(),
        })
    };
    // The client is wrong: all parts are what they were.
    assert_eq!(scene.finalize(&parts, &goal).await, disproved(&[]));
    let staged = scene.folder.path().join("sapwood-staging");
    let staged = staged.join(scene.session.id.to_string()).join("object");
    let file = fs::OpenOptions::new().write(true).open(staged).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", PART_BYTES_MIN + 5).unwrap();
    assert_eq!(scene.finalize(&parts, &goal).await, disproved(&[1]));
    let lacking = Verdict::Disproved(Disproved::Parts(vec![1]));
    assert_eq!(scene.finalize(&parts, &scene.goal()).await, lacking);
    scene.send_part(1).await;
    scene.finalize(&parts, &scene.goal()).await;
    scene.check_published();
}

#[tokio::test]
async fn what_is_not_the_object_is_not_published() {
    let scene = Scene::new("x", 3 * BLOCK as usize, true).await;
    let parts = scene.send_all().await;
    let goal = scene.goal();
    let wrong = Goal {
        length: goal.length - 1,
        ..goal
    };
    let verdict = scene.finalize(&parts, &wrong).await;
    assert!(matches!(
        verdict,
        Verdict::Disproved(Disproved::Length { .. })
    ));
    let wrong = Goal {
        sha256: Some(Sha256([1; 32])),
        ..goal
    };
    let verdict = scene.finalize(&parts, &wrong).await;
    assert!(matches!(
        verdict,
        Verdict::Disproved(Disproved::Sha256 { .. })
    ));
    let lacking = Verdict::Disproved(Disproved::Length {
        expected: goal.length,
        found: 0,
    });
    assert_eq!(scene.finalize(&[], &goal).await, lacking);
    assert!(!scene.folder.path().join("x").exists());
    scene.finalize(&parts, &goal).await;
    scene.check_published();
}

#[tokio::test]
async fn names_that_are_taken_and_links_are_left_alone() {
    let outside = tempfile::tempdir().unwrap();
    let taken = |scene: &Scene| {
        let name = scene.session.declared.name.clone();
        Verdict::Disproved(Disproved::NameExists(name))
    };
    for name in ["file", "folder", "link", "through/x", "file/x", "user"] {
        let scene = Scene::new(name, 3 * BLOCK as usize, true).await;
        let path = |name: &str| scene.folder.path().join(name);
        fs::write(path("file"), b"old").unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::write(outside.path().join("target"), b"outside").unwrap();
        std::os::unix::fs::symlink(outside.path().join("target"), path("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), path("through")).unwrap();
        fs::write(path("user.sapwood"), b"a file of the user, no manifest").unwrap();
        let parts = scene.send_all().await;
        assert_eq!(scene.finalize(&parts, &scene.goal()).await, taken(&scene));
        assert_eq!(fs::read(path("file")).unwrap(), b"old");
        let goal = Goal {
            replace: true,
            ..scene.goal()
        };
        let verdict = scene.finalize(&parts, &goal).await;
        match name {
            "file" => scene.check_published(),
            _ => assert_eq!(verdict, taken(&scene), "{name}"),
        }
        assert_eq!(fs::read(outside.path().join("target")).unwrap(), b"outside");
        assert!(!outside.path().join("x").exists());
        assert_eq!(
            fs::read(path("user.sapwood")).unwrap(),
            b"a file of the user, no manifest"
        );
    }
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let scene = Scene::new("x", 2 * PART_BYTES_MIN as usize, false).await;
    let last = scene.offer(1);
    let parts = [scene.send_part(0).await];
    let mut late = scene
        .storage
        .receive(&scene.session, &last, 0)
        .await
        .unwrap();
    late.write(Bytes::from(vec![1; 1 << 20])).await.unwrap();
    let goal = Goal {
        length: PART_BYTES_MIN,
        root: None,
        ..scene.goal()
    };
    let verdict = scene.finalize(&parts, &goal).await;
    assert!(matches!(verdict, Verdict::Published(_)));
    let failed = late.write(Bytes::from(vec![1; 1 << 20])).await;
    assert!(matches!(failed, Err(StorageError::PartInFlight { .. })));
    drop(late);
    let after = scene.storage.receive(&scene.session, &last, 0).await;
    assert!(after.is_err());
    let length = fs::metadata(scene.folder.path().join("x")).unwrap().len();
    assert_eq!(length, PART_BYTES_MIN);
}

#[tokio::test]
async fn a_second_server_on_one_folder_is_refused() {
    let scene = Scene::new("x", 1, true).await;
    let second = FolderStorage::open(scene.folder.path());
    assert!(matches!(second, Err(DiskError::Busy { .. })));
}
