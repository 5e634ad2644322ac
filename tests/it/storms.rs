//! Every fault of the list, with and without a manifest, at the first request and in the middle of a resume: the right exit code,
//! nothing wrong under the final name, no more bytes than needed, no secret anywhere; and when the fault is over the same
//! command ends well.

use std::{
    collections::VecDeque,
    fs,
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::{Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use sapwood::format::digests::{Algorithm, DigestHasher};

use crate::support::{
    faults::{self, Fault, Place},
    objects::{Content, manifest_of},
    origin::{Asks, Lie, Of, Origin},
    program::{self, Ended, sapwood},
    scene::{MANIFEST, OBJECT, Scene, names},
    secrets::{self, SECRET, SECRET_AS_LOGIN, must_be_clean},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// First requests go over one connection, so that each byte that comes twice is the fault's.
const LENGTH: u64 = 2 * MIB + 17;
/// Resumes go over several; above 10 MB an object without a manifest does so too.
const LENGTH_OF_RESUMED: u64 = 11 * MIB + 17;
const BLOCK: u64 = 16 * KIB;
/// Of an object of these lengths without a manifest.
const BLOCK_OF_NONE: u64 = 64 * KIB;
/// Where a run is stopped before the fault.
const STOPPED_AT: u64 = 5 * MIB;
/// A fault begins after so many bytes of a body.
const AT: u64 = 300 * KIB;
/// What a fault may cost beside one part in a hundred: the manifests, and a block of each of a few broken answers.
const SMALL: u64 = 300 * KIB;
/// The same over several connections: a block of each of the eight, and what is on its way when one of them is stopped, because
/// another takes over the rest of its span. On a machine that is busy that is much, but never in most of the scenes.
const SMALL_OF_RESUMED: u64 = 2 * MIB;
const SMALL_OF_MOST: u64 = 128 * KIB;
/// Resumes are so fast that few of them wait, and so slow that little is on its way.
const RATE_OF_RESUMED: u64 = 16 * MIB;
/// Scenes that run at a time; most of them wait.
const AT_A_TIME: usize = 20;
/// No run takes longer, however slow the machine: 30 s of patience, a stall, and room.
const ENDS_WITHIN: Duration = Duration::from_secs(150);

/// What is expected of a fault.
#[derive(Clone, Copy)]
struct Row {
    id: &'static str,
    of: Of,
    manifest: Expected,
    none: Expected,
}

/// Where something differs, the first request comes first and the middle of a resume second.
#[derive(Clone, Copy)]
struct Expected {
    exits: [i32; 2],
    /// Bytes over all runs from the fault on, as a multiple of what was missing.
    factors: [f64; 2],
    /// Whether a resume that fails leaves a part.
    kept: bool,
    /// The user gives a digest: nothing else could show what is wrong.
    digest: bool,
    /// What the user is told.
    hint: &'static str,
}

/// As much as is missing, and no more.
const ONCE: f64 = 1.01;
/// A resume that has to take all of the object, of which less than half was there.
const WHOLE: f64 = LENGTH_OF_RESUMED as f64 / (LENGTH_OF_RESUMED - STOPPED_AT) as f64 + 0.02;

/// Of each answer that ends after `AT` bytes only whole blocks are of use.
fn cut_to(block: u64) -> f64 {
    AT as f64 / (AT - AT % block) as f64 * ONCE
}

fn ends(exit: i32) -> Expected {
    Expected {
        exits: [exit, exit],
        factors: [ONCE, ONCE],
        kept: true,
        digest: false,
        hint: "",
    }
}

impl Expected {
    /// A resume has to take all of the object again.
    fn whole(self) -> Expected {
        self.costs(ONCE, WHOLE)
    }

    /// The server does not allow less.
    fn costs(self, first: f64, resume: f64) -> Expected {
        let factors = [first, resume];
        Expected { factors, ..self }
    }

    /// No run can go on from what was there.
    fn gone(self) -> Expected {
        let kept = false;
        Expected { kept, ..self }
    }

    fn digest(self) -> Expected {
        let digest = true;
        Expected { digest, ..self }
    }

    fn hint(self, hint: &'static str) -> Expected {
        Expected { hint, ..self }
    }
}

fn row(id: &'static str, of: Of, manifest: Expected, none: Expected) -> Row {
    Row {
        id,
        of,
        manifest,
        none,
    }
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    use Of::{All, First};
    let both = |id, of, expected| row(id, of, expected, expected);
    let passes = |id| both(id, First(1), ends(0));
    // Refused once, then the source is dropped.
    let refused = |id| both(id, All, ends(1));
    // Everything that came is wrong, and comes again when the fault is over.
    let useless = ends(3).digest().gone().costs(2.0 * ONCE, 2.0 * WHOLE);
    let page = "perhaps it requires a login";
    vec![
        // Silence is noticed after 10 s: these begin first.
        passes("S04a"), passes("S04b"), passes("S04c"),
        both("S02", All, ends(5)), passes("S02"),
        passes("S03a"), passes("S03b"), both("S03a", First(4), ends(0)),
        both("S05a", All, ends(0).whole()), both("S05b", All, ends(0).whole()),
        row("S05c", All, ends(1), ends(4)),
        passes("S06a"), refused("S06a"), passes("S06b"), refused("S06b"),
        row("S07a", All, ends(4), ends(0).whole()), row("S07b", All, ends(0), ends(1)), row("S07c", All, ends(0), ends(0).whole()),
        both("S08a", All, ends(0)), passes("S08b"), refused("S08b"), row("S08c", All, ends(0).costs(cut_to(BLOCK), cut_to(BLOCK)), ends(0).costs(cut_to(BLOCK_OF_NONE), cut_to(BLOCK_OF_NONE))), both("S08d", All, ends(0).whole()),
        passes("S09a"), refused("S09a"), refused("S09b"), refused("S09c"), refused("S09d"), refused("S09e"),
        row("S10a", All, ends(3).costs(2.0 * ONCE, 2.0 * ONCE), useless), row("S10b", All, ends(3), useless), row("S10c", All, ends(0), useless),
        both("S11", All, ends(0)),
        refused("S12a"), row("S12b", All, ends(1), ends(4)), both("S12c", All, ends(0).whole()),
        passes("S13a"), both("S13a", All, ends(0)), row("S13b", All, ends(4), useless),
        both("S14a", All, ends(0)), passes("S14b"), both("S14c", All, ends(0)), passes("S14d"), refused("S14d"),
        // The first response is read as the body, so both that break cost all of it.
        row("S14e", First(2), ends(0).costs(2.0, 2.0 * WHOLE), ends(0).costs(2.0, 3.0 * WHOLE)),
        both("S15a", All, ends(0).whole()), both("S15b", All, ends(0).whole()),
        row("S16a", All, ends(0), ends(0).whole()), row("S16b", All, ends(0), ends(0).whole()), row("S16c", All, ends(0), ends(0).whole()),
        row("S16d", All, ends(3).costs(2.0 * ONCE, 2.0 * ONCE), useless),
        row("S17", All, ends(3).costs(2.0 * ONCE, 2.0 * ONCE), ends(4)),
        row("S18", All, ends(0), ends(0).whole()),
        both("S19a", All, ends(5)), both("S19b", First(2), ends(0)), passes("S19c"), both("S19d", All, ends(5)), both("S19e", All, ends(5)),
        both("S19f", All, ends(5)), passes("S19g"), both("S19h", All, ends(0)),
        both("S20a", All, ends(5)), both("S20b", First(2), ends(0)), both("S20c", All, ends(5)), passes("S20d"), both("S20e", First(2), ends(0)),
        refused("S21a"), refused("S21b"),
        both("S21c", All, ends(1)), both("S21d", All, ends(1)),
        refused("S21e"), refused("S21f"),
        both("S22a", All, ends(1)), passes("S22b"), both("S22b", All, ends(1)),
        both("S23a", All, ends(1).hint(page)),
        row("S23b", All, ends(4).hint(page), ends(1).hint(page)), row("S23c", All, ends(4).hint(page), ends(1).hint(page)),
        passes("S24a"), refused("S24a"), refused("S24b"),
        refused("S24c"),
        both("S24d", All, ends(0)), passes("S24e"), refused("S24e"),
        passes("S25a"), refused("S25a"), passes("S25b"), refused("S25b"), passes("S25c"), passes("S25d"),
        row("S26a", All, ends(0).whole(), ends(1).costs(11.0, 3.0 * WHOLE)), both("S26b", All, ends(0)), row("S26c", All, ends(4), ends(1)),
        both("S27a", All, ends(1)), both("S27b", All, ends(1)),
        both("S28a", All, ends(6)), both("S28b", All, ends(6)),
        both("S33a", All, ends(0)), both("S33b", All, ends(0)),
        both("S38", All, ends(0)),
    ]
}

/// What one scene is about.
struct Case {
    row: Row,
    manifest: bool,
    resume: bool,
}

impl Case {
    fn expected(&self) -> Expected {
        match self.manifest {
            true => self.row.manifest,
            false => self.row.none,
        }
    }

    fn name(&self) -> String {
        let against = match self.manifest {
            true => "manifest",
            false => "none",
        };
        let when = match self.resume {
            true => "resume",
            false => "first",
        };
        format!("{} {:?}, {against}, {when}", self.row.id, self.row.of)
    }
}

/// An object, its manifest and its SHA-256.
struct Served {
    content: Content,
    manifest: Vec<u8>,
    sha256: String,
}

/// The one for first requests or that for resumes, made once.
fn served(resume: bool) -> &'static Served {
    static SERVED: [OnceLock<Served>; 2] = [OnceLock::new(), OnceLock::new()];
    SERVED[usize::from(resume)].get_or_init(|| {
        let length = if resume { LENGTH_OF_RESUMED } else { LENGTH };
        let content = Content::Bytes(Content::Painted(length).all());
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        hasher.update(&content.all());
        Served {
            manifest: manifest_of(&content, BLOCK),
            sha256: hasher.finish().hex(),
            content,
        }
    })
}

fn scene(manifest: bool, resume: bool) -> Scene {
    let served = served(resume);
    let origin = Origin::start();
    origin.put(OBJECT, served.content.clone());
    if manifest {
        origin.put(MANIFEST, served.manifest.clone());
    }
    Scene {
        origin,
        folder: tempfile::TempDir::new().expect("a folder"),
        content: served.content.clone(),
        block: if manifest { BLOCK } else { BLOCK_OF_NONE },
    }
}

/// The fetch with a secret everywhere where one may stand: the login in the URL, or else in a file.
fn command(scene: &Scene, login_in_url: bool) -> Command {
    let url = secrets::url("http", &scene.origin.address(), login_in_url);
    let mut command = secrets::fetch(scene.folder.path(), &url, &["--json"]);
    command.args(["--tries", "3", "--patience", "30s", "--max-size", "20MB"]);
    command
}

fn fetched(ended: &Ended) -> u64 {
    ended.event("done")["bytes_fetched"]
        .as_u64()
        .expect("a number")
}

/// What a run said to its user, without traces.
fn said(ended: &Ended) -> String {
    let of_interest = |line: &&str| {
        let noise = [
            "TRACE",
            "DEBUG",
            "\"progress\"",
            "\"blocks_verified\"",
            "\"planned\"",
        ];
        !noise.iter().any(|noise| line.contains(noise))
    };
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .chain(ended.stdout.lines())
        .filter(of_interest)
        .collect();
    lines[..lines.len().min(12)].join("\n")
}

/// A first run that is stopped; returns how much it held.
fn stopped(scene: &Scene, command: Command, manifest: bool) -> u64 {
    let mut running = scene.run_until(command, STOPPED_AT);
    let events = match manifest {
        true => running.kill(),
        false => {
            // Without a manifest only the journal knows what is there, and a stop writes it.
            running.signal(Signal::TERM);
            let ended = running.finish();
            must_be_clean(scene.folder.path(), &ended);
            assert_eq!(ended.exit, Some(5), "{}", said(&ended));
            ended.events()
        }
    };
    scene.origin.wait_until_idle();
    scene.origin.allow_all();
    scene.origin.forget_log();
    assert!(scene.part().exists(), "there is nothing to go on from");
    program::bytes_of(&program::verified(&events), scene.block, scene.length())
}

/// What a case cost.
struct Cost {
    bytes: u64,
    missing: u64,
    limit: u64,
    resume: bool,
    /// The run with the fault.
    took: Duration,
}

/// Runs a case.
fn run(case: &Case) -> Cost {
    let fault = Fault::named(case.row.id).expect("it is in the list");
    let expected = case.expected();
    let scene = scene(case.manifest, case.resume);
    let make = || {
        let mut command = command(&scene, !case.resume);
        if !case.resume {
            command.args(["--connections", "1"]);
        }
        if expected.digest && !case.manifest {
            command.args(["--sha256", &served(case.resume).sha256]);
        }
        command
    };
    let held = match case.resume {
        true => stopped(&scene, make(), case.manifest),
        false => 0,
    };
    scene.origin.pace(case.resume.then_some(RATE_OF_RESUMED));
    let place = Place {
        path: OBJECT.into(),
        length: scene.length(),
        at: AT,
        seed: 4711,
        secret: SECRET,
    };
    let expired = format!("{OBJECT}.expired");
    scene
        .origin
        .lie(&expired, Asks::Anything, Of::All, Lie::Status(403));
    for lie in fault.lies(&place) {
        scene.origin.lie(OBJECT, fault.asks, case.row.of, lie);
    }
    let began = Instant::now();
    let ended = program::run(make());
    let (told, took) = (said(&ended), began.elapsed());
    assert!(took < ENDS_WITHIN, "it took {took:?}: {told}");
    must_be_clean(scene.folder.path(), &ended);
    assert!(!ended.stderr.contains("panicked"), "{told}");
    let only_get = scene.origin.log().iter().all(|asked| asked.method == "GET");
    assert!(only_get, "nothing but GET is needed");
    let exit = expected.exits[usize::from(case.resume)];
    assert_eq!(ended.exit, Some(exit), "the exit code (left): {told}");
    let mut bytes = fetched(&ended);
    assert!(ended.stderr.contains(expected.hint), "no hint: {told}");
    match exit {
        0 => scene.must_be_published(),
        _ => assert!(!scene.target().exists(), "it failed, and the file is there"),
    }
    if exit != 0 && case.resume {
        let kept = expected.kept || case.manifest;
        let there = (scene.part().exists(), scene.journal().exists());
        assert_eq!(there, (kept, kept), "part and journal (left): {told}");
    }
    if exit != 0 {
        // The fault is over, and what the host wanted is forgiven.
        scene.origin.be_honest();
        let mut forget = sapwood(scene.folder.path());
        forget.args(["--store", "store", "hosts", "forget", "--all"]);
        program::run(forget).must(0);
        scene.origin.wait_until_idle();
        let ended = program::run(make());
        must_be_clean(scene.folder.path(), &ended);
        assert_eq!(ended.exit, Some(0), "after the fault: {}", said(&ended));
        bytes += fetched(&ended);
        scene.must_be_published();
    }
    let missing = scene.length() - held;
    let most = expected.factors[usize::from(case.resume)];
    let small = if case.resume { SMALL_OF_RESUMED } else { SMALL };
    let limit = (missing as f64 * most) as u64 + small;
    assert!(
        bytes <= limit,
        "{bytes} bytes came where {missing} were missing: more than {most:.2} times and {small}: {told}"
    );
    Cost {
        bytes,
        missing,
        limit,
        resume: case.resume,
        took,
    }
}

/// Every row four times. Those that fail are told together.
#[test]
fn every_fault_of_the_list() {
    let only = std::env::var("SAPWOOD_STORMS").unwrap_or_default();
    let mut cases = VecDeque::new();
    for row in rows().into_iter().filter(|row| row.id.starts_with(&only)) {
        for (manifest, resume) in [(true, false), (true, true), (false, false), (false, true)] {
            cases.push_back(Case {
                row,
                manifest,
                resume,
            });
        }
    }
    let count = cases.len();
    let (cases, failed, costly) = (
        Mutex::new(cases),
        Mutex::new(Vec::new()),
        Mutex::new(Vec::new()),
    );
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = cases.lock().expect("nobody panics with it").pop_front();
                    let Some(case) = next else { return };
                    let outcome = catch_unwind(AssertUnwindSafe(|| run(&case)));
                    match outcome {
                        Ok(cost) => costly.lock().expect("likewise").push((cost, case.name())),
                        Err(cause) => {
                            let text = cause
                                .downcast_ref::<String>()
                                .cloned()
                                .or_else(|| {
                                    cause.downcast_ref::<&str>().map(|text| (*text).to_owned())
                                })
                                .unwrap_or_default();
                            failed
                                .lock()
                                .expect("likewise")
                                .push(format!("{}: {text}", case.name()));
                        }
                    }
                }
            });
        }
    });
    let mut costly = costly.into_inner().expect("likewise");
    costly.sort_by_key(|(cost, _)| cost.limit.saturating_sub(cost.bytes));
    for (cost, name) in &costly {
        println!(
            "{:9} bytes of at most {:9} where {:8} were missing, in {:5.1} s: {name}",
            cost.bytes,
            cost.limit,
            cost.missing,
            cost.took.as_secs_f64()
        );
    }
    let failed = failed.into_inner().expect("likewise");
    assert!(
        failed.is_empty(),
        "{} of {count} scenes failed:\n\n{}",
        failed.len(),
        failed.join("\n\n")
    );
    // The costliest come first.
    let resumed: Vec<&Cost> = costly
        .iter()
        .map(|(cost, _)| cost)
        .filter(|cost| cost.resume)
        .collect();
    if let Some(median) = resumed.get(resumed.len() / 2) {
        let spare = SMALL_OF_RESUMED - SMALL_OF_MOST;
        assert!(
            median.bytes + spare <= median.limit,
            "half of all resumes took more than {SMALL_OF_MOST} bytes twice"
        );
    }
}

