//! The storage of uploads in S3: what a service does wrong is noticed, and never leads to an object that is not what was meant.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use sha2::Digest as _;

use sapwood::{
    engine::{
        context::Context,
        storage::{
            Destination, Fence, OfferedPart, Recorded as _, Staged, Storage, StorageError, Verdict,
            s3::{S3Options, S3Storage, Sse},
        },
    },
    format::{
        geometry::{BlockIndex, BlockSize, Geometry},
        library::LibraryPath,
        paint,
        reader::Manifest,
        tree::{self, Cv, Root},
        upload::{SessionId, Sha256},
    },
    net::{
        auth::{Credentials, sigv4::Keys},
        client::Client,
        location::Location,
        options::ClientOptions,
        request::{Body, Method, Request, RequiredFields},
        s3::service::Service,
    },
    policy::{
        parts::{PART_BYTES_MIN, PartPlan},
        upload::{
            Declared, Disproved, FinishedPart, Goal, Now, Owner, Protocol, Published, Session,
            Staging,
        },
    },
};

use super::support::{
    bucket::{Bucket, Op, S3Lie, Stored},
    long,
    origin::Of,
    s3::{KEY_ID, Rules},
    secrets::SECRET,
};

const PART: u64 = PART_BYTES_MIN;
const NAME: &str = "shows/talk é.mp4";

