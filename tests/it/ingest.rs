//! Taking uploads: requests of clients on a store and a storage in memory that fail at each step.

use std::sync::Arc;

use bytes::Bytes;
use sapwood::{
    engine::{
        ingest::{
            Finalize, FinalizeRun, Ingest, IngestError, IngestEvent, IngestLimits, NextNotice,
            NoticeEnd, Target,
            session_store::{OwnerLimits, SessionStore},
        },
        storage::{Destination, OfferedPart, Staged, Storage, StorageError},
    },
    format::{notice::NoticeEvent, upload::SessionId},
    policy::upload::{FinishedPart, LEASE_S, Refusal, State, notices::NOTICE_LEASE_S},
};

use super::support::ingest::{
    MemoryStore, PART, Server, TTL_S, content, finished, goal, offered, open_request, owner, root,
};

const PARTS: u32 = 3;

fn id(number: u8) -> SessionId {
    SessionId::from_random([number; 16])
}

async fn send(ingest: &Ingest, id: SessionId, object: u8, index: u32) -> Result<(), IngestError> {
    let mut writer = ingest.receive(id, &offered(object, index), 0).await?;
    writer.write(Bytes::from(content(object, index))).await?;
    Ok(writer.finish().await?)
}

/// A part from its first byte to its checkpoint.
async fn put(
    ingest: &Ingest,
    id: SessionId,
    object: u8,
    index: u32,
) -> Result<FinishedPart, IngestError> {
    let ann = owner("ann");
    match ingest
        .targets(&ann, id, &[offered(object, index)])
        .await?
        .as_slice()
    {
        [Target::Finished { .. }] => return Ok(finished(object, index)),
        [
            Target::Send {
                to: Destination::Server { from: 0 },
                ..
            },
        ] => (),
        other => panic!("{other:?}"),
    }
    send(ingest, id, object, index).await?;
    ingest
        .checkpoint(&ann, id, finished(object, index), false)
        .await
}

async fn finish(ingest: &Ingest, id: SessionId, object: u8) -> Result<(), IngestError> {
    match ingest
        .finalize(&owner("ann"), id, goal(object, PARTS))
        .await?
    {
        Finalize::Done(_) => Ok(()),
        Finalize::Run(run) => ingest.run(run).await.map(drop),
        Finalize::Working(_) => Err(IngestError::Contended),
    }
}

async fn upload(ingest: &Ingest, id: SessionId, object: u8) -> Result<(), IngestError> {
    ingest
        .open(&owner("ann"), id, &open_request("talk.mp4", PARTS))
        .await?;
    for index in 0..PARTS {
        put(ingest, id, object, index).await?;
    }
    finish(ingest, id, object).await
}

fn code<T: std::fmt::Debug>(result: Result<T, IngestError>) -> &'static str {
    result.expect_err("it is refused").code()
}

/// The names of the events so far.
fn kinds(server: &Server) -> Vec<String> {
    let name = |event: &IngestEvent| {
        format!("{event:?}")
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    server.events.lock().unwrap().iter().map(name).collect()
}

/// A checkpoint reads the session and the part once, unless somebody changes them while the storage proves the part. In Postgres that is
/// one statement, and the change is another.
#[tokio::test]
async fn a_checkpoint_asks_the_store_no_more_than_it_must() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    let request = open_request("talk.mp4", PARTS);
    ingest.open(&ann, id(1), &request).await.unwrap();
    for index in 0..PARTS {
        send(&ingest, id(1), 7, index).await.unwrap();
    }
    // Each call passes the gate twice.
    let calls = || server.store.gate.passed() / 2;
    let before = calls();
    let checkpoint = |index| ingest.checkpoint(&ann, id(1), finished(7, index), false);
    checkpoint(0).await.unwrap();
    assert_eq!(calls() - before, 3);
    // Two at once: the slower one decides again, and does not ask the storage again.
    server.storage.gate().yield_always();
    let before = calls();
    let (one, other) = tokio::join!(checkpoint(1), checkpoint(2));
    assert_eq!(
        (one.unwrap(), other.unwrap()),
        (finished(7, 1), finished(7, 2))
    );
    assert_eq!(calls() - before, 3 + 6);
    let status = ingest.status(&ann, id(1)).await.unwrap();
    assert_eq!(status.parts, [0, 1, 2].map(|index| finished(7, index)));
}

