//! Sessions in Postgres: many servers on one set, TLS, a database that is away, and a password that nobody sees.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::{
    engine::ingest::{
        postgres::{Place, PostgresSessions},
        session_store::SessionStore,
    },
    format::{paint, upload::SessionId},
    policy::upload::notices::KeptNotices,
};

use crate::support::{
    postgres::{Postgres, USER, shared},
    program::{self, LONG_ENOUGH},
    secrets::SECRET,
    site::{BLOCK, ID, PART, Site, id_of, root},
};

async fn open(url: &str) -> Result<PostgresSessions, String> {
    let place = Place::parse(url).map_err(|cause| cause.to_string())?;
    let opened = PostgresSessions::open(place, KeptNotices::All).await;
    opened.map_err(|cause| format!("{cause} {cause:?}"))
}

/// Servers that start at once on an empty database, one that comes later, and a storage that is another one.
#[tokio::test(flavor = "multi_thread")]
async fn many_servers_make_the_tables_once() {
    let postgres = shared();
    let url = postgres.database();
    let all = (0..6).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.unwrap() })
    });
    let mut stores = Vec::new();
    for one in all.collect::<Vec<_>>() {
        stores.push(one.await.unwrap());
    }
    for store in &stores {
        assert!(store.bind("s3://one/".to_owned()).await.unwrap());
    }
    assert!(!stores[0].bind("s3://two/".to_owned()).await.unwrap());
    assert_eq!(stores[1].served_s(7).await.unwrap(), 7);
    assert_eq!(stores[2].served_s(3).await.unwrap(), 7);
    // The key of URLs is that which was first.
    let offers = stores.iter().zip(0_u8..);
    let offers = offers.map(|(store, number)| store.url_key([number; 32]));
    let keys = futures_util::future::try_join_all(offers).await.unwrap();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(stores[0].url_key([99; 32]).await.unwrap(), keys[0]);
    // A role that may only use the tables.
    let role = format!(
        "CREATE ROLE worker LOGIN PASSWORD '{SECRET}'; REVOKE CREATE ON SCHEMA public FROM public;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker"
    );
    postgres.ask(&url, &role).unwrap();
    let worker = open(&url.replace(USER, "worker")).await.unwrap();
    assert_eq!(worker.served_s(0).await.unwrap(), 7);
    // Tables of an earlier program, without that key: several servers bring them up to date.
    let earlier = "ALTER TABLE sapwood_shared DROP COLUMN url_key; UPDATE sapwood_shared SET schema_version = 1";
    postgres.ask(&url, earlier).unwrap();
    let again = futures_util::future::try_join_all([open(&url), open(&url)]);
    let again = again.await.unwrap();
    assert_eq!(again[0].url_key([5; 32]).await.unwrap(), [5; 32]);
    assert_eq!(again[1].url_key([6; 32]).await.unwrap(), [5; 32]);
    // Tables of a later program.
    let later = "UPDATE sapwood_shared SET schema_version = 99";
    postgres.ask(&url, later).unwrap();
    let refused = open(&url).await.err().expect("it is refused");
    assert!(refused.contains("schema 99"), "{refused}");
}