fn sum(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn id(number: u8) -> SessionId {
    SessionId::from_random([number; 16])
}

fn context(bucket: &Bucket) -> Context {
    let client = Client::new(ClientOptions {
        credentials: Credentials {
            keys: Some(Keys {
                id: KEY_ID.to_owned(),
                secret: SECRET.to_owned(),
                token: None,
            }),
            ..Credentials::default()
        },
        s3: Service {
            endpoint: Some(bucket.url().parse().unwrap()),
            ..Service::default()
        },
        ..ClientOptions::default()
    });
    let mut context = Context::new(client);
    (context.limits.tries, context.limits.patience_ms) = (2, 10_000);
    context
}

/// A bucket and one upload.
#[derive(Clone)]
struct Scene {
    bucket: Bucket,
    storage: S3Storage,
    options: S3Options,
    session: Session,
    object: Arc<Vec<u8>>,
    replace: bool,
}

impl Scene {
    async fn new(length: u64) -> Scene {
        Scene::with(&Bucket::start(), 1, length, true, S3Options::default()).await
    }

    async fn with(
        bucket: &Bucket,
        number: u8,
        length: u64,
        is_known: bool,
        options: S3Options,
    ) -> Scene {
        let mut scene = Scene::without_upload(bucket, number, length, is_known, options);
        scene.begin().await.unwrap();
        scene
    }

    fn without_upload(
        bucket: &Bucket,
        number: u8,
        length: u64,
        is_known: bool,
        options: S3Options,
    ) -> Scene {
        let block = BlockSize::new(256 << 10).unwrap();
        let declared = Declared {
            name: LibraryPath::new(NAME).unwrap(),
            plan: PartPlan::new(is_known.then_some(length), PART, block).unwrap(),
            root: None,
            sha256: None,
            replace: false,
            growing: false,
            protocol: Protocol::default(),
        };
        let now = Now {
            unix_s: 1,
            served_s: 0,
        };
        let mut object = paint::bytes(0, length as usize);
        if let Some(first) = object.first_mut() {
            *first ^= number;
        }
        Scene {
            storage: storage(bucket, &options),
            bucket: bucket.clone(),
            options,
            session: Session::open(id(number), Owner("me".to_owned()), declared, now),
            object: Arc::new(object),
            replace: false,
        }
    }

    async fn begin(&mut self) -> Result<(), StorageError> {
        let handle = self.storage.begin(&self.session).await?;
        self.session.staging = Staging::Begun(handle);
        Ok(())
    }

    /// Another process, which knows nothing but the session.
    fn restart(&mut self) {
        self.storage = storage(&self.bucket, &self.options);
    }

    fn plan(&self) -> PartPlan {
        let plan = self.session.declared.plan;
        plan.with_length(self.object.len() as u64).unwrap()
    }

    fn bytes_of(&self, index: u32) -> Vec<u8> {
        let range = self.plan().part(index).unwrap();
        self.object[range.start as usize..range.end as usize].to_vec()
    }

    fn offer(&self, index: u32) -> OfferedPart {
        let bytes = self.bytes_of(index);
        OfferedPart {
            index,
            length: bytes.len() as u64,
            sha256: sum(&bytes),
            leaves: None,
        }
    }

    /// The status of the response.
    async fn put(&self, index: u32, bytes: Vec<u8>) -> Result<u16, StorageError> {
        let offers = [self.offer(index)];
        let mut to = self.storage.destinations(&self.session, &offers).await?;
        Ok(put_to(&to.remove(0), bytes).await)
    }

    async fn checkpoint(&self, index: u32) -> Result<FinishedPart, StorageError> {
        let offer = self.offer(index);
        self.storage.checkpoint(&self.session, &offer, None).await
    }

    async fn send(&self, index: u32) -> Result<FinishedPart, StorageError> {
        assert_eq!(self.put(index, self.bytes_of(index)).await?, 200);
        self.checkpoint(index).await
    }

    async fn send_all(&self) -> Vec<FinishedPart> {
        let mut parts = Vec::new();
        for index in 0..self.plan().count().unwrap() {
            parts.push(self.send(index).await.unwrap());
        }
        parts
    }

    /// What a client knows of all parts.
    fn parts(&self) -> Vec<FinishedPart> {
        let part = |index| {
            let OfferedPart { length, sha256, .. } = self.offer(index);
            FinishedPart {
                index,
                length,
                sha256,
                etag: None,
            }
        };
        (0..self.plan().count().unwrap()).map(part).collect()
    }

    fn root(&self) -> Root {
        Root(*blake3::hash(&self.object).as_bytes())
    }

    fn goal(&self) -> Goal {
        Goal {
            length: self.object.len() as u64,
            root: Some(self.root()),
            sha256: None,
            replace: self.replace,
        }
    }

    fn leaves(&self) -> Vec<Cv> {
        let block = self.session.declared.plan.block_size();
        let geometry = Geometry::new(self.object.len() as u64, block).unwrap();
        let blocks = self.object.chunks(block.bytes() as usize).enumerate();
        blocks
            .map(|(block, bytes)| tree::leaf_of(&geometry, BlockIndex(block as u32), bytes))
            .collect()
    }

    async fn finalize(&self) -> Result<Verdict, StorageError> {
        let (parts, goal) = (self.parts(), self.goal());
        let leaves = self.leaves();
        let attested = self.storage.attest(&self.session, goal.length, &leaves);
        attested.await?;
        self.storage.finalize(&self.session, &parts, &goal).await
    }

    fn published(&self) -> Verdict {
        Verdict::Published(Published {
            length: self.object.len() as u64,
            root: self.root(),
        })
    }

    async fn must_publish(&self) {
        assert_eq!(self.finalize().await.unwrap(), self.published());
        self.check_published(true);
    }

    async fn remove(&self) -> Result<(), StorageError> {
        let Staging::Begun(handle) = &self.session.staging else {
            return Ok(());
        };
        let staged = Staged {
            session: Some(self.session.id),
            handle: handle.clone(),
            bytes: 0,
        };
        self.storage.remove(&staged).await
    }

    /// The object is there, with its manifest.
    #[track_caller]
    fn check_published(&self, with_manifest: bool) {
        let object = self.bucket.object(NAME).expect("it is published");
        assert!(*object.bytes == *self.object, "other bytes");
        let session = self.session.id.to_string();
        assert_eq!(object.fields["x-amz-meta-sapwood-session"], session);
        let manifest = self.bucket.object(&format!("{NAME}.sapwood"));
        assert_eq!(manifest.is_some(), with_manifest);
        if let Some(manifest) = manifest {
            let manifest = Manifest::from_bytes(&manifest.bytes).unwrap();
            let header = manifest.statement.header();
            assert_eq!(
                (header.root, manifest.tree.root()),
                (self.root(), self.root())
            );
            assert_eq!(header.geometry.length(), self.object.len() as u64);
        }
    }

    #[track_caller]
    fn check_nothing_published(&self) {
        let keys = self.bucket.keys();
        let is_staged = |key: &String| key.starts_with("sapwood-staging/");
        assert!(keys.iter().all(is_staged), "{keys:?}");
    }

    /// Nothing is left but what was published.
    async fn check_nothing_staged(&self) {
        assert_eq!(self.storage.staged().await.unwrap(), []);
        let expected = [NAME.to_owned(), format!("{NAME}.sapwood")];
        assert_eq!(self.bucket.keys(), expected);
        assert_eq!(self.bucket.pending_bytes(), 0);
    }
}

fn storage(bucket: &Bucket, options: &S3Options) -> S3Storage {
    let place = Location::parse("s3://media").unwrap();
    S3Storage::new(&context(bucket), &place, options.clone()).unwrap()
}

/// As a client does that has nothing but the URL and the fields.
async fn put_to(to: &Destination, bytes: Vec<u8>) -> u16 {
    let Destination::Storage { url, headers, .. } = to else {
        panic!("parts go to the storage");
    };
    let url = Location::parse(url).unwrap();
    let fields = headers.iter().map(|(name, value)| (name, value));
    let required = RequiredFields::parse(fields).unwrap();
    let body = Body::Bytes {
        bytes: bytes.into(),
        media_type: "application/octet-stream",
    };
    let request = Request {
        required: Some(&required),
        ..Request::new(Method::Put, &url, body)
    };
    Client::default()
        .call(request, 1 << 20)
        .await
        .unwrap()
        .status
}

fn parts_wrong(verdict: Result<Verdict, StorageError>) -> Vec<u32> {
    match verdict {
        Ok(Verdict::Disproved(Disproved::Parts(wrong))) => wrong,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn objects_are_published_with_their_manifests() {
    for (length, is_known) in [
        (0, true),
        (0, false),
        (1, true),
        (PART, true),
        (PART + 1, false),
        (2 * PART + 1000, true),
    ] {
        let bucket = Bucket::start();
        bucket.fault(|faults| faults.page = 1);
        let options = S3Options::default();
        let mut scene = Scene::with(&bucket, 1, length, is_known, options).await;
        scene.send_all().await;
        scene.restart();
        scene.check_nothing_published();
        assert!(
            !scene
                .storage
                .exists(&scene.session.declared.name)
                .await
                .unwrap()
        );
        scene.must_publish().await;
        assert!(
            scene
                .storage
                .exists(&scene.session.declared.name)
                .await
                .unwrap()
        );
        // Again, by who did not get the response.
        scene.restart();
        scene.must_publish().await;
        scene.remove().await.unwrap();
        scene.check_nothing_staged().await;
        scene.must_publish().await;
        scene.remove().await.unwrap();
        scene.check_nothing_staged().await;
    }
}

#[tokio::test]
async fn a_sha256_of_the_whole_is_proven_too() {
    let scene = Scene::new(PART + 1).await;
    scene.send_all().await;
    let (parts, expected) = (scene.parts(), sum(&scene.object));
    let goal = |sha256| Goal {
        sha256: Some(sha256),
        ..scene.goal()
    };
    let other = goal(Sha256([1; 32]));
    let refused = scene.storage.finalize(&scene.session, &parts, &other).await;
    let disproved = Disproved::Sha256 {
        expected: Sha256([1; 32]),
        found: expected,
    };
    assert_eq!(refused.unwrap(), Verdict::Disproved(disproved));
    scene.check_nothing_published();
    let other = Goal {
        root: Some(Root([1; 32])),
        ..scene.goal()
    };
    let refused = scene.storage.finalize(&scene.session, &parts, &other).await;
    let disproved = Disproved::Root {
        expected: Root([1; 32]),
        found: scene.root(),
        wrong_parts: vec![],
    };
    assert_eq!(refused.unwrap(), Verdict::Disproved(disproved));
    scene.check_nothing_published();
    let published = scene
        .storage
        .finalize(&scene.session, &parts, &goal(expected))
        .await;
    assert_eq!(published.unwrap(), scene.published());
    scene.check_published(true);
}

#[tokio::test]
async fn a_part_with_other_bytes_is_refused_by_the_service() {
    let scene = Scene::new(PART + 1000).await;
    let mut other = scene.bytes_of(1);
    other[0] ^= 1;
    assert_eq!(scene.put(1, other).await.unwrap(), 400);
    let refused = scene.checkpoint(1).await;
    assert!(matches!(
        refused,
        Err(StorageError::PartNotStored { index: 1 })
    ));
    // Without the signed checksum the URL is not good.
    let to = scene
        .storage
        .destinations(&scene.session, &[scene.offer(1)])
        .await;
    let Destination::Storage { url, .. } = &to.unwrap()[0] else {
        panic!("parts go to the storage");
    };
    let bare = Destination::Storage {
        url: url.clone(),
        headers: vec![],
        expires_in_s: 1,
    };
    assert_eq!(put_to(&bare, scene.bytes_of(1)).await, 403);
    let part = scene.send(1).await.unwrap();
    assert_eq!(
        scene.storage.finished(&scene.session).await.unwrap(),
        [part]
    );
}

/// It says that it was done, and did not do it; it did it, and says the contrary, or nothing.
#[tokio::test]
async fn a_join_is_what_is_there_after_it() {
    let lies = [
        (S3Lie::ErrorIn200("InternalError"), "published"),
        (S3Lie::DoneAndError("InternalError"), "published"),
        (S3Lie::ErrorIn200("AccessDenied"), "failed"),
        (S3Lie::Cut, "published"),
        (S3Lie::Lost, "published"),
        (S3Lie::Reset, "published"),
        (S3Lie::Refused(404, "NoSuchUpload"), "published"),
        (S3Lie::Refused(503, "SlowDown"), "busy"),
        (S3Lie::Refused(500, "InternalError"), "published"),
    ];
    let each = lies.into_iter().flat_map(|(lie, verdict)| {
        [Op::Complete, Op::Copy].map(|op| told_of(op, lie.clone(), verdict))
    });
    futures_util::future::join_all(each).await;
}

async fn told_of(op: Op, lie: S3Lie, verdict: &str) {
    let mut scene = Scene::new(1000).await;
    scene.send_all().await;
    let of = match verdict {
        "published" => Of::First(1),
        _ => Of::All,
    };
    scene.bucket.lie(op, of, lie.clone());
    let found = match scene.finalize().await {
        Ok(Verdict::Published(_)) => "published",
        Err(StorageError::Busy { .. }) => "busy",
        Err(_) => "failed",
        other => panic!("{lie:?}: {other:?}"),
    };
    // A copy has no such answer: it is an error like any other.
    let is_of_copy = matches!(lie, S3Lie::Refused(404, _)) && op == Op::Copy;
    if !is_of_copy {
        assert_eq!(found, verdict, "{op:?} {lie:?}");
    }
    if found != "published" {
        scene.check_nothing_published();
    }
    scene.bucket.be_honest();
    scene.restart();
    scene.must_publish().await;
    scene.remove().await.unwrap();
    scene.check_nothing_staged().await;
}

#[tokio::test]
async fn a_lost_part_alone_is_sent_again() {
    let scene = Scene::new(2 * PART + 1000).await;
    scene.send_all().await;
    scene.bucket.lose_part(2);
    assert_eq!(parts_wrong(scene.finalize().await), [1]);
    scene.check_nothing_published();
    scene.send(1).await.unwrap();
    scene.must_publish().await;
}

#[tokio::test]
async fn a_part_that_is_listed_and_not_joined_is_found() {
    let scene = Scene::new(2 * PART + 1000).await;
    scene.send_all().await;
    for poisoned in [vec![1], vec![0, 2], vec![0, 1, 2]] {
        poisoned
            .iter()
            .for_each(|index| scene.bucket.poison(index + 1));
        assert_eq!(parts_wrong(scene.finalize().await), poisoned);
        scene.check_nothing_published();
        for index in poisoned {
            scene.send(index).await.unwrap();
        }
    }
    scene.must_publish().await;
}

#[tokio::test]
async fn a_part_under_another_entity_tag_is_joined() {
    let bucket = Bucket::start();
    bucket.fault(|faults| faults.renames_parts = true);
    let scene = Scene::with(&bucket, 1, PART + 1000, true, S3Options::default()).await;
    let parts = scene.send_all().await;
    assert!(parts[0].etag.as_ref().unwrap().contains("renamed"));
    scene.must_publish().await;
}

/// An upload of two parts that is copied to its name in pieces.
async fn in_pieces() -> Scene {
    let options = S3Options {
        copy_bytes_max: PART / 2,
        ..S3Options::default()
    };
    let scene = Scene::with(&Bucket::start(), 1, PART + 1000, true, options).await;
    scene.bucket.fault(|faults| faults.short_parts = true);
    scene.send_all().await;
    scene
}

#[tokio::test]
async fn what_was_copied_ahead_of_a_proof_that_fails_is_given_up() {
    let scene = in_pieces().await;
    scene.bucket.fault(|faults| faults.damages = Some(1));
    assert_eq!(parts_wrong(scene.finalize().await), [0]);
    assert!(!scene.bucket.log_of(Op::CopyPart).is_empty());
    scene.check_nothing_published();
    assert!(!scene.bucket.pending().contains(&NAME.to_owned()));
    scene.bucket.fault(|faults| faults.damages = None);
    scene.send(0).await.unwrap();
    let wrong = Goal {
        root: Some(Root([7; 32])),
        ..scene.goal()
    };
    let parts = scene.parts();
    let disproved = scene.storage.finalize(&scene.session, &parts, &wrong);
    let disproved = disproved.await.unwrap();
    assert!(matches!(
        disproved,
        Verdict::Disproved(Disproved::Root { .. })
    ));
    scene.check_nothing_published();
    assert!(!scene.bucket.pending().contains(&NAME.to_owned()));
    scene.must_publish().await;
    let root = &scene.bucket.object(NAME).unwrap().fields["x-amz-meta-sapwood-root"];
    assert_eq!(*root, scene.root().to_string());
    scene.remove().await.unwrap();
    scene.check_nothing_staged().await;
}

/// A run that was killed copied something else: another version of what is staged, or for another root.
#[tokio::test]
async fn copies_of_something_else_are_given_up() {
    for line in [2, 3] {
        let mut scene = in_pieces().await;
        let refused = S3Lie::Refused(403, "AccessDenied");
        // The parts are joined, the pieces are not.
        scene.bucket.lie(Op::Complete, Of::From(2), refused);
        scene.finalize().await.unwrap_err();
        assert!(scene.bucket.pending().contains(&NAME.to_owned()));
        scene.bucket.be_honest();
        scene.bucket.fault(|faults| faults.short_parts = true);
        let keys = scene.bucket.keys();
        let key = keys.iter().find(|key| key.ends_with(".copy")).unwrap();
        let note = scene.bucket.object(key).unwrap().bytes;
        let mut lines: Vec<&str> = std::str::from_utf8(&note).unwrap().split('\n').collect();
        let other = Root([7; 32]).to_string();
        lines[line] = &other;
        scene.bucket.put(key, lines.join("\n").as_bytes());
        scene.restart();
        scene.bucket.forget_log();
        scene.must_publish().await;
        let created = scene.bucket.log_of(Op::Create);
        assert_eq!(created.len(), 1, "{created:?}");
        assert_eq!(scene.bucket.pending(), Vec::<String>::new());
    }
}

/// The checksums of the service are good, and what it returns is not: only reading shows it, and names the part.
#[tokio::test]
async fn what_is_read_back_decides() {
    for wrong_composite in [false, true] {
        let mut scene = Scene::new(2 * PART + 1000).await;
        scene.send_all().await;
        scene.bucket.fault(|faults| {
            faults.damages = Some(2);
            faults.wrong_composite = wrong_composite;
        });
        assert_eq!(parts_wrong(scene.finalize().await), [1]);
        scene.check_nothing_published();
        scene.bucket.be_honest();
        scene.restart();
        let finished = scene.storage.finished(&scene.session).await.unwrap();
        let indices: Vec<u32> = finished.iter().map(|part| part.index).collect();
        assert_eq!(indices, [0, 2], "the others are kept");
        scene.bucket.forget_log();
        scene.send(1).await.unwrap();
        scene.must_publish().await;
        assert_eq!(scene.bucket.log_of(Op::PutPart).len(), 1);
        scene.remove().await.unwrap();
        scene.check_nothing_staged().await;
    }
}

#[tokio::test]
async fn a_service_without_checksums_is_refused() {
    let bucket = Bucket::start();
    bucket.fault(|faults| faults.no_checksums = true);
    let mut scene = Scene::without_upload(&bucket, 1, PART, true, S3Options::default());
    let refused = scene.begin().await.unwrap_err().to_string();
    assert!(
        refused.contains("does not check the SHA-256 of parts"),
        "{refused}"
    );
    assert!(bucket.pending().is_empty(), "{:?}", bucket.pending());
    // One that does not say so shows it.
    bucket.fault(|faults| (faults.no_checksums, faults.no_announcement) = (false, true));
    scene.begin().await.unwrap();
    assert_eq!(bucket.pending().len(), 1);
}

/// An attested upload whose parts are stored.
async fn attested(bucket: &Bucket, number: u8) -> Scene {
    let options = S3Options {
        attested: true,
        sse: Some(Sse::Kms {
            key: Some("k".to_owned()),
        }),
        ..S3Options::default()
    };
    let scene = Scene::with(bucket, number, PART + 1000, true, options).await;
    scene.send_all().await;
    scene
}

#[tokio::test]
async fn an_attested_object_is_joined_under_its_name() {
    let bucket = Bucket::start();
    let scene = attested(&bucket, 1).await;
    scene.check_nothing_published();
    scene.must_publish().await;
    let reads = bucket.log_of(Op::Get);
    assert!(!reads.iter().any(|read| read.key == NAME), "{reads:?}");
    let copies = bucket.log_of(Op::Copy);
    assert!(!copies.iter().any(|copy| copy.key == NAME), "{copies:?}");
    let created = &bucket.log_of(Op::Create)[0];
    let of_key = created.field("x-amz-server-side-encryption-aws-kms-key-id");
    assert_eq!(of_key, Some("k"));
    scene.remove().await.unwrap();
    scene.check_nothing_staged().await;
    // The name is taken, and may be taken over.
    let mut other = attested(&bucket, 2).await;
    let exists = Disproved::NameExists(other.session.declared.name.clone());
    let refused = other.finalize().await.unwrap();
    assert_eq!(refused, Verdict::Disproved(exists));
    scene.check_published(true);
    other.replace = true;
    other.must_publish().await;
    other.remove().await.unwrap();
    other.check_nothing_staged().await;
}

/// The user gave the same ID to two uploads: what the first one published is not its own of the second.
#[tokio::test]
async fn an_acknowledged_object_of_the_same_session_is_not_taken_away() {
    let bucket = Bucket::start();
    let first = attested(&bucket, 1).await;
    first.must_publish().await;
    first.remove().await.unwrap();
    let mut second = Scene::without_upload(&bucket, 1, PART + 2000, true, first.options.clone());
    second.begin().await.unwrap();
    second.send_all().await;
    let exists = Disproved::NameExists(second.session.declared.name.clone());
    let refused = second.finalize().await.unwrap();
    assert_eq!(refused, Verdict::Disproved(exists));
    first.check_published(true);
    second.replace = true;
    second.must_publish().await;
}

/// A run of the same upload published what it had read; another one has read something else.
#[tokio::test]
async fn an_acknowledged_object_of_the_same_upload_is_not_taken_away() {
    let scene = attested(&Bucket::start(), 1).await;
    scene.must_publish().await;
    let handle = &scene.session.staging;
    let Staging::Begun(handle) = handle else {
        unreachable!()
    };
    // As if it had been killed before it noted that.
    scene
        .bucket
        .remove(&format!("sapwood-staging/{handle}.published"));
    let mut parts = scene.parts();
    parts[0].sha256.0[0] ^= 1;
    let goal = scene.goal();
    let refused = scene.storage.finalize(&scene.session, &parts, &goal);
    let refused = refused.await.unwrap_err();
    assert!(matches!(refused, StorageError::StagingGone), "{refused:?}");
    scene.check_published(true);
}

/// A service without conditions: only what comes between the last look and the request itself is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gets_the_name_during_a_proof_keeps_it() {
    let scene = Scene::new(PART + 1000).await;
    scene.send_all().await;
    scene
        .bucket
        .fault(|faults| faults.ignores_conditions = true);
    let (saved, mut lost) = (scene.bucket.save(), 0);
    for request in 1.. {
        scene.bucket.restore(&saved);
        let mut scene = scene.clone();
        scene.restart();
        scene.bucket.hold_at(request, false);
        let running = tokio::spawn({
            let scene = scene.clone();
            async move { scene.finalize().await }
        });
        while !scene.bucket.holds() && !running.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let was_free = scene.bucket.object(NAME).is_none();
        if was_free {
            scene.bucket.put(NAME, b"other");
        }
        scene.bucket.release();
        let verdict = running.await.unwrap().unwrap();
        if !was_free {
            break;
        }
        let is_kept = *scene.bucket.object(NAME).unwrap().bytes == *b"other";
        assert_eq!(is_kept, matches!(verdict, Verdict::Disproved(_)));
        lost += u32::from(!is_kept);
    }
    assert!(lost <= 2, "{lost}");
}

/// A piece is listed and cannot be joined, as in Garage after another copy of it broke: it is copied again.
#[tokio::test]
async fn a_piece_that_is_lost_is_copied_again() {
    let scene = in_pieces().await;
    // The parts are joined first.
    let lost = S3Lie::Refused(400, "InvalidPart");
    scene.bucket.lie(Op::Complete, Of::Nth(2), lost);
    scene.must_publish().await;
    scene.remove().await.unwrap();
    scene.check_nothing_staged().await;
}

/// Two begin with a free name; both are told the truth, and the manifest is that of the object.
#[tokio::test]
async fn of_two_attested_uploads_of_a_name_one_is_published() {
    for ignores_conditions in [false, true] {
        let bucket = Bucket::start();
        let (first, second) = (attested(&bucket, 1).await, attested(&bucket, 2).await);
        bucket.fault(|faults| faults.ignores_conditions = ignores_conditions);
        let (one, two) = futures_util::join!(first.finalize(), second.finalize());
        let published = match bucket.object(NAME).unwrap().bytes == first.object {
            true => {
                assert_eq!(one.unwrap(), first.published());
                &first
            }
            false => {
                assert_eq!(two.unwrap(), second.published());
                &second
            }
        };
        if !ignores_conditions {
            published.check_published(true);
        }
    }
}

#[tokio::test]
async fn an_attested_object_of_other_parts_is_taken_away() {
    for damages in [None, Some(1)] {
        let bucket = Bucket::start();
        let scene = attested(&bucket, 1).await;
        bucket.fault(|faults| {
            faults.damages = damages;
            faults.wrong_composite = true;
        });
        let refused = scene.finalize().await.unwrap_err().to_string();
        assert!(refused.contains("other parts"), "{refused}");
        scene.check_nothing_published();
        assert_eq!(scene.storage.uploads(None).await.unwrap().len(), 1);
        // It cannot go on.
        let gone = scene.storage.finished(&scene.session).await.unwrap_err();
        assert!(matches!(gone, StorageError::StagingGone), "{gone:?}");
        assert_eq!(scene.storage.uploads(None).await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn an_attested_upload_needs_a_root_and_proves_no_sha256() {
    let scene = attested(&Bucket::start(), 1).await;
    let sha256 = Some(sum(&scene.object));
    for goal in [
        Goal {
            root: None,
            ..scene.goal()
        },
        Goal {
            sha256,
            ..scene.goal()
        },
    ] {
        let parts = scene.parts();
        let refused = scene.storage.finalize(&scene.session, &parts, &goal).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("attested"), "{refused}");
        scene.check_nothing_published();
    }
    // What it would publish is not proven: those that prove do not go on with it.
    let others = storage(&scene.bucket, &S3Options::default());
    let gone = others.finished(&scene.session).await.unwrap_err();
    assert!(matches!(gone, StorageError::StagingGone), "{gone:?}");
    assert_eq!(
        scene.storage.finished(&scene.session).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_name_is_taken_once() {
    for ignores_conditions in [false, true] {
        let bucket = Bucket::start();
        bucket.fault(|faults| faults.ignores_conditions = ignores_conditions);
        let scene = async |number| {
            let options = S3Options::default();
            let scene = Scene::with(&bucket, number, PART + number as u64, true, options).await;
            scene.send_all().await;
            scene
        };
        let (first, mut second) = (scene(1).await, scene(2).await);
        let refused = async |scene: &Scene| {
            let name = LibraryPath::new(NAME).unwrap();
            let exists = Verdict::Disproved(Disproved::NameExists(name));
            assert_eq!(scene.finalize().await.unwrap(), exists);
        };
        first.must_publish().await;
        refused(&second).await;
        first.check_published(true);
        second.replace = true;
        second.must_publish().await;
        // The first one was published, whatever has the name now.
        assert_eq!(first.finalize().await.unwrap(), first.published());
        second.check_published(true);
        for scene in [&first, &second] {
            scene.remove().await.unwrap();
        }
        second.check_nothing_staged().await;
    }
}

/// The name is free when it is looked at, and taken when it is given.
#[tokio::test]
async fn a_name_that_was_taken_meanwhile_is_not_replaced() {
    let scene = Scene::new(PART + 1).await;
    scene.send_all().await;
    let bucket = scene.bucket.clone();
    let finalizing = scene.finalize();
    let taking = async {
        while bucket.log_of(Op::Complete).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bucket.put(NAME, b"another program");
    };
    let (verdict, ()) = tokio::join!(finalizing, taking);
    let name = LibraryPath::new(NAME).unwrap();
    assert_eq!(
        verdict.unwrap(),
        Verdict::Disproved(Disproved::NameExists(name))
    );
    assert_eq!(*bucket.object(NAME).unwrap().bytes, b"another program");
    assert!(bucket.object(&format!("{NAME}.sapwood")).is_none());
}

#[tokio::test]
async fn uploads_are_found_counted_and_removed() {
    let bucket = Bucket::start();
    let options = S3Options::default();
    let known = Scene::with(&bucket, 1, PART + 1000, true, options.clone()).await;
    let unknown = Scene::with(&bucket, 2, 2 * PART, false, options.clone()).await;
    let part = known.send(1).await.unwrap();
    unknown.send(0).await.unwrap();
    bucket.fault(|faults| faults.page = 1);
    // From anywhere, by who has nothing but credentials.
    let elsewhere = storage(&bucket, &options);
    let begun = elsewhere.uploads(None).await.unwrap();
    assert_eq!(begun.len(), 2);
    let found = begun
        .iter()
        .find(|begun| begun.session.id == id(1))
        .unwrap();
    assert_eq!(found.session.declared, known.session.declared);
    assert_eq!(found.session.staging, known.session.staging);
    assert!(!found.is_complete && found.begun_s > 1_700_000_000);
    assert_eq!(elsewhere.finished(&found.session).await.unwrap(), [part]);
    let other = LibraryPath::new("other").unwrap();
    assert_eq!(elsewhere.uploads(Some(&other)).await.unwrap(), []);
    let staged = elsewhere.staged().await.unwrap();
    let bytes: Vec<u64> = staged.iter().map(|staged| staged.bytes).collect();
    assert_eq!(bytes, [PART + 1000, PART]);
    // What was joined and not published is found as well, and is not sent again.
    known.send(0).await.unwrap();
    bucket.lie(Op::Copy, Of::All, S3Lie::Refused(403, "AccessDenied"));
    let refused = known.finalize().await.unwrap_err().to_string();
    assert!(refused.contains("AccessDenied"), "{refused}");
    bucket.be_honest();
    let begun = elsewhere.uploads(Some(&known.session.declared.name)).await;
    let complete = begun.unwrap().into_iter().find(|begun| begun.is_complete);
    let complete = complete.unwrap();
    let (parts, goal) = (known.parts(), known.goal());
    let published = elsewhere.finalize(&complete.session, &parts, &goal).await;
    assert_eq!(published.unwrap(), known.published());
    for staged in elsewhere.staged().await.unwrap() {
        elsewhere.remove(&staged).await.unwrap();
        elsewhere.remove(&staged).await.unwrap();
    }
    known.check_nothing_staged().await;
    // Nothing is published for what was removed.
    let unknown = Scene {
        replace: true,
        ..unknown
    };
    let gone = unknown.finalize().await;
    assert!(matches!(gone, Err(StorageError::StagingGone)), "{gone:?}");
}

#[tokio::test]
async fn urls_of_parts_expire_and_fresh_ones_follow_the_clock_of_the_service() {
    for (status, ahead_s) in [(403, 3600), (403, 0)] {
        let scene = Scene::new(1000).await;
        let to = scene
            .storage
            .destinations(&scene.session, &[scene.offer(0)])
            .await;
        let to = to.unwrap();
        let rules = Rules {
            ahead: Duration::from_secs(7200 + ahead_s),
            ..Rules::default()
        };
        scene.bucket.set_rules(rules);
        assert_eq!(put_to(&to[0], scene.bytes_of(0)).await, status);
        scene.send(0).await.unwrap();
        scene.must_publish().await;
    }
}

#[tokio::test]
async fn every_request_may_be_told_to_slow_down() {
    let all = [
        Op::Create,
        Op::ListUploads,
        Op::ListParts,
        Op::Complete,
        Op::Head,
        Op::Get,
        Op::Put,
        Op::Copy,
        Op::Delete,
        Op::ListObjects,
    ];
    let each = all.map(|op| async move {
        let mut scene =
            Scene::without_upload(&Bucket::start(), 1, 1000, true, S3Options::default());
        let lie = S3Lie::Refused(503, "SlowDown");
        scene.bucket.lie(op, Of::First(1), lie);
        scene.begin().await.unwrap();
        scene.send(0).await.unwrap();
        scene.must_publish().await;
        scene.remove().await.unwrap();
        scene.check_nothing_staged().await;
        assert!(scene.bucket.log_of(op).len() > 1, "{op:?}");
    });
    futures_util::future::join_all(each).await;
}

type Run = fn(Scene) -> BoxFuture<'static, Result<(), StorageError>>;

/// Finalizes and removes what was staged.
fn publish(scene: Scene) -> BoxFuture<'static, Result<(), StorageError>> {
    async move {
        match scene.finalize().await? {
            Verdict::Published(_) => scene.remove().await,
            Verdict::Disproved(Disproved::Parts(wrong)) => {
                for index in wrong {
                    scene.send(index).await?;
                }
                scene.bucket.fault(|faults| faults.damages = None);
                assert_eq!(scene.finalize().await?, scene.published());
                scene.remove().await
            }
            other => panic!("{other:?}"),
        }
    }
    .boxed()
}

/// All of an attested upload, as far as an earlier run left it.
fn attest(mut scene: Scene) -> BoxFuture<'static, Result<(), StorageError>> {
    async move {
        let begun = scene.storage.uploads(None).await?;
        let begun = begun
            .into_iter()
            .find(|begun| begun.session.id == scene.session.id);
        let is_complete = begun.as_ref().is_some_and(|begun| begun.is_complete);
        match begun {
            Some(begun) => scene.session.staging = begun.session.staging,
            None => scene.begin().await?,
        }
        for index in 0..scene.plan().count().unwrap() {
            if !is_complete {
                scene.send(index).await?;
            }
        }
        publish(scene).await
    }
    .boxed()
}

/// All of an upload.
fn push(mut scene: Scene) -> BoxFuture<'static, Result<(), StorageError>> {
    async move {
        let begun = scene.storage.uploads(None).await?;
        let begun = begun.into_iter().map(|begun| begun.session);
        match begun.into_iter().find(|begun| begun.id == scene.session.id) {
            Some(begun) => scene.session.staging = begun.staging,
            None => scene.begin().await?,
        }
        for index in 0..scene.plan().count().unwrap() {
            scene.send(index).await?;
        }
        publish(scene).await
    }
    .boxed()
}

/// Kills the process at each request, before it is done and after, and then does the same again. Returns how many requests there are.
/// The short form takes each so many of them.
async fn kill_everywhere(scene: Scene, run: Run, step: usize) -> u64 {
    let saved = scene.bucket.save();
    for request in (1..).step_by(if long() { 1 } else { step }) {
        for is_after in [false, true] {
            scene.bucket.restore(&saved);
            let mut killed = scene.clone();
            killed.restart();
            scene.bucket.hold_at(request, is_after);
            let held = async {
                while !scene.bucket.holds() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let is_over = tokio::select! {
                done = run(killed) => { done.unwrap(); true }
                () = held => false,
            };
            scene.bucket.release();
            if is_over {
                return request - 1;
            }
            // What was not acknowledged may be there, and then it is whole.
            let manifest = scene.bucket.object(&format!("{NAME}.sapwood"));
            if let Some(object) = scene.bucket.object(NAME) {
                assert!(*object.bytes == *scene.object);
                // A manifest of another object would be worse than none.
                let is_of = |manifest: &Stored| {
                    let session = "x-amz-meta-sapwood-session";
                    manifest.fields.get(session) == object.fields.get(session)
                };
                assert!(manifest.as_ref().is_none_or(is_of), "{request}");
            }
            let mut again = scene.clone();
            again.restart();
            let done = run(again.clone()).await;
            done.unwrap_or_else(|error| panic!("request {request}, {is_after}: {error}"));
            // An upload whose handle was lost is an orphan.
            for orphan in again.storage.staged().await.unwrap() {
                again.storage.remove(&orphan).await.unwrap();
            }
            again.check_published(true);
            again.check_nothing_staged().await;
        }
    }
    unreachable!("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_request_of_a_small_upload_leaves_one_object() {
    let scene = Scene::without_upload(&Bucket::start(), 1, 1000, true, S3Options::default());
    let replacing = Scene {
        replace: true,
        ..scene
    };
    let requests = kill_everywhere(replacing, push, 3).await;
    assert!(requests > 20, "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_request_of_an_attested_upload_leaves_one_object() {
    let options = S3Options {
        attested: true,
        ..S3Options::default()
    };
    for replace in [false, true] {
        let bucket = Bucket::start();
        let scene = Scene::without_upload(&bucket, 1, PART + 1000, true, options.clone());
        // Somebody removed an object, and not its manifest.
        bucket.put(&format!("{NAME}.sapwood"), b"old");
        let requests = kill_everywhere(Scene { replace, ..scene }, attest, 4).await;
        assert!(requests > 20, "{requests}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_request_of_publishing_leaves_one_object() {
    let scene = Scene::new(1000).await;
    // Somebody removed an object, and not its manifest.
    scene.bucket.put(&format!("{NAME}.sapwood"), b"old");
    scene.send_all().await;
    let requests = kill_everywhere(scene, publish, 3).await;
    assert!(requests > 15, "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_request_of_a_copy_in_pieces_leaves_one_object() {
    let options = S3Options {
        copy_bytes_max: 600,
        ..S3Options::default()
    };
    let scene = Scene::with(&Bucket::start(), 1, 1000, true, options).await;
    scene.bucket.fault(|faults| faults.short_parts = true);
    scene.send_all().await;
    let requests = kill_everywhere(scene.clone(), publish, 3).await;
    assert!(requests > 20, "{requests}");
    assert_eq!(
        scene
            .bucket
            .log_of(Op::Copy)
            .iter()
            .filter(|copy| copy.key == NAME)
            .count(),
        0
    );
}

/// A part is damaged when the parts are joined: the others are kept, whatever ends meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_request_of_taking_parts_again_leaves_one_object() {
    let scene = Scene::new(PART + 1000).await;
    scene.send_all().await;
    scene.bucket.fault(|faults| faults.damages = Some(1));
    let requests = kill_everywhere(scene, publish, 6).await;
    assert!(requests > 25, "{requests}");
}

/// Refuses from one question on, and notes how many requests had been made at each.
struct Refusing {
    bucket: Bucket,
    from: usize,
    asked: Mutex<Vec<usize>>,
}

impl Fence for Refusing {
    fn check(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(self.bucket.log().len());
        let is_refused = asked.len() >= self.from;
        Box::pin(async move {
            match is_refused {
                true => Err(StorageError::Superseded),
                false => Ok(()),
            }
        })
    }
}

/// A server is refused at each step that cannot be taken back, because another one went on in its place: it changes nothing any more, and
/// what a later upload put under the name stays.
#[tokio::test]
async fn a_server_that_was_superseded_changes_nothing() {
    let in_pieces = S3Options {
        copy_bytes_max: PART,
        ..S3Options::default()
    };
    let attested = S3Options {
        attested: true,
        ..S3Options::default()
    };
    for (options, length) in [
        (S3Options::default(), PART + 9),
        (S3Options::default(), 0),
        (in_pieces, 2 * PART),
        (attested, PART + 9),
    ] {
        let what = format!("{} bytes, attested: {}", length, options.attested);
        let mut refusals = 0;
        for from in 1.. {
            let bucket = Bucket::start();
            let mut scene = Scene::with(&bucket, 1, length, true, options.clone()).await;
            // An object of somebody else, with its manifest.
            (scene.replace, scene.session.declared.replace) = (true, true);
            for key in [NAME.to_owned(), format!("{NAME}.sapwood")] {
                bucket.put(&key, b"of another");
            }
            if length > 0 {
                scene.send_all().await;
            }
            let (parts, goal, leaves) = (scene.parts(), scene.goal(), scene.leaves());
            let attesting = scene.storage.attest(&scene.session, goal.length, &leaves);
            attesting.await.unwrap();
            bucket.forget_log();
            let fence = Refusing {
                bucket: bucket.clone(),
                from,
                asked: Mutex::default(),
            };
            let storage = &scene.storage;
            let ended = storage.finalize_fenced(&scene.session, &parts, &goal, &fence);
            let ended = ended.await;
            let asked = fence.asked.lock().unwrap().clone();
            let log = bucket.log();
            if let Ok(ended) = &ended {
                assert_eq!(*ended, scene.published(), "{what}");
                // Right before each such step it was asked.
                let takes_back_nothing = |at: usize| {
                    let is_staged = log[at].key.starts_with("sapwood-staging/");
                    let joins = log[at].op == Op::Complete;
                    joins || !is_staged && matches!(log[at].op, Op::Copy | Op::Delete | Op::Put)
                };
                for at in (0..log.len()).filter(|at| takes_back_nothing(*at)) {
                    let last = asked.iter().filter(|asked| **asked <= at).max();
                    let last = *last.unwrap_or_else(|| panic!("{what}: {:?}", log[at]));
                    assert!((last..at).all(takes_back_nothing), "{what}: {:?}", log[at]);
                }
                break;
            }
            refusals += 1;
            assert!(
                matches!(ended, Err(StorageError::Superseded)),
                "{what}, {from}: {ended:?}"
            );
            assert_eq!(asked.last(), Some(&log.len()), "{what}, {from}");
            // Another one does the rest.
            scene.restart();
            scene.must_publish().await;
        }
        assert!(refusals >= 2, "{what}: {refusals}");
    }
}
