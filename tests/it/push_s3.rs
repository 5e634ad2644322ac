//! Pushing into S3 without a server, and through a server whose storage is in S3.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use sapwood::{
    engine::{
        context::Context,
        error::Error,
        events::{Event, Pushed},
        push::{self, Bucket as Folder, Input, Place, PushOptions},
        storage::s3::{S3Options, S3Storage},
    },
    format::{ingest::RefusedUpload, library::LibraryPath, paint},
    net::{
        auth::{Credentials, sigv4::Keys},
        client::Client,
        location::Location,
        options::ClientOptions,
        s3::service::Service,
    },
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    bucket::{Bucket, Logged, Op, S3Lie},
    long,
    origin::Of,
    program::{Ended, LONG_ENOUGH, Running, run, run_with_input, sapwood, start},
    s3::KEY_ID,
    secrets::{SECRET, must_be_clean},
};

/// The shortest part.
const PART: usize = 5 << 20;
/// Three parts, the last one short.
const LENGTH: usize = 2 * PART + 100_000;
const KEY: &str = "a b/f.bin";

/// A bucket, and a folder with a file of [`LENGTH`].
struct Scene {
    bucket: Bucket,
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Scene {
    fn new() -> Scene {
        let (folder, bytes) = (TempDir::new().expect("a folder"), paint::bytes(0, LENGTH));
        fs::write(folder.path().join("f.bin"), &bytes).expect("a file");
        let bucket = Bucket::start();
        Scene {
            bucket,
            folder,
            bytes,
        }
    }

    fn program(&self, folder: &Path) -> Command {
        let mut command = sapwood(folder);
        command
            .env("HOME", folder)
            .env("AWS_ENDPOINT_URL", self.bucket.url())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }

    fn command_in(&self, folder: &Path, more: &[&str]) -> Command {
        let mut command = self.program(folder);
        command.args(["--json", "push", "f.bin", "s3://media/a b/"]);
        command.args(["--part-size", "5MiB"]).args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Ended {
        run(self.command_in(self.folder.path(), more))
    }

    #[track_caller]
    fn must_be_published(&self) {
        self.must_have(&self.bytes);
        assert_eq!(self.bucket.pending(), Vec::<String>::new());
        let manifest = format!("{KEY}.sapwood");
        assert_eq!(self.bucket.keys(), [KEY.to_owned(), manifest]);
    }

    #[track_caller]
    fn must_have(&self, bytes: &[u8]) {
        let object = self.bucket.object(KEY).expect("it is published");
        assert!(*object.bytes == bytes, "other bytes are published");
    }

    /// A run that was killed when so many parts were stored.
    fn killed_after(&self, parts: u32) {
        self.killed_in_run(parts, &[]);
    }

    fn killed_in_run(&self, parts: u32, more: &[&str]) {
        let lie = S3Lie::Refused(503, "SlowDown");
        self.bucket.lie(Op::PutPart, Of::From(parts + 1), lie);
        let mut command = self.command_in(self.folder.path(), &["--connections", "1"]);
        command.args(more);
        let mut running = start(command);
        wait_for_checkpoints(&mut running, parts as usize);
        running.kill();
        self.bucket.wait_until_idle();
        self.bucket.be_honest();
        self.bucket.forget_log();
    }

    /// The numbers of the parts that arrived.
    fn sent(&self) -> Vec<u32> {
        let log = self.bucket.log_of(Op::PutPart).into_iter();
        let arrived = log.filter(|logged| logged.status == 200);
        arrived.filter_map(|logged| logged.number).collect()
    }
}

fn wait_for_checkpoints(running: &mut Running, count: usize) {
    running.wait_for("checkpoints", |events| {
        let all = events.iter().filter(|event| event["event"] == "checkpoint");
        all.count() >= count
    });
}

fn message(ended: &Ended) -> String {
    ended.event("failed")["message"].to_string()
}

#[test]
fn a_file_is_published_with_its_manifest_and_nothing_else_is_left() {
    let scene = Scene::new();
    let ended = scene.run(&["-vvv"]).must(0);
    scene.must_be_published();
    must_be_clean(scene.folder.path(), &ended);
    assert!(
        !ended.stderr.contains("X-Amz-Signature="),
        "{}",
        ended.stderr
    );
    let published = ended.event("published");
    assert_eq!(published["url"], "s3://media/a b/f.bin");
    let root = blake3::hash(&scene.bytes).to_hex().to_string();
    assert_eq!(published["root"], root.as_str());
    assert_eq!(published["bytes_sent"], LENGTH);
    let mut fetch = scene.program(scene.folder.path());
    fetch.args(["--json", "fetch", "s3://media/a b/f.bin", "-o", "out"]);
    let fetched = run(fetch).must(0);
    assert_eq!(fetched.event("published")["trust"], "manifest");
    let out = fs::read(scene.folder.path().join("out")).expect("a file");
    assert!(out == scene.bytes);
}

#[test]
fn after_a_kill_finished_parts_are_not_sent_again() {
    let scene = Scene::new();
    scene.killed_after(2);
    let ended = scene.run(&[]).must(0);
    scene.must_be_published();
    assert_eq!(ended.event("resumed")["bytes_held"], 2 * PART);
    assert_eq!(scene.sent(), [3]);
}

#[test]
fn what_another_upload_of_the_same_file_published_is_enough() {
    let scene = Scene::new();
    scene.killed_after(2);
    let other = "11111111-2222-4333-8444-555555555555";
    scene.run(&["--no-store", "--session", other]).must(0);
    // It goes on with the first one, and then finds the name taken: by what it pushes.
    let ended = scene.run(&[]).must(0);
    assert_eq!(ended.event("published")["bytes_sent"], LENGTH - 2 * PART);
    scene.must_have(&scene.bytes);
}

#[test]
fn a_copy_at_another_path_goes_on_without_any_state() {
    let scene = Scene::new();
    scene.killed_after(2);
    let elsewhere = TempDir::new().expect("a folder");
    fs::write(elsewhere.path().join("f.bin"), &scene.bytes).expect("a file");
    run(scene.command_in(elsewhere.path(), &["--no-store"])).must(0);
    scene.must_be_published();
    assert_eq!(scene.sent(), [3]);
}

#[test]
fn an_attested_push_goes_on_after_a_kill_and_only_where_it_is_attested_again() {
    let scene = Scene::new();
    scene.killed_in_run(2, &["--attested"]);
    let begun = scene.bucket.pending();
    assert_eq!(begun, [KEY], "its parts are joined under its name");
    let mut list = scene.program(scene.folder.path());
    list.args(["--json", "push", "--list", "s3://media/a b/"]);
    assert_eq!(run(list).must(0).all("upload").len(), 1);
    let elsewhere = TempDir::new().expect("a folder");
    fs::write(elsewhere.path().join("f.bin"), &scene.bytes).expect("a file");
    let attested = scene.command_in(elsewhere.path(), &["--no-store", "--attested"]);
    run(attested).must(0);
    scene.must_be_published();
    assert_eq!(scene.sent(), [3]);
    let mut fetch = scene.program(scene.folder.path());
    fetch.args(["--json", "fetch", "s3://media/a b/f.bin", "-o", "out"]);
    assert_eq!(run(fetch).must(0).event("published")["trust"], "manifest");

    let scene = Scene::new();
    scene.killed_in_run(2, &["--attested"]);
    let ended = scene.run(&[]).must(0);
    let mut sent = scene.sent();
    sent.sort_unstable();
    assert_eq!(sent, [1, 2, 3], "what is not attested is proven");
    assert_eq!(ended.event("published")["bytes_sent"], LENGTH);
    scene.must_have(&scene.bytes);
    assert_eq!(
        scene.bucket.pending(),
        [KEY],
        "the other upload is left alone"
    );
}

#[test]
fn another_file_of_the_same_name_is_not_mixed_in() {
    let scene = Scene::new();
    scene.killed_after(2);
    let elsewhere = TempDir::new().expect("a folder");
    let other = paint::bytes(77, LENGTH);
    fs::write(elsewhere.path().join("f.bin"), &other).expect("a file");
    run(scene.command_in(elsewhere.path(), &[])).must(0);
    scene.must_have(&other);
    assert_eq!(scene.bucket.pending().len(), 1, "the other one can go on");
    scene.bucket.forget_log();
    let refused = scene.run(&[]).must(1);
    assert!(
        message(&refused).contains("exists"),
        "{}",
        message(&refused)
    );
    scene.run(&["--replace"]).must(0);
    scene.must_be_published();
    assert_eq!(scene.sent(), [3]);
}

#[test]
fn a_file_that_changed_between_two_runs_sends_what_differs() {
    let mut scene = Scene::new();
    scene.killed_after(2);
    scene.bytes[10] ^= 1;
    fs::write(scene.folder.path().join("f.bin"), &scene.bytes).expect("a file");
    scene.run(&[]).must(0);
    scene.must_be_published();
    let mut sent = scene.sent();
    sent.sort_unstable();
    assert_eq!(sent, [1, 3]);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_published() {
    let scene = Scene::new();
    let lie = S3Lie::Refused(503, "SlowDown");
    scene.bucket.lie(Op::PutPart, Of::From(2), lie);
    let mut running = start(scene.command_in(scene.folder.path(), &[]));
    wait_for_checkpoints(&mut running, 1);
    let file = scene.folder.path().join("f.bin");
    fs::write(&file, paint::bytes(5, LENGTH)).expect("a file");
    scene.bucket.be_honest();
    let ended = running.finish().must(4);
    assert!(
        message(&ended).contains("f.bin changed"),
        "{}",
        message(&ended)
    );
    assert_eq!(scene.bucket.keys(), Vec::<String>::new());
    assert!(scene.bucket.log_of(Op::Complete).is_empty());
}

#[test]
fn uploads_are_listed_and_given_up() {
    let scene = Scene::new();
    scene.killed_after(1);
    let command = |arguments: &[&str]| {
        let mut command = scene.program(scene.folder.path());
        command.args(["--json", "push"]).args(arguments);
        command.arg("s3://media/a b/");
        command
    };
    let upload = run(command(&["--list"])).must(0).event("upload");
    assert_eq!(
        (&upload["name"], &upload["state"], &upload["bytes_total"]),
        (&json!("f.bin"), &json!("open"), &json!(LENGTH))
    );
    let id = upload["session"].as_str().expect("an ID").to_owned();
    run(command(&["--abort", &id])).must(0);
    assert_eq!(scene.bucket.pending(), Vec::<String>::new());
    let again = run(command(&["--abort", &id])).must(1);
    assert!(again.stderr.contains("no such upload"), "{}", again.stderr);
    assert!(run(command(&["--list"])).must(0).all("upload").is_empty());
    scene.run(&[]).must(0);
    scene.must_be_published();
}

#[test]
fn an_attested_object_is_not_read_back_and_an_encrypted_one_says_so() {
    let scene = Scene::new();
    scene.run(&["--attested", "--sse", "aws:kms:key/1"]).must(0);
    scene.must_be_published();
    let read = scene.bucket.log_of(Op::Get).into_iter();
    let read: Vec<String> = read.map(|logged| logged.key).collect();
    assert!(!read.contains(&KEY.to_owned()), "it was read back");
    let created = scene.bucket.log_of(Op::Create);
    let field = |created: &Logged, name| created.field(name).map(str::to_owned);
    for (name, value) in [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key/1"),
    ] {
        assert_eq!(field(&created[0], name).as_deref(), Some(value));
    }
}

#[test]
fn streams_and_empty_files() {
    let scene = Scene::new();
    let push = |arguments: &[&str]| {
        let mut command = scene.program(scene.folder.path());
        command.args(["--json", "push", "--part-size", "5MiB"]);
        command.args(arguments);
        command
    };
    let key = ["-", "s3://media/a b/f.bin"];
    run_with_input(push(&key), &scene.bytes).must(0);
    scene.must_be_published();
    fs::write(scene.folder.path().join("empty"), b"").expect("a file");
    run(push(&["empty", "f.bin", "s3://media/both/"])).must(0);
    let object = scene.bucket.object("both/empty").expect("it is there");
    assert!(object.bytes.is_empty());
    assert!(*scene.bucket.object("both/f.bin").expect("it").bytes == scene.bytes);
    assert_eq!(scene.bucket.pending(), Vec::<String>::new());
    assert_eq!(scene.bucket.keys().len(), 6, "{:?}", scene.bucket.keys());
}

#[test]
fn parts_that_are_refused_damaged_or_lost_are_sent_again() {
    for (op, of, lie) in [
        // An expired URL, as AWS and as Garage say it.
        (
            Op::PutPart,
            Of::First(1),
            S3Lie::Refused(403, "AccessDenied"),
        ),
        (
            Op::PutPart,
            Of::First(1),
            S3Lie::Refused(400, "InvalidRequest"),
        ),
        // Damaged on the way, twice.
        (Op::PutPart, Of::First(2), S3Lie::Refused(400, "BadDigest")),
        (
            Op::PutPart,
            Of::First(2),
            S3Lie::Refused(400, "InvalidDigest"),
        ),
        (Op::PutPart, Of::First(1), S3Lie::Refused(503, "SlowDown")),
        (
            Op::PutPart,
            Of::First(1),
            S3Lie::Refused(500, "InternalError"),
        ),
        (Op::PutPart, Of::First(1), S3Lie::Lost),
        (Op::Create, Of::First(1), S3Lie::Lost),
        (Op::Complete, Of::First(1), S3Lie::Lost),
        (
            Op::Complete,
            Of::First(1),
            S3Lie::ErrorIn200("InternalError"),
        ),
        (Op::Copy, Of::First(1), S3Lie::Lost),
    ] {
        let scene = Scene::new();
        scene.bucket.lie(op, of, lie.clone());
        let ended = scene.run(&[]);
        assert_eq!(ended.exit, Some(0), "{op:?} {lie:?}: {}", ended.stderr);
        scene.must_be_published();
    }
}

#[test]
fn a_part_that_the_storage_does_not_join_is_sent_again_and_nothing_else() {
    let scene = Scene::new();
    scene.bucket.fault(|faults| faults.poisons = Some(2));
    let mut running = start(scene.command_in(scene.folder.path(), &[]));
    let began = Instant::now();
    while scene.bucket.log_of(Op::Complete).is_empty() {
        assert!(began.elapsed() < LONG_ENOUGH);
        std::thread::sleep(Duration::from_millis(10));
    }
    scene.bucket.fault(|faults| faults.poisons = None);
    running.finish().must(0);
    scene.must_be_published();
    let mut sent = scene.sent();
    sent.sort_unstable();
    assert_eq!(sent, [1, 2, 2, 3]);
}

#[test]
fn what_cannot_work_is_told_with_advice() {
    let scene = Scene::new();
    let without = |name: &str| {
        let mut command = scene.command_in(scene.folder.path(), &[]);
        command.env_remove(name);
        command
    };
    let mut wrong = scene.command_in(scene.folder.path(), &[]);
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let mut anonymous = without("AWS_ACCESS_KEY_ID");
    anonymous.env_remove("AWS_SECRET_ACCESS_KEY");
    for (command, told) in [
        (wrong, ["SignatureDoesNotMatch", "AWS_PROFILE"]),
        (anonymous, ["AccessDenied", "AWS_PROFILE"]),
    ] {
        let ended = run(command).must(1);
        for told in told {
            assert!(message(&ended).contains(told), "{}", message(&ended));
        }
    }
    // The URLs of parts are refused, with reasons.
    let denied = S3Lie::Refused(403, "AccessDenied");
    scene.bucket.lie(Op::PutPart, Of::All, denied);
    let ended = scene.run(&[]).must(1);
    assert!(
        message(&ended).contains("AccessDenied"),
        "{}",
        message(&ended)
    );
    scene.bucket.be_honest();
    let no_bucket = S3Lie::Refused(404, "NoSuchBucket");
    for op in [Op::Create, Op::Head, Op::ListUploads] {
        scene.bucket.lie(op, Of::All, no_bucket.clone());
    }
    let ended = scene.run(&["--no-store"]).must(1);
    assert!(
        message(&ended).contains("NoSuchBucket"),
        "{}",
        message(&ended)
    );
    scene.bucket.be_honest();
    scene.bucket.fault(|faults| faults.no_checksums = true);
    let elsewhere = TempDir::new().expect("a folder");
    fs::write(elsewhere.path().join("f.bin"), b"other").expect("a file");
    let ended = run(scene.command_in(elsewhere.path(), &[])).must(1);
    assert!(message(&ended).contains("SHA-256"), "{}", message(&ended));
    assert_eq!(scene.bucket.keys(), Vec::<String>::new());
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
            endpoint: Some(bucket.url().parse().expect("a URL")),
            ..Service::default()
        },
        ..ClientOptions::default()
    });
    Context::new(client)
}

