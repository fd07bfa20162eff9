//! F9 · The allocator of the process: how soon it gives memory back, and how much of it is in use.
//!
//! Owns which allocator it is; `main` installs it. With the feature `jemalloc`, which is on by default, the allocator
//! counts what is in use. Without, nobody does, and what is resident stands for it.

/// How long a page that nobody uses may stay with the process, in milliseconds. It goes back bit by bit in that time.
#[cfg(feature = "jemalloc")]
const UNUSED_MS: isize = 2_000;

/// Has the allocator give back pages that are not used any more. To be called before there are other threads, for
/// those take what was said before. An error says why it could not be told.
#[cfg(feature = "jemalloc")]
pub fn start() -> Result<(), String> {
    use tikv_jemalloc_ctl::{Access, AsName, background_thread};
    let tell = || {
        // The first is of arenas to come, the second of this thread's.
        for name in ["arenas.dirty_decay_ms\0", "arena.0.dirty_decay_ms\0"] {
            name.name().write(UNUSED_MS)?;
        }
        // Without a thread of its own an arena gives back only while somebody uses it.
        background_thread::write(true)
    };
    tell().map_err(|error| error.to_string())
}

#[cfg(not(feature = "jemalloc"))]
pub fn start() -> Result<(), String> {
    Ok(())
}

/// Bytes in use: allocated and not freed. What the allocator keeps for later is not in it. `None` = nobody knows.
#[cfg(feature = "jemalloc")]
pub fn in_use_bytes() -> Option<usize> {
    use tikv_jemalloc_ctl::{epoch, stats};
    epoch::advance().ok()?;
    stats::allocated::read().ok()
}

#[cfg(not(feature = "jemalloc"))]
pub fn in_use_bytes() -> Option<usize> {
    resident_bytes()
}

/// Resident memory of this process; `None` if /proc does not tell, as when no descriptor is left.
pub fn resident_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages = text.split_whitespace().nth(1)?.parse::<usize>().ok()?;
    Some(pages * rustix::param::page_size())
}
