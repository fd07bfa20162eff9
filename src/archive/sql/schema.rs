//! F10 · The tables of an archive, and the steps that make them and change them.
//!
//! Owns their texts for both databases. A step that was once released is never changed: another one follows it. Each
//! statement may be carried out again, because MySQL cannot take one back. Never speaks to a database.
//!
//! `gannet_streams` has one row for each channel: where it stands and what is kept of it. `gannet_publications_00` and
//! those after it have the publications, split by channel; each is made of parts by time. `gannet_cursors_00` and those
//! after it have the cursors of inboxes, split likewise. `gannet_lives` has one row for each time that a server opened
//! the archive, and whether that ended cleanly.

use super::SqlKind;
use super::days::DayPart;

/// How many steps there are.
pub const VERSION: i32 = STEPS.len() as i32;

/// What holds for all of it, once and for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaShape {
    pub tables: u16,
    /// Days in a part of a table.
    pub part_days: u16,
}

impl SchemaShape {
    /// At most some sixty parts a table for what is kept longest, for a page is put together from all of them.
    pub fn new(tables: u16, ttl_max_ms: u64) -> SchemaShape {
        let part_days = match ttl_max_ms.div_ceil(super::days::DAY_MS.unsigned_abs()) {
            1..=62 => 1,
            63..=434 => 7,
            _ => 30,
        };
        SchemaShape { tables, part_days }
    }
}

/// What a database says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaFound {
    pub version: i32,
    pub shape: SchemaShape,
}

impl SchemaFound {
    /// Why a server cannot use it.
    pub fn fault(found: Option<SchemaFound>, tables: u16) -> Result<SchemaShape, String> {
        let Some(SchemaFound { version, shape }) = found else {
            return Err("the database has no tables of Gannet: run gannet durable migrate".into());
        };
        if version < VERSION {
            return Err(format!("the tables are at version {version}, of {VERSION}: run gannet durable migrate"));
        }
        if version > VERSION {
            let what = "are of a newer Gannet, which only that one can use";
            return Err(format!("the tables {what} (version {version}; this one knows {VERSION})"));
        }
        if shape.tables != tables {
            let made = shape.tables;
            return Err(format!("durable.tables is {tables}, and {made} were made: set it to {made}"));
        }
        Ok(shape)
    }
}

struct Step {
    about: &'static str,
    postgres: fn(&SchemaShape) -> Vec<String>,
    mysql: fn(&SchemaShape) -> Vec<String>,
}

const STEPS: &[Step] = &[
    Step { about: "streams and lives", postgres: streams_postgres, mysql: streams_mysql },
    Step { about: "publications", postgres: publications_postgres, mysql: publications_mysql },
    Step { about: "cursors of inboxes", postgres: cursors_postgres, mysql: cursors_mysql },
];

/// What a step is about, and its statements.
pub fn step(number: i32, kind: SqlKind, shape: &SchemaShape) -> Option<(&'static str, Vec<String>)> {
    let step = STEPS.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
    let statements = match kind {
        SqlKind::Postgres => (step.postgres)(shape),
        SqlKind::Mysql => (step.mysql)(shape),
    };
    Some((step.about, statements))
}

/// The table that says how far the others are.
pub const META: &str = "CREATE TABLE IF NOT EXISTS gannet_schema (id INT PRIMARY KEY, version INT NOT NULL, \
                        publication_tables INT NOT NULL, part_days INT NOT NULL)";

pub fn table_name(table: u16) -> String {
    format!("gannet_publications_{table:02}")
}

pub fn cursor_table_name(table: u16) -> String {
    format!("gannet_cursors_{table:02}")
}

fn streams_postgres(_: &SchemaShape) -> Vec<String> {
    let streams = "CREATE TABLE IF NOT EXISTS gannet_streams (stream BYTEA PRIMARY KEY, share BYTEA NOT NULL, \
                   channel BYTEA NOT NULL, epoch TEXT COLLATE \"C\" NOT NULL, top BIGINT NOT NULL, \
                   keep_size BIGINT NOT NULL, keep_ttl_ms BIGINT NOT NULL, keep_meta_ttl_ms BIGINT NOT NULL, \
                   updated_ms BIGINT NOT NULL, used_ms BIGINT NOT NULL, ahead_life BIGINT, \
                   removed_epoch TEXT COLLATE \"C\", removed_to BIGINT NOT NULL DEFAULT 0, \
                   trimmed_to BIGINT NOT NULL DEFAULT 0, expired_to BIGINT NOT NULL DEFAULT 0) \
                   WITH (fillfactor = 70)";
    let lives = "CREATE TABLE IF NOT EXISTS gannet_lives (life BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                 share BYTEA NOT NULL, is_clean SMALLINT NOT NULL)";
    vec![streams.into(), lives.into()]
}

fn streams_mysql(_: &SchemaShape) -> Vec<String> {
    let streams = "CREATE TABLE IF NOT EXISTS gannet_streams (stream BINARY(16) PRIMARY KEY, \
                   share VARBINARY(255) NOT NULL, channel BLOB NOT NULL, epoch VARBINARY(64) NOT NULL, \
                   top BIGINT NOT NULL, keep_size BIGINT NOT NULL, keep_ttl_ms BIGINT NOT NULL, \
                   keep_meta_ttl_ms BIGINT NOT NULL, updated_ms BIGINT NOT NULL, used_ms BIGINT NOT NULL, \
                   ahead_life BIGINT, removed_epoch VARBINARY(64), removed_to BIGINT NOT NULL DEFAULT 0, \
                   trimmed_to BIGINT NOT NULL DEFAULT 0, expired_to BIGINT NOT NULL DEFAULT 0) ENGINE = InnoDB";
    let lives = "CREATE TABLE IF NOT EXISTS gannet_lives (life BIGINT AUTO_INCREMENT PRIMARY KEY, \
                 share VARBINARY(255) NOT NULL, is_clean SMALLINT NOT NULL) ENGINE = InnoDB";
    vec![streams.into(), lives.into()]
}

