//! What is written, read and forgotten, and the tables that it is in.

use crate::databases::{Database, Kind, PASSWORD, TLS_NAME};
use gannet::archive::sql::migrate::{migrate, status};
use gannet::archive::sql::{
    SqlBatch, SqlFault, SqlKind, SqlOptions, SqlShare, SqlStand, SqlStore, StreamKey, VERSION, page_text,
};
use gannet::broker::archive::{ArchiveKeep, ArchivePage, ArchivedCursor};
use gannet::broker::{Epoch, Position};
use gannet::config::TlsOptions;
use gannet::protocol::{ClientInfo, Publication};
use gannet::wall_clock::unix_ms;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const TABLES: u16 = 4;
const DAY_MS: u64 = 86_400_000;
const NOTHING: [u64; 0] = [];
pub const FOREVER: ArchiveKeep = ArchiveKeep { size: 0, ttl_ms: 0, meta_ttl_ms: 0 };

/// One of each, for all tests that leave it as it is.
fn both() -> [&'static Database; 2] {
    static ALL: OnceLock<[Database; 2]> = OnceLock::new();
    let all = ALL.get_or_init(|| [Kind::Postgres, Kind::MariaDb].map(Database::start));
    [&all[0], &all[1]]
}

/// Patient options for a new database of that name.
pub fn options(database: &Database, name: &str) -> SqlOptions {
    SqlOptions {
        kind: if database.kind == Kind::Postgres { SqlKind::Postgres } else { SqlKind::Mysql },
        url: database.fresh(name),
        tls: TlsOptions::default(),
        tables: TABLES,
        connections: 2,
        connect_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        flush_interval: Duration::from_millis(20),
        share: String::new(),
        ttl_max_ms: 30 * DAY_MS,
    }
}

pub fn publication(n: u64) -> Publication {
    Publication { data: format!("{{\"n\":{n}}}").into(), ..Publication::default() }
}

fn at(offset: u64, epoch: &str) -> Position {
    Position { offset, epoch: Epoch::from(epoch) }
}

/// One stream of a store with tables of its own.
struct Subject {
    store: SqlStore,
    options: SqlOptions,
    channel: Arc<str>,
    key: StreamKey,
    share: SqlShare,
    now_ms: u64,
}

impl Subject {
    async fn new(database: &Database, name: &str) -> Subject {
        let options = options(database, name);
        migrate(&options, false).await.expect("tables");
        let store = SqlStore::new(&options).expect("a store");
        let channel: Arc<str> = "chat:a b'c\\é".into();
        let key = StreamKey::new("", &channel);
        let share = SqlShare { name: String::new(), is_ordered: true };
        Subject { store, options, channel, key, share, now_ms: unix_ms() }
    }

    fn table(&self) -> u16 {
        self.key.table(TABLES)
    }

    async fn write(&self, batch: &SqlBatch) -> Result<(), SqlFault> {
        self.store.append(self.table(), &self.share, batch).await
    }

    fn put(&self, batch: &mut SqlBatch, position: &Position, publication: &Publication, keep: ArchiveKeep) {
        self.put_at(batch, position, publication, keep, self.now_ms);
    }

    fn put_at(&self, batch: &mut SqlBatch, position: &Position, publication: &Publication, keep: ArchiveKeep, ms: u64) {
        let stand = SqlStand { unix_ms: ms, keep, ..self.stand(position) };
        batch.append(stand, publication).expect("a place");
    }

    fn stand<'a>(&'a self, position: &'a Position) -> SqlStand<'a> {
        let (key, channel, unix_ms) = (self.key, &self.channel, self.now_ms);
        SqlStand { key, channel, position, unix_ms, keep: FOREVER, ahead: None }
    }

    async fn append(&self, offsets: std::ops::RangeInclusive<u64>, epoch: &str, keep: ArchiveKeep) {
        let mut batch = SqlBatch::default();
        offsets.for_each(|n| self.put(&mut batch, &at(n, epoch), &publication(n), keep));
        self.write(&batch).await.expect("written");
    }

    async fn page(&self, epoch: Option<&str>, page: ArchivePage) -> Vec<u64> {
        let epoch = epoch.map(Epoch::from);
        let found = self.store.read(self.table(), self.key, epoch.as_ref(), &page, self.now_ms).await;
        found.expect("a page").iter().map(|publication| publication.offset).collect()
    }