/// `sslmode` compares what it says.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_what_sslmode_says() {
    let postgres = shared();
    let url = postgres.database();
    let by_name = url.replace("127.0.0.1", "localhost");
    // Of this address the certificate says nothing.
    let elsewhere = url.replace("127.0.0.1", "127.0.0.2");
    let (ours, other) = (
        postgres.authority.certificate(),
        crate::support::tls::Authority::new(),
    );
    let other = other.certificate();
    let encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'sapwood' AND datname = current_database()";
    for (base, mode, authority, expected) in [
        (&url, "disable", None, Ok("f")),
        (&url, "prefer", None, Ok("t")),
        (&url, "require", None, Ok("t")),
        (&url, "require", Some(&other), Err("certificate")),
        (&url, "verify-ca", Some(&ours), Ok("t")),
        (&url, "verify-ca", Some(&other), Err("certificate")),
        (&url, "verify-full", Some(&ours), Ok("t")),
        (&by_name, "verify-full", Some(&ours), Ok("t")),
        // Not an authority that the system knows.
        (&url, "verify-full", None, Err("certificate")),
        (&elsewhere, "verify-full", Some(&ours), Err("certificate")),
    ] {
        let mut url = format!("{base}?sslmode={mode}");
        if let Some(authority) = authority {
            url += &format!("&sslrootcert={authority}");
        }
        if base == &elsewhere {
            // The connection goes to the address, the certificate is compared with the name.
            url = url.replace("127.0.0.2", "other.example") + "&hostaddr=127.0.0.1";
        }
        let what = format!("{mode} {authority:?}");
        let opened = open(&url).await;
        match (opened, expected) {
            (Ok(store), Ok(is_encrypted)) => {
                let found = postgres.ask(base, encrypted).unwrap();
                assert_eq!(
                    found.last().map(String::as_str),
                    Some(is_encrypted),
                    "{what}"
                );
                drop(store);
                // Its connections are gone before the next look.
                let began = Instant::now();
                while !postgres.ask(base, encrypted).unwrap().is_empty() {
                    assert!(began.elapsed() < LONG_ENOUGH);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            (Err(refused), Err(text)) => {
                assert!(refused.contains(text), "{what}: {refused}");
                assert!(!refused.contains(SECRET));
            }
            (Ok(_), Err(_)) => panic!("{what}: it connected"),
            (Err(refused), Ok(_)) => panic!("{what}: {refused}"),
        }
    }
}

/// The password is in no message, whatever is wrong.
#[test]
fn no_message_shows_the_password() {
    let site = Site::new();
    let url = shared().database();
    let port = shared().port();
    for (url, exit, said) in [
        (
            url.replace(USER, "nobody"),
            1,
            "password authentication failed",
        ),
        (
            url.replace(SECRET, "wr0ng"),
            1,
            "password authentication failed",
        ),
        (url.replace(&port.to_string(), "1"), 1, "refused"),
        (format!("{url}x"), 1, "does not exist"),
        (format!("{url}?sslmode=maybe"), 2, "sslmode"),
        (format!("{url}?sslmod=require"), 2, "unknown option"),
        (url.replace(SECRET, &format!("{SECRET}@")), 2, "malformed"),
        (format!("{url}?sslmode=verify-full"), 1, "certificate"),
        (
            format!("{url}?sslmode=verify-full&sslrootcert=/none"),
            1,
            "/none",
        ),
    ] {
        let mut command = site.serve_command(&["-vvv"]);
        command.env("SAPWOOD_SESSIONS", &url);
        let ended = program::run(command).must(exit);
        let all = format!("{ended:?}");
        assert!(all.contains(said), "{url}: {all}");
        assert!(!all.contains(SECRET) && !all.contains("wr0ng"), "{all}");
    }
    let help = program::run({
        let mut command = program::sapwood(site.state.path());
        command
            .args(["serve", "--help"])
            .env("SAPWOOD_SESSIONS", &url);
        command
    });
    assert!(!format!("{help:?}").contains(SECRET));
}

/// The database is stopped, killed and started while clients upload: they are told to repeat, and nothing that was acknowledged is lost.
#[test]
fn a_database_that_is_away_is_waited_for() {
    let mut postgres = Postgres::start(true);
    let url = postgres.database();
    let site = Site::new();
    let server = site.serve(&["--sessions", &url]);
    let object = paint::bytes(3, 2 * PART + 9);
    server.api.open(ID, "x", object.len()).must(201);
    for (index, signal) in ["INT", "QUIT", "QUIT"].into_iter().enumerate() {
        server.api.send_part(ID, &object, index);
        server.api.checkpoint(ID, &object, index).must(200);
        postgres.stop(signal);
        server
            .api
            .open(&id_of(9), "y", 5)
            .problem(503, "store_failed");
        let away = server.api.get(&format!("/.sapwood/uploads/{ID}"));
        let problem = away.problem(503, "store_failed");
        assert!(!problem.to_string().contains(&postgres.port().to_string()));
        postgres.start_again();
        // At once, by new connections.
        let status = server.api.status(ID);
        assert_eq!(status["parts"].as_array().map(Vec::len), Some(index + 1));
    }
    server.api.publish(ID, &object);
    assert!(server.api.get("/x").must(200).body == object);
    let shown = format!("{:?}", server.running.kill());
    assert!(!shown.contains(SECRET));
}

/// A server is killed and another one goes on, on the same sessions.
#[test]
fn another_server_goes_on_with_the_sessions() {
    let site = Site::new();
    let url = shared().database();
    let object = paint::bytes(0, PART + 3 * BLOCK);
    let mut server = site.serve(&["--sessions", &url]);
    server.api.open(ID, "shows/x", object.len()).must(201);
    server.api.send_part(ID, &object, 0);
    server.api.checkpoint(ID, &object, 0).must(200);
    server.running.kill();
    server = site.serve(&["--sessions", &url]);
    server.api.send_part(ID, &object, 1);
    server.api.checkpoint(ID, &object, 1).must(200);
    let published = server.api.finalize(ID, &object).must(200).json();
    assert_eq!(published["root"], root(&object));
    let listed = server.api.get("/.sapwood/uploads").must(200).json();
    assert_eq!(listed["sessions"][0]["id"], ID);
    // The folder belongs to one server, whatever they share.
    let second = program::run(site.serve_command(&["--sessions", &url]));
    second.must(5);
    server.running.signal(Signal::TERM);
    server.running.finish();
    // The sessions are those of this folder.
    let other = Site::new();
    let refused = program::run(other.serve_command(&["--sessions", &url])).must(6);
    assert!(!format!("{refused:?}").contains(SECRET));
}

/// Who has read and changed a session at the same time as others decides again, and no count is off.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_right_after_many_changes_at_once() {
    use sapwood::{
        format::library::LibraryPath,
        policy::{
            parts::PartPlan,
            upload::{Change, Declared, Now, Owner, PartsChange, Protocol, Session, StagedBytes},
        },
    };
    const SIZE: u64 = 5 << 20;
    let postgres = shared();
    let url = postgres.database();
    let stores = [
        Arc::new(open(&url).await.unwrap()),
        Arc::new(open(&url).await.unwrap()),
    ];
    let declared = Declared {
        name: LibraryPath::new("x").unwrap(),
        plan: PartPlan::choose(None, Some(SIZE), None).unwrap(),
        root: None,
        sha256: None,
        replace: false,
        growing: false,
        protocol: Protocol::Sapwood,
    };
    let now = Now {
        unix_s: 5,
        served_s: 5,
    };
    let id = SessionId::from_random([1; 16]);
    let session = Session::open(id, Owner("ann".to_owned()), declared, now);
    let plenty = sapwood::engine::ingest::session_store::OwnerLimits {
        sessions: 9,
        bytes: u64::MAX,
    };
    stores[0].insert(&session, plenty).await.unwrap();
    let all = (0..24_u32).map(|index| {
        let store = stores[index as usize % 2].clone();
        tokio::spawn(async move {
            // Sent twice, with other bytes beside; then finished; of every third the bytes are wrong after all.
            for is_beside in [false, true, false] {
                let staged = StagedBytes {
                    index: index / 2,
                    length: SIZE,
                    is_beside,
                };
                store.count_staged(id, staged, plenty).await.unwrap();
            }
            let change = |parts: PartsChange| {
                let store = store.clone();
                async move {
                    loop {
                        let mut session = store.load(id).await.unwrap().unwrap();
                        session.version += 1;
                        let change = Change {
                            parts: parts.clone(),
                            ..session.into()
                        };
                        use sapwood::engine::ingest::session_store::Written;
                        if store.write(&change).await.unwrap() == Written::Stored {
                            return;
                        }
                    }
                }
            };
            let mut part = crate::support::ingest::finished(index as u8, index / 2);
            part.length = SIZE;
            change(PartsChange::Put(part)).await;
            if index % 3 == 0 {
                change(PartsChange::Remove(vec![index / 2])).await;
            }
        })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let sums = "SELECT (parts_bytes = (SELECT coalesce(sum(length), 0) FROM sapwood_parts))
        AND (staged_bytes = (SELECT coalesce(sum(kept + beside), 0) FROM sapwood_staged)) FROM sapwood_sessions";
    assert_eq!(postgres.ask(&url, sums).unwrap(), ["t"]);
}