#[test]
fn every_fault_that_an_origin_can_show_has_a_row() {
    let rows = rows();
    for fault in faults::all() {
        assert!(
            rows.iter().any(|row| row.id == fault.id),
            "{} has no row",
            fault.id
        );
    }
}

/// An address on which nobody listens, and that the system gives to nobody who asks for any port.
fn unused_address() -> SocketAddr {
    let first = 20_000 + std::process::id() as u16 % 10_000;
    let mut ports = (first..32_000).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    ports.find(is_free).expect("a free port")
}

/// S01: nobody listens, and then somebody does.
#[test]
fn a_host_that_comes_back_is_found() {
    for manifest in [true, false] {
        let scene = scene(manifest, false);
        let address = unused_address();
        let mut command = sapwood(scene.folder.path());
        let url = format!("http://{address}{OBJECT}");
        command.args([
            "--json",
            "fetch",
            &url,
            "-o",
            "out",
            "--patience",
            "60s",
            "--tries",
            "1",
        ]);
        let mut running = program::start(command);
        thread::sleep(Duration::from_millis(1500));
        let Served {
            content,
            manifest: described,
            ..
        } = served(false);
        let origin = Origin::start_on(address, None, None).expect("the same port");
        origin.put(OBJECT, content.clone());
        if manifest {
            origin.put(MANIFEST, described.clone());
        }
        running.finish().must(0);
        scene.must_be_published();
    }
}