/// A push of the file, from a new process that remembers nothing.
fn push_of(scene: &Scene) -> tokio::task::JoinHandle<Result<Pushed, Error>> {
    let context = context(&scene.bucket);
    let folder = Location::parse("s3://media/a b/").expect("a URL");
    let storage = S3Storage::new(&context, &folder, S3Options::default());
    let storage = Arc::new(storage.expect("a storage"));
    let place = Place::Storage(Folder { folder, storage });
    let path = scene.folder.path().join("f.bin");
    let name = LibraryPath::new("f.bin").expect("a name");
    let options = PushOptions {
        part_size: Some(PART as u64),
        ..PushOptions::new(place, name, path.clone())
    };
    tokio::spawn(async move {
        push::push(&context, Input::File(path), &options, &mut |_: Event| ()).await
    })
}

/// Killed at each request, before it is done and after: another run without state publishes, and sends only what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_killed_at_any_step_goes_on_without_any_state() {
    let every = if long() { 1 } else { 4 };
    let mut published_before = 0;
    for at in (1..).step_by(every) {
        let scene = Scene::new();
        scene.bucket.hold_at(at, at % 8 == 1);
        let killed = push_of(&scene);
        while !scene.bucket.holds() && !killed.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if killed.is_finished() {
            killed.await.expect("it ends").expect("it is published");
            break;
        }
        killed.abort();
        let _ = killed.await;
        scene.bucket.release();
        // What is on its way comes to an end.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stored = scene.sent();
        scene.bucket.forget_log();
        let is_published = scene.bucket.object(KEY).is_some();
        match push_of(&scene).await.expect("it ends") {
            Ok(_) => (),
            // It was removed from the staging folder too.
            Err(Error::Upload { cause, .. }) if is_published => {
                assert_eq!(*cause, RefusedUpload::NameExists, "request {at}");
                published_before += 1;
            }
            Err(error) => panic!("request {at}: {error}"),
        }
        let again = scene.sent();
        let twice = again.iter().filter(|part| stored.contains(part)).count();
        // Those whose request was held had come, and no response had.
        assert!(twice == 0, "request {at}: {stored:?}, then {again:?}");
        match stored.is_empty() && !is_published {
            // An upload without parts may be one of another run that has just begun.
            true => scene.must_have(&scene.bytes),
            false => scene.must_be_published(),
        }
    }
    assert!(published_before < 5);
}

