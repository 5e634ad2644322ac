//! Objects in S3: `s3://` URLs wherever a URL is taken, signed requests, and what refusals say.

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use super::support::{
    objects::Content,
    origin::{Asks, Lie, Of, Origin},
    program::{Ended, run, sapwood, start},
    s3::{self, KEY_ID, Rules, anonymous, command, log_of, path, put, put_painted, url},
    scene::names,
    secrets::{SECRET, must_be_clean},
};

const BLOCK: u64 = 16 * 1024;
const LENGTH: u64 = 300_001;
const KEY: &str = "shows/talk.mp4";

fn fetch(mut command: Command, more: &[&str]) -> Ended {
    command
        .args(["--json", "--store", "store", "fetch"])
        .args(["--patience", "20s"])
        .args(more);
    run(command)
}

fn painted() -> Vec<u8> {
    Content::Painted(LENGTH).all()
}

fn is_signed(asked: &super::support::origin::Asked) -> bool {
    let of_aws = |(name, _): &(String, String)| {
        let name = name.to_ascii_lowercase();
        name == "authorization" || name.starts_with("x-amz-")
    };
    asked.headers.iter().any(of_aws)
}

/// An origin with the painted object.
fn with_object(rules: Rules) -> Origin {
    let origin = s3::origin(rules);
    put_painted(&origin, KEY, LENGTH, BLOCK);
    origin
}

#[test]
fn every_key_is_fetched_by_signed_requests() {
    let token = format!("token/{SECRET}+==");
    let keys = [
        "talk.mp4",
        "a b+c/é~1.bin",
        "what?#100%.bin",
        "/x//it's (1)*!@=&,;$.bin",
        "%20.bin",
    ];
    for (token, keys) in [(None, &keys[..]), (Some(token), &keys[..1])] {
        let origin = s3::origin(Rules {
            token: token.clone(),
            ..Rules::default()
        });
        for key in keys {
            put_painted(&origin, key, LENGTH, BLOCK);
            let folder = TempDir::new().unwrap();
            let mut command = command(folder.path(), &origin, token.as_deref());
            command.arg("-vvv");
            let ended = fetch(command, &[&url(key), "--receipt", "r.json"]).must(0);
            must_be_clean(folder.path(), &ended);
            assert!(!ended.stderr.contains("AWS4-HMAC"), "{}", ended.stderr);
            let name = key.rsplit('/').next().unwrap();
            let mut expected = [name, "r.json", "store"];
            expected.sort_unstable();
            assert_eq!(names(folder.path()), expected);
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), painted());
            let published = ended.event("published");
            assert_eq!(published["trust"], "manifest");
            assert_eq!(ended.event("planned")["url"], url(key).as_str());
            assert!(log_of(&origin, key).iter().all(|asked| asked.status == 206));
        }
    }
}

#[test]
fn a_refusal_says_why() {
    let origin = with_object(Rules::default());
    let tokens = with_object(Rules {
        token: Some("new".to_owned()),
        ..Rules::default()
    });
    let folder = TempDir::new().unwrap();
    let missing = url("missing.mp4");
    let no_such_key = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
    origin.lie(
        &path("missing.mp4"),
        Asks::Anything,
        Of::All,
        Lie::Body(no_such_key.to_vec()),
    );
    origin.lie(&path("missing.mp4"), Asks::Anything, Of::All, Lie::As(404));
    let own = |name: &str, value: &str| {
        let mut command = command(folder.path(), &origin, None);
        command.env(name, value);
        command
    };
    let there = url(KEY);
    for (command, url, expected) in [
        (
            own("AWS_SECRET_ACCESS_KEY", "wrong"),
            &there,
            "SignatureDoesNotMatch: No, SignatureDoesNotMatch",
        ),
        (
            own("AWS_ACCESS_KEY_ID", "wrong"),
            &there,
            "InvalidAccessKeyId",
        ),
        (
            command(folder.path(), &tokens, Some("old")),
            &there,
            "ExpiredToken",
        ),
        (
            anonymous(folder.path(), &origin),
            &there,
            "access was refused (status 403): AccessDenied",
        ),
        (
            own("X", "x"),
            &missing,
            "nothing is there (status 404): NoSuchKey: The specified key does not exist",
        ),
    ] {
        let ended = fetch(command, &[url, "-o", "out"]).must(1);
        let failed = ended.event("failed");
        let message = failed["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(url.as_str()), "{message}");
        must_be_clean(folder.path(), &ended);
        assert_eq!(names(folder.path()), ["store"]);
    }
}

/// A service may repeat in its message what was sent to it.
#[test]
fn a_message_with_our_credentials_is_not_shown() {
    let origin = with_object(Rules::default());
    let xml = format!("<Error><Code>Odd</Code><Message>Your key {SECRET} is odd</Message></Error>");
    origin.lie("*", Asks::Anything, Of::All, Lie::Body(xml.into_bytes()));
    origin.lie("*", Asks::Anything, Of::All, Lie::As(403));
    let folder = TempDir::new().unwrap();
    let mut command = command(folder.path(), &origin, None);
    command.arg("-vvv");
    let ended = fetch(command, &[&url(KEY), "-o", "out"]).must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("(status 403): Odd"), "{message}");
    must_be_clean(folder.path(), &ended);
}

