//! F10 · A table of PostgreSQL (outbox) as a source: programs write rows in their own transactions, and each is carried
//! out and deleted.
//!
//! Owns the statements, and the lock by which nodes share partitions; Centrifugo's nodes take the same. Never knows
//! what a row asks for.

use super::Source;
use super::content::Consumed;
use super::dsn::{Database, told};
use super::feed::{Fate, Feed, Pauses, before_stop};
use crate::config::PostgresqlConsumer;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

/// The column that has the method.
pub const METHOD: &str = "method";
/// What waits is counted this often, and up to so many.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
const LAG_MAX: i64 = 100_000;

/// A partition of the table, or its notifications.
pub enum Postgresql {
    Partition(Partition),
    Notifications(Notifications),
}

/// The rows of one partition, in the order of their ids.
pub struct Partition {
    database: Rc<Database>,
    number: i64,
    /// What its lock is called.
    lock: String,
    statements: Rc<Statements>,
    options: Rc<PostgresqlConsumer>,
    /// Rows have come.
    wake: Rc<Notify>,
    /// When it was last counted what waits.
    counted: Option<Instant>,
}

/// What tells that rows have come.
pub struct Notifications {
    database: Rc<Database>,
    channel: String,
    wakes: Vec<Rc<Notify>>,
}

struct Statements {
    lock: &'static str,
    read: String,
    delete: String,
    count: String,
}

impl Statements {
    /// Columns of whatever type of integer or JSON are taken. A payload that is too long stays where it is.
    fn new(table: &str, try_lock: bool) -> Statements {
        let lock = match try_lock {
            true => "SELECT pg_try_advisory_xact_lock(hashtext($1))",
            false => "SELECT pg_advisory_xact_lock(hashtext($1)) IS NOT NULL",
        };
        let read = format!(
            "SELECT id, method, CASE WHEN octet_length(payload) <= $3 THEN payload END, octet_length(payload)::bigint \
             FROM (SELECT id::bigint, method::text, payload::text FROM {table} \
             WHERE partition = $1 ORDER BY {table}.id LIMIT $2) AS rows"
        );
        let delete = format!("DELETE FROM {table} WHERE id = ANY($1)");
        let count = format!("SELECT count(*) FROM (SELECT 1 FROM {table} WHERE partition = $1 LIMIT $2) AS rows");
        Statements { lock, read, delete, count }
    }
}

/// A reader for each partition, each with a connection of its own: one that waits for its lock keeps no other. The
/// error is about an option.
pub fn sources(options: &PostgresqlConsumer, name: &str) -> Result<Vec<Postgresql>, String> {
    let database = Database::new(&options.dsn, &options.tls).map_err(|error| format!("postgresql.dsn: {error}"))?;
    let database = Rc::new(database);
    let mut sources = Vec::new();
    let wakes: Vec<Rc<Notify>> = (0..options.num_partitions).map(|_| Rc::default()).collect();
    let channel = options.partition_notification_channel.clone();
    if !channel.is_empty() {
        let database = match &*options.partition_notification_dsn {
            "" => database.clone(),
            dsn => {
                let found = Database::new(dsn, &options.tls);
                Rc::new(found.map_err(|error| format!("postgresql.partition_notification_dsn: {error}"))?)
            }
        };
        sources.push(Postgresql::Notifications(Notifications { database, channel, wakes: wakes.clone() }));
    }
    let statements = Rc::new(Statements::new(&options.outbox_table_name, options.use_try_lock));
    let options = Rc::new(options.clone());
    sources.extend(wakes.into_iter().enumerate().map(|(number, wake)| {
        Postgresql::Partition(Partition {
            database: database.clone(),
            number: number as i64,
            lock: format!("centrifugo_partition_lock_{name}{number}"),
            statements: statements.clone(),
            options: options.clone(),
            wake,
            counted: None,
        })
    }));
    Ok(sources)
}

impl Source for Postgresql {
    async fn read(&mut self, feed: &Feed) -> Result<(), String> {
        match self {
            Postgresql::Partition(partition) => partition.read(feed).await,
            Postgresql::Notifications(notifications) => notifications.read(feed).await,
        }
    }
}

/// What a transaction came to.
struct Turn {
    verdict: Fate,
    /// All that there was has been carried out.
    is_all: bool,
}

