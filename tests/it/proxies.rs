//! Proxies that the environment names.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sapwood::format::paint;
use tempfile::TempDir;

use crate::support::{
    nginx::Nginx,
    objects::{Content, manifest_of},
    origin::{Asks, Lie, Of, Origin},
    program::{self, Ended, sapwood},
    proxy::Proxy,
    scene::{MANIFEST, OBJECT, Scene},
    socks::Socks,
    tls::Authority,
};

const LENGTH: u64 = 1024 * 1024 + 17;
const BLOCK: u64 = 64 * 1024;
/// In URLs, users and passwords of proxies.
const SECRET: &str = "PLANTED-SECRET";

fn scene() -> Scene {
    Scene::new(LENGTH, BLOCK)
}

fn proxy_of(origin: &Origin) -> Proxy {
    Proxy::start(origin.address(), origin.address())
}

fn fetch(scene: &Scene, url: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command
        .args([
            "--json",
            "-vvv",
            "fetch",
            url,
            "-o",
            "out",
            "--patience",
            "2s",
        ])
        .envs(variables.iter().copied());
    let ended = program::run(command);
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(
            !text.contains(&STANDARD.encode(format!("user:{SECRET}"))),
            "{text}"
        );
    }
    ended
}

#[test]
fn a_fetch_in_the_clear_goes_through_the_proxy() {
    for variable in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        let scene = scene();
        let proxy = proxy_of(&scene.origin);
        // A name that only the proxy knows.
        let url = format!("http://media.invalid{OBJECT}");
        fetch(&scene, &url, &[(variable, &proxy.url())]).must(0);
        scene.must_be_published();
        let log = proxy.log();
        assert!(
            log.iter()
                .all(|asked| asked.method == "GET" && asked.login.is_none()),
            "{log:?}"
        );
        assert!(log.iter().any(|asked| asked.target == url), "{log:?}");
        // Everything that came to the origin came through it.
        assert!(log.len() >= scene.origin.log().len());
    }
}

#[test]
fn a_fetch_over_tls_goes_through_a_tunnel() {
    let authority = Authority::new();
    let nginx = Nginx::with_tls(&authority);
    fs::write(nginx.www("object.bin"), paint::bytes(0, LENGTH as usize)).unwrap();
    fs::write(
        nginx.www("object.bin.sapwood"),
        manifest_of(&Content::Painted(LENGTH), BLOCK),
    )
    .unwrap();
    let tls = SocketAddr::from(([127, 0, 0, 1], nginx.port_of_tls()));
    for (more, protocol) in [
        (&["--http", "auto"], "HTTP/1.1"),
        (&["--http", "2"], "HTTP/2.0"),
    ] {
        let proxy = Proxy::start(tls, tls);
        let folder = TempDir::new().unwrap();
        let mut command = sapwood(folder.path());
        let url = format!("https://localhost:{}/object.bin", nginx.port_of_tls());
        command
            .args([
                "--json",
                "fetch",
                &url,
                "-o",
                "out",
                "--cacert",
                &authority.certificate(),
            ])
            .args(more)
            .env("https_proxy", proxy.url_with(&format!("user:{SECRET}")));
        program::run(command).must(0);
        assert!(fs::read(folder.path().join("out")).unwrap() == paint::bytes(0, LENGTH as usize));
        let log = proxy.log();
        assert!(!log.is_empty());
        let login = format!("Basic {}", STANDARD.encode(format!("user:{SECRET}")));
        for asked in &log {
            assert_eq!(asked.method, "CONNECT");
            assert_eq!(asked.target, format!("localhost:{}", nginx.port_of_tls()));
            assert_eq!(asked.login.as_ref(), Some(&login));
        }
        let of_server = nginx.log_of("object.bin");
        assert_eq!(of_server.last().unwrap().protocol, protocol);
    }
}