#[test]
fn public_buckets_need_no_credentials() {
    let origin = with_object(Rules {
        is_public: true,
        ..Rules::default()
    });
    let folder = TempDir::new().unwrap();
    fetch(anonymous(folder.path(), &origin), &[&url(KEY)]).must(0);
    assert_eq!(fs::read(folder.path().join("talk.mp4")).unwrap(), painted());
}

#[test]
fn credentials_come_from_files_and_profiles() {
    let origin = with_object(Rules {
        region: "garage",
        token: Some("t".to_owned()),
        ..Rules::default()
    });
    let folder = TempDir::new().unwrap();
    let home = folder.path().join(".aws");
    fs::create_dir(&home).unwrap();
    let endpoint = origin.url("");
    let config = format!(
        "[profile studio]\nregion = garage\nservices = own\n[services own]\ns3 =\n  endpoint_url = {endpoint}\n"
    );
    let credentials = format!(
        "[studio]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\naws_session_token = t\n"
    );
    fs::write(home.join("config"), &config).unwrap();
    fs::write(home.join("credentials"), &credentials).unwrap();
    let with_home = || {
        let mut command = sapwood(folder.path());
        command
            .env("HOME", folder.path())
            .args(["fetch", "--no-store"]);
        command
    };
    let mut command = with_home();
    command
        .env("AWS_PROFILE", "studio")
        .args(["-o", "one", &url(KEY)]);
    run(command).must(0);
    // The files may lie elsewhere.
    fs::rename(&home, folder.path().join("elsewhere")).unwrap();
    let place = |name: &str| folder.path().join("elsewhere").join(name);
    let mut command = with_home();
    command
        .env("AWS_PROFILE", "studio")
        .env("AWS_CONFIG_FILE", place("config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", place("credentials"))
        .args(["-o", "two", &url(KEY)]);
    run(command).must(0);
    // A flag counts before them; and what cannot be used concerns nobody else.
    let mut command = with_home();
    command
        .env("AWS_PROFILE", "missing")
        .args(["-o", "three", &url(KEY)]);
    let ended = run(command).must(2);
    assert!(
        ended.stderr.contains("the AWS profile \"missing\""),
        "{}",
        ended.stderr
    );
    let plain = Origin::start();
    plain.put("/x", vec![1; 10]);
    let mut command = with_home();
    command
        .env("AWS_PROFILE", "missing")
        .args([&plain.url("/x"), "-o", "three"]);
    run(command).must(0);
    let mut command = with_home();
    command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_SESSION_TOKEN", "t")
        .env("AWS_REGION", "garage")
        .args(["-o", "four", "--endpoint", &endpoint, &url(KEY)]);
    run(command).must(0);
    for name in ["one", "two", "four"] {
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), painted());
    }
}

#[test]
fn a_wrong_clock_is_corrected_once() {
    let rules = |hides_time| Rules {
        ahead: Duration::from_secs(7200),
        hides_time,
        ..Rules::default()
    };
    let folder = TempDir::new().unwrap();
    let origin = with_object(rules(false));
    let ended = fetch(
        command(folder.path(), &origin, None),
        &[&url(KEY), "-o", "out"],
    )
    .must(0);
    assert_eq!(ended.event("published")["trust"], "manifest");
    let refused = origin
        .log()
        .iter()
        .filter(|asked| asked.status == 403)
        .count();
    // The first requests are for the object and its manifest, at the same time.
    assert!((1..=2).contains(&refused), "{refused}");
    let origin = with_object(rules(true));
    let ended = fetch(
        command(folder.path(), &origin, None),
        &[&url(KEY), "-o", "new"],
    )
    .must(1);
    let message = ended.event("failed")["message"].to_string();
    assert!(message.contains("RequestTimeTooSkewed"), "{message}");
    assert!(origin.log().len() <= 6, "{:?}", origin.log());
}

