//! Sessions in a Postgres database, which any number of servers share.

mod changes;
mod place;
mod rows;
mod schema;
mod tls;

use std::{error::Error as StdError, fmt, future::Future, sync::Arc, time::Duration};

use deadpool_postgres::{
    Client, Hook, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::{
    engine::blocking,
    format::{library::LibraryPath, notice::Notice, upload::SessionId},
    net::{
        authorities::Authorities,
        database_tls::{self, Compared},
    },
    policy::upload::{
        Change, FinishedPart, LastPublished, Owner, Session, StagedBytes,
        notices::KeptNotices,
        rows::{NotAValue, id_of, last_published_of, session_of},
    },
};

use super::session_store::{
    Claimed, Inserted, ListQuery, OwnerLimits, QueuedNotice, SessionStore, StoreError, Usage,
    WithParts, Written,
};
pub use place::{BadPlace, Place, SCHEMES, Tls};
use rows::{found_part_of, part_of};

/// Connections of one server. Each change takes a few milliseconds of one.
const CONNECTIONS: usize = 16;
/// How long to wait for a connection: of the pool, and a new one.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long one call may take, waiting for a connection included. Clients repeat their requests.
const CALL_TIME: Duration = Duration::from_secs(15);
/// A connection on which nothing is acknowledged for so long is given up.
const SILENCE_TIME: Duration = Duration::from_secs(15);
/// Sent on each new connection: no statement outlives its call, and what a server that ended had locked is free again.
const SETTINGS: &str =
    "SET statement_timeout = '15s'; SET idle_in_transaction_session_timeout = '30s'";

const LOAD: &str = "SELECT * FROM sapwood_sessions WHERE id = $1";
/// A row for each part that is found, or one without a part.
const LOAD_WITH: &str = "SELECT sessions.*, parts.part AS found_part, parts.length AS found_length, parts.sha256 AS found_sha256,
        parts.etag AS found_etag
    FROM sapwood_sessions sessions LEFT JOIN sapwood_parts parts ON parts.session = sessions.id AND parts.part = ANY($2)
    WHERE sessions.id = $1 ORDER BY parts.part";

/// Why sessions in Postgres cannot be used. None shows the password.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PostgresError {
    #[error(transparent)]
    Place(#[from] BadPlace),
    #[error("{}", Causes(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("{}", of_pool(.0))]
    Connection(#[from] PoolError),
    #[error("the database does not respond in time")]
    TooSlow,
    #[error("the tables were made by another version of sapwood (schema {found})")]
    Version { found: i64 },
    #[error(transparent)]
    NotAValue(#[from] NotAValue),
    #[error("the certificates of {path} cannot be used: {cause}")]
    Authorities { path: String, cause: String },
    #[error("TLS cannot be used: {0}")]
    Tls(#[source] rustls::Error),
}

/// An error with its causes, each said once, on one line.
struct Causes<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                said = format!("{said}: {text}");
            }
            next = cause.source();
        }
        f.write_str(&said.replace('\n', "; "))
    }
}

/// Why there is no connection: what the database says, if it says anything.
fn of_pool(cause: &PoolError) -> String {
    match cause {
        PoolError::Backend(cause) => Causes(cause).to_string(),
        other => Causes(other).to_string(),
    }
}

/// A failure of the database at a place.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct Failed {
    place: String,
    /// Why.
    #[source]
    pub cause: PostgresError,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> StoreError {
        StoreError(Box::new(failed))
    }
}

/// Sessions in a Postgres database.
#[derive(Clone)]
pub struct PostgresSessions {
    pool: Pool,
    place: Arc<str>,
    /// Whether notices are kept.
    kept_notices: KeptNotices,
}

impl PostgresSessions {
    /// Connects, and makes the tables that are missing. `kept_notices`: what somebody is told of.
    pub async fn open(place: Place, kept_notices: KeptNotices) -> Result<PostgresSessions, Failed> {
        let shown: Arc<str> = place.to_string().into();
        let pool = pool(place).await;
        let sessions = PostgresSessions {
            pool: pool.map_err(|cause| failed(&shown, cause))?,
            place: shown,
            kept_notices,
        };
        let prepare = async |mut client: Client| schema::prepare(&mut client).await;
        sessions.call(prepare).await?;
        Ok(sessions)
    }

