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