/// S29: what the user gave for one origin goes to no other.
#[test]
fn nothing_of_the_user_goes_to_another_origin() {
    for login_in_url in [true, false] {
        let (scene, other) = (scene(true, false), Origin::start());
        other.put("/there", served(false).content.clone());
        let there = other.url("/there?theirs=1");
        scene
            .origin
            .lie(OBJECT, Asks::Anything, Of::All, Lie::Redirect(302, there));
        let ended = program::run(command(&scene, login_in_url));
        must_be_clean(scene.folder.path(), &ended);
        ended.must(0);
        scene.must_be_published();
        let ours = scene.origin.log_of(OBJECT);
        assert!(
            ours.iter()
                .all(|asked| asked.header("x-key") == Some(SECRET))
        );
        assert!(
            ours.iter()
                .all(|asked| asked.header("authorization").is_some())
        );
        let theirs = other.log();
        assert!(!theirs.is_empty());
        for asked in theirs {
            let names: Vec<String> = asked
                .headers
                .iter()
                .map(|(name, _)| name.to_lowercase())
                .collect();
            for name in ["x-key", "cookie", "referer"] {
                assert!(
                    !names.iter().any(|other| other == name),
                    "{name} went there"
                );
            }
            let said = format!("{:?} {:?}", asked.headers, asked.query);
            assert!(
                !said.contains(SECRET) && !said.contains(SECRET_AS_LOGIN),
                "{said}"
            );
            // The file of logins names this host too, whatever its port; nothing else may give it one.
            assert!(
                !names.iter().any(|name| name == "authorization"),
                "a login went there"
            );
        }
    }
}