#[tokio::test]
async fn an_upload_is_published_and_every_request_may_be_repeated() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    let opened = ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    assert!(opened.is_new);
    let again = ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    assert!(!again.is_new);
    assert_eq!(again.status, opened.status);
    for _ in 0..2 {
        for index in 0..PARTS {
            put(&ingest, id(1), 7, index).await.unwrap();
            send(&ingest, id(1), 7, index).await.unwrap();
            ingest
                .checkpoint(&ann, id(1), finished(7, index), false)
                .await
                .unwrap();
        }
    }
    let status = ingest.status(&ann, id(1)).await.unwrap();
    assert_eq!(status.parts, [0, 1, 2].map(|index| finished(7, index)));
    for _ in 0..2 {
        finish(&ingest, id(1), 7).await.unwrap();
    }
    let status = ingest.status(&ann, id(1)).await.unwrap();
    let published = server.storage.published(id(1)).unwrap();
    assert_eq!(published.root, root(7, PARTS));
    assert_eq!(status.session.state, State::Done(published));
    assert!(
        server.storage.handles().is_empty(),
        "what was staged is gone"
    );
    assert_eq!(code(ingest.abort(&ann, id(1)).await), "session_done");
    assert_eq!(code(put(&ingest, id(1), 7, 0).await), "session_done");
    let expected = [
        "Opened",
        "PartFinished",
        "PartFinished",
        "PartFinished",
        "Finalizing",
        "Published",
    ];
    assert_eq!(kinds(&server), expected);
}

/// A failure before and after the effect of every call to the store and the storage, once or until a restart.
#[tokio::test]
async fn an_upload_that_fails_at_any_step_is_finished_by_repeating_it() {
    for for_ever in [false, true] {
        for at_storage in [false, true] {
            let mut pass = 1;
            loop {
                let server = Server::new();
                server.storage.be_exclusive();
                let ingest = server.start().await;
                let gate = || match at_storage {
                    true => server.storage.gate(),
                    false => &server.store.gate,
                };
                gate().fail_at(pass, for_ever);
                let first = upload(&ingest, id(1), 7).await;
                let was_reached = gate().passed() >= pass;
                let published = server.storage.published(id(1));
                assert!(
                    first.is_err() || published.is_some(),
                    "a false success: pass {pass}"
                );
                gate().fail_at(0, false);
                if first.is_err() {
                    // The server is killed and started again; the client repeats all of it.
                    drop(ingest);
                    let ingest = server.start().await;
                    for run in ingest.unfinished().await.unwrap() {
                        ingest.run(run).await.unwrap();
                    }
                    upload_again(&ingest)
                        .await
                        .unwrap_or_else(|cause| panic!("pass {pass}: {cause}"));
                }
                let ingest = server.start().await;
                let status = ingest.status(&owner("ann"), id(1)).await.unwrap();
                let published = server.storage.published(id(1)).unwrap();
                assert_eq!(status.session.state, State::Done(published), "pass {pass}");
                assert_eq!(published.root, root(7, PARTS));
                collect_all(&server, &ingest).await;
                assert!(
                    server.storage.handles().is_empty(),
                    "an orphan: pass {pass}"
                );
                if !was_reached {
                    break;
                }
                pass += 1;
            }
            assert!(pass > 20, "{pass}");
        }
    }
}

/// The same client, which finds the session in whatever state it is.
async fn upload_again(ingest: &Ingest) -> Result<(), IngestError> {
    let opened = ingest
        .open(&owner("ann"), id(1), &open_request("talk.mp4", PARTS))
        .await?;
    if opened.status.session.state == State::Open {
        for index in 0..PARTS {
            put(ingest, id(1), 7, index).await?;
        }
    }
    finish(ingest, id(1), 7).await
}

/// Collections until nothing that could be removed is left.
async fn collect_all(server: &Server, ingest: &Ingest) {
    for _ in 0..4 {
        let collected = ingest.collect().await.unwrap();
        assert!(collected.failures.is_empty(), "{:?}", collected.failures);
        server.clock.advance(3600);
    }
}

/// Each call of a collection fails once: the next one does the rest.
#[tokio::test]
async fn an_abort_or_a_collection_that_fails_at_any_step_leaves_no_orphan() {
    for aborts in [false, true] {
        for at_storage in [false, true] {
            let mut pass = 1;
            loop {
                let server = Server::new();
                let (ingest, ann) = (server.start().await, owner("ann"));
                ingest
                    .open(&ann, id(1), &open_request("talk.mp4", PARTS))
                    .await
                    .unwrap();
                put(&ingest, id(1), 7, 0).await.unwrap();
                server.clock.advance(TTL_S);
                let gate = || match at_storage {
                    true => server.storage.gate(),
                    false => &server.store.gate,
                };
                gate().fail_at(pass, false);
                if aborts {
                    let _ = ingest.abort(&ann, id(1)).await;
                } else {
                    let _ = ingest.collect().await;
                }
                let was_reached = gate().passed() >= pass;
                gate().fail_at(0, false);
                for _ in 0..30 {
                    ingest.collect().await.unwrap();
                    server.clock.advance(3600);
                }
                assert!(server.storage.handles().is_empty(), "pass {pass}");
                assert!(
                    server.store.kept.lock().unwrap().is_empty(),
                    "pass {pass}: it is forgotten"
                );
                if !was_reached {
                    break;
                }
                pass += 1;
            }
            assert!(pass > 2, "{pass}");
        }
    }
}