/// Payloads are seldom of a kind that is worth the time to compress.
fn publications_postgres(shape: &SchemaShape) -> Vec<String> {
    let table = |table| {
        let name = table_name(table);
        format!(
            "CREATE TABLE IF NOT EXISTS {name} (stream BYTEA NOT NULL, channel_offset BIGINT NOT NULL, \
             epoch TEXT COLLATE \"C\" NOT NULL, published_at BIGINT NOT NULL, data BYTEA NOT NULL, rest BYTEA, \
             PRIMARY KEY (stream, channel_offset, epoch, published_at)) PARTITION BY RANGE (published_at)"
        )
    };
    (0..shape.tables).map(table).collect()
}

/// A table must have a part: the first one takes what is older, too.
fn publications_mysql(shape: &SchemaShape) -> Vec<String> {
    let first = DayPart::of(0, shape.part_days);
    let (part, end) = (first.name(), first.end_ms());
    let table = |table| {
        let name = table_name(table);
        format!(
            "CREATE TABLE IF NOT EXISTS {name} (stream BINARY(16) NOT NULL, channel_offset BIGINT NOT NULL, \
             epoch VARBINARY(64) NOT NULL, published_at BIGINT NOT NULL, data LONGBLOB NOT NULL, rest LONGBLOB, \
             PRIMARY KEY (stream, channel_offset, epoch, published_at)) ENGINE = InnoDB \
             PARTITION BY RANGE (published_at) (PARTITION p{part} VALUES LESS THAN ({end}))"
        )
    };
    (0..shape.tables).map(table).collect()
}

/// A name may be longer than a key: `who` is its hash.
fn cursors_postgres(shape: &SchemaShape) -> Vec<String> {
    let table = |table| {
        let name = cursor_table_name(table);
        let made = format!(
            "CREATE TABLE IF NOT EXISTS {name} (stream BYTEA NOT NULL, who BYTEA NOT NULL, name BYTEA NOT NULL, \
             epoch TEXT COLLATE \"C\" NOT NULL, arrived BIGINT NOT NULL, told BIGINT NOT NULL, \
             is_torn SMALLINT NOT NULL, until_ms BIGINT NOT NULL, PRIMARY KEY (stream, who)) WITH (fillfactor = 70)"
        );
        [made, format!("CREATE INDEX IF NOT EXISTS {name}_until ON {name} (until_ms)")]
    };
    (0..shape.tables).flat_map(table).collect()
}

fn cursors_mysql(shape: &SchemaShape) -> Vec<String> {
    let table = |table| {
        let name = cursor_table_name(table);
        format!(
            "CREATE TABLE IF NOT EXISTS {name} (stream BINARY(16) NOT NULL, who BINARY(16) NOT NULL, \
             name BLOB NOT NULL, epoch VARBINARY(64) NOT NULL, arrived BIGINT NOT NULL, told BIGINT NOT NULL, \
             is_torn SMALLINT NOT NULL, until_ms BIGINT NOT NULL, PRIMARY KEY (stream, who), \
             KEY until_ms (until_ms)) ENGINE = InnoDB"
        )
    };
    (0..shape.tables).map(table).collect()
}

/// Makes a part of a table; MySQL only takes those after the last one.
pub fn add_part(kind: SqlKind, table: u16, part: DayPart) -> String {
    let (table, name, from, to) = (table_name(table), part.name(), part.start_ms(), part.end_ms());
    match kind {
        SqlKind::Postgres => {
            format!("CREATE TABLE IF NOT EXISTS {table}_{name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})")
        }
        SqlKind::Mysql => {
            format!("ALTER TABLE {table} ADD PARTITION (PARTITION p{name} VALUES LESS THAN ({to}))")
        }
    }
}

/// Drops a part of a table with all that is in it.
pub fn drop_part(kind: SqlKind, table: u16, part: &str) -> String {
    let table = table_name(table);
    match kind {
        SqlKind::Postgres => format!("DROP TABLE IF EXISTS {table}_{part}"),
        SqlKind::Mysql => format!("ALTER TABLE {table} DROP PARTITION p{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_takes_tables_of_its_own_version_and_number_alone() {
        let shape = SchemaShape { tables: 16, part_days: 1 };
        let said = |found: Option<(i32, u16)>| {
            let found = found.map(|(version, tables)| SchemaFound { version, shape: SchemaShape { tables, ..shape } });
            SchemaFound::fault(found, 16).err().unwrap_or_default()
        };
        assert_eq!(said(Some((VERSION, 16))), "");
        assert!(said(None).ends_with("run gannet durable migrate"));
        assert!(said(Some((VERSION - 1, 16))).ends_with("run gannet durable migrate"));
        assert!(said(Some((VERSION + 1, 16))).contains("newer Gannet"));
        assert!(said(Some((VERSION, 8))).contains("8 were made: set it to 8"));
    }

    #[test]
    fn a_page_is_put_together_from_some_sixty_parts_at_most() {
        let days = |days: u64| SchemaShape::new(16, days * 86_400_000).part_days;
        assert_eq!([1, 62, 63, 365, 435, 3650, 0].map(days), [1, 1, 7, 7, 30, 30, 30]);
    }
}