impl Partition {
    async fn read(&mut self, feed: &Feed) -> Result<(), String> {
        let Some(connected) = before_stop(feed, self.database.connect()).await else { return Ok(()) };
        let (mut client, connection) = connected?;
        // It ends with the client.
        spawn_local(connection);
        let mut pauses = Pauses::default();
        loop {
            if !feed.room().await {
                return Ok(());
            }
            let turn = self.turn(&mut client, feed).await.map_err(|error| told(&error))?;
            feed.reached();
            let go_on = match turn.verdict {
                Fate::Stopping => false,
                Fate::Again => feed.sleep(pauses.next()).await,
                Fate::Done => {
                    pauses.reset();
                    self.count(&client, feed, turn.is_all).await.map_err(|error| told(&error))?;
                    !turn.is_all || self.wait(feed).await
                }
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    /// Reads, carries out and deletes some rows in one transaction, which holds the lock of the partition.
    async fn turn(&self, client: &mut Client, feed: &Feed) -> Result<Turn, tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        let lock = [(&self.lock as _, Type::TEXT)];
        let locked = transaction.query_typed_one(self.statements.lock, &lock);
        let Some(locked) = before_stop(feed, locked).await else {
            return Ok(Turn { verdict: Fate::Stopping, is_all: true });
        };
        let is_locked: bool = locked?.get(0);
        if !is_locked {
            return Ok(Turn { verdict: Fate::Done, is_all: true });
        }
        let limit = self.options.partition_select_limit;
        let longest = i64::try_from(feed.message_max()).unwrap_or(i64::MAX);
        let bounds = [(&self.number as _, Type::INT8), (&(limit as i64) as _, Type::INT8), (&longest as _, Type::INT8)];
        let rows = transaction.query_typed(&self.statements.read, &bounds).await?;
        let (mut done, mut verdict) = (Vec::new(), Fate::Done);
        for row in &rows {
            let (method, payload): (Option<String>, Option<String>) = (row.get(1), row.get(2));
            verdict = match (payload, row.get::<_, Option<i64>>(3)) {
                (Some(payload), _) => {
                    let headers = vec![(METHOD, method.as_deref().unwrap_or_default().as_bytes())];
                    feed.carry_out(&Consumed { body: payload.into(), headers }).await
                }
                (None, Some(length)) => feed.skip("long", format!("it has {length} bytes, over message_size_limit")),
                (None, None) => feed.skip("form", "its payload is NULL".into()),
            };
            if verdict != Fate::Done {
                break;
            }
            done.push(row.get::<_, i64>(0));
        }
        if !done.is_empty() {
            transaction.execute_typed(&self.statements.delete, &[(&done, Type::INT8_ARRAY)]).await?;
        }
        transaction.commit().await?;
        Ok(Turn { verdict, is_all: rows.len() < limit })
    }

    /// Waits for more rows; false if the node leaves.
    async fn wait(&self, feed: &Feed) -> bool {
        tokio::select! {
            go_on = feed.sleep(self.options.partition_poll_interval) => go_on,
            () = self.wake.notified() => true,
        }
    }

    /// What waits is known where all was read, and counted now and then where more is left.
    async fn count(&mut self, client: &Client, feed: &Feed, is_all: bool) -> Result<(), tokio_postgres::Error> {
        if is_all {
            feed.set_lag(0);
        } else if self.counted.is_none_or(|at| at.elapsed() >= LAG_INTERVAL) {
            let bounds = [(&self.number as _, Type::INT8), (&LAG_MAX as _, Type::INT8)];
            let waiting: i64 = client.query_typed_one(&self.statements.count, &bounds).await?.get(0);
            feed.set_lag(waiting.unsigned_abs());
            self.counted = Some(Instant::now());
        }
        Ok(())
    }
}

impl Notifications {
    async fn read(&self, feed: &Feed) -> Result<(), String> {
        let Some(connected) = before_stop(feed, self.database.connect()).await else { return Ok(()) };
        let (client, mut connection) = connected?;
        let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
        // It ends with the client, and closes the channel then.
        spawn_local(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                let said = match message {
                    Ok(AsyncMessage::Notification(notification)) => Ok(notification.payload().parse::<usize>().ok()),
                    Ok(_) => continue,
                    Err(error) => Err(told(&error)),
                };
                if tell.send(said).is_err() {
                    return;
                }
            }
        });
        client.batch_execute(&format!("LISTEN {}", self.channel)).await.map_err(|error| told(&error))?;
        feed.reached();
        // What was notified meanwhile, nobody heard.
        self.wakes.iter().for_each(|wake| wake.notify_one());
        loop {
            let Some(said) = before_stop(feed, heard.recv()).await else { return Ok(()) };
            match said {
                Some(Ok(partition)) => match partition.and_then(|number| self.wakes.get(number)) {
                    Some(wake) => wake.notify_one(),
                    // A notification without a partition is for all of them.
                    None => self.wakes.iter().for_each(|wake| wake.notify_one()),
                },
                Some(Err(why)) => return Err(why),
                None => return Err("the connection for notifications has ended".into()),
            }
        }
    }
}
