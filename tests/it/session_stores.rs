//! What every store of sessions does: one suite, run on each of them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sapwood::{
    engine::ingest::{
        session_store::{
            Claimed, Cursor, Inserted, ListQuery, OwnerLimits, SessionStore, Usage, Written,
        },
        sqlite::SqliteSessions,
    },
    format::{
        library::LibraryPath,
        notice::{Notice, NoticeEvent},
        tree::Root,
        upload::{SessionId, Sha256},
    },
    policy::{
        parts::PartPlan,
        upload::{
            Change, Declared, Goal, LastPublished, Now, Owner, PartsChange, Problem, Protocol,
            Published, Session, StagedBytes, Staging, State, notices::KeptNotices,
        },
    },
};

use super::support::ingest::{MemoryStore, PART, finished, owner};

const PLENTY: OwnerLimits = OwnerLimits {
    sessions: 1000,
    bytes: u64::MAX,
};

fn session(number: u8, by: &str, created_s: u64) -> Session {
    let declared = Declared {
        name: LibraryPath::new(&format!("shows/{}.mp4", number % 3)).unwrap(),
        plan: PartPlan::choose(Some(10 * PART), Some(PART), None).unwrap(),
        root: None,
        sha256: None,
        replace: false,
        growing: false,
        protocol: Protocol::default(),
    };
    let now = Now {
        unix_s: created_s,
        served_s: 7,
    };
    Session::open(
        SessionId::from_random([number; 16]),
        owner(by),
        declared,
        now,
    )
}

/// The next version, with one thing changed.
fn changed(session: &Session, change: impl FnOnce(&mut Session)) -> Change {
    let mut next = session.clone();
    next.version += 1;
    change(&mut next);
    next.into()
}

async fn stored(store: &dyn SessionStore, change: Change) -> Session {
    assert_eq!(store.write(&change).await.unwrap(), Written::Stored);
    let found = store.load(change.session.id).await.unwrap().unwrap();
    assert_eq!(found, change.session);
    found
}

/// Every state and every field comes back as it was stored.
async fn keeps_sessions(store: &dyn SessionStore) {
    let mut first = session(1, "ann", 50);
    first.declared.root = Some(Root([1; 32]));
    first.declared.sha256 = Some(Sha256([2; 32]));
    first.declared.replace = true;
    assert_eq!(store.insert(&first, PLENTY).await.unwrap(), Inserted::New);
    assert_eq!(store.load(first.id).await.unwrap(), Some(first.clone()));
    let again = store.insert(&first, PLENTY).await.unwrap();
    assert_eq!(again, Inserted::Exists(Box::new(first.clone())));
    let mut now = stored(
        store,
        changed(&first, |it| it.staging = Staging::Begun("h/1".into())),
    )
    .await;
    let goal = Goal {
        length: u64::MAX,
        root: Some(Root([3; 32])),
        sha256: Some(Sha256([4; 32])),
        replace: true,
    };
    let finalizing = State::Finalizing {
        goal,
        attempt: 3,
        lease_until_s: 99,
    };
    let published = Published {
        length: 5,
        root: Root([6; 32]),
    };
    let states = [
        finalizing,
        State::Open,
        State::Done(published),
        State::Failed,
        State::Expired,
        State::Aborted,
    ];
    for state in states {
        now = stored(store, changed(&now, |it| it.state = state)).await;
    }
    now = stored(
        store,
        changed(&now, |it| {
            (it.last_alive_s, it.alive_at_s, it.is_warned) = (8, 9, true)
        }),
    )
    .await;
    let problem = Some(Problem {
        code: "root_differs".into(),
        detail: "the root is 'x', not \"y\"".into(),
    });
    now = stored(store, changed(&now, |it| it.problem = problem)).await;
    now = stored(
        store,
        changed(&now, |it| {
            (it.staging, it.problem) = (Staging::Removed, None)
        }),
    )
    .await;
    let mut unknown = session(2, "ann", 50);
    unknown.declared.plan = PartPlan::choose(None, None, None).unwrap();
    unknown.declared.growing = true;
    assert_eq!(store.insert(&unknown, PLENTY).await.unwrap(), Inserted::New);
    assert_eq!(store.load(unknown.id).await.unwrap(), Some(unknown));
    assert_eq!(
        store.load(SessionId::from_random([77; 16])).await.unwrap(),
        None
    );
    // Forgotten only at its version.
    assert_eq!(
        store.forget(now.id, now.version - 1).await.unwrap(),
        Written::Conflict
    );
    assert_eq!(
        store.forget(now.id, now.version).await.unwrap(),
        Written::Stored
    );
    assert_eq!(
        store.forget(now.id, now.version).await.unwrap(),
        Written::Conflict
    );
    assert_eq!(store.load(now.id).await.unwrap(), None);
    // Its ID may be used again, and has no parts.
    assert_eq!(store.insert(&first, PLENTY).await.unwrap(), Inserted::New);
    assert_eq!(store.parts(first.id).await.unwrap(), []);
}