    async fn all(&self) -> Vec<u64> {
        self.page(None, ArchivePage { since: None, until: 1_000_000, limit: 1_000_000, reverse: false }).await
    }

    async fn sweep_at(&self, now_ms: u64) -> (i64, usize) {
        let shape = self.store.shape(TABLES).await.expect("tables");
        self.store.sweep(&shape, now_ms as i64).await.expect("swept")
    }
}

#[tokio::test]
async fn the_tables_are_made_once_whoever_makes_them() {
    for database in both() {
        let options = options(database, "made");
        let store = SqlStore::new(&options).expect("a store");
        let missing = store.shape(TABLES).await;
        assert!(
            matches!(&missing, Err(SqlFault::Schema(why)) if why.contains("gannet durable migrate")),
            "{missing:?}"
        );
        let dry = migrate(&options, true).await.expect("statements");
        assert!(dry.contains("CREATE TABLE") && store.shape(TABLES).await.is_err(), "{dry}");
        let (one, other) = tokio::join!(migrate(&options, false), migrate(&options, false));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        assert_eq!(store.shape(TABLES).await.map(|shape| (shape.tables, shape.part_days)), Ok((TABLES, 1)));
        let again = migrate(&options, false).await.expect("nothing to do");
        assert!(!again.contains("step") && !again.contains(PASSWORD), "{again}");
        let told = status(&options).await.expect("a state");
        assert!(told.contains("4 tables") && !told.contains("missing") && !told.contains(PASSWORD), "{told}");

        // It was stopped in the middle.
        database.sql("made", "UPDATE gannet_schema SET version = 1");
        let said = store.shape(TABLES).await.expect_err("too old").to_string();
        assert!(said.contains("gannet durable migrate"), "{said}");
        assert!(migrate(&options, false).await.expect("the rest").contains("step 2"));
        assert!(store.shape(TABLES).await.is_ok());

        let other = SqlOptions { tables: 8, ..options.clone() };
        let said = migrate(&other, false).await.expect_err("other tables");
        assert!(said.contains("4 were made"), "{said}");
        database.sql("made", &format!("UPDATE gannet_schema SET version = {}", VERSION + 1));
        let said = migrate(&options, false).await.expect_err("too new");
        assert!(said.contains("newer Gannet"), "{said}");
    }
}

#[tokio::test]
async fn pages_go_both_ways_and_what_is_written_twice_is_there_once() {
    for database in both() {
        let it = Subject::new(database, "pages").await;
        assert_eq!(it.all().await, NOTHING);
        it.append(1..=1500, "one", FOREVER).await;
        it.append(1400..=1600, "one", FOREVER).await;
        assert_eq!(it.all().await, (1..=1600).collect::<Vec<u64>>());
        let page =
            async |since, until, limit, reverse| it.page(None, ArchivePage { since, until, limit, reverse }).await;
        assert_eq!(page(None, 1600, 3, false).await, [1, 2, 3]);
        assert_eq!(page(None, 1600, 3, true).await, [1600, 1599, 1598]);
        assert_eq!(page(None, 1000, 2, true).await, [1000, 999], "what is above is known otherwise");
        assert_eq!(page(Some(700), 1600, 2, false).await, [701, 702]);
        assert_eq!(page(Some(700), 1600, 2, true).await, [699, 698]);
        assert_eq!(page(Some(1599), 1599, 2, false).await, NOTHING);
        assert_eq!(page(Some(1), 1600, 5, true).await, NOTHING);
        assert_eq!(page(Some(5), 1600, 0, false).await, NOTHING);

        // As it came last, also if it was written at another time.
        let info = ClientInfo { client: "c".into(), user: "u".into(), ..ClientInfo::default() };
        let tags = [("k".to_owned(), "v".to_owned())].into();
        let last =
            Publication { data: vec![0, 255, b'"'].into(), info: Some(info), tags, version: 7, ..publication(0) };
        let mut batch = SqlBatch::default();
        it.put_at(&mut batch, &at(700, "one"), &last, FOREVER, it.now_ms + 1);
        it.write(&batch).await.expect("written");
        for reverse in [false, true] {
            let page = ArchivePage { since: Some(if reverse { 702 } else { 698 }), until: 1600, limit: 3, reverse };
            let found = it.store.read(it.table(), it.key, None, &page, it.now_ms).await.expect("a page");
            let mut offsets: Vec<u64> = found.iter().map(|publication| publication.offset).collect();
            offsets.sort_unstable();
            assert_eq!(offsets, [699, 700, 701]);
            assert_eq!(found[1], Publication { offset: 700, ..last.clone() });
        }

        // Another life of the stream, which began anew.
        it.append(1..=3, "two", FOREVER).await;
        let page = ArchivePage { since: None, until: 4, limit: 9, reverse: false };
        assert_eq!(it.page(Some("two"), page).await, [1, 2, 3]);
        assert_eq!(it.page(Some("one"), page).await, [1, 2, 3, 4]);
        assert_eq!(it.page(Some("none"), page).await, NOTHING);
        assert_eq!(it.all().await, (1..=1600).collect::<Vec<u64>>());
        for reverse in [false, true] {
            let (since, limit) = (if reverse { Some(5) } else { None }, 4);
            let page = ArchivePage { since, until: 1600, limit, reverse };
            let mut offsets = it.page(None, page).await;
            offsets.sort_unstable();
            assert_eq!(offsets, [1, 2, 3, 4], "each once, whatever the life");
        }
    }
}

