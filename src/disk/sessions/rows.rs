//! Rows of `SQLite`.

use rusqlite::{
    ToSql,
    types::{FromSqlError, ToSqlOutput, Type, ValueRef},
};

use crate::policy::upload::{
    FinishedPart,
    rows::{self, NotAValue, PART_COLUMNS, Row, Value},
};

impl From<NotAValue> for rusqlite::Error {
    fn from(cause: NotAValue) -> rusqlite::Error {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, cause.into())
    }
}

impl Row for rusqlite::Row<'_> {
    type Error = rusqlite::Error;

    fn value(&self, column: &str) -> rusqlite::Result<Value> {
        let found = self.get_ref(column)?;
        Ok(match found {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Number(number),
            ValueRef::Text(_) => Value::Text(found.as_str().map_err(not_text)?.to_owned()),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
            ValueRef::Real(_) => return Err(NotAValue("a fraction").into()),
        })
    }
}

fn not_text(_: FromSqlError) -> NotAValue {
    NotAValue("text that is not UTF-8")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Number(number) => ValueRef::Integer(*number),
            Value::Flag(flag) => ValueRef::Integer(i64::from(*flag)),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A part from its row.
pub fn part_of(row: &rusqlite::Row) -> rusqlite::Result<FinishedPart> {
    rows::part_of(row, PART_COLUMNS)
}