/// A change on top of a version that is not the stored one changes nothing, parts included.
async fn refuses_stale_changes(store: &dyn SessionStore) {
    let first = session(1, "ann", 50);
    store.insert(&first, PLENTY).await.unwrap();
    let put = |session: &Session, object, index| Change {
        parts: PartsChange::Put(finished(object, index)),
        ..changed(session, |_| ())
    };
    let second = stored(store, put(&first, 1, 3)).await;
    assert_eq!(
        store.write(&put(&first, 2, 3)).await.unwrap(),
        Written::Conflict
    );
    assert_eq!(
        store.write(&put(&first, 2, 4)).await.unwrap(),
        Written::Conflict
    );
    let mut ahead = put(&second, 2, 4);
    ahead.session.version += 1;
    assert_eq!(store.write(&ahead).await.unwrap(), Written::Conflict);
    assert_eq!(store.parts(first.id).await.unwrap(), [finished(1, 3)]);
    assert_eq!(store.part(first.id, 3).await.unwrap(), Some(finished(1, 3)));
    assert_eq!(store.part(first.id, 4).await.unwrap(), None);
    // By index; a part may be replaced; some may be removed.
    let mut now = stored(store, put(&second, 1, 1)).await;
    now = stored(store, put(&now, 1, 2)).await;
    let mut other = put(&now, 2, 1);
    other.parts = PartsChange::Put(sapwood::policy::upload::FinishedPart {
        etag: Some("\"e\"".into()),
        ..finished(2, 1)
    });
    now = stored(store, other.clone()).await;
    let parts = store.parts(first.id).await.unwrap();
    let indices: Vec<u32> = parts.iter().map(|part| part.index).collect();
    assert_eq!(indices, [1, 2, 3]);
    assert_eq!(PartsChange::Put(parts[0].clone()), other.parts);
    let with = async |indices: &'static [u32]| store.load_with(first.id, indices).await.unwrap();
    let some = vec![parts[0].clone(), parts[2].clone()];
    assert_eq!(with(&[1, 3, 7]).await, Some((now.clone(), some)));
    assert_eq!(with(&[7]).await, Some((now.clone(), Vec::new())));
    assert_eq!(with(&[]).await, Some((now.clone(), Vec::new())));
    let unknown = session(9, "ann", 1).id;
    assert_eq!(store.load_with(unknown, &[1]).await.unwrap(), None);
    let remove = Change {
        parts: PartsChange::Remove(vec![1, 3, 9]),
        ..changed(&now, |_| ())
    };
    stored(store, remove).await;
    assert_eq!(store.parts(first.id).await.unwrap(), [finished(1, 2)]);
    let nobody = session(9, "ann", 1);
    assert_eq!(
        store.write(&changed(&nobody, |_| ())).await.unwrap(),
        Written::Conflict
    );
}