#[tokio::test]
async fn sessions_of_others_do_not_exist() {
    let server = Server::new();
    let (ingest, ann, eve) = (server.start().await, owner("ann"), owner("eve"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    let request = open_request("talk.mp4", PARTS);
    assert_eq!(code(ingest.open(&eve, id(1), &request).await), "no_session");
    assert_eq!(code(ingest.status(&eve, id(1)).await), "no_session");
    assert_eq!(
        code(ingest.targets(&eve, id(1), &[offered(7, 0)]).await),
        "no_session"
    );
    assert_eq!(
        code(ingest.checkpoint(&eve, id(1), finished(7, 0), true).await),
        "no_session"
    );
    assert_eq!(
        code(ingest.finalize(&eve, id(1), goal(7, PARTS)).await),
        "no_session"
    );
    assert_eq!(code(ingest.abort(&eve, id(1)).await), "no_session");
    assert_eq!(ingest.list(&eve, None, None).await.unwrap().sessions, []);
    assert_eq!(
        ingest.list(&ann, None, None).await.unwrap().sessions.len(),
        1
    );
    assert_eq!(
        ingest.status(&ann, id(1)).await.unwrap().session.state,
        State::Open
    );
}

#[tokio::test]
async fn what_is_opened_twice_is_the_same_or_refused() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    server.storage.put_object("there.mp4");
    let request = open_request("talk.mp4", PARTS);
    ingest.open(&ann, id(1), &request).await.unwrap();
    let mut sizes_left_out = request.clone();
    sizes_left_out.part_size = None;
    assert!(
        !ingest
            .open(&ann, id(1), &sizes_left_out)
            .await
            .unwrap()
            .is_new
    );
    let changes: [fn(&mut sapwood::engine::ingest::OpenRequest); 6] = [
        |it| it.name = "other.mp4".into(),
        |it| it.length = Some(PART),
        |it| it.length = None,
        |it| it.part_size = Some(2 * PART),
        |it| it.replace = true,
        |it| it.root = Some(root(1, 1)),
    ];
    for change in changes {
        let mut other = request.clone();
        change(&mut other);
        assert_eq!(
            code(ingest.open(&ann, id(1), &other).await),
            "session_differs"
        );
    }
    let mut there = open_request("there.mp4", PARTS);
    assert_eq!(code(ingest.open(&ann, id(2), &there).await), "name_exists");
    there.replace = true;
    assert!(ingest.open(&ann, id(2), &there).await.unwrap().is_new);
    for bad in [
        "",
        "/x",
        "../x",
        "a/../x",
        "a//b",
        ".x",
        "a/.x/b",
        "x.sapwood",
        "x.SAPWOOD/y",
        "x.sapwood.json",
        "x.part",
        "library.sapwood",
        "sapwood-staging/x",
        "Sapwood-Staging/x",
        "a/sapwood-staging",
        "a\\b",
        "a\0",
    ] {
        assert_eq!(
            code(ingest.open(&ann, id(3), &open_request(bad, 1)).await),
            "bad_name",
            "{bad:?}"
        );
    }
    let mut odd = open_request("odd.mp4", 1);
    odd.part_size = Some(PART + 1);
    assert_eq!(code(ingest.open(&ann, id(3), &odd).await), "bad_size");
    odd.part_size = None;
    odd.block_size = Some(3);
    assert_eq!(code(ingest.open(&ann, id(3), &odd).await), "bad_size");
}

#[tokio::test]
async fn a_finished_part_keeps_its_bytes_unless_it_is_replaced() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    // Nothing is noted that the storage does not have.
    for replace in [false, true] {
        let checkpoint = ingest
            .checkpoint(&ann, id(1), finished(7, 0), replace)
            .await;
        assert_eq!(code(checkpoint), "part_not_stored");
    }
    put(&ingest, id(1), 7, 0).await.unwrap();
    match ingest.checkpoint(&ann, id(1), finished(8, 0), false).await {
        Err(IngestError::Refused(Refusal::PartFinished {
            index: 0,
            finished: had,
            offered: new,
        })) => {
            assert_eq!((had, new), (finished(7, 0).sha256, finished(8, 0).sha256));
        }
        other => panic!("{other:?}"),
    }
    let not_sent = ingest.checkpoint(&ann, id(1), finished(8, 0), true).await;
    assert_eq!(
        code(not_sent),
        "part_not_stored",
        "replace does not win before the bytes are there"
    );
    send(&ingest, id(1), 8, 0).await.unwrap();
    assert_eq!(
        ingest.status(&ann, id(1)).await.unwrap().parts,
        [finished(7, 0)]
    );
    ingest
        .checkpoint(&ann, id(1), finished(8, 0), true)
        .await
        .unwrap();
    assert_eq!(
        ingest.status(&ann, id(1)).await.unwrap().parts,
        [finished(8, 0)]
    );
    // Parts that the object does not have.
    for (index, length) in [(PARTS, PART), (0, PART - 1), (u32::MAX, 0)] {
        let part = FinishedPart {
            index,
            length,
            ..finished(7, 0)
        };
        assert_eq!(
            code(ingest.checkpoint(&ann, id(1), part, false).await),
            "bad_part"
        );
        let part = OfferedPart {
            index,
            length,
            ..offered(7, 0)
        };
        assert_eq!(code(ingest.targets(&ann, id(1), &[part]).await), "bad_part");
    }
    let many = vec![offered(7, 0); 101];
    assert_eq!(
        code(ingest.targets(&ann, id(1), &many).await),
        "bad_request"
    );
}

