//! The files of an archive, opened again and again.

use super::disk::{Disk, DiskFault};
use crate::broker::Position;
use crate::broker::archive::{ArchiveAnswer, ArchiveCall, ArchiveKeep, ArchivePage, ArchivedCursor, ArchivedStream};
use crate::protocol::Publication;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const KEEP: ArchiveKeep = ArchiveKeep { size: 0, ttl_ms: 0, meta_ttl_ms: 1000 };
const CACHE: u64 = 1 << 20;

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Folder(std::env::temp_dir().join(format!("gannet-archive-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Disk {
        Disk::open(&self.0, CACHE).expect("a disk")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn at(offset: u64, epoch: &str) -> Position {
    Position { offset, epoch: epoch.into() }
}

/// The second it was published in is its offset.
fn append(disk: &mut Disk, waits: bool, channel: &str, offset: u64, keep: ArchiveKeep) -> bool {
    let publication = Arc::new(Publication { data: offset.to_string().into(), offset, ..Publication::default() });
    let (ticket, channel, position) = (waits.then_some(1), channel.into(), at(offset, "e"));
    let call = ArchiveCall::Append { ticket, channel, position, publication, unix_ms: offset * 1000, keep };
    disk.carry_out(0, call).expect("no fault").is_some()
}

fn open(disk: &mut Disk, channel: &str, latest: usize, ahead: bool) -> Option<ArchivedStream> {
    let call = ArchiveCall::Open { ticket: 1, channel: channel.into(), latest, ahead, cursors: 0 };
    match disk.carry_out(0, call).expect("no fault") {
        Some((ArchiveAnswer::Opened { stream, .. }, _)) => stream.map(|stream| *stream),
        other => panic!("not opened: {other:?}"),
    }
}

fn page(disk: &mut Disk, now_ms: u64, since: Option<u64>, until: u64, limit: usize, reverse: bool) -> Vec<u64> {
    let page = ArchivePage { since, until, limit, reverse };
    match disk.carry_out(now_ms, ArchiveCall::Read { ticket: 1, channel: "c".into(), page }).expect("no fault") {
        Some((ArchiveAnswer::Page(page), _)) => page.iter().map(|publication| publication.offset).collect(),
        other => panic!("no page: {other:?}"),
    }
}

fn offsets(stream: &ArchivedStream) -> Vec<u64> {
    stream.latest.iter().map(|publication| publication.offset).collect()
}

#[test]
fn a_stream_comes_back_and_pages_are_read_both_ways() {
    let folder = Folder::new();
    let mut disk = folder.open();
    assert_eq!(open(&mut disk, "c", 3, false), None);
    assert!((1..=100).all(|offset| append(&mut disk, true, "c", offset, KEEP)));
    assert!(append(&mut disk, true, "other", 1, KEEP));
    disk.commit(true).expect("a commit");
    drop(disk);
    let mut disk = folder.open();
    let stream = open(&mut disk, "c", 3, false).expect("a stream");
    assert_eq!((stream.position.clone(), stream.whole, offsets(&stream)), (at(100, "e"), true, vec![98, 99, 100]));
    assert_eq!(page(&mut disk, 0, None, 50, 3, false), [1, 2, 3]);
    assert_eq!(page(&mut disk, 0, Some(47), 50, 10, false), [48, 49, 50]);
    assert_eq!(page(&mut disk, 0, Some(47), 1000, 2, true), [46, 45]);
    assert_eq!(page(&mut disk, 0, None, 50, 2, true), [50, 49]);
    assert_eq!(page(&mut disk, 0, Some(50), 50, 2, false), [] as [u64; 0]);
    assert_eq!(page(&mut disk, 0, Some(1), 50, 2, true), [] as [u64; 0]);
    assert_eq!(page(&mut disk, 0, Some(u64::MAX), u64::MAX, 2, false), [] as [u64; 0]);
    // What was appended and not written yet is read too.
    assert!(append(&mut disk, false, "c", 101, KEEP));
    assert_eq!(page(&mut disk, 0, Some(99), 1000, 10, false), [100, 101]);
}

#[test]
fn an_append_with_a_ticket_leaves_no_gap_and_a_later_one_holds() {
    let folder = Folder::new();
    let mut disk = folder.open();
    assert!(!append(&mut disk, true, "c", 2, KEEP), "it is not the first");
    assert!(append(&mut disk, true, "c", 1, KEEP));
    assert!(!append(&mut disk, true, "c", 3, KEEP), "the one before it came to nothing");
    assert!(append(&mut disk, true, "c", 2, KEEP) && append(&mut disk, true, "c", 2, KEEP));
    assert!(append(&mut disk, false, "c", 9, KEEP), "those between are lost");
    assert_eq!(page(&mut disk, 0, None, 100, 100, false), [1, 2, 9]);
    assert_eq!(open(&mut disk, "c", 5, false).map(|stream| stream.position.offset), Some(9));
}

/// Opened ahead, appended to, ended cleanly.
type Life = (bool, bool, bool);

/// Each life opens the stream `ahead` or not, appends or not, and ends cleanly or not; is the stream whole after it?
#[test]
fn a_stream_goes_on_only_if_nothing_may_be_missing() {
    let (clean, killed) = (true, false);
    let table: &[(&[Life], bool)] = &[
        (&[(false, true, killed)], true),
        (&[(true, true, clean)], true),
        (&[(true, true, killed)], false),
        (&[(false, true, killed), (true, false, killed)], false),
        (&[(false, true, killed), (true, false, clean)], true),
        (&[(true, true, killed), (true, false, clean)], false),
        (&[(true, true, killed), (false, false, clean)], false),
        (&[(true, true, clean), (false, false, killed)], true),
        (&[(true, true, clean), (false, true, killed)], true),
        (&[(true, true, clean), (true, false, killed)], false),
    ];
    for (lives, whole) in table {
        let folder = Folder::new();
        let mut top = 0;
        for &(ahead, appends, ends) in *lives {
            let mut disk = folder.open();
            open(&mut disk, "c", 1, ahead);
            if appends {
                top += 1;
                append(&mut disk, !ahead, "c", top, KEEP);
            }
            disk.commit(true).expect("a commit");
            if ends {
                disk.end().expect("an end");
            }
        }
        let mut disk = folder.open();
        assert_eq!(open(&mut disk, "c", 1, false).map(|stream| stream.whole), Some(*whole), "{lives:?}");
    }
}

#[test]
fn a_stream_that_stands_elsewhere_goes_on_from_there() {
    let folder = Folder::new();
    let mut disk = folder.open();
    open(&mut disk, "c", 1, true);
    append(&mut disk, false, "c", 1, KEEP);
    let stand = |position| ArchiveCall::Stand { channel: "c".into(), position, unix_ms: 0, keep: KEEP };
    assert!(disk.carry_out(0, stand(at(7, "f"))).expect("no fault").is_some());
    disk.end().expect("an end");
    drop(disk);
    let mut disk = folder.open();
    let stream = open(&mut disk, "c", 5, true).expect("a stream");
    assert_eq!((stream.position.clone(), stream.whole, offsets(&stream)), (at(7, "f"), true, vec![1]));
}

#[test]
fn what_is_too_much_or_too_old_goes() {
    let folder = Folder::new();
    let mut disk = folder.open();
    let keep = ArchiveKeep { size: 10, ..KEEP };
    assert!((1..=100).all(|offset| append(&mut disk, true, "c", offset, keep)));
    assert_eq!(page(&mut disk, 0, None, 1000, 2, false), [91, 92]);
    // A time to live instead: those of the first 94 seconds are over.
    append(&mut disk, true, "c", 101, ArchiveKeep { size: 0, ttl_ms: 6_000, meta_ttl_ms: 0 });
    assert_eq!(page(&mut disk, 100_000, None, 1000, 2, false), [95, 96]);
    assert_eq!(page(&mut disk, 100_000, None, 1000, 100, true).last(), Some(&95));
    assert_eq!(disk.sweep(100_000).expect("no fault"), 4);
    assert_eq!(page(&mut disk, 0, None, 1000, 1, false), [95], "gone for good");
    assert_eq!(disk.sweep(1_000_000).expect("no fault"), 7);
    assert_eq!(open(&mut disk, "c", 1, false), None, "the stream is forgotten with its last");
}

#[test]
fn a_sweep_goes_on_where_it_stopped() {
    let folder = Folder::new();
    let mut disk = folder.open();
    let keep = ArchiveKeep { size: 0, ttl_ms: 1, meta_ttl_ms: 0 };
    for offset in 1..=5000 {
        append(&mut disk, false, "c", offset, keep);
    }
    for channel in 0..600 {
        append(&mut disk, false, &format!("d{channel:03}"), 1, keep);
    }
    disk.commit(false).expect("a commit");
    let mut gone = Vec::new();
    while gone.iter().sum::<usize>() < 5600 {
        gone.push(disk.sweep(u64::MAX).expect("no fault"));
        assert!(gone.len() < 20, "{gone:?}");
    }
    assert!(gone.iter().all(|part| *part <= 2048), "{gone:?}");
    assert_eq!(open(&mut disk, "d599", 1, false), None);
}

#[test]
fn removed_publications_are_gone_and_the_stream_goes_on() {
    let folder = Folder::new();
    let mut disk = folder.open();
    assert!((1..=5).all(|offset| append(&mut disk, true, "c", offset, KEEP)));
    disk.carry_out(0, ArchiveCall::Remove { ticket: 1, channel: "c".into() }).expect("no fault");
    append(&mut disk, true, "c", 6, KEEP);
    assert_eq!(page(&mut disk, 0, None, 1000, 10, false), [6]);
    assert_eq!(disk.sweep(0).expect("no fault"), 3, "two went with the one that came");
    assert_eq!(open(&mut disk, "c", 9, false).map(|stream| stream.position.offset), Some(6));
}

#[test]
fn a_folder_is_one_nodes_and_what_is_wrong_is_told_in_a_line() {
    let folder = Folder::new();
    let disk = folder.open();
    let fault = Disk::open(&folder.0, CACHE).err().expect("in use");
    assert!(matches!(fault, DiskFault::InUse), "{fault:?}");
    assert!(super::faults::line(&folder.0, &fault).contains("another process has the archive"));
    drop(disk);
    let file = folder.0.join("a file");
    std::fs::write(&file, "x").expect("a file");
    let fault = Disk::open(&file, CACHE).err().expect("no folder");
    let line = super::faults::line(&file, &fault);
    assert!(line.starts_with("durable.path: ") && !line.contains('\n'), "{line}");
}

fn follow(disk: &mut Disk, channel: &str, user: &str, offset: u64, until_ms: u64) {
    let (user, device, epoch) = (user.into(), "phone".into(), "e".into());
    let cursor = ArchivedCursor { user, device, offset, epoch, told: 1, torn: false, until_ms };
    let call = ArchiveCall::Follow { channel: channel.into(), cursor: Box::new(cursor) };
    assert!(disk.carry_out(0, call).expect("no fault").is_some());
}

/// User and offset of each.
fn cursors(disk: &mut Disk, now_ms: u64, channel: &str, most: usize) -> Vec<(String, u64)> {
    let call = ArchiveCall::Open { ticket: 1, channel: channel.into(), latest: 0, ahead: false, cursors: most };
    match disk.carry_out(now_ms, call).expect("no fault") {
        Some((ArchiveAnswer::Opened { cursors, .. }, _)) => {
            cursors.into_iter().map(|cursor| (cursor.user.to_string(), cursor.offset)).collect()
        }
        other => panic!("not opened: {other:?}"),
    }
}

#[test]
fn cursors_come_back_until_their_time_is_over() {
    let folder = Folder::new();
    let mut disk = folder.open();
    follow(&mut disk, "c", "anna", 1, 1000);
    follow(&mut disk, "c", "bert", 2, 2000);
    follow(&mut disk, "ca", "cora", 3, 2000);
    follow(&mut disk, "c", "anna", 4, 1500);
    assert_eq!(cursors(&mut disk, 0, "c", 9), [("anna".into(), 4), ("bert".into(), 2)], "before they are written, too");
    disk.commit(true).expect("a commit");
    drop(disk);
    let mut disk = folder.open();
    assert_eq!(cursors(&mut disk, 1499, "c", 1), [("anna".into(), 4)]);
    assert_eq!(cursors(&mut disk, 1499, "c", 0), []);
    assert_eq!(cursors(&mut disk, 1500, "c", 9), [("bert".into(), 2)], "one is past its time");
    disk.sweep(1500).expect("no fault");
    assert_eq!(cursors(&mut disk, 0, "c", 9), [("bert".into(), 2)], "and is gone");
    let gone = ArchiveCall::Unfollow { channel: "c".into(), user: "bert".into(), device: "phone".into() };
    assert!(disk.carry_out(0, gone).expect("no fault").is_some());
    assert_eq!(cursors(&mut disk, 0, "c", 9), []);
    assert_eq!(cursors(&mut disk, 0, "ca", 9), [("cora".into(), 3)]);
    (0..300).for_each(|n| follow(&mut disk, "many", &format!("{n}"), n, 10));
    disk.commit(false).expect("a commit");
    for _ in 0..3 {
        disk.sweep(10).expect("no fault");
    }
    assert_eq!(cursors(&mut disk, 0, "many", 999), [], "a sweep goes on where it stopped");
    assert_eq!(cursors(&mut disk, 0, "ca", 9).len(), 1);
}