/// S31: a name that nobody knows is asked for again, as long as the user is patient.
#[test]
fn an_unknown_name_may_become_known() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut command = sapwood(folder.path());
    command.args([
        "fetch",
        "http://nobody.invalid/x.bin",
        "-o",
        "out",
        "--patience",
        "2s",
        "--tries",
        "1",
    ]);
    let ended = program::run(command).must(5);
    assert!(ended.stderr.contains("cannot reach"), "{}", ended.stderr);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// S36: a new version, an old one, and one with a wrong block in three.
#[test]
fn mirrors_that_disagree_give_only_what_proves() {
    let Served {
        content,
        manifest: described,
        ..
    } = served(false);
    let mut old = content.all();
    old.rotate_left(1000);
    let mut damaged = content.all();
    for block in (0..LENGTH / BLOCK).step_by(3) {
        damaged[(block * BLOCK) as usize] ^= 1;
    }
    let shorter = old[..LENGTH as usize / 2].to_vec();
    for honest_first in [true, false] {
        let scene = scene(true, false);
        let mirrors: Vec<Origin> = [old.clone(), damaged.clone(), shorter.clone()]
            .into_iter()
            .map(|bytes| {
                let origin = Origin::start();
                origin.put(OBJECT, bytes);
                origin
            })
            .collect();
        mirrors
            .iter()
            .for_each(|mirror| mirror.put(MANIFEST, described.clone()));
        let mut urls = vec![scene.url()];
        urls.extend(mirrors.iter().map(|mirror| mirror.url(OBJECT)));
        if !honest_first {
            urls.reverse();
        }
        let mut command = sapwood(scene.folder.path());
        command.args(["--json", "fetch", &urls[0], "-o", "out"]);
        for url in &urls[1..] {
            command.args(["--mirror", url]);
        }
        program::run(command).must(0);
        scene.must_be_published();
    }
}