#[tokio::test]
async fn nothing_is_published_that_is_not_what_the_client_said() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    put(&ingest, id(1), 7, 0).await.unwrap();
    put(&ingest, id(1), 7, 2).await.unwrap();
    match ingest.finalize(&ann, id(1), goal(7, PARTS)).await {
        Err(IngestError::Refused(Refusal::PartsMissing { missing })) => assert_eq!(missing, [1]),
        other => panic!("{other:?}"),
    }
    put(&ingest, id(1), 7, 1).await.unwrap();
    let short = ingest.finalize(&ann, id(1), goal(7, PARTS - 1)).await;
    assert_eq!(code(short), "length_differs");
    assert_eq!(code(finish(&ingest, id(1), 8).await), "root_differs");
    let status = ingest.status(&ann, id(1)).await.unwrap();
    assert_eq!(status.session.state, State::Open);
    assert_eq!(status.session.problem.unwrap().code, "root_differs");
    // A part rots in the storage: it alone is sent again.
    server.storage.lose_part(1);
    match finish(&ingest, id(1), 7).await {
        Err(IngestError::Disproved(why)) => assert_eq!(why.wrong_parts(), [1]),
        other => panic!("{other:?}"),
    }
    let status = ingest.status(&ann, id(1)).await.unwrap();
    assert_eq!(status.parts, [finished(7, 0), finished(7, 2)]);
    put(&ingest, id(1), 7, 1).await.unwrap();
    finish(&ingest, id(1), 7).await.unwrap();
    assert_eq!(
        server.storage.published(id(1)).unwrap().root,
        root(7, PARTS)
    );
}

#[tokio::test]
async fn a_name_that_exists_at_the_end_is_replaced_only_if_the_client_says_so() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    for index in 0..PARTS {
        put(&ingest, id(1), 7, index).await.unwrap();
    }
    server.storage.put_object("talk.mp4");
    assert_eq!(code(finish(&ingest, id(1), 7).await), "name_exists");
    let mut replacing = goal(7, PARTS);
    replacing.replace = true;
    let Finalize::Run(run) = ingest.finalize(&ann, id(1), replacing).await.unwrap() else {
        panic!("it runs")
    };
    ingest.run(run).await.unwrap();
    assert!(server.storage.published(id(1)).is_some());
}

