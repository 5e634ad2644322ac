//! What users of other programs are used to: a configuration file, short forms, manifests that are there when they are needed.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::support::{
    program::{self, Ended, sapwood},
    scene::{Scene, names},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Runs a command with this configuration file.
fn configured(scene: &Scene, config: &str, args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let folder = scene.path("config/sapwood");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), config).unwrap();
    let mut command = sapwood(scene.folder.path());
    command
        .args(args)
        .env("XDG_CONFIG_HOME", scene.path("config"))
        .envs(variables.iter().copied());
    program::run(command)
}

#[test]
fn a_configuration_file_sets_flags_below_variables_and_the_command_line() {
    let scene = Scene::new(MIB, 16 * KIB);
    let url = scene.url();
    let config = "# Mine\njson = true\nmax-size = '1K'\n\n[fetch]\nno-clobber = true\n";
    let fetch = ["fetch", url.as_str(), "-o", "out"];
    let ended = configured(&scene, config, &fetch, &[]).must(1);
    // With --json, too.
    assert_eq!(ended.event("failed")["exit"], 1);
    configured(&scene, config, &fetch, &[("SAPWOOD_MAX_SIZE", "1KiB")]).must(1);
    configured(&scene, config, &fetch, &[("SAPWOOD_MAX_SIZE", "2M")]).must(0);
    let typed = [&fetch[..], &["--max-size", "2M"]].concat();
    // The file is there, and the configuration forbids to replace it.
    configured(&scene, config, &typed, &[("SAPWOOD_MAX_SIZE", "1K")]).must(6);
    fs::remove_file(scene.target()).unwrap();
    configured(&scene, config, &typed, &[("SAPWOOD_MAX_SIZE", "1K")]).must(0);
    scene.must_be_published();
}

#[test]
fn a_mistake_in_the_configuration_file_is_named_with_its_line() {
    let scene = Scene::new(MIB, 16 * KIB);
    let url = scene.url();
    let file = scene
        .path("config/sapwood/config.toml")
        .display()
        .to_string();
    for (config, line, words) in [
        (
            "json = true\nconections = 4\n",
            2,
            "there is no flag --conections",
        ),
        ("[fetch]\n\nconnections = 'x'\n", 3, "'--connections <N>'"),
        ("[sync]\nconnections = 0\n", 2, "'--connections <N>'"),
        ("limit-rate = \n", 1, ""),
        ("[fech]\n", 1, "there is no command sapwood fech"),
    ] {
        let ended = configured(&scene, config, &["fetch", &url], &[]).must(2);
        let place = format!("error: {file}, line {line}: ");
        assert!(
            ended.stderr.starts_with(&place),
            "{config}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains(words), "{config}: {}", ended.stderr);
        configured(&scene, config, &["fetch", "--help"], &[]).must(0);
        configured(&scene, config, &["--version"], &[]).must(0);
    }
    assert!(scene.origin.log().is_empty());
}

#[test]
fn names_of_digests_and_addresses_may_be_short() {
    let scene = Scene::new(MIB, 16 * KIB);
    let bytes = scene.content.all();
    let manifest = ["manifest", "local", "--digest", "sha256", "--digest", "MD5"];
    fs::write(scene.path("local"), &bytes).unwrap();
    let mut command = sapwood(scene.folder.path());
    program::run({
        command.args(manifest);
        command
    })
    .must(0);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "inspect", "local"]);
    let shown = program::run(command).must(0).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let sha256 = shown["digests"]["sha-256"].as_str().unwrap().to_owned();
    for (digest, exit) in [
        (format!("sha256={sha256}"), 0),
        (format!("SHA-256={sha256}"), 0),
        (format!("sha256={:064}", 0), 3),
    ] {
        scene.fetch(&["--digest", &digest, "--discard"]).must(exit);
    }
}

/// A host that takes connections and says nothing.
#[test]
fn a_connection_may_take_no_longer_than_the_user_allows() {
    let scene = Scene::new(MIB, 16 * KIB);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", listener.local_addr().unwrap());
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            kept.push(stream);
        }
    });
    let mut command = sapwood(scene.folder.path());
    command
        .args(["fetch", &url, "--no-manifest", "--patience", "7s"])
        .args(["--connect-timeout", "200ms"]);
    program::run(command).must(5);
    // In one connect timeout of 10 s there would be one.
    assert!(count.load(Ordering::Relaxed) >= 2);
}

