//! Sessions and parts as rows.

use rusqlite::{Row, ToSql, types::Type};

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

/// The columns of a session, in the order of [`session_of`] and [`values_of`].
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

type Values = Vec<Box<dyn ToSql>>;

/// The values of a session. Of one that is done, length and root of the object are those of its goal.
pub fn values_of(session: &Session) -> Values {
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
        } => (Some(attempt), Some(lease_until_s.cast_signed())),
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
    let values: Values = vec![
        Box::new(session.id.bytes()),
        Box::new(session.version.cast_signed()),
        Box::new(session.owner.0.clone()),
        Box::new(declared.name.as_str().to_owned()),
        Box::new(declared.plan.length().map(u64::cast_signed)),
        Box::new(declared.plan.part_size().cast_signed()),
        Box::new(declared.plan.block_size().bytes().cast_signed()),
        Box::new(declared.root.map(|root| root.0)),
        Box::new(declared.sha256.map(|sha256| sha256.0)),
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
        Box::new(goal.and_then(|goal| goal.root).map(|root| root.0)),
        Box::new(goal.and_then(|goal| goal.sha256).map(|sha256| sha256.0)),
        Box::new(goal.map(|goal| goal.replace)),
    ];
    debug_assert_eq!(values.len(), COLUMNS.len());
    values
}

fn number(row: &Row, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn number_if_any(row: &Row, column: &str) -> rusqlite::Result<Option<u64>> {
    let found = row.get::<_, Option<i64>>(column)?;
    Ok(found.map(i64::cast_unsigned))
}

/// A value that no version of this program writes.
pub fn not_a_value(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, what.into())
}

/// A session from its row.
pub fn session_of(row: &Row) -> rusqlite::Result<Session> {
    let name: String = row.get("name")?;
    let problem_code: Option<String> = row.get("problem_code")?;
    let detail: Option<String> = row.get("problem_detail")?;
    let problem = problem_code.map(|code| Problem {
        code,
        detail: detail.unwrap_or_default(),
    });
    let staging = match row.get::<_, String>("staging")?.as_str() {
        "none" => Staging::None,
        "begun" => Staging::Begun(row.get("handle")?),
        "removed" => Staging::Removed,
        _ => return Err(not_a_value("not what a storage can have")),
    };
    Ok(Session {
        id: SessionId::from_bytes(row.get("id")?).ok_or_else(|| not_a_value("not an ID"))?,
        owner: Owner(row.get("owner")?),
        declared: Declared {
            name: LibraryPath::new(&name).ok_or_else(|| not_a_value("not a name"))?,
            plan: plan_of(row)?,
            root: row.get::<_, Option<[u8; 32]>>("root")?.map(Root),
            sha256: row.get::<_, Option<[u8; 32]>>("sha256")?.map(Sha256),
            replace: row.get("may_replace")?,
            growing: row.get("growing")?,
            protocol: protocol_of(row)?,
        },
        state: state_of(row)?,
        version: number(row, "version")?,
        created_s: number(row, "created_s")?,
        last_alive_s: number(row, "last_alive_s")?,
        alive_at_s: number(row, "alive_at_s")?,
        is_warned: row.get("is_warned")?,
        staging,
        problem,
    })
}

fn plan_of(row: &Row) -> rusqlite::Result<PartPlan> {
    let block_size = BlockSize::new(number(row, "block_size")?);
    let length = number_if_any(row, "length")?;
    let part_size = number(row, "part_size")?;
    let plan = block_size.map(|block_size| PartPlan::new(length, part_size, block_size));
    let plan = plan.and_then(Result::ok);
    let plan = plan.ok_or_else(|| not_a_value("not sizes of parts"))?;
    Ok(match protocol_of(row)? {
        Protocol::Parts => plan.of_equal_parts(),
        Protocol::Sapwood | Protocol::Stream => plan,
    })
}

fn protocol_of(row: &Row) -> rusqlite::Result<Protocol> {
    let protocol = Protocol::named(&row.get::<_, String>("protocol")?);
    protocol.ok_or_else(|| not_a_value("not a protocol"))
}

fn state_of(row: &Row) -> rusqlite::Result<State> {
    let goal_root = || {
        row.get::<_, Option<[u8; 32]>>("goal_root")
            .map(|root| root.map(Root))
    };
    Ok(match row.get::<_, String>("state")?.as_str() {
        "open" => State::Open,
        "finalizing" => State::Finalizing {
            goal: Goal {
                length: number(row, "goal_length")?,
                root: goal_root()?,
                sha256: row.get::<_, Option<[u8; 32]>>("goal_sha256")?.map(Sha256),
                replace: row.get("goal_replace")?,
            },
            attempt: row.get("attempt")?,
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
pub fn part_of(row: &Row) -> rusqlite::Result<FinishedPart> {
    Ok(FinishedPart {
        index: row.get("part")?,
        length: number(row, "length")?,
        sha256: Sha256(row.get("sha256")?),
        etag: row.get("etag")?,
    })
}

/// What was last published under a name, from its row.
pub fn last_published_of(row: &Row) -> rusqlite::Result<(Owner, SessionId, Published)> {
    let session = SessionId::from_bytes(row.get("session")?);
    let published = Published {
        length: number(row, "length")?,
        root: Root(row.get("root")?),
    };
    let session = session.ok_or_else(|| not_a_value("not an ID"))?;
    Ok((Owner(row.get("owner")?), session, published))
}