/// The client is told that a server works; a server that comes later goes on.
#[tokio::test]
async fn one_server_finalizes_and_another_goes_on_after_it_ended() {
    let server = Server::new();
    let (one, two, ann) = (server.start().await, server.start().await, owner("ann"));
    one.open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    for index in 0..PARTS {
        put(&one, id(1), 7, index).await.unwrap();
    }
    let run = match one.finalize(&ann, id(1), goal(7, PARTS)).await.unwrap() {
        Finalize::Run(run) => run,
        other => panic!("{other:?}"),
    };
    let second = two.finalize(&ann, id(1), goal(7, PARTS)).await.unwrap();
    assert!(matches!(second, Finalize::Working(_)), "{second:?}");
    assert_eq!(
        code(two.finalize(&ann, id(1), goal(8, PARTS)).await),
        "finalizing"
    );
    assert_eq!(code(two.abort(&ann, id(1)).await), "finalizing");
    assert_eq!(code(put(&two, id(1), 7, 0).await), "finalizing");
    assert!(two.collect().await.unwrap().unfinished.is_empty());
    // The first server is killed.
    drop((run, one));
    server.clock.advance(TTL_S * 10);
    let unfinished = two.collect().await.unwrap().unfinished;
    assert_eq!(unfinished.len(), 1, "it does not expire, but is finished");
    for run in unfinished {
        two.run(run).await.unwrap();
    }
    assert_eq!(
        server.storage.published(id(1)).unwrap().root,
        root(7, PARTS)
    );
    // A storage that is used by one process only: its next one waits for no lease.
    let server = Server::new();
    let one = server.start().await;
    one.open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    for index in 0..PARTS {
        put(&one, id(1), 7, index).await.unwrap();
    }
    drop(one.finalize(&ann, id(1), goal(7, PARTS)).await.unwrap());
    assert_eq!(server.start().await.unfinished().await.unwrap().len(), 0);
    // Nor the next one that has these sessions to itself.
    let alone = server.start().await.alone();
    assert_eq!(alone.unfinished().await.unwrap().len(), 1);
    server.storage.be_exclusive();
    assert_eq!(server.start().await.unfinished().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_whose_staging_is_gone_has_failed() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    for index in 0..PARTS {
        put(&ingest, id(1), 7, index).await.unwrap();
    }
    server.storage.lose_all();
    assert_eq!(code(finish(&ingest, id(1), 7).await), "session_ended");
    assert_eq!(
        ingest.status(&ann, id(1)).await.unwrap().session.state,
        State::Failed
    );
    assert_eq!(
        code(ingest.finalize(&ann, id(1), goal(7, PARTS)).await),
        "session_ended"
    );
    ingest.abort(&ann, id(1)).await.unwrap();
}

#[tokio::test]
async fn quotas_hold_for_each_owner() {
    let mut server = Server::new();
    server.limits = IngestLimits {
        owner: OwnerLimits {
            sessions: 2,
            bytes: 10 * PART,
        },
        ttl_s: TTL_S,
    };
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("a.mp4", 6))
        .await
        .unwrap();
    assert_eq!(
        code(ingest.open(&ann, id(2), &open_request("b.mp4", 5)).await),
        "quota"
    );
    let mut unknown = open_request("c.ts", 1);
    unknown.length = None;
    ingest.open(&ann, id(3), &unknown).await.unwrap();
    assert_eq!(
        code(ingest.open(&ann, id(4), &open_request("d.mp4", 1)).await),
        "too_many_sessions"
    );
    for index in 0..4 {
        put(&ingest, id(3), 7, index).await.unwrap();
    }
    assert_eq!(
        code(ingest.targets(&ann, id(3), &[offered(7, 4)]).await),
        "quota"
    );
    ingest
        .open(&owner("bob"), id(5), &open_request("d.mp4", 10))
        .await
        .unwrap();
    ingest.abort(&ann, id(1)).await.unwrap();
    put(&ingest, id(3), 7, 4).await.unwrap();
}

/// Its clients are there, whatever the clocks say.
#[tokio::test]
async fn no_jump_of_the_wall_clock_takes_a_live_session() {
    let server = Server::new();
    let (mut ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    let years = 365 * 24 * 3600;
    let now_s = 1_000_000;
    let (ten_years_on, a_day_back) = (now_s + 10 * years, now_s - 24 * 3600);
    let jumps = [
        0,
        50 * years,
        1,
        2_000_000_000,
        ten_years_on,
        a_day_back,
        0,
        now_s,
    ];
    for (hour, unix_s) in jumps.into_iter().enumerate() {
        server.clock.jump_to(unix_s);
        for _ in 0..60 {
            server.clock.advance(60);
            assert_eq!(ingest.collect().await.unwrap().expired, 0, "hour {hour}");
        }
        // The server restarts; nobody used the session.
        ingest = server.start().await;
    }
    let idle = ingest.now().served_s - server.store.load(id(1)).await.unwrap().unwrap().alive_at_s;
    assert!((8 * 3600 - 120..=8 * 3600).contains(&idle), "{idle}");
    // It is used once in 23 hours, for a week.
    ingest.touch(id(1)).await.unwrap();
    for _ in 0..7 {
        for _ in 0..23 {
            server.clock.advance(3600);
            assert_eq!(ingest.collect().await.unwrap().expired, 0);
        }
        ingest.touch(id(1)).await.unwrap();
    }
    // Then nobody does. Its owner is told, then it goes.
    let mut expired_after = 0;
    while ingest.collect().await.unwrap().expired == 0 {
        server.clock.advance(60);
        expired_after += 60;
    }
    assert!(
        (TTL_S..=TTL_S + 120).contains(&expired_after),
        "{expired_after}"
    );
    let kinds = kinds(&server);
    let told = kinds.iter().position(|kind| kind == "ExpiresSoon");
    let gone = kinds.iter().position(|kind| kind == "Expired");
    assert!(told.is_some() && told < gone, "{kinds:?}");
    assert!(server.storage.handles().is_empty());
    assert_eq!(code(put(&ingest, id(1), 7, 0).await), "session_ended");
}

/// A server was off for a month: its clients could not reach it.
#[tokio::test]
async fn after_a_restart_no_session_is_collected_before_it_could_be_used() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    for _ in 0..24 {
        server.clock.advance(3599);
        ingest.collect().await.unwrap();
    }
    server.clock.advance(30 * 24 * 3600);
    let ingest = server.start().await;
    for _ in 0..59 {
        assert_eq!(ingest.collect().await.unwrap().expired, 0);
        server.clock.advance(60);
    }
    // A client comes back within the hour.
    put(&ingest, id(1), 7, 0).await.unwrap();
    for _ in 0..20 {
        server.clock.advance(3600);
        assert_eq!(ingest.collect().await.unwrap().expired, 0);
    }
}