/// It said that the file has no manifest beside it.
#[test]
fn a_fetched_file_verifies_without_its_manifest_beside_it() {
    let scene = Scene::new(MIB, 16 * KIB);
    let store = ["--store", "store"];
    let verify = |more: &[&str]| {
        let mut command = sapwood(scene.folder.path());
        command
            .args(["--json", "verify", "out"])
            .args(store)
            .args(more);
        program::run(command)
    };
    scene.fetch(&store).must(0);
    assert!(!names(scene.folder.path()).contains(&"out.sapwood".to_owned()));
    let verified = verify(&[]).must(0).event("verified");
    assert_eq!(verified["root"], scene.root().as_str());
    assert_eq!(verified["trust"], "manifest");
    verify(&["--root", &scene.root()]).must(0);
    verify(&["--root", &format!("{:064}", 0)]).must(3);
    // Another file has its place, and the user knows its root.
    fs::write(scene.target(), "another").unwrap();
    verify(&["--root", blake3::hash(b"another").to_hex().as_str()]).must(0);
    // Damaged, or written to: it is compared with what was fetched.
    let mut bytes = scene.content.all();
    bytes[200_000] ^= 1;
    fs::write(scene.target(), &bytes).unwrap();
    let damaged = verify(&[]).must(3).event("damaged");
    assert_eq!(damaged["block"], 200_000 / (16 * KIB));
    // Fetched again, it is repaired, and known again.
    scene.fetch(&store).must(0);
    verify(&[]).must(0);
    let mut command = sapwood(scene.folder.path());
    command.args(["store", "forget", "out"]).args(store);
    program::run(command).must(0);
    verify(&[]).must(2);
}

#[test]
fn a_file_of_many_verifies_without_its_manifest_too() {
    // Small: these are published together.
    let scene = Scene::new(10_000, 16 * KIB);
    scene.fetch(&["--store", "store"]).must(0);
    let mut command = sapwood(scene.folder.path());
    command.args(["--json", "verify", "out", "--store", "store"]);
    let verified = program::run(command).must(0).event("verified");
    assert_eq!(verified["trust"], "manifest");
}

#[test]
fn a_manifest_is_saved_beside_the_file_if_the_user_says_so() {
    let scene = Scene::new(MIB, 16 * KIB);
    let manifest = scene.path("out.sapwood");
    let more = ["--save-manifest", "--no-store"];
    let saved = scene.fetch(&more).must(0).event("manifest");
    assert_eq!(saved["root"], scene.root().as_str());
    let bytes = fs::read(&manifest).unwrap();
    let of_origin = crate::support::objects::manifest_of(&scene.content, 16 * KIB);
    assert!(bytes == of_origin);
    let mut command = sapwood(scene.folder.path());
    command.args(["verify", "out"]);
    program::run(command).must(0);
    // A file that was there already gets its manifest too; one that is no manifest is not overwritten.
    fs::remove_file(&manifest).unwrap();
    scene.fetch(&more).must(0);
    assert!(fs::read(&manifest).unwrap() == bytes);
    fs::write(&manifest, "mine").unwrap();
    scene.fetch(&more).must(6);
    assert_eq!(fs::read_to_string(&manifest).unwrap(), "mine");
    // From a file, and where there is none.
    fs::write(scene.path("m"), &bytes).unwrap();
    fs::remove_file(&manifest).unwrap();
    scene.fetch(&["--save-manifest", "--manifest", "m"]).must(0);
    assert!(fs::read(&manifest).unwrap() == bytes);
    let mut command = sapwood(scene.folder.path());
    let url = scene.origin.url("/plain.bin");
    scene.origin.put("/plain.bin", scene.content.clone());
    command.args(["--json", "fetch", &url, "--save-manifest"]);
    let warned = program::run(command).must(0).event("warning");
    let message = warned["message"].as_str().unwrap();
    assert!(message.contains("without a manifest"), "{message}");
}

const COMMANDS: [&str; 15] = [
    "manifest",
    "inspect",
    "verify",
    "fetch",
    "push",
    "sync",
    "cat",
    "gateway",
    "keygen",
    "sign",
    "store",
    "hosts",
    "serve",
    "completions",
    "man",
];

fn printed(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = sapwood(folder.path());
    command.args(args);
    program::run(command).must(0).stdout
}

#[test]
fn help_begins_with_an_example_and_the_flags_that_people_use() {
    let program = printed(&["--help"]);
    assert!(
        program.starts_with("Example: sapwood fetch http"),
        "{program}"
    );
    for name in COMMANDS {
        assert!(program.contains(&format!("  {name} ")), "{name}");
        let help = printed(&[name, "--help"]);
        let (first, _) = help.split_once('\n').unwrap();
        assert!(
            first.starts_with("Example: ") && first.contains(&format!("sapwood {name}")),
            "{help}"
        );
        // Those of a heading of their own come later.
        let (_, own) = help.split_once("\nOptions:\n").unwrap_or_default();
        let own = own
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with(' '));
        let flags = own
            .filter(|line| line.trim_start().starts_with('-'))
            .count();
        assert!(flags <= 14, "{name} has {flags}");
    }
    let help = printed(&["fetch", "-h"]);
    let headings: Vec<&str> = help
        .lines()
        .filter(|line| line.ends_with(':') && !line.starts_with(' '))
        .collect();
    let wanted = [
        "Arguments:",
        "Options:",
        "Manifests and digests:",
        "Bytes that are here:",
        "Results:",
        "Network:",
        "Output:",
    ];
    assert_eq!(headings, wanted);
}