#[tokio::test]
async fn a_stream_keeps_no_more_than_it_is_to() {
    for database in both() {
        let it = Subject::new(database, "kept").await;
        let keep = ArchiveKeep { size: 100, ttl_ms: 2 * DAY_MS, meta_ttl_ms: DAY_MS };
        let mut batch = SqlBatch::default();
        for (n, age) in [(1, 3 * DAY_MS), (2, DAY_MS), (3, 0)] {
            it.put_at(&mut batch, &at(n, "one"), &publication(n), keep, it.now_ms - age);
        }
        // MySQL takes what is older than its parts into the first one.
        match it.write(&batch).await {
            Err(SqlFault::NoPart) => {
                assert_eq!(it.options.kind, SqlKind::Postgres);
                let shape = it.store.shape(TABLES).await.expect("tables");
                it.store.make_parts(it.table(), &shape, (it.now_ms - 3 * DAY_MS) as i64).await.expect("parts");
                it.write(&batch).await.expect("written");
            }
            done => done.expect("written"),
        }
        assert_eq!(it.all().await, [2, 3], "the first one is too old");
        it.append(4..=300, "one", keep).await;
        assert_eq!(it.all().await, (201..=300).collect::<Vec<u64>>());
        let count = || {
            let table = format!("gannet_publications_{:02}", it.table());
            database.sql("kept", &format!("SELECT COUNT(*) FROM {table}"))
        };
        let before: i64 = count().parse().expect("a number");
        let (deleted, dropped) = it.sweep_at(it.now_ms).await;
        assert_eq!(before - deleted - i64::from(dropped > 0 && it.options.kind == SqlKind::Postgres), 100, "{dropped}");
        assert_eq!(count(), "100");
        assert_eq!(it.all().await, (201..=300).collect::<Vec<u64>>());
        assert_eq!(it.sweep_at(it.now_ms).await, (0, 0), "it is in order");

        it.store.remove(it.key).await.expect("removed");
        assert_eq!(it.all().await, NOTHING);
        it.append(301..=302, "one", keep).await;
        assert_eq!(it.all().await, [301, 302], "offsets go on");
        it.sweep_at(it.now_ms).await;
        assert_eq!(count(), "2", "what was removed is gone");

        // Old parts go whole, and with them, in the end, the stream.
        it.sweep_at(it.now_ms + 4 * DAY_MS).await;
        assert_eq!(count(), "0");
        assert_eq!(database.sql("kept", "SELECT COUNT(*) FROM gannet_streams"), "1");
        it.sweep_at(it.now_ms + 6 * DAY_MS).await;
        assert_eq!(database.sql("kept", "SELECT COUNT(*) FROM gannet_streams"), "0");
    }
}

