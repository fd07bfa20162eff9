//! F10 · What a disk's failure is called, and what to do about it.

use super::disk::DiskFault;
use std::io::{self, ErrorKind};
use std::path::Path;

/// One line for the operator.
pub fn line(path: &Path, fault: &DiskFault) -> String {
    let path = path.display();
    match fault {
        DiskFault::InUse => {
            format!("durable.path: another process has the archive in {path}: give each node a folder of its own")
        }
        DiskFault::Io(error) => format!("durable.path: {}", io_line(&path.to_string(), error)),
        DiskFault::Damaged(what) => format!(
            "durable.path: the archive in {path} is damaged ({what}): restore a copy of it, or move it away to begin anew"
        ),
        DiskFault::Newer(version) => format!(
            "durable.path: the archive in {path} was written by a later version of gannet (format {version}): use that one"
        ),
        DiskFault::Poisoned => {
            format!("durable.path: a write to {path} failed before: look at the disk and its free space")
        }
    }
}

fn io_line(path: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("the disk of {path} is full ({error}): free some of it")
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!("{path} is on a disk that is read-only ({error}): mount it for writing")
        }
        ErrorKind::PermissionDenied => {
            format!("gannet may not write to {path} ({error}): give it to the user that gannet runs as")
        }
        ErrorKind::NotADirectory => format!("{path} is no folder ({error}): name one"),
        _ => format!("{path} cannot be used ({error}): look at the disk"),
    }
}