#[tokio::test]
async fn what_no_session_knows_is_counted_and_removed_after_a_while() {
    let server = Server::new();
    server.storage.be_exclusive();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    put(&ingest, id(1), 7, 0).await.unwrap();
    server.storage.leave_orphan("left-over");
    for _ in 0..60 {
        let collected = ingest.collect().await.unwrap();
        assert_eq!(
            (
                collected.orphans,
                collected.orphan_bytes,
                collected.orphans_removed
            ),
            (1, 1, 0)
        );
        assert_eq!((collected.live, collected.staged_bytes), (1, 3));
        server.clock.advance(60);
    }
    let collected = ingest.collect().await.unwrap();
    assert_eq!((collected.orphans, collected.orphans_removed), (1, 1));
    assert_eq!(ingest.collect().await.unwrap().orphans, 0);
    assert_eq!(server.storage.handles(), ["upload-1"]);
    assert!(kinds(&server).contains(&"OrphanRemoved".to_owned()));
}

/// Others may push into the same bucket without this server.
#[tokio::test]
async fn what_others_stage_in_a_shared_storage_stays_while_it_grows() {
    let server = Server::new();
    let ingest = server.start().await;
    server.storage.leave_orphan("of-others");
    for hour in 0..3 * TTL_S / 3600 {
        if hour % 12 == 0 {
            server.storage.grow_orphan("of-others", hour as u32);
        }
        let collected = ingest.collect().await.unwrap();
        assert_eq!((collected.orphans, collected.orphans_removed), (1, 0));
        server.clock.advance(3600);
    }
    server.clock.advance(TTL_S);
    assert_eq!(ingest.collect().await.unwrap().orphans_removed, 1);
    assert!(server.storage.handles().is_empty());
}

/// A part that takes hours: its session is touched while the bytes arrive.
#[tokio::test]
async fn a_part_that_takes_longer_than_a_session_lives_keeps_it() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    let mut writer = ingest.receive(id(1), &offered(7, 0), 0).await.unwrap();
    for _ in 0..100 {
        server.clock.advance(3600);
        ingest.touch(id(1)).await.unwrap();
        assert_eq!(ingest.collect().await.unwrap().expired, 0);
    }
    writer.write(Bytes::from(content(7, 0))).await.unwrap();
    writer.finish().await.unwrap();
    ingest
        .checkpoint(&ann, id(1), finished(7, 0), false)
        .await
        .unwrap();
}

/// What a writer has when its session ends goes nowhere.
#[tokio::test]
async fn a_part_in_flight_ends_with_its_session() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    ingest
        .open(&ann, id(1), &open_request("talk.mp4", PARTS))
        .await
        .unwrap();
    let writer = ingest.receive(id(1), &offered(7, 0), 0).await.unwrap();
    ingest.abort(&ann, id(1)).await.unwrap();
    assert!(matches!(
        writer.finish().await,
        Err(StorageError::StagingGone)
    ));
    let staged = Staged {
        session: None,
        handle: "upload-1".into(),
        bytes: 0,
    };
    server.storage.remove(&staged).await.unwrap();
}