    /// Binds the sessions to the storage that has what is staged for them; `false`: they are bound to another one.
    pub async fn bind(&self, storage: String) -> Result<bool, Failed> {
        let bind =
            "UPDATE sapwood_shared SET storage = coalesce(storage, $1) RETURNING storage = $1";
        let bind =
            async |client: Client| Ok(client.query_one(bind, &[&storage]).await?.try_get(0)?);
        self.call(bind).await
    }

    /// The key of all servers with these sessions: this one, if there is none yet.
    pub async fn url_key(&self, offered: [u8; 32]) -> Result<[u8; 32], Failed> {
        let keep = "UPDATE sapwood_shared SET url_key = coalesce(url_key, $1) RETURNING url_key";
        let keep = async |client: Client| {
            let row = client.query_one(keep, &[&offered.as_slice()]).await?;
            let kept = row.try_get::<_, Vec<u8>>(0)?.try_into();
            kept.map_err(|_| NotAValue("no key of 32 bytes").into())
        };
        self.call(keep).await
    }

    /// Runs this with a connection.
    async fn call<T, W>(&self, work: impl FnOnce(Client) -> W) -> Result<T, Failed>
    where
        W: Future<Output = Result<T, PostgresError>>,
    {
        let called = timeout(CALL_TIME, async {
            let client = self.pool.get().await?;
            work(client).await
        });
        let done = called.await.unwrap_or(Err(PostgresError::TooSlow));
        done.map_err(|cause| failed(&self.place, cause))
    }

    /// The same for calls of the store.
    fn run<'a, T, W>(
        &'a self,
        work: impl FnOnce(Client) -> W + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>>
    where
        T: Send + 'a,
        W: Future<Output = Result<T, PostgresError>> + Send + 'a,
    {
        Box::pin(async move { Ok(self.call(work).await?) })
    }
}

fn failed(place: &str, cause: PostgresError) -> Failed {
    Failed {
        place: place.to_owned(),
        cause,
    }
}

async fn pool(place: Place) -> Result<Pool, PostgresError> {
    let Place {
        mut config,
        tls,
        authorities,
    } = place;
    if config.get_application_name().is_none() {
        config.application_name("sapwood");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIME);
    }
    config.tcp_user_timeout(SILENCE_TIME);
    config.keepalives_idle(SILENCE_TIME);
    let compared = match tls {
        Tls::Disable | Tls::Prefer | Tls::Require => Compared::Nothing,
        Tls::VerifyCa => Compared::Authority,
        Tls::VerifyFull => Compared::AuthorityAndHost,
    };
    let authorities = match authorities {
        None => None,
        Some(path) => {
            let shown = path.display().to_string();
            let bad = |cause: String| PostgresError::Authorities { path: shown, cause };
            let pem = blocking::run(move || std::fs::read(path)).await;
            let parsed = pem.map(|pem| Authorities::parse(&pem));
            match parsed {
                Err(cause) => return Err(bad(cause.to_string())),
                Ok(None) => {
                    return Err(bad(
                        "it has no certificates in PEM, or malformed ones".to_owned()
                    ));
                }
                Ok(some) => some,
            }
        }
    };
    let tls = database_tls::tls(compared, authorities.as_ref()).map_err(PostgresError::Tls)?;
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(
        config,
        tls::MakeTls(Arc::new(tls)),
        ManagerConfig { recycling_method },
    );
    let prepare = Hook::async_fn(|client, _| {
        Box::pin(async move {
            let set = client.batch_execute(SETTINGS).await;
            set.map_err(deadpool_postgres::HookError::Backend)
        })
    });
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIME))
        .create_timeout(Some(CONNECT_TIME))
        .recycle_timeout(Some(CONNECT_TIME))
        .post_create(prepare);
    // Nothing of it can be wrong: it has a runtime.
    pool.build().map_err(|_| PostgresError::TooSlow)
}

fn written_if(is_stored: bool) -> Written {
    match is_stored {
        true => Written::Stored,
        false => Written::Conflict,
    }
}

fn sessions_of(rows: &[tokio_postgres::Row]) -> Result<Vec<Session>, PostgresError> {
    rows.iter().map(session_of).collect()
}

