//! A control group of well-behaved clients beside attackers, on one server: who is hurt, and by how much.
//!
//! From the bottom up:
//! - `speech` what attackers send; `forged` tokens with wrong signatures; `skim` what is looked at of what they read;
//! - `script` what an attacker's connection does, step by step; `crowd` many such connections in one poll loop;
//! - `phase` how far a trial is; `ledger` what the control group saw; `member` one of its clients; `group` all of them;
//! - `node` the server under attack; `probe` its health and API, asked all the while; `backend` one that never answers;
//! - `attack` what belongs to an attack; `attacks` all of them, one a function;
//! - `trial` one attack from start to end; `verdict` which limits it passed; `report` the table and the JSON.

pub mod attack;
pub mod attacks;
pub mod backend;

pub mod crowd;
pub mod forged;
pub mod group;
pub mod ledger;
pub mod member;
pub mod node;
pub mod phase;
pub mod probe;
pub mod report;
pub mod script;
pub mod skim;
pub mod speech;
pub mod trial;
pub mod verdict;

/// The key of the tokens of all clients.
const SECRET: &str = "abuse";

/// A mebibyte.
pub const MIB: u64 = 1 << 20;
