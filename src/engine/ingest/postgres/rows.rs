//! Sessions and parts as rows. The columns are those of `disk/sessions/rows.rs`.

use tokio_postgres::{Row, types::ToSql};

use crate::{
    format::{
        geometry::BlockSize,
        library::LibraryPath,
        tree::Root,
        upload::{SessionId, Sha256},
    },
    policy::{
        parts::PartPlan,
        upload::{
            Declared, FinishedPart, Goal, Owner, Problem, Protocol, Published, Session, Staging,
            State,
        },
    },
};

use super::{super::session_store::LastPublished, PostgresError};

/// The columns of a session, in the order of [`values_of`].
pub const COLUMNS: [&str; 28] = [
    "id",
    "version",
    "owner",
    "name",
    "length",
    "part_size",
    "block_size",
    "root",
    "sha256",
    "may_replace",
    "growing",
    "protocol",
    "created_s",
    "last_alive_s",
    "alive_at_s",
    "is_warned",
    "staging",
    "handle",
    "problem_code",
    "problem_detail",
    "state",
    "is_live",
    "attempt",
    "lease_until_s",
    "goal_length",
    "goal_root",
    "goal_sha256",
    "goal_replace",
];

/// A value of a statement.
pub type Value = Box<dyn ToSql + Send + Sync>;

/// The values as a statement takes them.
pub fn refer(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values
        .iter()
        .map(|value| &**value as &(dyn ToSql + Sync))
        .collect()
}

fn bytes(hash: Option<[u8; 32]>) -> Option<Vec<u8>> {
    hash.map(|hash| hash.to_vec())
}

/// The values of a session. Of one that is done, length and root of the object are those of its goal.
pub fn values_of(session: &Session) -> Vec<Value> {
    let declared = &session.declared;
    let (staging, handle) = match &session.staging {
        Staging::None => ("none", None),
        Staging::Begun(handle) => ("begun", Some(handle.clone())),
        Staging::Removed => ("removed", None),
    };
    let problem = session.problem.clone();
    let (code, detail) = problem.map(|it| (it.code, it.detail)).unzip();
    let (attempt, lease_until_s) = match session.state {
        State::Finalizing {
            attempt,
            lease_until_s,
            ..
        } => (Some(i64::from(attempt)), Some(lease_until_s.cast_signed())),
        _ => (None, None),
    };
    let goal = match session.state {
        State::Finalizing { goal, .. } => Some(goal),
        State::Done(done) => Some(Goal {
            length: done.length,
            root: Some(done.root),
            sha256: None,
            replace: false,
        }),
        _ => None,
    };
    let values: Vec<Value> = vec![
        Box::new(session.id.bytes().to_vec()),
        Box::new(session.version.cast_signed()),
        Box::new(session.owner.0.clone()),
        Box::new(declared.name.as_str().to_owned()),
        Box::new(declared.plan.length().map(u64::cast_signed)),
        Box::new(declared.plan.part_size().cast_signed()),
        Box::new(declared.plan.block_size().bytes().cast_signed()),
        Box::new(bytes(declared.root.map(|root| root.0))),
        Box::new(bytes(declared.sha256.map(|sha256| sha256.0))),
        Box::new(declared.replace),
        Box::new(declared.growing),
        Box::new(declared.protocol.name()),
        Box::new(session.created_s.cast_signed()),
        Box::new(session.last_alive_s.cast_signed()),
        Box::new(session.alive_at_s.cast_signed()),
        Box::new(session.is_warned),
        Box::new(staging),
        Box::new(handle),
        Box::new(code),
        Box::new(detail),
        Box::new(session.state.name()),
        Box::new(session.state.is_live()),
        Box::new(attempt),
        Box::new(lease_until_s),
        Box::new(goal.map(|goal| goal.length.cast_signed())),
        Box::new(bytes(goal.and_then(|goal| goal.root).map(|root| root.0))),
        Box::new(bytes(
            goal.and_then(|goal| goal.sha256).map(|sha256| sha256.0),
        )),
        Box::new(goal.map(|goal| goal.replace)),
    ];
    debug_assert_eq!(values.len(), COLUMNS.len());
    values
}

/// A value that no version of this program writes.
pub fn not_a_value(what: &'static str) -> PostgresError {
    PostgresError::NotAValue(what)
}

fn number(row: &Row, column: &str) -> Result<u64, PostgresError> {
    Ok(row.try_get::<_, i64>(column)?.cast_unsigned())
}

fn small(row: &Row, column: &str) -> Result<u32, PostgresError> {
    u32::try_from(row.try_get::<_, i64>(column)?).map_err(|_| not_a_value("not a small number"))
}

fn hash(row: &Row, column: &str) -> Result<Option<[u8; 32]>, PostgresError> {
    let found: Option<&[u8]> = row.try_get(column)?;
    let hash = found.map(<[u8; 32]>::try_from).transpose();
    hash.map_err(|_| not_a_value("not a hash"))
}

