//! What an earlier object of the same owner has is copied, not sent; and nothing of anybody else.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    bucket::{Bucket, Op, S3Lie},
    origin::Of,
    program::{Ended, run, sapwood, start},
    s3::KEY_ID,
    secrets::SECRET,
    site::{Api, BLOCK, PART, Server, Site, id_of, offer, part_of, parts, root, sha256},
};

const NAME: &str = "a/x.bin";
/// Three parts, the last one short and with a short block.
const LENGTH: usize = 2 * PART + 3 * BLOCK + 100;

/// Bytes that are nowhere else.
fn random(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// The sessions of ann and bob.
struct Owners {
    site: Site,
    server: Server,
    ann: Api,
    bob: Api,
}

impl Owners {
    fn new() -> Owners {
        let site = Site::new();
        let tokens = site.state.path().join("tokens");
        fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
        let server = site.serve(&["--token-file", tokens.to_str().expect("a path")]);
        Owners {
            ann: server.api.with_token("secret-of-ann"),
            bob: server.api.with_token("secret-of-bob"),
            site,
            server,
        }
    }
}

#[track_caller]
fn reopen(api: &Api, id: &str, object: &[u8]) -> Value {
    let open = json!({
        "name": NAME, "length": object.len(), "part_size": PART, "block_size": BLOCK, "replace": true,
    });
    api.json("PUT", id, &open).must(201).json()
}

/// The target of a part of which the base has all, or so the client says.
#[track_caller]
fn target(api: &Api, id: &str, base: &str, object: &[u8], index: usize) -> Value {
    let length = part_of(object, index).len();
    let copy = json!([{ "at": 0, "from": index * PART, "length": length }]);
    target_with(api, id, base, (object, index), &copy)
}

#[track_caller]
fn target_with(
    api: &Api,
    id: &str,
    base: &str,
    (object, index): (&[u8], usize),
    copy: &Value,
) -> Value {
    let mut part = offer(object, index);
    part["copy"] = copy.clone();
    let document = json!({ "base": base, "parts": [part] });
    let targets = api.json("POST", &format!("{id}/targets"), &document);
    targets.must(200).json()["targets"][0].clone()
}

/// The bytes of a part that a target wants.
fn wanted(target: &Value, part: &[u8]) -> Vec<u8> {
    let Some(send) = target["send"].as_array() else {
        let from = target["from"].as_u64().expect("a number") as usize;
        return part[from..].to_vec();
    };
    let number = |range: &Value, name: &str| range[name].as_u64().expect("a number") as usize;
    let range = |range: &Value| {
        let at = number(range, "at");
        part[at..at + number(range, "length")].to_vec()
    };
    send.iter().flat_map(range).collect()
}

#[track_caller]
fn metric(server: &Server, name: &str) -> u64 {
    let page = server.api.get("/metrics").must(200).body;
    let page = String::from_utf8_lossy(&page).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("{page}"));
    value.trim().parse().expect("a number")
}

fn copied(server: &Server) -> u64 {
    metric(server, "sapwood_upload_copied_bytes_total ")
}

#[test]
fn blocks_of_the_earlier_object_are_not_sent() {
    let Owners {
        site, server, ann, ..
    } = Owners::new();
    let old = random("one", LENGTH);
    ann.upload(&id_of(1), NAME, &old);
    let mut new = old.clone();
    // Two blocks of the first part, and the last byte.
    for at in [BLOCK + 1, 5 * BLOCK, LENGTH - 1] {
        new[at] ^= 1;
    }
    let id = id_of(2);
    let opened = reopen(&ann, &id, &new);
    let base = json!({ "root": root(&old), "length": LENGTH });
    assert_eq!((&opened["base"], &ann.status(&id)["base"]), (&base, &base));
    let arrived = metric(&server, "sapwood_upload_received_bytes_total ");
    let mut sent = 0;
    for index in [2, 0, 1] {
        let part = part_of(&new, index);
        let first = target(&ann, &id, &root(&old), &new, index);
        // Again: what was copied is there.
        let again = target(&ann, &id, &root(&old), &new, index);
        assert_eq!(
            (&again["send"], &again["copied"]),
            (&first["send"], &json!(0))
        );
        let bytes = wanted(&again, part);
        let url = again["url"].as_str().expect("a URL");
        // Another range than the one that was signed for is none.
        let other = url.replacen("send=", "send=0-65536,", 1);
        ann.send("PUT", &other, &[], &bytes)
            .problem(403, "bad_signature");
        ann.send("PUT", url, &[], &bytes).must(204);
        ann.send("PUT", url, &[], &bytes).must(204);
        ann.checkpoint(&id, &new, index).must(200);
        sent += bytes.len();
    }
    assert_eq!(sent, 2 * BLOCK + 100, "the blocks that differ");
    assert_eq!(copied(&server), (LENGTH - sent) as u64);
    let arrived = metric(&server, "sapwood_upload_received_bytes_total ") - arrived;
    assert_eq!(arrived, 2 * sent as u64);
    ann.publish(&id, &new);
    assert!(ann.get(&format!("/{NAME}")).must(200).body == new);
    crate::support::site::check_manifest(&site, NAME, &new);
    assert_eq!(ann.status(&id)["base"], json!(null));
}

