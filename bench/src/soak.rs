//! Users who come and go while publications to them do not stop: what reaches whom, exactly.
//!
//! `ledger` knows what was published and sees what arrives; `visit` is one connection of a user.

pub mod ledger;
pub mod visit;
