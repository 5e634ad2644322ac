//! Sessions and parts as rows of a database, whichever it is.

use crate::format::{
    geometry::BlockSize,
    library::LibraryPath,
    tree::Root,
    upload::{SessionId, Sha256},
};

use super::{
    super::parts::PartPlan, Declared, FinishedPart, Goal, LastPublished, Owner, Problem, Protocol,
    Published, Session, Staging, State,
};

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
/// The columns of a part.
pub const PART_COLUMNS: [&str; 4] = ["part", "length", "sha256", "etag"];

/// A value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Null,
    Number(i64),
    Flag(bool),
    Text(String),
    Bytes(Vec<u8>),
}

/// A value that no version of this program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database has {0} where a value of this program belongs")]
pub struct NotAValue(pub &'static str);

/// A row of some database.
pub trait Row {
    /// Why a value cannot be had.
    type Error: From<NotAValue>;

    /// The value of a column. A database without flags has numbers.
    fn value(&self, column: &str) -> Result<Value, Self::Error>;
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number.cast_signed())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(i64::from(number))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Flag(flag)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(bytes: [u8; N]) -> Value {
        Value::Bytes(bytes.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// The values of a session. Of one that is done, length and root of the object are those of its goal.
pub fn values_of(session: &Session) -> [Value; COLUMNS.len()] {
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
        } => (Some(attempt), Some(lease_until_s)),
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
    [
        session.id.bytes().into(),
        session.version.into(),
        session.owner.0.clone().into(),
        declared.name.as_str().into(),
        declared.plan.length().into(),
        declared.plan.part_size().into(),
        declared.plan.block_size().bytes().into(),
        declared.root.map(|root| root.0).into(),
        declared.sha256.map(|sha256| sha256.0).into(),
        declared.replace.into(),
        declared.growing.into(),
        declared.protocol.name().into(),
        session.created_s.into(),
        session.last_alive_s.into(),
        session.alive_at_s.into(),
        session.is_warned.into(),
        staging.into(),
        handle.into(),
        code.into(),
        detail.into(),
        session.state.name().into(),
        session.state.is_live().into(),
        attempt.into(),
        lease_until_s.into(),
        goal.map(|goal| goal.length).into(),
        goal.and_then(|goal| goal.root).map(|root| root.0).into(),
        goal.and_then(|goal| goal.sha256)
            .map(|sha256| sha256.0)
            .into(),
        goal.map(|goal| goal.replace).into(),
    ]
}

fn number_if_any<R: Row>(row: &R, column: &str) -> Result<Option<u64>, R::Error> {
    match row.value(column)? {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(Some(number.cast_unsigned())),
        _ => Err(NotAValue("no number").into()),
    }
}

fn number<R: Row>(row: &R, column: &str) -> Result<u64, R::Error> {
    number_if_any(row, column)?.ok_or_else(|| NotAValue("no number").into())
}

fn small<R: Row>(row: &R, column: &str) -> Result<u32, R::Error> {
    let number = number(row, column)?;
    u32::try_from(number).map_err(|_| NotAValue("a number that is too large").into())
}

fn flag<R: Row>(row: &R, column: &str) -> Result<bool, R::Error> {
    match row.value(column)? {
        Value::Flag(flag) => Ok(flag),
        Value::Number(number @ (0 | 1)) => Ok(number == 1),
        _ => Err(NotAValue("no flag").into()),
    }
}

fn text_if_any<R: Row>(row: &R, column: &str) -> Result<Option<String>, R::Error> {
    match row.value(column)? {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        _ => Err(NotAValue("no text").into()),
    }
}

fn text<R: Row>(row: &R, column: &str) -> Result<String, R::Error> {
    text_if_any(row, column)?.ok_or_else(|| NotAValue("no text").into())
}

fn hash_if_any<R: Row>(row: &R, column: &str) -> Result<Option<[u8; 32]>, R::Error> {
    let bytes = match row.value(column)? {
        Value::Null => return Ok(None),
        Value::Bytes(bytes) => bytes.try_into().ok(),
        _ => None,
    };
    bytes
        .map(Some)
        .ok_or_else(|| NotAValue("a malformed hash").into())
}

fn hash<R: Row>(row: &R, column: &str) -> Result<[u8; 32], R::Error> {
    hash_if_any(row, column)?.ok_or_else(|| NotAValue("no hash").into())
}

/// The session that a column names.
pub fn id_of<R: Row>(row: &R, column: &str) -> Result<SessionId, R::Error> {
    let id = match row.value(column)? {
        Value::Bytes(bytes) => bytes.try_into().ok().and_then(SessionId::from_bytes),
        _ => None,
    };
    id.ok_or_else(|| NotAValue("a malformed ID").into())
}

/// A session from its row.
pub fn session_of<R: Row>(row: &R) -> Result<Session, R::Error> {
    let detail = text_if_any(row, "problem_detail")?;
    let problem = text_if_any(row, "problem_code")?.map(|code| Problem {
        code,
        detail: detail.unwrap_or_default(),
    });
    let staging = match text(row, "staging")?.as_str() {
        "none" => Staging::None,
        "begun" => Staging::Begun(text(row, "handle")?),
        "removed" => Staging::Removed,
        _ => return Err(NotAValue("what no storage can have").into()),
    };
    Ok(Session {
        id: id_of(row, "id")?,
        owner: Owner(text(row, "owner")?),
        declared: Declared {
            name: LibraryPath::new(&text(row, "name")?).ok_or(NotAValue("a malformed name"))?,
            plan: plan_of(row)?,
            root: hash_if_any(row, "root")?.map(Root),
            sha256: hash_if_any(row, "sha256")?.map(Sha256),
            replace: flag(row, "may_replace")?,
            growing: flag(row, "growing")?,
            protocol: protocol_of(row)?,
        },
        state: state_of(row)?,
        version: number(row, "version")?,
        created_s: number(row, "created_s")?,
        last_alive_s: number(row, "last_alive_s")?,
        alive_at_s: number(row, "alive_at_s")?,
        is_warned: flag(row, "is_warned")?,
        staging,
        problem,
    })
}

fn plan_of<R: Row>(row: &R) -> Result<PartPlan, R::Error> {
    let block_size = BlockSize::new(number(row, "block_size")?);
    let length = number_if_any(row, "length")?;
    let part_size = number(row, "part_size")?;
    let plan = block_size.map(|block_size| PartPlan::new(length, part_size, block_size));
    let plan = plan
        .and_then(Result::ok)
        .ok_or(NotAValue("impossible sizes of parts"))?;
    Ok(match protocol_of(row)? {
        Protocol::Parts => plan.of_equal_parts(),
        Protocol::Sapwood | Protocol::Stream => plan,
    })
}

fn protocol_of<R: Row>(row: &R) -> Result<Protocol, R::Error> {
    let protocol = Protocol::named(&text(row, "protocol")?);
    protocol.ok_or_else(|| NotAValue("an unknown protocol").into())
}

fn state_of<R: Row>(row: &R) -> Result<State, R::Error> {
    Ok(match text(row, "state")?.as_str() {
        "open" => State::Open,
        "finalizing" => State::Finalizing {
            goal: Goal {
                length: number(row, "goal_length")?,
                root: hash_if_any(row, "goal_root")?.map(Root),
                sha256: hash_if_any(row, "goal_sha256")?.map(Sha256),
                replace: flag(row, "goal_replace")?,
            },
            attempt: small(row, "attempt")?,
            lease_until_s: number(row, "lease_until_s")?,
        },
        "done" => State::Done(Published {
            length: number(row, "goal_length")?,
            root: Root(hash(row, "goal_root")?),
        }),
        "failed" => State::Failed,
        "expired" => State::Expired,
        "aborted" => State::Aborted,
        _ => return Err(NotAValue("an unknown state").into()),
    })
}

/// A part from its row, in which these are its [`PART_COLUMNS`].
pub fn part_of<R: Row>(row: &R, columns: [&str; 4]) -> Result<FinishedPart, R::Error> {
    let [index, length, sha256, etag] = columns;
    Ok(FinishedPart {
        index: small(row, index)?,
        length: number(row, length)?,
        sha256: Sha256(hash(row, sha256)?),
        etag: text_if_any(row, etag)?,
    })
}

/// What was last published under a name, from its row.
pub fn last_published_of<R: Row>(row: &R) -> Result<LastPublished, R::Error> {
    Ok(LastPublished {
        owner: Owner(text(row, "owner")?),
        session: id_of(row, "session")?,
        published: Published {
            length: number(row, "length")?,
            root: Root(hash(row, "root")?),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A row in memory; `true`: of a database that has numbers for flags.
    struct Kept(HashMap<&'static str, Value>, bool);

    impl Row for Kept {
        type Error = NotAValue;

        fn value(&self, column: &str) -> Result<Value, NotAValue> {
            Ok(match &self.0[column] {
                Value::Flag(flag) if self.1 => Value::Number(i64::from(*flag)),
                value => value.clone(),
            })
        }
    }

    fn kept(session: &Session, has_numbers: bool) -> Kept {
        Kept(
            COLUMNS.into_iter().zip(values_of(session)).collect(),
            has_numbers,
        )
    }

    fn session() -> Session {
        let block_size = BlockSize::new(65_536).unwrap();
        Session {
            id: SessionId::from_random([7; 16]),
            owner: Owner("ann".to_owned()),
            declared: Declared {
                name: LibraryPath::new("a/film.mov").unwrap(),
                plan: PartPlan::new(Some(1 << 36), 64 << 20, block_size).unwrap(),
                root: Some(Root([1; 32])),
                sha256: None,
                replace: true,
                growing: false,
                protocol: Protocol::Sapwood,
            },
            state: State::Open,
            version: u64::MAX,
            created_s: 1,
            last_alive_s: 2,
            alive_at_s: 3,
            is_warned: true,
            staging: Staging::Begun("handle".to_owned()),
            problem: None,
        }
    }

    #[test]
    fn a_session_comes_back() {
        let goal = Goal {
            length: 1 << 40,
            root: None,
            sha256: Some(Sha256([2; 32])),
            replace: true,
        };
        let done = Published {
            length: 5,
            root: Root([3; 32]),
        };
        let finalizing = State::Finalizing {
            goal,
            attempt: 4,
            lease_until_s: 9,
        };
        let others = [State::Failed, State::Expired, State::Aborted];
        for state in [State::Open, finalizing, State::Done(done)]
            .into_iter()
            .chain(others)
        {
            let mut session = Session { state, ..session() };
            for (staging, problem) in [
                (Staging::None, None),
                (
                    Staging::Removed,
                    Some(Problem {
                        code: "code".to_owned(),
                        detail: String::new(),
                    }),
                ),
            ] {
                session.staging = staging;
                session.problem = problem;
                for has_numbers in [false, true] {
                    assert_eq!(
                        session_of(&kept(&session, has_numbers)),
                        Ok(session.clone())
                    );
                }
            }
        }
    }

    /// Whatever stands in a column, it is refused or read, and no other value of a name is taken for one of ours.
    #[test]
    fn what_is_no_value_is_refused() {
        let good = session();
        for (column, wrong) in [
            ("id", Value::Bytes(vec![7; 15])),
            ("version", Value::Null),
            ("owner", Value::Null),
            ("name", "../x".into()),
            ("length", "1".into()),
            ("part_size", 0_u64.into()),
            ("block_size", 1000_u64.into()),
            ("root", Value::Bytes(vec![1; 31])),
            ("sha256", "text".into()),
            ("may_replace", 2_u64.into()),
            ("protocol", "gopher".into()),
            ("staging", "gone".into()),
            ("handle", Value::Null),
            ("state", "asleep".into()),
        ] {
            let mut row = kept(&good, false);
            row.0.insert(column, wrong);
            assert!(session_of(&row).is_err(), "{column}");
        }
        let state = State::Done(Published {
            length: 5,
            root: Root([3; 32]),
        });
        let mut row = kept(&Session { state, ..good }, false);
        row.0.insert("goal_root", Value::Null);
        assert_eq!(session_of(&row), Err(NotAValue("no hash")));
        let part = Kept(
            PART_COLUMNS
                .into_iter()
                .zip([
                    (1_u64 << 32).into(),
                    1_u64.into(),
                    [1; 32].into(),
                    Value::Null,
                ])
                .collect(),
            false,
        );
        let refused = part_of(&part, PART_COLUMNS);
        assert_eq!(refused, Err(NotAValue("a number that is too large")));
    }
}
