//! The archive in real databases: PostgreSQL and MariaDB, started once for all tests here.

#![cfg(feature = "databases")]

mod databases;
mod lanes;
mod store;