/// Two runs of one file with one state folder: one session, and both succeed or one says that the object is there.
#[test]
fn two_runs_at_once_publish_once() {
    let scene = Scene::new();
    let runs: Vec<Running> = (0..2)
        .map(|_| start(scene.command_in(scene.folder.path(), &[])))
        .collect();
    let mut exits: Vec<Option<i32>> = runs
        .into_iter()
        .map(|mut running| running.finish().exit)
        .collect();
    exits.sort_unstable();
    assert_eq!(exits[0], Some(0), "{exits:?}");
    assert!([Some(0), Some(1)].contains(&exits[1]), "{exits:?}");
    scene.must_have(&scene.bytes);
}

/// A server whose storage is in S3.
pub struct Served {
    scene: Scene,
    site: TempDir,
    server: Running,
    pub url: String,
}

impl Served {
    pub fn new() -> Served {
        let (scene, site) = (Scene::new(), TempDir::new().expect("a folder"));
        fs::write(site.path().join("own.txt"), b"of the server").expect("a file");
        Served::start(scene, site)
    }

    fn start(scene: Scene, site: TempDir) -> Served {
        let mut server = start(Served::command(&scene, site.path()));
        let mut url = String::new();
        server.wait_for("the URL", |events| {
            let listening = events.iter().find(|event| event["event"] == "listening");
            let found = listening.and_then(|event| event["url"].as_str());
            found.is_some_and(|found| {
                url = found.to_owned();
                true
            })
        });
        Served {
            scene,
            site,
            server,
            url,
        }
    }

