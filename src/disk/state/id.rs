//! How rows are named.

/// The row of an object.
pub(super) type ObjectId = i64;
