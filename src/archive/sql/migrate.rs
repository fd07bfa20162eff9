//! F10 · Making and upgrading the tables of an archive, for whoever runs `gannet durable migrate`.
//!
//! Owns the order of the steps, and what is told of them. Two that run at once do each step once.

use super::schema::{self, SchemaFound, SchemaShape, VERSION};
use super::{SqlKind, SqlOptions, SqlStore, either, sweep};
use crate::wall_clock::unix_ms;
use std::fmt::Write;

/// What a step writes down when it is done.
fn mark(kind: SqlKind, version: i32, shape: &SchemaShape) -> String {
    let SchemaShape { tables, part_days } = shape;
    let insert = format!("INSERT INTO gannet_schema VALUES (1, {version}, {tables}, {part_days})");
    match kind {
        SqlKind::Postgres => {
            format!("{insert} ON CONFLICT (id) DO UPDATE SET version = GREATEST(gannet_schema.version, {version})")
        }
        SqlKind::Mysql => format!("{insert} ON DUPLICATE KEY UPDATE version = GREATEST(version, {version})"),
    }
}

/// The steps that are missing, each with its statements.
fn missing(found: Option<SchemaFound>, kind: SqlKind, shape: &SchemaShape) -> Vec<(i32, &'static str, Vec<String>)> {
    let from = found.map_or(0, |found| found.version);
    let step = |number| {
        let (about, mut statements) = schema::step(number, kind, shape)?;
        statements.push(mark(kind, number, shape));
        Some((number, about, statements))
    };
    (from + 1..=VERSION).filter_map(step).collect()
}

/// Makes what is missing, or with `dry` prints the statements that would. The error is a line for the operator.
pub async fn migrate(options: &SqlOptions, dry: bool) -> Result<String, String> {
    let store = SqlStore::new(options)?;
    let fault = |fault| format!("{}: {fault}", options.shown());
    let found = either!(&store, it => it.schema().await).map_err(fault)?;
    if found.is_some_and(|found| found.version > VERSION) {
        return Err(SchemaFound::fault(found, options.tables).err().unwrap_or_default());
    }
    let made = found.map(|found| found.shape);
    if let Some(made) = made.filter(|made| made.tables != options.tables) {
        let (tables, made) = (options.tables, made.tables);
        return Err(format!("durable.tables is {tables}, and {made} were made: set it to {made}"));
    }
    let shape = made.unwrap_or_else(|| SchemaShape::new(options.tables, options.ttl_max_ms));
    let mut steps = missing(found, options.kind, &shape);
    if let Some((_, _, statements)) = steps.first_mut() {
        statements.insert(0, schema::META.into());
    }
    let mut text = String::new();
    for (number, about, statements) in &steps {
        if dry {
            let _ = writeln!(text, "-- step {number}: {about}");
            for statement in statements {
                let _ = writeln!(text, "{statement};");
            }
            continue;
        }
        either!(&store, it => it.change(statements).await).map_err(fault)?;
        let _ = writeln!(text, "step {number}: {about}: done");
    }
    if !dry {
        for table in 0..shape.tables {
            store.make_parts(table, &shape, unix_ms() as i64).await.map_err(fault)?;
        }
        let _ = writeln!(text, "{}: the tables are at version {VERSION}", options.shown());
    } else if steps.is_empty() {
        let _ = writeln!(text, "-- nothing to do: the tables are at version {VERSION}");
    }
    Ok(text)
}

/// What is there, for people. The error is a line for the operator.
pub async fn status(options: &SqlOptions) -> Result<String, String> {
    let store = SqlStore::new(options)?;
    let fault = |fault| format!("{}: {fault}", options.shown());
    let found = either!(&store, it => it.schema().await).map_err(fault)?;
    let shape = SchemaFound::fault(found, options.tables)?;
    let (tables, days) = (shape.tables, shape.part_days);
    let mut text = format!("{}: version {VERSION}, {tables} tables, parts of {days} d\n", options.shown());
    let needed: Vec<String> = sweep::needed(&shape, unix_ms() as i64).into_iter().map(|part| part.name()).collect();
    let mut known = either!(&store, it => it.parts(0).await).map_err(fault)?;
    known.sort();
    let _ =
        writeln!(text, "parts of the first table: {} ({} to {})", known.len(), edge(known.first()), edge(known.last()));
    if needed.iter().any(|part| !known.contains(part)) {
        let _ = writeln!(text, "parts are missing: a server makes them, if its user may");
    }
    for line in either!(&store, it => it.advice().await).map_err(fault)? {
        let _ = writeln!(text, "change: {line}");
    }
    Ok(text)
}

fn edge(name: Option<&String>) -> &str {
    name.map_or("none", String::as_str)
}
