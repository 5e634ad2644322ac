//! The tables of sessions, and the migrations from each version of them to the next.

/// The migrations. A database with a higher version was made by a later program.
///
/// Numbers without a sign keep their bits. Times are in seconds. `parts_bytes` is the sum of the lengths of the parts, `staged_bytes` that
/// of what lies in the storage besides: the rows of `staged`. A notice is JSON; it is claimed until `due_s`, or not due before. `published`
/// has what was last published under a name, and stays when the session is forgotten.
pub const STEPS: [&str; 5] = [
    "CREATE TABLE sessions (
        id BLOB PRIMARY KEY,
        version INTEGER NOT NULL,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        length INTEGER,
        part_size INTEGER NOT NULL,
        block_size INTEGER NOT NULL,
        root BLOB,
        sha256 BLOB,
        may_replace INTEGER NOT NULL,
        growing INTEGER NOT NULL,
        created_s INTEGER NOT NULL,
        last_alive_s INTEGER NOT NULL,
        alive_at_s INTEGER NOT NULL,
        is_warned INTEGER NOT NULL,
        staging TEXT NOT NULL,
        handle TEXT,
        problem_code TEXT,
        problem_detail TEXT,
        state TEXT NOT NULL,
        is_live INTEGER NOT NULL,
        attempt INTEGER,
        lease_until_s INTEGER,
        goal_length INTEGER,
        goal_root BLOB,
        goal_sha256 BLOB,
        goal_replace INTEGER,
        parts_bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX sessions_by_owner ON sessions (owner, created_s, id);
    CREATE INDEX sessions_by_name ON sessions (owner, name, created_s, id);
    CREATE INDEX live_sessions ON sessions (owner, length, parts_bytes) WHERE is_live;
    CREATE TABLE parts (
        session BLOB NOT NULL,
        part INTEGER NOT NULL,
        length INTEGER NOT NULL,
        sha256 BLOB NOT NULL,
        etag TEXT,
        PRIMARY KEY (session, part)
    ) WITHOUT ROWID;
    CREATE TABLE served (seconds INTEGER NOT NULL);
    INSERT INTO served VALUES (0);",
    "ALTER TABLE sessions ADD COLUMN staged_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sessions ADD COLUMN is_untold INTEGER NOT NULL DEFAULT 0;
    DROP INDEX live_sessions;
    CREATE INDEX live_sessions ON sessions (owner, length, parts_bytes, staged_bytes) WHERE is_live;
    CREATE INDEX untold_sessions ON sessions (last_alive_s, id) WHERE is_untold;
    CREATE TABLE staged (
        session BLOB NOT NULL,
        part INTEGER NOT NULL,
        kept INTEGER NOT NULL,
        beside INTEGER NOT NULL,
        PRIMARY KEY (session, part)
    ) WITHOUT ROWID;
    CREATE TABLE storage (id TEXT NOT NULL);",
    "CREATE TABLE notices (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session BLOB NOT NULL,
        notice TEXT NOT NULL,
        due_s INTEGER NOT NULL,
        claims INTEGER NOT NULL
    );
    CREATE INDEX notices_of_sessions ON notices (session);
    INSERT INTO notices (session, notice, due_s, claims)
        SELECT id, '{\"unix_s\":' || last_alive_s || ',\"event\":\"published\"}', 0, 0
        FROM sessions WHERE is_untold ORDER BY last_alive_s, id;
    DROP INDEX untold_sessions;
    ALTER TABLE sessions DROP COLUMN is_untold;",
    "ALTER TABLE sessions ADD COLUMN protocol TEXT NOT NULL DEFAULT 'sapwood';",
    "CREATE TABLE published (
        name TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        session BLOB NOT NULL,
        root BLOB NOT NULL,
        length INTEGER NOT NULL
    ) WITHOUT ROWID;
    INSERT OR REPLACE INTO published
        SELECT name, owner, id, goal_root, goal_length FROM sessions
        WHERE state = 'done' AND goal_root IS NOT NULL ORDER BY last_alive_s;",
];
pub const VERSION: u32 = STEPS.len() as u32;