#[tokio::test]
async fn lists_have_pages() {
    let mut server = Server::new();
    server.limits.owner.sessions = 5000;
    server.limits.owner.bytes = u64::MAX / 2;
    let (ingest, ann) = (server.start().await, owner("ann"));
    for number in 0..2001_u16 {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        let name = format!("{}.mp4", number % 2);
        let request = open_request(&name, 1);
        let opened = ingest.open(&ann, SessionId::from_random(bytes), &request);
        opened.await.unwrap();
    }
    let (mut after, mut sizes) = (None, Vec::new());
    loop {
        let page = ingest.list(&ann, None, after).await.unwrap();
        sizes.push(page.sessions.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [1000, 1000, 1]);
    let name = sapwood::format::library::LibraryPath::new("1.mp4");
    let page = ingest.list(&ann, name, None).await.unwrap();
    assert_eq!((page.sessions.len(), page.next), (1000, None));
}

/// The answer of the storage was lost: the object may be there.
#[tokio::test]
async fn a_session_of_which_nobody_knows_whether_it_is_published_is_not_given_up() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    let request = open_request("talk.mp4", PARTS);
    ingest.open(&ann, id(1), &request).await.unwrap();
    for index in 0..PARTS {
        put(&ingest, id(1), 7, index).await.unwrap();
    }
    // After its effect.
    server.storage.gate().fail_at(2, false);
    assert_eq!(code(finish(&ingest, id(1), 7).await), "storage_failed");
    server.storage.gate().fail_at(0, false);
    assert!(server.storage.published(id(1)).is_some());
    assert_eq!(code(ingest.abort(&ann, id(1)).await), "finalizing");
    finish(&ingest, id(1), 7).await.unwrap();
}

/// Each notice is told at least once, by one server at a time: after failures, after crashes, by many servers.
#[tokio::test]
async fn what_happens_to_uploads_is_told_by_one_of_many_servers() {
    let server = Server::new();
    server.store.keep_notices();
    let (one, two) = (server.start().await, server.start().await);
    one.open(&owner("ann"), id(1), &open_request("idle.mp4", PARTS))
        .await
        .unwrap();
    upload(&one, id(2), 7).await.unwrap();
    let next = async |ingest: &Ingest| match ingest.next_notice().await.unwrap() {
        NextNotice::Due(due) => Ok(due),
        NextNotice::After(after_s) => Err(after_s),
    };
    let due = next(&one).await.unwrap();
    assert_eq!(due.notice().event, NoticeEvent::Published);
    assert_eq!(due.session.id, id(2));
    // While one tells it, the other has nothing to do, however long that takes.
    for _ in 0..10 {
        assert!(matches!(next(&two).await, Err(Some(_))));
        server.clock.advance(Ingest::HOLD_EVERY_S);
        assert!(one.hold_notice(&due).await.unwrap());
    }
    // It does not say so any more: the other one tells it.
    server.clock.advance(NOTICE_LEASE_S);
    let again = next(&two).await.unwrap();
    assert_eq!((again.tries(), again.session.id), (2, id(2)));
    assert!(!one.hold_notice(&due).await.unwrap());
    // In vain, with growing pauses.
    let why = NoticeEnd::Again("it is away".to_owned());
    two.end_notice(&again, &why).await.unwrap();
    assert_eq!(next(&one).await.unwrap_err(), Some(2));
    server.clock.advance(2);
    let last = next(&one).await.unwrap();
    // Who was late takes nothing away.
    two.end_notice(&again, &NoticeEnd::Told).await.unwrap();
    one.end_notice(&last, &why).await.unwrap();
    assert_eq!(next(&two).await.unwrap_err(), Some(4));
    server.clock.advance(4);
    let last = next(&two).await.unwrap();
    two.end_notice(&last, &NoticeEnd::Told).await.unwrap();
    assert_eq!(next(&two).await.unwrap_err(), None);
    // A session is forgotten only after that.
    for _ in 0..2 * TTL_S / 3600 {
        server.clock.advance(3600);
        one.collect().await.unwrap();
    }
    let due = next(&one).await.unwrap();
    let NoticeEvent::SessionExpiring { expires_s } = due.notice().event else {
        panic!("{due:?}");
    };
    // A quarter of a day before it did, as the next collection found.
    let before_s = expires_s - due.notice().unix_s;
    assert!(
        (TTL_S / 4 - 3600..=TTL_S / 4).contains(&before_s),
        "{before_s}"
    );
    assert_eq!(due.session.state, State::Expired);
    one.end_notice(&due, &NoticeEnd::Told).await.unwrap();
    for _ in 0..2 * TTL_S / 3600 {
        server.clock.advance(3600);
        one.collect().await.unwrap();
    }
    assert!(server.store.kept.lock().unwrap().is_empty());
    let told = kinds(&server);
    assert_eq!(told.iter().filter(|kind| *kind == "Noticed").count(), 5);
}