    pub fn bucket(&self) -> &Bucket {
        &self.scene.bucket
    }

    /// Kills the server and starts another one, elsewhere.
    pub fn again_after_kill(self) -> Served {
        let Served {
            scene,
            site,
            server,
            ..
        } = self;
        server.kill();
        Served::start(scene, site)
    }

    fn command(scene: &Scene, site: &Path) -> Command {
        let mut command = scene.program(site);
        command.args(["--json", "serve", ".", "--listen", "127.0.0.1:0"]);
        command.args(["--ingest", "--storage", "s3://media/P"]);
        command
    }

    /// Of a client without credentials for the bucket.
    fn client(&self, arguments: &[&str]) -> Ended {
        let mut command = sapwood(self.scene.folder.path());
        command.arg("--json").args(arguments);
        run(command)
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

#[test]
fn a_server_publishes_in_s3_what_clients_send_there() {
    let served = Served::new();
    let scene = &served.scene;
    let pushed = served.client(&["push", "f.bin", &served.at("shows/"), "--part-size", "5MiB"]);
    let published = pushed.must(0).event("published");
    let url = served.at("shows/f.bin");
    assert_eq!(published["url"], url.as_str());
    assert_eq!(published["bytes_sent"], LENGTH);
    assert_eq!(scene.sent().len(), 3, "straight to S3");
    let object = scene.bucket.object("P/shows/f.bin").expect("it is there");
    assert!(*object.bytes == scene.bytes);
    let keys = ["P/shows/f.bin", "P/shows/f.bin.sapwood"];
    assert_eq!(scene.bucket.keys(), keys);
    assert_eq!(scene.bucket.pending(), Vec::<String>::new());
    // By redirects, without credentials.
    let fetched = served.client(&["fetch", &url, "-o", "out"]).must(0);
    assert_eq!(fetched.event("published")["trust"], "manifest");
    let out = fs::read(scene.folder.path().join("out")).expect("a file");
    assert!(out == scene.bytes);
    let mut cat = sapwood(scene.folder.path());
    cat.args(["cat", &url, "--range", "7-16"]);
    let expected = String::from_utf8_lossy(&scene.bytes[7..17]).into_owned();
    assert_eq!(run(cat).must(0).stdout, expected);
    let own = served.client(&["fetch", &served.at("own.txt"), "-o", "own"]);
    own.must(0);
    for hidden in ["sapwood-staging/x", ".hidden", "missing"] {
        served
            .client(&["fetch", &served.at(hidden), "-o", "no"])
            .must(1);
    }
    let asked = scene.bucket.log();
    let is_staged = |logged: &Logged| logged.key == "P/sapwood-staging/x";
    assert!(!asked.iter().any(is_staged), "no redirect leads there");
    assert!(
        served
            .site
            .path()
            .join("sapwood-staging/sessions.sqlite")
            .exists()
    );
    drop(served.server);
}

#[test]
fn a_push_to_such_a_server_goes_on_after_a_kill() {
    let served = Served::new();
    let scene = &served.scene;
    let command = || {
        let mut command = sapwood(scene.folder.path());
        command.args(["--json", "push", "f.bin", &served.at("shows/")]);
        command.args(["--part-size", "5MiB", "--connections", "1"]);
        command
    };
    let lie = S3Lie::Refused(503, "SlowDown");
    scene.bucket.lie(Op::PutPart, Of::From(3), lie);
    let mut running = start(command());
    wait_for_checkpoints(&mut running, 2);
    running.kill();
    scene.bucket.be_honest();
    scene.bucket.forget_log();
    run(command()).must(0);
    // What the killed run was sending may arrive late: the server keeps its connections open.
    let sent = scene.sent();
    assert!([&[3][..], &[3, 3]].contains(&&sent[..]), "{sent:?}");
    let object = scene.bucket.object("P/shows/f.bin").expect("it is there");
    assert!(*object.bytes == scene.bytes);
}

#[test]
fn a_storage_that_cannot_work_is_told_at_the_start() {
    let scene = Scene::new();
    let refused = |change: &dyn Fn(&mut Command), told: &str| {
        let site = TempDir::new().expect("a folder");
        let mut command = Served::command(&scene, site.path());
        change(&mut command);
        let ended = run(command).must(1);
        assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr);
        scene.bucket.be_honest();
    };
    let anonymous = |command: &mut Command| {
        command.env_remove("AWS_ACCESS_KEY_ID");
        command.env_remove("AWS_SECRET_ACCESS_KEY");
    };
    refused(&anonymous, "AWS_PROFILE");
    let no_bucket = S3Lie::Refused(404, "NoSuchBucket");
    scene.bucket.lie(Op::Create, Of::All, no_bucket);
    refused(&|_| (), "NoSuchBucket");
    scene.bucket.fault(|faults| faults.no_checksums = true);
    refused(&|_| (), "SHA-256");
    assert_eq!(scene.bucket.pending(), Vec::<String>::new());
}