/// S37: what comes in the place of a manifest costs little, however long it is.
#[test]
fn a_manifest_of_a_gigabyte_is_not_read() {
    let giga = 1_000_000_000;
    // No manifest at all; one whose length is not the one it says; one that never ends.
    let scene = scene(true, false);
    scene.origin.put(MANIFEST, Content::Zeros(giga));
    for lie in [Lie::Leftover(0), Lie::NoRanges] {
        scene.origin.lie(MANIFEST, Asks::Anything, Of::All, lie);
        let ended = scene.fetch(&[]).must(0);
        assert!(fetched(&ended) < LENGTH + 4 * MIB, "{}", fetched(&ended));
        fs::remove_file(scene.target()).expect("it is there");
    }
    let scene = self::scene(true, false);
    let total = Lie::Total(giga.to_string());
    scene.origin.lie(MANIFEST, Asks::Anything, Of::All, total);
    scene.fetch(&[]).must(3);
    scene.must_be_empty();
    let scene = self::scene(true, false);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::All, Lie::NoRanges);
    scene
        .origin
        .lie(MANIFEST, Asks::Anything, Of::All, Lie::Endless);
    scene.fetch(&[]).must(0);
    scene.must_be_published();
}

/// S38: only a safe last segment of the URL names a file; else the user is asked for a name.
#[test]
fn no_url_names_a_file_elsewhere() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let long = "n".repeat(5000);
    for path in [
        "",
        "x/",
        "%2e%2e%2f%2e%2e%2fx",
        "..%2fx",
        "C%3A%5Cx",
        "x%00",
        "x.part",
        "x.part.journal",
        "%2e%2e",
        "a%1b[2J",
        &long,
    ] {
        let mut command = sapwood(folder.path());
        command.args(["fetch", &format!("http://127.0.0.1:9/{path}")]);
        let ended = program::run(command).must(6);
        assert!(ended.stderr.contains("-o"), "{path}: {}", ended.stderr);
        assert_eq!(names(folder.path()), Vec::<String>::new(), "{path}");
    }
}