#[test]
fn each_command_has_a_manual_page() {
    for name in [None].into_iter().chain(COMMANDS.map(Some)) {
        let page = printed(&["man"].into_iter().chain(name).collect::<Vec<_>>());
        let sections = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        let sections: Vec<&str> = sections.map(|section| section.trim_matches('"')).collect();
        for section in [
            "NAME",
            "SYNOPSIS",
            "EXAMPLES",
            "ENVIRONMENT",
            "FILES",
            "EXIT STATUS",
        ] {
            assert!(sections.contains(&section), "{name:?}: {sections:?}");
        }
        let title = name.map_or("SAPWOOD".to_owned(), |name| {
            format!("SAPWOOD-{}", name.to_uppercase())
        });
        assert!(
            page.contains(&format!(".TH {title} 1 ")),
            "{}",
            &page[..200]
        );
    }
    let page = printed(&["man", "fetch"]);
    for text in [
        "SAPWOOD_CONNECTIONS",
        ".config/sapwood/config.toml",
        "https_proxy",
        "FILE.part",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn completions_know_values() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        for value in ["signed", "sha-512", "crc64nvme", "1.1"] {
            assert!(script.contains(value), "{shell}: {value}");
        }
    }
}

/// Lines of a list with fields, folders and JSON.
#[test]
fn lines_of_a_list_say_what_the_object_must_be() {
    let scene = Scene::new(MIB, 16 * KIB);
    let (url, root) = (scene.url(), scene.root());
    let other = scene.origin.url("/other.bin");
    scene.origin.put("/other.bin", scene.content.clone());
    let sha256 = "00".repeat(32);
    let list = format!(
        "{url}\ta/one.bin\troot={root}\n\
         {{\"url\":\"{other}\",\"name\":\"a/b/two.bin\",\"root\":\"{root}\",\"manifest\":\"{url}.sapwood\"}}\n\
         {other}\tthree.bin\tdigest=sha256={sha256}\n\
         {other}\t../four.bin\n\
         {other}\ta//five.bin\n\
         http://127.0.0.1:1/gone\tsix.bin\tmirror={url}\tmanifest={url}.sapwood\n"
    );
    let mut command = sapwood(scene.folder.path());
    command.args([
        "--json",
        "fetch",
        "-i",
        "-",
        "-o",
        "inbox/",
        "--discard",
        "--patience",
        "30s",
    ]);
    let ended = program::run_with_input(command, list.as_bytes()).must(6);
    for (name, is_there) in [
        ("inbox/a/one.bin", true),
        ("inbox/a/b/two.bin", true),
        ("inbox/three.bin", false),
        ("four.bin", false),
        ("inbox/a/five.bin", false),
        ("inbox/six.bin", true),
    ] {
        let found = fs::read(scene.path(name)).ok();
        assert_eq!(found.is_some(), is_there, "{name}: {}", ended.stdout);
        assert!(
            found.is_none_or(|bytes| bytes == scene.content.all()),
            "{name}"
        );
    }
    let exits: Vec<_> = ended
        .all("failed")
        .iter()
        .map(|one| one["exit"].as_i64().unwrap())
        .collect();
    assert_eq!(exits, [6, 6, 3]);
    let trusts: Vec<_> = ended
        .all("published")
        .iter()
        .map(|one| one["trust"].to_string())
        .collect();
    assert_eq!(
        trusts.iter().filter(|trust| *trust == "\"root\"").count(),
        2,
        "{trusts:?}"
    );
}

#[test]
fn a_run_fetches_no_more_files_at_a_time_than_the_user_allows() {
    let scene = Scene::new(300 * KIB, 16 * KIB);
    let mut list = String::new();
    for number in 0..8 {
        let name = format!("/{number}.bin");
        scene.origin.put(&name, scene.content.clone());
        list += &format!("{}\n", scene.origin.url(&name));
    }
    scene.origin.pace(Some(2 * MIB));
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", "-i", "-", "-j", "1", "--connections", "1"]);
    let ended = program::run_with_input(command, list.as_bytes()).must(0);
    assert_eq!(scene.origin.most_at_a_time(), 1);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("sapwood: 8 done; fetched 2."),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_last_line_counts_what_is_done_and_what_failed() {
    let scene = Scene::new(MIB, 16 * KIB);
    let list = format!("{}\n{}\n", scene.url(), scene.origin.url("/missing.bin"));
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", "-i", "-"]);
    let ended = program::run_with_input(command, list.as_bytes()).must(1);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("sapwood: 1 done, 1 failed; fetched "),
        "{}",
        ended.stderr
    );
}