#[test]
fn the_region_that_the_service_names_is_used() {
    let origin = with_object(Rules {
        region: "garage",
        ..Rules::default()
    });
    let folder = TempDir::new().unwrap();
    fetch(
        command(folder.path(), &origin, None),
        &[&url(KEY), "-o", "out"],
    )
    .must(0);
    let refused = origin
        .log()
        .iter()
        .filter(|asked| asked.status == 400)
        .count();
    assert!((1..=2).contains(&refused), "{refused}");
}

#[test]
fn redirects_elsewhere_get_no_credentials() {
    let folder = TempDir::new().unwrap();
    let (origin, other) = (with_object(Rules::default()), Origin::start());
    other.put("/copy", Content::Painted(LENGTH));
    let leads = Lie::Redirect(307, other.url("/copy"));
    origin.lie(&path(KEY), Asks::Anything, Of::All, leads);
    let command = || command(folder.path(), &origin, Some("t"));
    s3::guard(
        &origin,
        Rules {
            token: Some("t".to_owned()),
            ..Rules::default()
        },
    );
    fetch(command(), &[&url(KEY), "-o", "out", "-H", "X-Key: typed"]).must(0);
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), painted());
    let log = other.log();
    assert!(!log.is_empty() && !log.iter().any(is_signed), "{log:?}");
    assert!(
        log.iter().all(|asked| asked.header("x-key").is_none()),
        "{log:?}"
    );
    // Within the service a redirect is signed for where it leads.
    origin.be_honest();
    put(&origin, "moved/é.mp4", Content::Painted(LENGTH));
    let leads = Lie::Redirect(307, origin.url(&path("moved/é.mp4")));
    origin.lie(&path(KEY), Asks::Anything, Of::All, leads);
    fetch(command(), &[&url(KEY), "-o", "two", "--no-store"]).must(0);
    let moved = log_of(&origin, "moved/é.mp4");
    assert!(
        !moved.is_empty() && moved.iter().all(|asked| asked.status == 206),
        "{moved:?}"
    );
    assert_eq!(fs::read(folder.path().join("two")).unwrap(), painted());
}

#[test]
fn a_service_that_limits_requests_is_given_time() {
    let origin = with_object(Rules::default());
    let slow =
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    origin.lie(
        &path(KEY),
        Asks::Anything,
        Of::First(1),
        Lie::Body(slow.to_vec()),
    );
    origin.lie(&path(KEY), Asks::Anything, Of::First(1), Lie::As(503));
    let folder = TempDir::new().unwrap();
    let ended = fetch(
        command(folder.path(), &origin, None),
        &[&url(KEY), "-o", "out"],
    )
    .must(0);
    let retries = ended.all("retry");
    assert!(
        retries.iter().any(|retry| retry["class"] == "slower"),
        "{retries:?}"
    );
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), painted());
}

#[test]
fn nothing_is_sent_to_a_bad_place() {
    let folder = TempDir::new().unwrap();
    let origin = with_object(Rules::default());
    for bad in [
        "s3://",
        "s3:///key",
        "s3://UP..down/key",
        "s3://media/a/../b",
        "s3://u:p@media/key",
    ] {
        let ended = fetch(command(folder.path(), &origin, None), &[bad, "-o", "out"]).must(2);
        assert!(!ended.stderr.contains(":p@"), "{}", ended.stderr);
    }
    let mut clear = command(folder.path(), &origin, None);
    clear.env("AWS_ENDPOINT_URL", "http://media.example.invalid");
    let ended = fetch(clear, &[&url(KEY), "-o", "out"]).must(6);
    assert!(ended.stdout.contains("over plain http"), "{}", ended.stdout);
    let bucket = fetch(
        command(folder.path(), &origin, None),
        &["s3://media", "-o", "out"],
    );
    let bucket = bucket.must(2);
    assert!(bucket.stdout.contains("is a bucket"), "{}", bucket.stdout);
    assert_eq!(
        (origin.log().len(), names(folder.path())),
        (0, vec!["store".to_owned()])
    );
}