/// A session with all its parts, which a server is about to publish.
async fn ready(ingest: &Ingest, number: u8, object: u8) -> FinalizeRun {
    let mut request = open_request("talk.mp4", PARTS);
    request.replace = true;
    let ann = owner("ann");
    ingest.open(&ann, id(number), &request).await.unwrap();
    for index in 0..PARTS {
        put(ingest, id(number), object, index).await.unwrap();
    }
    let goal = goal(object, PARTS);
    match ingest.finalize(&ann, id(number), goal).await.unwrap() {
        Finalize::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

/// What made another server go on with a session.
#[derive(Clone, Copy, Debug)]
enum Why {
    /// The first one slept until its lease was over.
    Slept,
    /// The clock of the other one, as the store has it, is far ahead.
    Ahead,
}

/// A server sleeps between proof and publication. Another one publishes in its place, and a later upload replaces that. When the first
/// one wakes up, it changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_slept_publishes_nothing() {
    for why in [Why::Slept, Why::Ahead] {
        let server = Server::new();
        let (one, two) = (Arc::new(server.start().await), server.start().await);
        let run = ready(&one, 1, 7).await;
        let pause = server.storage.pause();
        let sleeping = tokio::spawn({
            let one = one.clone();
            async move { one.run(run).await }
        });
        pause.reached.notified().await;
        match why {
            Why::Slept => server.clock.advance(LEASE_S),
            Why::Ahead => drop(server.store.served_s(1 << 40).await.unwrap()),
        }
        // The first one may see by its clock that its lease is over: that it stops is the next test.
        let mut taken_over = two.collect().await.unwrap().unfinished;
        assert_eq!(taken_over.len(), 1, "{why:?}");
        two.run(taken_over.remove(0)).await.unwrap();
        assert_eq!(server.storage.has_name("talk.mp4"), Some(id(1)));
        let later = ready(&two, 2, 8).await;
        two.run(later).await.unwrap();
        pause.over.notify_one();
        let ended = sleeping.await.unwrap();
        let superseded = Err(IngestError::Storage(StorageError::Superseded));
        assert_eq!(
            format!("{ended:?}"),
            format!("{:?}", superseded as Result<(), _>)
        );
        assert_eq!(server.storage.has_name("talk.mp4"), Some(id(2)), "{why:?}");
        let session = server.store.load(id(1)).await.unwrap().unwrap();
        assert!(matches!(session.state, State::Done(_)));
    }
}

/// A storage that does not come to an end does not keep a server at what is not its own any more; and a server that cannot renew its
/// lease for the length of it stops by its own clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_lease_stops() {
    for is_store_away in [false, true] {
        let server = Server::new();
        let (one, two) = (Arc::new(server.start().await), server.start().await);
        let run = ready(&one, 1, 7).await;
        // It is never over.
        let pause = server.storage.pause();
        let running = tokio::spawn({
            let one = one.clone();
            async move { one.run(run).await }
        });
        pause.reached.notified().await;
        let attempt = async || match server.store.kept.lock().unwrap()[&id(1)].0.state {
            State::Finalizing { attempt, .. } => Some(attempt),
            _ => None,
        };
        // It renews it for ever.
        for _ in 0..10 {
            let lease = |store: &MemoryStore| match store.kept.lock().unwrap()[&id(1)].0.state {
                State::Finalizing { lease_until_s, .. } => lease_until_s,
                _ => 0,
            };
            server.clock.until_asleep().await;
            let before = lease(&server.store);
            server.clock.advance(LEASE_S / 4);
            while lease(&server.store) == before {
                tokio::task::yield_now().await;
            }
        }
        server.clock.until_asleep().await;
        assert!(two.collect().await.unwrap().unfinished.is_empty());
        assert!(!running.is_finished());
        match is_store_away {
            false => {
                server.store.served_s(1 << 40).await.unwrap();
                assert_eq!(two.collect().await.unwrap().unfinished.len(), 1);
                assert_eq!(attempt().await, Some(2));
                server.clock.advance(LEASE_S / 4);
            }
            true => {
                server.store.gate.fail_at(1, true);
                server.clock.advance(LEASE_S - 1);
                server.clock.until_asleep().await;
                assert!(!running.is_finished(), "it has a second left");
                server.clock.advance(1);
            }
        }
        let ended = running.await.unwrap().unwrap_err();
        assert!(
            matches!(ended, IngestError::Storage(StorageError::Superseded)),
            "{ended:?}"
        );
        assert_eq!(server.storage.published(id(1)), None);
    }
}

#[tokio::test]
async fn a_storage_that_gives_nothing_back_says_so() {
    let server = Server::new();
    let (ingest, ann) = (server.start().await, owner("ann"));
    let mut request = open_request("talk.mp4", PARTS);
    ingest.open(&ann, id(1), &request).await.unwrap();
    assert_eq!(code(ingest.growing(&ann, id(1)).await), "not_growing");
    request.growing = true;
    ingest.open(&ann, id(2), &request).await.unwrap();
    assert_eq!(code(ingest.growing(&ann, id(2)).await), "not_readable");
    assert_eq!(
        code(ingest.growing(&owner("bob"), id(2)).await),
        "no_session"
    );
    // And its parts are none that a hook is told of.
    put(&ingest, id(2), 1, 0).await.unwrap();
    assert!(matches!(
        ingest.next_notice().await.unwrap(),
        NextNotice::After(None)
    ));
}