/// Of many changes at once on one version one is stored.
async fn stores_one_of_many_at_once(store: Arc<dyn SessionStore>) {
    let mut now = session(1, "ann", 50);
    store.insert(&now, PLENTY).await.unwrap();
    for _ in 0..10 {
        let change = changed(&now, |_| ());
        let all = (0..8).map(|_| {
            let (store, change) = (store.clone(), change.clone());
            tokio::spawn(async move { store.write(&change).await.unwrap() })
        });
        let all: Vec<_> = all.collect();
        let mut written = 0;
        for one in all {
            written += u32::from(one.await.unwrap() == Written::Stored);
        }
        assert_eq!(written, 1);
        now = change.session;
    }
}

/// Pages are whole whatever comes and goes: newest first, of one owner, of one name.
async fn lists_pages(store: &dyn SessionStore) {
    for number in 0..50 {
        let by = if number % 5 == 0 { "bob" } else { "ann" };
        // Several of one second.
        let session = session(number, by, u64::from(number / 4));
        store.insert(&session, PLENTY).await.unwrap();
    }
    for name in [None, Some("shows/1.mp4")] {
        let mut query = ListQuery {
            owner: owner("ann"),
            name: name.and_then(LibraryPath::new),
            after: None,
            limit: 7,
        };
        let mut found: Vec<Session> = Vec::new();
        loop {
            let page = store.list(&query).await.unwrap();
            assert!(page.len() <= 7);
            let Some(last) = page.last() else { break };
            query.after = Some(Cursor::of(last));
            found.extend(page);
        }
        let is_wanted = |session: &Session| {
            session.owner == query.owner
                && query
                    .name
                    .as_ref()
                    .is_none_or(|name| session.declared.name == *name)
        };
        assert!(found.iter().all(is_wanted));
        assert_eq!(found.len(), if name.is_some() { 14 } else { 40 });
        assert!(
            found.is_sorted_by_key(|session| std::cmp::Reverse((session.created_s, session.id)))
        );
    }
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = store.all(after, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        all.extend(page.iter().map(|session| session.id));
    }
    assert_eq!(all.len(), 50);
    assert!(all.is_sorted());
    let nobody = ListQuery {
        owner: owner("eve"),
        name: None,
        after: None,
        limit: 7,
    };
    assert_eq!(store.list(&nobody).await.unwrap(), []);
}