/// The session that a column names.
pub fn id_of(row: &Row, column: &str) -> Result<SessionId, PostgresError> {
    let found: &[u8] = row.try_get(column)?;
    let id = found.try_into().ok().and_then(SessionId::from_bytes);
    id.ok_or_else(|| not_a_value("not an ID"))
}

/// A session from its row.
pub fn session_of(row: &Row) -> Result<Session, PostgresError> {
    let detail: Option<String> = row.try_get("problem_detail")?;
    let code: Option<String> = row.try_get("problem_code")?;
    let problem = code.map(|code| Problem {
        code,
        detail: detail.unwrap_or_default(),
    });
    let staging = match row.try_get("staging")? {
        "none" => Staging::None,
        "begun" => Staging::Begun(row.try_get("handle")?),
        "removed" => Staging::Removed,
        _ => return Err(not_a_value("not what a storage can have")),
    };
    Ok(Session {
        id: id_of(row, "id")?,
        owner: Owner(row.try_get("owner")?),
        declared: Declared {
            name: LibraryPath::new(row.try_get("name")?)
                .ok_or_else(|| not_a_value("not a name"))?,
            plan: plan_of(row)?,
            root: hash(row, "root")?.map(Root),
            sha256: hash(row, "sha256")?.map(Sha256),
            replace: row.try_get("may_replace")?,
            growing: row.try_get("growing")?,
            protocol: protocol_of(row)?,
        },
        state: state_of(row)?,
        version: number(row, "version")?,
        created_s: number(row, "created_s")?,
        last_alive_s: number(row, "last_alive_s")?,
        alive_at_s: number(row, "alive_at_s")?,
        is_warned: row.try_get("is_warned")?,
        staging,
        problem,
    })
}

fn plan_of(row: &Row) -> Result<PartPlan, PostgresError> {
    let block_size = BlockSize::new(number(row, "block_size")?);
    let length: Option<i64> = row.try_get("length")?;
    let part_size = number(row, "part_size")?;
    let plan = block_size
        .map(|block_size| PartPlan::new(length.map(i64::cast_unsigned), part_size, block_size));
    let plan = plan.and_then(Result::ok);
    let plan = plan.ok_or_else(|| not_a_value("not sizes of parts"))?;
    Ok(match protocol_of(row)? {
        Protocol::Parts => plan.of_equal_parts(),
        Protocol::Sapwood | Protocol::Stream => plan,
    })
}

fn protocol_of(row: &Row) -> Result<Protocol, PostgresError> {
    Protocol::named(row.try_get("protocol")?).ok_or_else(|| not_a_value("not a protocol"))
}

fn state_of(row: &Row) -> Result<State, PostgresError> {
    let goal_root = || Ok::<_, PostgresError>(hash(row, "goal_root")?.map(Root));
    Ok(match row.try_get("state")? {
        "open" => State::Open,
        "finalizing" => State::Finalizing {
            goal: Goal {
                length: number(row, "goal_length")?,
                root: goal_root()?,
                sha256: hash(row, "goal_sha256")?.map(Sha256),
                replace: row.try_get("goal_replace")?,
            },
            attempt: small(row, "attempt")?,
            lease_until_s: number(row, "lease_until_s")?,
        },
        "done" => State::Done(Published {
            length: number(row, "goal_length")?,
            root: goal_root()?.ok_or_else(|| not_a_value("no root"))?,
        }),
        "failed" => State::Failed,
        "expired" => State::Expired,
        "aborted" => State::Aborted,
        _ => return Err(not_a_value("not a state")),
    })
}

/// A part from its row.
pub fn part_of(row: &Row) -> Result<FinishedPart, PostgresError> {
    Ok(FinishedPart {
        index: small(row, "part")?,
        length: number(row, "length")?,
        sha256: Sha256(hash(row, "sha256")?.ok_or_else(|| not_a_value("no hash"))?),
        etag: row.try_get("etag")?,
    })
}

/// The part beside a session in a row, if there is one.
pub fn found_part_of(row: &Row) -> Result<Option<FinishedPart>, PostgresError> {
    if row.try_get::<_, Option<i64>>("found_part")?.is_none() {
        return Ok(None);
    }
    Ok(Some(FinishedPart {
        index: small(row, "found_part")?,
        length: number(row, "found_length")?,
        sha256: Sha256(hash(row, "found_sha256")?.ok_or_else(|| not_a_value("no hash"))?),
        etag: row.try_get("found_etag")?,
    }))
}

/// What was last published under a name, from its row.
pub fn last_published_of(row: &Row) -> Result<LastPublished, PostgresError> {
    let root = hash(row, "root")?.ok_or_else(|| not_a_value("no root"))?;
    Ok(LastPublished {
        owner: Owner(row.try_get("owner")?),
        session: id_of(row, "session")?,
        published: Published {
            length: number(row, "length")?,
            root: Root(root),
        },
    })
}