#[tokio::test]
async fn a_stream_is_whole_if_its_life_ended_cleanly_or_is_this_one() {
    for database in both() {
        let it = Subject::new(database, "lives").await;
        let mut lives = Vec::new();
        for _ in 0..4 {
            lives.push(it.store.begin_life("").await.expect("a life"));
        }
        let open = async |ahead, life| {
            let opened = it.store.open(it.table(), it.key, 2, ahead, life, it.now_ms).await.expect("opened");
            opened.map(|stream| {
                let latest: Vec<u64> = stream.latest.iter().map(|publication| publication.offset).collect();
                (stream.position, stream.whole, latest)
            })
        };
        assert_eq!(open(true, lives[0]).await, None);
        let write = async |n: u64, ahead| {
            let mut batch = SqlBatch::default();
            let position = at(n, "one");
            batch.append(SqlStand { ahead, ..it.stand(&position) }, &publication(n)).expect("a place");
            it.write(&batch).await.expect("written");
        };
        write(1, None).await;
        write(2, None).await;
        write(3, None).await;
        let whole = |whole| Some((at(3, "one"), whole, vec![2, 3]));
        assert_eq!(open(false, lives[1]).await, whole(true), "nothing was sent ahead of the disk");
        assert_eq!(open(true, lives[1]).await, whole(true));
        assert_eq!(open(true, lives[1]).await, whole(true), "it is this life that is noted");
        assert_eq!(open(true, lives[2]).await, whole(false), "that life did not end");
        assert_eq!(open(false, lives[2]).await, whole(false), "the note stays");
        it.store.end_life(lives[1]).await.expect("ended");
        assert_eq!(open(true, lives[2]).await, whole(true), "it ended cleanly");
        assert_eq!(open(false, lives[3]).await, whole(false), "the next one is noted");
        write(3, None).await;
        assert_eq!(open(false, lives[3]).await, whole(true), "on disk before it is sent");
        write(3, Some(lives[2])).await;
        assert_eq!(open(false, lives[3]).await, whole(false));

        // The stream stands elsewhere.
        let mut batch = SqlBatch::default();
        let position = at(9, "two");
        batch.stand(SqlStand { ahead: Some(lives[3]), unix_ms: 5, ..it.stand(&position) }).expect("a place");
        it.write(&batch).await.expect("written");
        assert_eq!(open(false, lives[3]).await, Some((at(9, "two"), true, vec![2, 3])));
        let mut batch = SqlBatch::default();
        let unfit = batch.stand(it.stand(&at(9, &"e".repeat(65))));
        assert!(unfit.is_err() && batch.is_empty());
    }
}

#[tokio::test]
async fn a_share_is_one_stores_alone() {
    for database in both() {
        let it = Subject::new(database, "shares").await;
        let other = SqlStore::new(&it.options).expect("a store");
        assert_eq!(it.store.hold_share("a").await, Ok(true));
        assert_eq!(it.store.hold_share("a").await, Ok(true), "still");
        assert_eq!(other.hold_share("a").await, Ok(false));
        assert_eq!(other.hold_share("b").await, Ok(true));
        drop(it.store);
        let mut tries = 0;
        while other.hold_share("a").await == Ok(false) {
            tries += 1;
            assert!(tries < 10_000, "it ends with its store");
            tokio::task::yield_now().await;
        }
    }
}

/// What a page costs does not grow with the table: it is found by the primary key, in its order, and never sorted.
#[tokio::test]
async fn a_page_is_read_by_the_index() {
    for database in both() {
        let it = Subject::new(database, "explained").await;
        for n in 0..5 {
            it.append(n * 1000 + 1..=n * 1000 + 1000, "one", FOREVER).await;
        }
        for (reverse, with_epoch) in [(false, false), (false, true), (true, false), (true, true)] {
            let text = page_text(it.options.kind, it.table(), reverse, with_epoch);
            let plan = match it.options.kind {
                SqlKind::Postgres => {
                    let types = if with_epoch { ", text" } else { "" };
                    let epoch = if with_epoch { ", 'one'" } else { "" };
                    let given = "SET enable_sort=off; SET enable_seqscan=off; SET enable_bitmapscan=off; SET jit=off";
                    let prepare = format!("PREPARE page (bytea, bigint, bigint, bigint, bigint{types}) AS {text}");
                    let explain = format!("EXPLAIN EXECUTE page ('0123456789abcdef', 10, 4000, 0, 100{epoch})");
                    // As it is when it was asked often, and when nobody knows anything of the table.
                    let generic = "SET plan_cache_mode = force_generic_plan";
                    database.sql("explained", &format!("{given}; {generic}; {prepare}; {explain}"))
                }
                SqlKind::Mysql => {
                    let values = ["'0123456789abcdef'", "10", "4000", "0"];
                    let values = values.into_iter().chain(with_epoch.then_some("'one'")).chain(["100"]);
                    let text = values.fold(text, |text, value| text.replacen('?', value, 1));
                    database.sql("explained", &format!("EXPLAIN {text}"))
                }
            };
            let by_index = match it.options.kind {
                SqlKind::Postgres => {
                    plan.contains("Index Scan") && !plan.contains("Sort  (") && !plan.contains("Seq Scan")
                }
                SqlKind::Mysql => plan.contains("PRIMARY") && !plan.contains("filesort") && plan.contains("range"),
            };
            assert!(by_index, "{text:?}: {plan}", text = page_text(it.options.kind, 0, reverse, with_epoch));
        }
    }
}