/// What an owner has in sessions that are not finished.
async fn counts_usage(store: Arc<dyn SessionStore>) {
    let ann: Owner = owner("ann");
    let usage = |sessions, bytes| Usage { sessions, bytes };
    assert_eq!(store.usage(&ann).await.unwrap(), usage(0, 0));
    let limits = OwnerLimits {
        sessions: 3,
        bytes: 25 * PART,
    };
    let first = session(1, "ann", 5);
    assert_eq!(store.insert(&first, limits).await.unwrap(), Inserted::New);
    assert_eq!(
        store.insert(&session(2, "ann", 5), limits).await.unwrap(),
        Inserted::New
    );
    assert_eq!(
        store.insert(&session(3, "bob", 5), limits).await.unwrap(),
        Inserted::New
    );
    let over = store.insert(&session(4, "ann", 5), limits).await.unwrap();
    assert_eq!(over, Inserted::OverQuota(usage(2, 20 * PART)));
    let mut unknown = session(5, "ann", 5);
    unknown.declared.plan = PartPlan::choose(None, Some(PART), None).unwrap();
    assert_eq!(store.insert(&unknown, limits).await.unwrap(), Inserted::New);
    let many = store.insert(&session(6, "ann", 5), limits).await.unwrap();
    assert_eq!(many, Inserted::TooMany(usage(3, 20 * PART)));
    // Of one whose length is not known the finished parts count, each once.
    for (object, sum) in [(1, 1), (2, 1)] {
        let put = Change {
            parts: PartsChange::Put(finished(object, 0)),
            ..changed(&unknown, |_| ())
        };
        unknown = stored(&*store, put).await;
        assert_eq!(
            store.usage(&ann).await.unwrap(),
            usage(3, (20 + sum) * PART)
        );
    }
    let remove = Change {
        parts: PartsChange::Remove(vec![0]),
        ..changed(&unknown, |_| ())
    };
    stored(&*store, remove).await;
    assert_eq!(store.usage(&ann).await.unwrap(), usage(3, 20 * PART));
    stored(&*store, changed(&first, |it| it.state = State::Aborted)).await;
    assert_eq!(store.usage(&ann).await.unwrap(), usage(2, 10 * PART));
    // What lies besides counts until it is that of a finished part, and while another content lies beside it.
    let staged = |is_beside| StagedBytes {
        index: 3,
        length: PART,
        is_beside,
    };
    let limits_now = OwnerLimits {
        sessions: 3,
        bytes: 12 * PART,
    };
    let count = |is_beside| store.count_staged(unknown.id, staged(is_beside), limits_now);
    for (is_beside, parts) in [(false, 11), (false, 11), (true, 12), (true, 12)] {
        assert_eq!(count(is_beside).await.unwrap(), None);
        assert_eq!(store.usage(&ann).await.unwrap(), usage(2, parts * PART));
    }
    let other = StagedBytes {
        index: 4,
        ..staged(false)
    };
    assert_eq!(store.staged_bytes(unknown.id).await.unwrap(), 2 * PART);
    let over = store.count_staged(unknown.id, other, limits_now).await;
    assert_eq!(over.unwrap(), Some(usage(2, 12 * PART)));
    let mut unknown = store.load(unknown.id).await.unwrap().unwrap();
    for (object, parts) in [(1, 12), (2, 11)] {
        let put = Change {
            parts: PartsChange::Put(finished(object, 3)),
            ..changed(&unknown, |_| ())
        };
        unknown = stored(&*store, put).await;
        assert_eq!(store.usage(&ann).await.unwrap(), usage(2, parts * PART));
    }
    // Many at once do not pass the limit together.
    let all = (100..120).map(|number| {
        let store = store.clone();
        let session = session(number, "cid", 5);
        tokio::spawn(async move { store.insert(&session, limits).await.unwrap() })
    });
    let all: Vec<_> = all.collect();
    let mut new = 0;
    for one in all {
        new += u32::from(one.await.unwrap() == Inserted::New);
    }
    assert_eq!(new, 2);
}

/// What the operator is to be told is stored with the change that caused it, and told by one at a time until it is removed.
async fn queues_notices(store: Arc<dyn SessionStore>) {
    let claim = async |now_s, until_s| store.claim_notice(now_s, until_s).await.unwrap();
    let claimed = async |now_s, until_s| match claim(now_s, until_s).await {
        Claimed::Notice(notice) => notice,
        other => panic!("{other:?}"),
    };
    assert_eq!(claim(0, 1).await, Claimed::NotBefore(None));
    let notices = [
        NoticeEvent::Published,
        NoticeEvent::SessionExpiring { expires_s: 1 << 40 },
    ];
    let notices = notices.map(|event| Notice { unix_s: 5, event });
    let first = session(2, "ann", 5);
    store.insert(&first, PLENTY).await.unwrap();
    let change = Change {
        notices: notices.to_vec(),
        ..changed(&first, |_| ())
    };
    stored(&*store, change.clone()).await;
    // What is not stored is not told.
    assert_eq!(store.write(&change).await.unwrap(), Written::Conflict);
    assert_eq!(store.forget(first.id, 2).await.unwrap(), Written::Conflict);
    // In order, each once while it is claimed.
    let one = claimed(0, 100).await;
    let two = claimed(0, 50).await;
    assert_eq!([&one.notice, &two.notice], [&notices[0], &notices[1]]);
    assert_eq!((one.session, one.claims), (first.id, 1));
    assert_eq!(claim(49, 1).await, Claimed::NotBefore(Some(50)));
    let written = store.postpone_notice(&two, 60).await.unwrap();
    assert_eq!(written, Written::Stored);
    assert_eq!(claim(59, 1).await, Claimed::NotBefore(Some(60)));
    // A claim that another one followed changes nothing any more.
    let again = claimed(60, 200).await;
    assert_eq!((again.id, again.claims), (two.id, 2));
    for stale in [
        store.postpone_notice(&two, 0).await,
        store.remove_notice(&two).await,
    ] {
        assert_eq!(stale.unwrap(), Written::Conflict);
    }
    let written = store.remove_notice(&again).await.unwrap();
    assert_eq!(written, Written::Stored);
    assert_eq!(claim(99, 1).await, Claimed::NotBefore(Some(100)));
    store.release_notices().await.unwrap();
    let one = claimed(0, 1).await;
    assert_eq!(store.forget(first.id, 2).await.unwrap(), Written::Conflict);
    assert_eq!(store.remove_notice(&one).await.unwrap(), Written::Stored);
    assert_eq!(claim(1000, 1001).await, Claimed::NotBefore(None));
    // Many at once do not claim the same.
    let mut now = store.load(first.id).await.unwrap().unwrap();
    for _ in 0..20 {
        let change = Change {
            notices: notices[..1].to_vec(),
            ..changed(&now, |_| ())
        };
        now = stored(&*store, change).await;
    }
    let all = (0..20).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.claim_notice(5, 100).await.unwrap() })
    });
    let mut ids = std::collections::BTreeSet::new();
    for one in all.collect::<Vec<_>>() {
        let Claimed::Notice(notice) = one.await.unwrap() else {
            continue;
        };
        assert!(ids.insert(notice.id));
        store.remove_notice(&notice).await.unwrap();
    }
    // A store may let go of one for which it would have to wait.
    while let Claimed::Notice(notice) = claim(5, 100).await {
        assert!(ids.insert(notice.id));
        store.remove_notice(&notice).await.unwrap();
    }
    assert_eq!(ids.len(), 20);
    let forgotten = store.forget(first.id, now.version).await.unwrap();
    assert_eq!(forgotten, Written::Stored);
}