/// Temporary credentials change between runs; a part is that of the object.
#[test]
fn a_stopped_run_goes_on_with_other_credentials() {
    const LARGE: u64 = 4 * 1024 * 1024;
    let with_token = |token: &str| Rules {
        token: Some(token.to_owned()),
        ..Rules::default()
    };
    let (first, second) = (format!("first-{SECRET}"), format!("second-{SECRET}"));
    let origin = s3::origin(with_token(&first));
    // Without a manifest the part belongs to the URL.
    put(&origin, KEY, Content::Painted(LARGE));
    let folder = TempDir::new().unwrap();
    let typed = |token: &str| {
        let mut command = command(folder.path(), &origin, Some(token));
        command.args([
            "--json",
            "--store",
            "store",
            "fetch",
            &url(KEY),
            "-o",
            "out",
        ]);
        command
    };
    origin.allow(&path(KEY), LARGE / 2);
    let mut running = start(typed(&first));
    while !origin.is_spent(&path(KEY)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(rustix::process::Signal::TERM);
    running.finish().must(5);
    origin.wait_until_idle();
    assert!(folder.path().join("out.part.journal").exists());
    let nothing_shown = Ended {
        exit: None,
        stdout: String::new(),
        stderr: String::new(),
    };
    must_be_clean(folder.path(), &nothing_shown);
    origin.allow_all();
    origin.forget_log();
    s3::guard(&origin, with_token(&second));
    let ended = run(typed(&second)).must(0);
    must_be_clean(folder.path(), &ended);
    assert_eq!(
        fs::read(folder.path().join("out")).unwrap(),
        Content::Painted(LARGE).all()
    );
    let held = ended.event("published")["bytes_resumed"].as_u64().unwrap();
    let sent = origin.sent(&path(KEY));
    assert!(held > 0 && sent < LARGE, "{held} bytes held, {sent} sent");
}

#[test]
fn every_command_reads_from_s3() {
    let folder = TempDir::new().unwrap();
    let site = folder.path().join("media");
    let write = |name: &str, length: u64| {
        let path = site.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, Content::Painted(length).all()).unwrap();
    };
    write("a b/talk.mp4", LENGTH);
    write("c.txt", 10);
    let mut publish = sapwood(folder.path());
    publish.args(["manifest", "media", "media/a b/talk.mp4"]);
    run(publish).must(0);
    let any = ([127, 0, 0, 1], 0).into();
    let origin = Origin::start_on(any, Some(folder.path().to_owned()), None).unwrap();
    s3::guard(&origin, Rules::default());
    let typed = |words: &[&str]| {
        let mut command = command(folder.path(), &origin, None);
        command.args(words);
        command
    };
    let object = url("a b/talk.mp4");
    let cat = typed(&["cat", "--no-store", &object, "--range", "5-20"])
        .output()
        .unwrap();
    assert_eq!(
        cat.stdout,
        painted()[5..=20],
        "{}",
        String::from_utf8_lossy(&cat.stderr)
    );
    let inspected = run(typed(&["inspect", "--json", &object])).must(0);
    assert!(
        inspected
            .stdout
            .contains(&format!("\"bytes_total\":{LENGTH}")),
        "{}",
        inspected.stdout
    );
    run(typed(&["sync", "s3://media/", "here"])).must(0);
    let here = folder.path().join("here");
    assert_eq!(fs::read(here.join("a b/talk.mp4")).unwrap(), painted());
    assert_eq!(fs::read(here.join("c.txt")).unwrap().len(), 10);
    // A mirror and a manifest elsewhere.
    let nothing = Origin::start();
    let gone = nothing.url("/gone.mp4");
    let manifest = url("a b/talk.mp4.sapwood");
    let more = ["--no-store", "--mirror", &object, "--manifest", &manifest];
    run(typed(&[&["fetch", &gone, "-o", "out"], &more[..]].concat())).must(0);
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), painted());
    // A list, where a key may have blanks.
    fs::write(folder.path().join("list"), format!("{object}\tfrom-list\n")).unwrap();
    run(typed(&["fetch", "--no-store", "-i", "list"])).must(0);
    assert_eq!(
        fs::read(folder.path().join("from-list")).unwrap(),
        painted()
    );
    through_a_gateway(typed(&["--json", "gateway", "--no-store", &object]));
}

fn through_a_gateway(command: Command) {
    let mut running = start(command);
    let listens = |event: &serde_json::Value| event["event"] == "listening";
    running.wait_for("its URL", |events| events.iter().any(listens));
    let events = running.events();
    let listening = events.into_iter().find(listens).unwrap();
    let folder = TempDir::new().unwrap();
    let mut fetch = sapwood(folder.path());
    let address = listening["url"].as_str().unwrap();
    fetch.args(["fetch", "--no-store", "--no-manifest", address, "-o", "out"]);
    run(fetch).must(0);
    assert_eq!(read(folder.path(), "out"), painted());
    running.signal(rustix::process::Signal::TERM);
    running.finish();
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}