#[test]
fn a_part_of_another_content_gets_no_copies_and_keeps_its_own() {
    let owners = Owners::new();
    let ann = &owners.ann;
    let old = random("one", PART);
    ann.upload(&id_of(1), NAME, &old);
    let (id, other) = (id_of(2), random("two", PART));
    reopen(ann, &id, &other);
    assert_eq!(ann.send_part(&id, &other, 0), PART);
    let target = target(ann, &id, &root(&old), &old, 0);
    assert_eq!(
        (&target["send"], &target["from"]),
        (&json!(null), &json!(0))
    );
    ann.publish(&id, &other);
    assert!(ann.get(&format!("/{NAME}")).must(200).body == other);
}

/// What a server answers to a request for targets, without what is random or a time.
#[track_caller]
fn answer(api: &Api, id: &str, base: &str, object: &[u8], index: usize) -> Value {
    let mut target = target(api, id, base, object, index);
    for name in ["url", "expires"] {
        target.as_object_mut().expect("an object").remove(name);
    }
    target
}

#[test]
fn what_others_published_is_never_copied() {
    let Owners {
        site,
        server,
        ann,
        bob,
    } = Owners::new();
    let secret = random("of ann", LENGTH);
    ann.upload(&id_of(1), NAME, &secret);
    let id = id_of(2);
    let opened = reopen(&bob, &id, &secret);
    assert_eq!(opened["base"], json!(null));
    let nothing = "ab".repeat(32);
    let staged = site.path(&format!("sapwood-staging/{id}/object"));
    for index in 0..parts(&secret) {
        // With the right leaves, the right hash and the right root, as with any.
        let of_nothing = answer(&bob, &id, &nothing, &secret, index);
        assert_eq!(
            answer(&bob, &id, &root(&secret), &secret, index),
            of_nothing
        );
        assert_eq!(of_nothing["from"], 0);
        assert!(!staged.exists() || fs::metadata(&staged).expect("a file").len() == 0);
    }
    assert_eq!(copied(&server), 0);
    // Once it is bob's, what is bob's is copied, and ann's earlier one is gone.
    for index in 0..parts(&secret) {
        assert!(bob.send_part(&id, &secret, index) > 0);
    }
    bob.publish(&id, &secret);
    let id = id_of(3);
    assert_eq!(reopen(&ann, &id, &secret)["base"], json!(null));
    assert_eq!(answer(&ann, &id, &root(&secret), &secret, 0)["from"], 0);
    assert_eq!(copied(&server), 0);
    let id = id_of(4);
    assert_eq!(reopen(&bob, &id, &secret)["base"]["root"], root(&secret));
    assert_eq!(
        answer(&bob, &id, &root(&secret), &secret, 0)["copied"],
        PART
    );
}

#[test]
fn what_came_to_the_name_in_another_way_is_never_copied() {
    let Owners {
        site, server, ann, ..
    } = Owners::new();
    let (old, secret) = (random("one", LENGTH), random("by hand", LENGTH));
    ann.upload(&id_of(1), NAME, &old);
    let path = site.path(NAME);
    let id = id_of(2);
    reopen(&ann, &id, &secret);
    let nothing = answer(&ann, &id, &"ab".repeat(32), &secret, 0);
    let check = |how: &str| {
        for of in [root(&old), root(&secret)] {
            assert_eq!(answer(&ann, &id, &of, &secret, 0), nothing, "{how}");
        }
    };
    // The manifest is still that of ann.
    let before = fs::metadata(&path)
        .expect("a file")
        .modified()
        .expect("a time");
    fs::write(&path, &secret).expect("it is written");
    let file = File::options().write(true).open(&path).expect("a file");
    file.set_modified(before).expect("a time");
    check("written in place");
    let beside = site.path("a/beside");
    fs::write(&beside, &secret).expect("a file");
    fs::rename(&beside, &path).expect("it gets the name");
    check("renamed");
    fs::remove_file(&path).expect("it is removed");
    std::os::unix::fs::symlink(site.path("a/elsewhere"), &path).expect("a link");
    fs::write(site.path("a/elsewhere"), &secret).expect("a file");
    check("a link");
    fs::remove_file(&path).expect("it is removed");
    check("gone");
    assert_eq!(copied(&server), 0);
}