/// What has a name last is known after its session is forgotten, and later changes of an older session do not take it back.
async fn knows_what_was_last_published(store: &dyn SessionStore) {
    let name = session(2, "ann", 5).declared.name;
    assert_eq!(store.last_published(&name).await.unwrap(), None);
    let mut done = Vec::new();
    for (number, by) in [(2, "ann"), (5, "bob")] {
        let session = session(number, by, 5);
        assert_eq!(session.declared.name, name);
        store.insert(&session, PLENTY).await.unwrap();
        let published = Published {
            length: number.into(),
            root: Root([number; 32]),
        };
        let is_done = changed(&session, |it| it.state = State::Done(published));
        done.push(stored(store, is_done).await);
        let last = LastPublished {
            owner: owner(by),
            session: session.id,
            published,
        };
        assert_eq!(store.last_published(&name).await.unwrap(), Some(last));
    }
    let last = store.last_published(&name).await.unwrap();
    let (ann, bob) = (&done[0], &done[1]);
    stored(store, changed(ann, |it| it.staging = Staging::Removed)).await;
    assert_eq!(store.forget(bob.id, 2).await.unwrap(), Written::Stored);
    assert_eq!(store.last_published(&name).await.unwrap(), last);
    let other = LibraryPath::new("shows/0.mp4").unwrap();
    assert_eq!(store.last_published(&other).await.unwrap(), None);
}

async fn raises_the_served_clock(store: &dyn SessionStore) {
    for (at_least, now) in [(0, 0), (5, 5), (3, 5), (0, 5), (1 << 40, 1 << 40)] {
        assert_eq!(store.served_s(at_least).await.unwrap(), now);
    }
}