impl SessionStore for PostgresSessions {
    fn insert<'a>(
        &'a self,
        session: &'a Session,
        limits: OwnerLimits,
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        self.run(
            move |mut client| async move { changes::insert(&mut client, session, limits).await },
        )
    }

    fn load(&self, id: SessionId) -> BoxFuture<'_, Result<Option<Session>, StoreError>> {
        self.run(move |client| async move {
            let load = client.prepare_cached(LOAD).await?;
            let row = client.query_opt(&load, &[&id.bytes().to_vec()]).await?;
            row.as_ref().map(session_of).transpose()
        })
    }

    fn part(
        &self,
        id: SessionId,
        index: u32,
    ) -> BoxFuture<'_, Result<Option<FinishedPart>, StoreError>> {
        self.run(move |client| async move {
            let query = "SELECT * FROM sapwood_parts WHERE session = $1 AND part = $2";
            let query = client.prepare_cached(query).await?;
            let (id, index) = (id.bytes().to_vec(), i64::from(index));
            let row = client.query_opt(&query, &[&id, &index]).await?;
            row.as_ref().map(part_of).transpose()
        })
    }

    fn load_with<'a>(
        &'a self,
        id: SessionId,
        indices: &'a [u32],
    ) -> BoxFuture<'a, Result<Option<WithParts>, StoreError>> {
        self.run(move |client| async move {
            let load = client.prepare_cached(LOAD_WITH).await?;
            let indices: Vec<i64> = indices.iter().map(|index| i64::from(*index)).collect();
            let rows = client
                .query(&load, &[&id.bytes().to_vec(), &indices])
                .await?;
            let Some(first) = rows.first() else {
                return Ok(None);
            };
            let parts = rows.iter().filter_map(|row| found_part_of(row).transpose());
            Ok(Some((session_of(first)?, parts.collect::<Result<_, _>>()?)))
        })
    }

    fn parts(&self, id: SessionId) -> BoxFuture<'_, Result<Vec<FinishedPart>, StoreError>> {
        self.run(move |client| async move {
            let query = "SELECT * FROM sapwood_parts WHERE session = $1 ORDER BY part";
            let query = client.prepare_cached(query).await?;
            let rows = client.query(&query, &[&id.bytes().to_vec()]).await?;
            rows.iter().map(part_of).collect()
        })
    }

    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, StoreError>> {
        let kept = self.kept_notices;
        let notices = change.notices.iter().filter(|notice| kept.has(notice));
        let notices = notices.map(Notice::text).collect();
        self.run(move |client| async move {
            changes::write(&client, change, notices)
                .await
                .map(written_if)
        })
    }

    fn count_staged(
        &self,
        id: SessionId,
        staged: StagedBytes,
        limits: OwnerLimits,
    ) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        self.run(move |mut client| async move {
            changes::count_staged(&mut client, id, staged, limits).await
        })
    }

    fn staged_bytes(&self, id: SessionId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.run(move |client| async move {
            let query = "SELECT staged_bytes FROM sapwood_sessions WHERE id = $1";
            let query = client.prepare_cached(query).await?;
            let row = client.query_opt(&query, &[&id.bytes().to_vec()]).await?;
            let bytes: Option<i64> = row.map(|row| row.try_get(0)).transpose()?;
            Ok(bytes.unwrap_or_default().cast_unsigned())
        })
    }

    fn claim_notice(&self, now_s: u64, until_s: u64) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        self.run(move |client| async move {
            // Of what another one claims in this moment it does not wait to hear.
            let claim = "UPDATE sapwood_notices SET due_s = $2, claims = claims + 1
                WHERE id = (SELECT id FROM sapwood_notices WHERE due_s <= $1
                    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
                RETURNING id, session, notice, claims";
            let claim = client.prepare_cached(claim).await?;
            let (now_s, until_s) = (now_s.cast_signed(), until_s.cast_signed());
            let Some(row) = client.query_opt(&claim, &[&now_s, &until_s]).await? else {
                let next = "SELECT min(due_s) FROM sapwood_notices";
                let next = client.prepare_cached(next).await?;
                let next_s: Option<i64> = client.query_one(&next, &[]).await?.try_get(0)?;
                return Ok(Claimed::NotBefore(next_s.map(i64::cast_unsigned)));
            };
            let notice = Notice::parse(row.try_get("notice")?);
            Ok(Claimed::Notice(QueuedNotice {
                id: row.try_get::<_, i64>("id")?.cast_unsigned(),
                session: id_of(&row, "session")?,
                notice: notice.ok_or(NotAValue("no notice"))?,
                claims: row.try_get::<_, i64>("claims")? as u32,
            }))
        })
    }

    fn postpone_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
        due_s: u64,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.run(move |client| async move {
            let postpone = "UPDATE sapwood_notices SET due_s = $3 WHERE id = $1 AND claims = $2";
            let postpone = client.prepare_cached(postpone).await?;
            let (id, claims) = (notice.id.cast_signed(), i64::from(notice.claims));
            let due_s = due_s.cast_signed();
            let changed = client.execute(&postpone, &[&id, &claims, &due_s]).await?;
            Ok(written_if(changed == 1))
        })
    }

    fn remove_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.run(move |client| async move {
            let remove = "DELETE FROM sapwood_notices WHERE id = $1 AND claims = $2";
            let remove = client.prepare_cached(remove).await?;
            let (id, claims) = (notice.id.cast_signed(), i64::from(notice.claims));
            let removed = client.execute(&remove, &[&id, &claims]).await?;
            Ok(written_if(removed == 1))
        })
    }

    fn release_notices(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(|client| async move {
            let release = "UPDATE sapwood_notices SET due_s = 0 WHERE due_s > 0";
            client.execute(release, &[]).await?;
            Ok(())
        })
    }

    fn last_published<'a>(
        &'a self,
        name: &'a LibraryPath,
    ) -> BoxFuture<'a, Result<Option<LastPublished>, StoreError>> {
        self.run(move |client| async move {
            let query = "SELECT * FROM sapwood_published WHERE name = $1";
            let query = client.prepare_cached(query).await?;
            let row = client.query_opt(&query, &[&name.as_str()]).await?;
            row.as_ref().map(last_published_of).transpose()
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Vec<Session>, StoreError>> {
        self.run(move |client| async move {
            let mut text = "SELECT * FROM sapwood_sessions WHERE owner = $1".to_owned();
            // Each of the two has an index.
            text += match query.name {
                Some(_) => " AND name = $2::text",
                None => " AND $2::text IS NULL",
            };
            text += match query.after {
                Some(_) => " AND (created_s, id) < ($3::bigint, $4::bytea)",
                None => " AND $3::bigint IS NULL AND $4::bytea IS NULL",
            };
            text += " ORDER BY created_s DESC, id DESC LIMIT $5";
            let statement = client.prepare_cached(&text).await?;
            let name = query.name.as_ref().map(|name| name.as_str());
            let after = query.after.map(|after| {
                let id = after.id.bytes().to_vec();
                (after.created_s.cast_signed(), id)
            });
            let (created_s, id) = after.unzip();
            let limit = i64::from(query.limit);
            let rows = client
                .query(
                    &statement,
                    &[&query.owner.0, &name, &created_s, &id, &limit],
                )
                .await?;
            sessions_of(&rows)
        })
    }

    fn all(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Session>, StoreError>> {
        self.run(move |client| async move {
            let query = "SELECT * FROM sapwood_sessions WHERE id > $1 ORDER BY id LIMIT $2";
            let query = client.prepare_cached(query).await?;
            let after = after.map_or_else(Vec::new, |after| after.bytes().to_vec());
            let rows = client.query(&query, &[&after, &i64::from(limit)]).await?;
            sessions_of(&rows)
        })
    }

    fn usage<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Usage, StoreError>> {
        self.run(move |client| async move { changes::usage(&client, owner).await })
    }

    fn forget(&self, id: SessionId, version: u64) -> BoxFuture<'_, Result<Written, StoreError>> {
        self.run(move |client| async move {
            changes::forget(&client, id, version).await.map(written_if)
        })
    }

    fn served_s(&self, at_least: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.run(move |client| async move {
            let raise =
                "UPDATE sapwood_shared SET served_s = greatest(served_s, $1) RETURNING served_s";
            let raise = client.prepare_cached(raise).await?;
            let row = client.query_one(&raise, &[&at_least.cast_signed()]).await?;
            Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
        })
    }
}
