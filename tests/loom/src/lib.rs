//! src/base/mailbox.rs as loom runs it. Empty but for `RUSTFLAGS="--cfg loom"`.

#[cfg(loom)]
#[path = "../../../src/base/mailbox.rs"]
pub mod mailbox;
