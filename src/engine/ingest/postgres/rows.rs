//! Rows of Postgres.

use std::error::Error as StdError;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::policy::upload::{
    FinishedPart,
    rows::{self, PART_COLUMNS, Row, Value},
};

use super::PostgresError;

type Conversion<T> = Result<T, Box<dyn StdError + Sync + Send>>;

impl Row for tokio_postgres::Row {
    type Error = PostgresError;

    fn value(&self, column: &str) -> Result<Value, PostgresError> {
        Ok(self.try_get(column)?)
    }
}

fn accepts(ty: &Type) -> bool {
    [Type::INT8, Type::BOOL, Type::TEXT, Type::BYTEA].contains(ty)
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Conversion<Value> {
        Ok(match *ty {
            Type::INT8 => Value::Number(i64::from_sql(ty, raw)?),
            Type::BOOL => Value::Flag(bool::from_sql(ty, raw)?),
            Type::TEXT => Value::Text(String::from_sql(ty, raw)?),
            _ => Value::Bytes(raw.to_vec()),
        })
    }

    fn from_sql_null(_: &Type) -> Conversion<Value> {
        Ok(Value::Null)
    }

    fn accepts(ty: &Type) -> bool {
        accepts(ty)
    }
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Conversion<IsNull> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Number(number) => number.to_sql_checked(ty, out),
            Value::Flag(flag) => flag.to_sql_checked(ty, out),
            Value::Text(text) => text.to_sql_checked(ty, out),
            Value::Bytes(bytes) => bytes.to_sql_checked(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        accepts(ty)
    }

    to_sql_checked!();
}

/// A part from its row.
pub fn part_of(row: &tokio_postgres::Row) -> Result<FinishedPart, PostgresError> {
    rows::part_of(row, PART_COLUMNS)
}

/// The part beside a session in a row, if there is one.
pub fn found_part_of(row: &tokio_postgres::Row) -> Result<Option<FinishedPart>, PostgresError> {
    let columns = ["found_part", "found_length", "found_sha256", "found_etag"];
    match row.value(columns[0])? {
        Value::Null => Ok(None),
        _ => Ok(Some(rows::part_of(row, columns)?)),
    }
}