#[test]
fn a_login_of_the_proxy_reaches_it_and_is_never_shown_or_kept() {
    let scene = scene();
    let proxy = proxy_of(&scene.origin);
    let address = proxy.url_with(&format!("user:{SECRET}"));
    let store = scene.path("store").display().to_string();
    let variables = [("http_proxy", address.as_str()), ("SAPWOOD_STORE", &store)];
    fetch(&scene, &scene.url(), &variables).must(0);
    scene.must_be_published();
    let login = Some(format!(
        "Basic {}",
        STANDARD.encode(format!("user:{SECRET}"))
    ));
    assert!(proxy.log().iter().all(|asked| asked.login == login));
    // It is the proxy's and nobody else's.
    for asked in scene.origin.log() {
        assert_eq!(asked.header("proxy-authorization"), None);
        assert_eq!(asked.header("authorization"), None);
    }
    // Nor is it shown when the proxy refuses or is not there.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gone = format!("http://user:{SECRET}@{gone}");
    let refusing = Proxy::refusing(407);
    let refusing = refusing.url_with(&format!("user:{SECRET}"));
    for (proxy, url, exit) in [
        (&refusing, "http://media.invalid/x.bin", 1),
        (&refusing, "https://media.invalid/x.bin", 1),
        (&gone, "http://media.invalid/x.bin", 5),
        (&gone, "https://media.invalid/x.bin", 5),
    ] {
        let ended = fetch(
            &scene,
            url,
            &[("http_proxy", proxy), ("https_proxy", proxy)],
        )
        .must(exit);
        let message = ended.event("failed")["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(exit == 5 || message.contains("proxy"), "{message}");
    }
}

#[test]
fn no_proxy_is_honoured() {
    for exception in ["127.0.0.1", "127.0.0.0/8", "*", "example.org, 127.0.0.1"] {
        let scene = scene();
        let proxy = proxy_of(&scene.origin);
        let variables = [
            ("http_proxy", proxy.url()),
            ("no_proxy", exception.to_owned()),
        ];
        let variables = variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        fetch(&scene, &scene.url(), &variables).must(0);
        scene.must_be_published();
        assert_eq!(proxy.log(), [], "{exception}");
    }
    let scene = scene();
    let proxy = proxy_of(&scene.origin);
    let variables = [
        ("http_proxy", proxy.url()),
        ("no_proxy", "example.org".to_owned()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    fetch(&scene, &scene.url(), &variables).must(0);
    assert!(!proxy.log().is_empty());
}

/// A fetch from a URL whose origin leads elsewhere, by a proxy at a private address.
fn redirected(from: &str, to: &str, more: &[&str]) -> (Ended, Vec<String>) {
    let scene = scene();
    let proxy = proxy_of(&scene.origin);
    scene.origin.lie(
        "/first",
        Asks::Anything,
        Of::All,
        Lie::Redirect(302, to.to_owned()),
    );
    let mut command: Command = sapwood(scene.folder.path());
    let manifest = format!("{from}{MANIFEST}");
    command
        .args([
            "--json",
            "fetch",
            &format!("{from}/first"),
            "--manifest",
            &manifest,
            "-o",
            "out",
        ])
        .args(more)
        // By its name: the rule about private addresses is not for the proxy itself.
        .env("http_proxy", proxy.url().replace("127.0.0.1", "localhost"));
    let ended = program::run(command);
    (
        ended,
        proxy.log().into_iter().map(|asked| asked.target).collect(),
    )
}

/// The address that we are connected to is the proxy's; it must not be taken for the server's, which would then be a private
/// one and might lead anywhere.
#[test]
fn behind_a_proxy_a_public_server_does_not_lead_inside() {
    for from in ["http://93.184.216.34", "http://media.invalid"] {
        for to in [
            "http://127.0.0.1:1/object.bin",
            "http://10.0.0.1/object.bin",
            "http://[::1]/object.bin",
            "http://localhost/object.bin",
        ] {
            let (ended, asked) = redirected(from, to, &[]);
            let ended = ended.must(6);
            assert_eq!(ended.event("failed")["class"], "unsafe");
            assert!(
                !asked.iter().any(|target| target.starts_with(to)),
                "{to} was asked for: {asked:?}"
            );
        }
    }
}

#[test]
fn behind_a_proxy_other_places_may_be_led_to() {
    let public = "http://93.184.216.34";
    for (from, to, more) in [
        // To another public address; within one origin that the user named; from inside to inside.
        (public, "http://1.1.1.1/object.bin", &[][..]),
        (public, "/object.bin", &[]),
        ("http://localhost", "/object.bin", &[]),
        ("http://10.0.0.1", "http://10.0.0.2/object.bin", &[]),
        (public, "http://10.0.0.2/object.bin", &["--allow-private"]),
    ] {
        let (ended, asked) = redirected(from, to, more);
        ended.must(0);
        let place = if to.starts_with('/') {
            format!("{from}{to}")
        } else {
            to.to_owned()
        };
        assert!(
            asked.contains(&place),
            "{place} was not asked for: {asked:?}"
        );
    }
}

/// The message named the origin, which nobody had tried to reach.
#[test]
fn a_dead_proxy_was_told_as_a_dead_origin() {
    let dead = "http://127.0.0.1:1";
    for (url, variable) in [
        ("http://media.invalid/x", "http_proxy"),
        ("https://media.invalid/x", "https_proxy"),
    ] {
        let ended = fetch(&scene(), url, &[(variable, dead)]).must(5);
        let failed = ended.event("failed")["message"].to_string();
        let told = "cannot reach the proxy 127.0.0.1:1 (connection refused)";
        assert!(failed.contains(told), "{failed}");
    }
    let proxy = Proxy::refusing(502);
    let ended = fetch(
        &scene(),
        "https://media.invalid/x",
        &[("https_proxy", &proxy.url())],
    )
    .must(5);
    let failed = ended.event("failed")["message"].to_string();
    assert!(failed.contains("the proxy 127.0.0.1:"), "{failed}");
    assert!(
        failed.contains("cannot connect to media.invalid"),
        "{failed}"
    );
}

/// A value that is no proxy was ignored, and requests went past the proxy.
#[test]
fn a_bad_proxy_variable_was_ignored() {
    for (variable, value) in [
        ("http_proxy", "my proxy"),
        ("HTTP_PROXY", "http://"),
        ("https_proxy", "http://proxy:99999"),
        ("all_proxy", "http://user:PLANTED-SECRET@"),
    ] {
        let scene = scene();
        let ended = fetch(&scene, &scene.url(), &[(variable, value)]).must(2);
        let failed = ended.event("failed")["message"].to_string();
        assert!(
            failed.contains(&format!("{variable} is no URL of a proxy")),
            "{failed}"
        );
        assert!(scene.origin.log().is_empty());
        let off = [(variable, value), ("no_proxy", "*")];
        fetch(&scene, &scene.url(), &off).must(0);
    }
}

/// A fetch through a proxy that is named in the command.
fn fetch_through(scene: &Scene, url: &str, proxy: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command
        .args([
            "--json",
            "-vvv",
            "fetch",
            url,
            "-o",
            "out",
            "--patience",
            "2s",
        ])
        .args(["--proxy", proxy])
        .envs(variables.iter().copied());
    let ended = program::run(command);
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(SECRET), "{text}");
    }
    ended
}

#[test]
fn a_proxy_that_is_chosen_stands_above_the_environment() {
    let scene = scene();
    let (chosen, other) = (proxy_of(&scene.origin), Proxy::refusing(500));
    let url = format!("http://media.invalid{OBJECT}");
    let variables = [("http_proxy", other.url()), ("all_proxy", other.url())];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let login = format!("user:{SECRET}");
    fetch_through(&scene, &url, &chosen.url_with(&login), &variables).must(0);
    scene.must_be_published();
    assert!(chosen.log().iter().all(|asked| asked.login.is_some()));
    assert!(!chosen.log().is_empty() && other.log().is_empty());
    // What no_proxy excepts goes past it, and * excepts all.
    for exception in ["127.0.0.1", "*"] {
        let (scene, chosen) = (self::scene(), Proxy::refusing(500));
        fetch_through(
            &scene,
            &scene.url(),
            &chosen.url(),
            &[("no_proxy", exception)],
        )
        .must(0);
        assert_eq!(chosen.log(), [], "{exception}");
    }
}

#[test]
fn socks_proxies_carry_a_fetch() {
    let scene = scene();
    // Only socks5h leaves names to the proxy.
    let proxy = Socks::start(scene.origin.address(), None);
    let url = format!("http://media.invalid{OBJECT}");
    fetch_through(&scene, &url, &proxy.url("socks5h", ""), &[]).must(0);
    scene.must_be_published();
    let hosts = proxy.hosts();
    assert!(
        hosts.iter().all(|host| host == "media.invalid") && !hosts.is_empty(),
        "{hosts:?}"
    );
    let scene = self::scene();
    let proxy = Socks::start(scene.origin.address(), Some(("user", SECRET)));
    let login = format!("user:{SECRET}@");
    fetch_through(&scene, &scene.url(), &proxy.url("socks5", &login), &[]).must(0);
    scene.must_be_published();
    assert!(
        proxy.hosts().iter().all(|host| host == "127.0.0.1"),
        "{:?}",
        proxy.hosts()
    );
    // The environment may name one too.
    let (scene, url) = (self::scene(), url);
    let proxy = Socks::start(scene.origin.address(), None);
    fetch(&scene, &url, &[("all_proxy", &proxy.url("socks5h", ""))]).must(0);
    assert!(!proxy.hosts().is_empty());
}

#[test]
fn what_is_no_proxy_is_refused() {
    let scene = scene();
    for bad in [
        "ftp://127.0.0.1:1",
        "http://",
        "http://h/path",
        "h:99999",
        "socks9://h:1",
    ] {
        let ended = fetch_through_text(&scene, &["--proxy", bad]).must(2);
        assert!(
            ended.stderr.contains("a proxy is http://HOST:PORT"),
            "{}",
            ended.stderr
        );
    }
    if cfg!(feature = "http3") {
        let ended = fetch_through_text(&scene, &["--proxy", "h:1", "--http", "3"]).must(2);
        assert!(
            ended
                .stderr
                .contains("--http 3 does not go through a proxy"),
            "{}",
            ended.stderr
        );
    }
    assert!(scene.origin.log().is_empty());
}

fn fetch_through_text(scene: &Scene, more: &[&str]) -> Ended {
    let mut command = sapwood(scene.folder.path());
    command.args(["fetch", &scene.url()]).args(more);
    program::run(command)
}