#[test]
fn lies_about_a_base_cost_no_more_than_a_part() {
    let Owners {
        site, server, ann, ..
    } = Owners::new();
    let old = random("one", LENGTH);
    ann.upload(&id_of(1), NAME, &old);
    let id = id_of(2);
    reopen(&ann, &id, &old);
    let (base, part) = (root(&old), part_of(&old, 0));
    // The disk damaged a block: its manifest is still the newer file.
    let file = File::options()
        .write(true)
        .open(site.path(NAME))
        .expect("a file");
    file.write_all_at(&[old[3 * BLOCK] ^ 1], 3 * BLOCK as u64)
        .expect("it is written");
    let manifest = site.path(&format!("{NAME}.sapwood"));
    fs::rename(&manifest, site.path("m")).expect("it is renamed");
    fs::rename(site.path("m"), &manifest).expect("it is renamed");
    let whole = target(&ann, &id, &base, &old, 0);
    assert_eq!(whole["send"], json!([{ "at": 3 * BLOCK, "length": BLOCK }]));
    assert_eq!(copied(&server), (PART - BLOCK) as u64);
    for (index, copy, missing) in [
        // From another place, from behind the end, and from so far that no number has it.
        (
            1,
            json!([{ "at": 0, "from": PART + 1, "length": PART }]),
            PART,
        ),
        (
            1,
            json!([{ "at": 0, "from": LENGTH - 10, "length": PART }]),
            PART,
        ),
        (
            1,
            json!([{ "at": 0, "from": u64::MAX, "length": PART }]),
            PART,
        ),
        // A part of it, from its own place.
        (
            1,
            json!([{ "at": BLOCK, "from": PART + BLOCK, "length": 2 * BLOCK }]),
            PART - 2 * BLOCK,
        ),
    ] {
        let target = target_with(&ann, &id, &base, (&old, index), &copy);
        assert_eq!(
            wanted(&target, part_of(&old, index)).len(),
            missing,
            "{copy}"
        );
    }
    for bad in [
        json!([{ "at": 1, "from": 0, "length": BLOCK }]),
        json!([{ "at": 0, "from": 0, "length": 2 * PART }]),
        json!([{ "at": BLOCK, "from": 0, "length": BLOCK }, { "at": 0, "from": 0, "length": BLOCK }]),
        json!(vec![json!({ "at": 0, "from": 0, "length": BLOCK }); 1025]),
    ] {
        let mut part = offer(&old, 1);
        part["copy"] = bad;
        let document = json!({ "base": base, "parts": [part] });
        ann.json("POST", &format!("{id}/targets"), &document)
            .problem(422, "bad_part");
    }
    // Other bytes than those that were copied are refused, and the part can be sent whole.
    let url = whole["url"].as_str().expect("a URL");
    ann.send("PUT", url, &[], &vec![7; BLOCK])
        .problem(422, "part_differs_from_url");
    let again = target(&ann, &id, &base, &old, 0);
    ann.send(
        "PUT",
        again["url"].as_str().expect("a URL"),
        &[],
        &wanted(&again, part),
    )
    .must(204);
    ann.checkpoint(&id, &old, 0).must(200);
    assert!(sha256(part).len() == 64);
}

/// A folder with a file, pushed to a server that is real.
struct Push {
    site: Site,
    server: Server,
    folder: TempDir,
}

impl Push {
    fn new() -> Push {
        let site = Site::new();
        Push {
            server: site.serve(&[]),
            folder: TempDir::new().expect("a folder"),
            site,
        }
    }

    fn command(&self, bytes: &[u8]) -> Command {
        fs::write(self.folder.path().join("x.bin"), bytes).expect("a file");
        let mut command = sapwood(self.folder.path());
        let url = format!("http://{}/a/", self.server.api.address);
        command.args([
            "--json",
            "push",
            "x.bin",
            &url,
            "--replace",
            "--part-size",
            "5MiB",
        ]);
        command
    }

    #[track_caller]
    fn push(&self, bytes: &[u8]) -> Value {
        let ended = run(self.command(bytes)).must(0);
        self.must_be_published(bytes);
        ended.event("published")
    }