/// The suite: each test on a new store.
async fn every_store<'a>(make: impl Fn() -> BoxFuture<'a, Arc<dyn SessionStore>>) {
    keeps_sessions(&*make().await).await;
    refuses_stale_changes(&*make().await).await;
    stores_one_of_many_at_once(make().await).await;
    lists_pages(&*make().await).await;
    counts_usage(make().await).await;
    raises_the_served_clock(&*make().await).await;
    queues_notices(make().await).await;
    knows_what_was_last_published(&*make().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_memory_passes_the_suite() {
    every_store(|| {
        let store = MemoryStore::default();
        store.keep_notices();
        Box::pin(async { Arc::new(store) as Arc<dyn SessionStore> })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_sqlite_passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    every_store(|| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = folder.path().join(format!("{number}/sessions.sqlite"));
        Box::pin(async {
            let store = SqliteSessions::open(path).await.unwrap();
            store.keep_notices(KeptNotices::All).await.unwrap();
            Arc::new(store) as Arc<dyn SessionStore>
        })
    })
    .await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_postgres_passes_the_suite() {
    use sapwood::engine::ingest::postgres::{Place, PostgresSessions};
    every_store(|| {
        let url = super::support::postgres::shared().database();
        Box::pin(async move {
            let place = Place::parse(&url).unwrap();
            Arc::new(
                PostgresSessions::open(place, KeptNotices::All)
                    .await
                    .unwrap(),
            ) as Arc<dyn SessionStore>
        })
    })
    .await;
}

/// Two servers, or one that was killed and started again.
#[tokio::test(flavor = "multi_thread")]
async fn two_connections_to_sqlite_see_the_same_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.sqlite");
    let one = SqliteSessions::open(path.clone()).await.unwrap();
    let first = session(1, "ann", 50);
    one.insert(&first, PLENTY).await.unwrap();
    let two = SqliteSessions::open(path.clone()).await.unwrap();
    let change = changed(&first, |_| ());
    assert_eq!(two.write(&change).await.unwrap(), Written::Stored);
    assert_eq!(one.write(&change).await.unwrap(), Written::Conflict);
    assert_eq!(one.load(first.id).await.unwrap(), Some(change.session));
    use std::os::unix::fs::PermissionsExt;
    let mode = path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // They are those of one storage, for ever.
    assert!(one.bind("a".to_owned()).await.unwrap());
    assert!(two.bind("a".to_owned()).await.unwrap());
    assert!(!two.bind("b".to_owned()).await.unwrap());
    // Of published objects alone.
    one.keep_notices(KeptNotices::Published).await.unwrap();
    let events = [
        NoticeEvent::SessionExpiring { expires_s: 9 },
        NoticeEvent::Published,
    ];
    let notices = events.map(|event| Notice { unix_s: 1, event });
    let third = session(3, "ann", 50);
    one.insert(&third, PLENTY).await.unwrap();
    let both = Change {
        notices: notices.to_vec(),
        ..changed(&third, |_| ())
    };
    one.write(&both).await.unwrap();
    let claimed = one.claim_notice(0, 5).await.unwrap();
    assert!(
        matches!(&claimed, Claimed::Notice(queued) if queued.notice.event == NoticeEvent::Published),
        "{claimed:?}"
    );
    let claimed = one.claim_notice(0, 5).await.unwrap();
    assert_eq!(claimed, Claimed::NotBefore(Some(5)));
    one.keep_notices(KeptNotices::None).await.unwrap();
    // Who wants to be told is told from then on, and what nobody was told of is not forgotten.
    one.keep_notices(KeptNotices::All).await.unwrap();
    let second = session(2, "ann", 50);
    one.insert(&second, PLENTY).await.unwrap();
    let published = Published {
        length: 5,
        root: Root([6; 32]),
    };
    let event = NoticeEvent::Published;
    let done = Change {
        notices: vec![Notice { unix_s: 1, event }],
        ..changed(&second, |it| it.state = State::Done(published))
    };
    one.write(&done).await.unwrap();
    assert_eq!(one.forget(second.id, 2).await.unwrap(), Written::Conflict);
    let claimed = two.claim_notice(0, 0).await.unwrap();
    assert!(matches!(claimed, Claimed::Notice(_)));
    two.keep_notices(KeptNotices::None).await.unwrap();
    let claimed = two.claim_notice(0, 0).await.unwrap();
    assert_eq!(claimed, Claimed::NotBefore(None));
    assert_eq!(one.forget(second.id, 2).await.unwrap(), Written::Stored);
}