#[tokio::test]
async fn connections_are_secured_and_wrong_ones_refused_without_the_password() {
    for database in both() {
        let plain = options(database, "secured");
        let mut secured = plain.clone();
        secured.tls.enabled = true;
        secured.tls.server_ca_pem = database.certificate();
        secured.tls.server_name = TLS_NAME.into();
        migrate(&secured, false).await.expect("by TLS");
        let cipher = match database.kind {
            Kind::Postgres => "SELECT COUNT(*) FROM pg_stat_ssl WHERE ssl",
            Kind::MariaDb => "SHOW STATUS LIKE 'Ssl_accepts'",
        };
        let said = database.sql("secured", cipher);
        let count: Option<u64> = said.split_whitespace().last().and_then(|count| count.parse().ok());
        assert!(count > Some(0), "a connection by TLS: {said:?}");
        let mut stranger = secured.clone();
        stranger.tls.server_name = "other.example".into();
        let mut unknown = secured.clone();
        unknown.tls.server_ca_pem = rcgen::generate_simple_self_signed([TLS_NAME.to_owned()]).expect("one").cert.pem();
        let wrong = SqlOptions { url: plain.url.replace(PASSWORD, "wrong-word"), ..plain.clone() };
        let nowhere = SqlOptions { url: plain.url.replace("/secured", "/nowhere"), ..plain.clone() };
        for refused in [stranger, unknown, wrong, nowhere] {
            let said = status(&refused).await.expect_err("refused");
            assert!(said.starts_with(&refused.shown()), "{said}");
            assert!(!said.contains(PASSWORD) && !said.contains("wrong-word"), "{said}");
        }
        let unreadable = SqlOptions { url: format!("{}x:{PASSWORD}@h:port/d", "ftp://"), ..plain };
        let said = SqlStore::new(&unreadable).err().expect("no address");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

fn cursor(user: &str, offset: u64, until_ms: u64) -> ArchivedCursor {
    let (user, device, epoch) = (user.into(), "phone".into(), "one".into());
    ArchivedCursor { user, device, offset, epoch, told: 1, torn: offset == 2, until_ms }
}

#[tokio::test]
async fn cursors_are_kept_beside_publications_until_their_time_is_over() {
    for database in both() {
        let it = Subject::new(database, "cursors").await;
        let found = async |now_ms: u64, most: usize| {
            let mut all = it.store.cursors(it.table(), it.key, now_ms, most).await.expect("cursors");
            all.sort_by(|one, other| one.user.cmp(&other.user));
            all
        };
        let long = "ü".repeat(2000);
        let mut batch = SqlBatch::default();
        it.put(&mut batch, &at(1, "one"), &publication(1), FOREVER);
        for one in [cursor("anna", 1, 1000), cursor("anna", 2, 2000), cursor(&long, 3, 1000)] {
            batch.follow(it.key, &one).expect("a place");
        }
        it.write(&batch).await.expect("written");
        assert_eq!((it.all().await, batch.cursors()), (vec![1], 2), "the latest of each");
        assert_eq!(found(999, 9).await, [cursor("anna", 2, 2000), cursor(&long, 3, 1000)]);
        assert_eq!((found(999, 1).await.len(), found(999, 0).await.len()), (1, 0));
        assert_eq!(found(1000, 9).await, [cursor("anna", 2, 2000)], "one is past its time");
        let other = StreamKey::new("", "other");
        assert_eq!(it.store.cursors(it.table(), other, 0, 9).await, Ok(Vec::new()));
        // Another bundle has cursors alone, and one that is no more.
        let mut batch = SqlBatch::default();
        batch.follow(it.key, &cursor("bert", 4, 5000)).expect("a place");
        batch.unfollow(it.key, &long, "phone");
        batch.unfollow(it.key, "nobody", "");
        it.write(&batch).await.expect("written");
        assert_eq!(found(0, 9).await, [cursor("anna", 2, 2000), cursor("bert", 4, 5000)]);
        it.sweep_at(2000).await;
        assert_eq!(found(0, 9).await, [cursor("bert", 4, 5000)]);
    }
}