    #[track_caller]
    fn must_be_published(&self, bytes: &[u8]) {
        let published = fs::read(self.site.path(NAME)).expect("it is published");
        assert!(published == bytes, "other bytes are published");
        crate::support::site::check_manifest(&self.site, NAME, bytes);
    }
}

#[track_caller]
fn sent(published: &Value, most: usize) {
    let number = |name: &str| published[name].as_u64().expect("a number");
    let (sent, copied) = (number("bytes_sent"), number("bytes_copied"));
    assert!(sent <= most as u64, "{published}");
    assert_eq!(sent + copied, number("bytes_total"), "{published}");
    assert_eq!(copied, number("bytes_reused"), "{published}");
}

#[test]
fn a_push_sends_what_is_new() {
    let push = Push::new();
    let old = random("old", 3 * PART + 1000);
    sent(&push.push(&old), old.len());
    // Blocks of this length have 16 KiB.
    let mut edited = old.clone();
    for at in [0, PART + 5, old.len() - 1] {
        edited[at] ^= 1;
    }
    sent(&push.push(&edited), 3 * BLOCK);
    let shifted = [&random("front", 65)[..], &edited].concat();
    sent(&push.push(&shifted), 4 * BLOCK);
    let longer = [&shifted[..], &random("end", 2 * PART)].concat();
    sent(&push.push(&longer), 2 * PART + 2 * BLOCK);
    sent(&push.push(&longer[..PART + 77]), BLOCK);
    // From a stream, at the same places.
    let mut stream = push.command(b"");
    let args: Vec<_> = stream.get_args().map(ToOwned::to_owned).collect();
    stream = sapwood(push.folder.path());
    stream.args(args.iter().map(|arg| match arg.to_str() {
        Some("x.bin") => "-".as_ref(),
        _ => arg.as_os_str(),
    }));
    stream.args(["--name", "x.bin"]);
    let bytes = [&longer[..PART + 77], b"and more"].concat();
    let ended = crate::support::program::run_with_input(stream, &bytes).must(0);
    push.must_be_published(&bytes);
    let published = ended.event("published");
    assert!(
        published["bytes_copied"].as_u64() >= Some(PART as u64 - 4 * BLOCK as u64),
        "{published}"
    );
}

#[test]
fn kills_in_the_middle_of_copies_leave_what_is_proven() {
    let mut push = Push::new();
    let old = random("old", 6 * PART);
    push.push(&old);
    let mut new = old.clone();
    for part in 0..6 {
        new[part * PART + 7 * BLOCK] ^= 1;
    }
    let checkpoints = |count: usize| {
        move |events: &[Value]| {
            let all = events.iter().filter(|event| event["event"] == "checkpoint");
            all.count() >= count
        }
    };
    // The client, then the server.
    let mut command = push.command(&new);
    command.args(["--connections", "1"]);
    let mut running = start(command);
    running.wait_for("checkpoints", checkpoints(1));
    running.kill();
    let mut command = push.command(&new);
    command.args(["--connections", "1", "--patience", "60s"]);
    let mut running = start(command);
    running.wait_for("a checkpoint", checkpoints(1));
    let address = push.server.api.address.clone();
    let mut again = sapwood(push.site.state.path());
    again
        .arg("--json")
        .arg("serve")
        .arg(push.site.folder.path());
    again.args(["--ingest", "--listen", &address]);
    push.server.running.signal(rustix::process::Signal::KILL);
    push.server.running.finish();
    push.server = Site::started(again);
    running.finish().must(0);
    push.must_be_published(&new);
    let again = push.push(&new);
    assert_eq!(again["bytes_sent"], 0, "{again}");
}

/// A bucket with an object that was pushed.
struct InS3 {
    bucket: Bucket,
    folder: TempDir,
}

impl InS3 {
    fn new() -> InS3 {
        InS3 {
            bucket: Bucket::start(),
            folder: TempDir::new().expect("a folder"),
        }
    }

    fn push(&self, bytes: &[u8]) -> Ended {
        fs::write(self.folder.path().join("x.bin"), bytes).expect("a file");
        let mut command = sapwood(self.folder.path());
        command
            .env("HOME", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.bucket.url())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.args(["--json", "push", "x.bin", "s3://media/a/", "--replace"]);
        run({
            command.args(["--part-size", "5MiB"]);
            command
        })
    }

    #[track_caller]
    fn must_be_published(&self, bytes: &[u8]) {
        let object = self.bucket.object(NAME).expect("it is published");
        assert!(*object.bytes == bytes, "other bytes are published");
        assert_eq!(self.bucket.pending(), Vec::<String>::new());
    }
}

#[test]
fn the_service_copies_parts_of_the_earlier_object() {
    let scene = InS3::new();
    let old = random("old", LENGTH);
    scene.push(&old).must(0);
    scene.bucket.forget_log();
    let mut new = old.clone();
    new[PART + 1] ^= 1;
    sent(&scene.push(&new).must(0).event("published"), PART);
    scene.must_be_published(&new);
    let numbers = |op| {
        let log = scene.bucket.log_of(op).into_iter();
        let mut numbers: Vec<u32> = log.filter_map(|logged| logged.number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(
        (numbers(Op::CopyPart), numbers(Op::PutPart)),
        (vec![1, 3], vec![2])
    );
    // From another place too.
    let shifted = [&random("front", 65)[..], &new].concat();
    let published = scene.push(&shifted).must(0).event("published");
    sent(&published, PART);
    scene.must_be_published(&shifted);
}

#[test]
fn a_service_that_does_not_copy_costs_one_call() {
    let scene = InS3::new();
    let old = random("old", LENGTH);
    scene.push(&old).must(0);
    let mut new = old.clone();
    new[PART + 1] ^= 1;
    let lie = S3Lie::Refused(501, "NotImplemented");
    scene.bucket.lie(Op::CopyPart, Of::From(1), lie);
    scene.bucket.forget_log();
    let published = scene.push(&new).must(0).event("published");
    assert_eq!(
        (&published["bytes_sent"], &published["bytes_copied"]),
        (&json!(LENGTH), &json!(0))
    );
    scene.must_be_published(&new);
    let refused = scene.bucket.log_of(Op::CopyPart).len();
    assert!(
        (1..=2).contains(&refused),
        "those that were on their way: {refused}"
    );
}

#[test]
fn a_server_has_the_service_copy_for_the_owner_alone() {
    let scene = InS3::new();
    let (site, state) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let tokens = state.path().join("tokens");
    fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
    let mut serve = sapwood(site.path());
    serve
        .env("HOME", state.path())
        .env("AWS_ENDPOINT_URL", scene.bucket.url())
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .args(["--json", "serve", ".", "--listen", "127.0.0.1:0"])
        .args(["--ingest", "--storage", "s3://media", "--token-file"])
        .arg(&tokens);
    let server = Site::started(serve);
    let push = |token: &str, bytes: &[u8]| {
        fs::write(scene.folder.path().join("x.bin"), bytes).expect("a file");
        let mut command = sapwood(scene.folder.path());
        let url = format!("http://{}/a/", server.api.address);
        command.args([
            "--json",
            "push",
            "x.bin",
            &url,
            "--replace",
            "--part-size",
            "5MiB",
        ]);
        command.args(["--token", token, "--no-store"]);
        run(command).must(0).event("published")
    };
    let old = random("old", LENGTH);
    sent(&push("secret-of-ann", &old), LENGTH);
    let mut new = old.clone();
    new[0] ^= 1;
    sent(&push("secret-of-ann", &new), PART);
    assert_eq!(copied(&server), (LENGTH - PART) as u64);
    scene.must_be_published(&new);
    scene.bucket.forget_log();
    // With the right root and hashes, too.
    let bob = server.api.with_token("secret-of-bob");
    let id = id_of(9);
    assert_eq!(reopen(&bob, &id, &new)["base"], json!(null));
    for index in 0..parts(&new) {
        let target = target(&bob, &id, &root(&new), &new, index);
        assert_eq!(
            (&target["stored"], &target["from"]),
            (&json!(null), &json!(0))
        );
    }
    assert_eq!(scene.bucket.log_of(Op::CopyPart).len(), 0);
    let name = format!("/{NAME}");
    let looks = scene.bucket.log_of(Op::Head).into_iter();
    assert_eq!(
        looks.filter(|logged| logged.key == name[1..]).count(),
        0,
        "not even a look"
    );
    bob.json("DELETE", &id, &json!({})).must(204);
    // What is put there by hand is nobody's.
    scene.bucket.put(NAME, &new);
    let ann = server.api.with_token("secret-of-ann");
    let id = id_of(10);
    assert_eq!(reopen(&ann, &id, &new)["base"]["root"], root(&new));
    let target = target(&ann, &id, &root(&new), &new, 1);
    assert_eq!(
        (&target["stored"], &target["from"]),
        (&json!(null), &json!(0))
    );
    assert_eq!(scene.bucket.log_of(Op::CopyPart).len(), 0);
}
