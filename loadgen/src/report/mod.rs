//! What a run came to, in the forms people want it: a table, JSON, a histogram file, a page with plots.
//!
//! Never measures anything.

pub mod agents;
pub mod cost;
pub mod hgrm;
pub mod html;
pub mod json;
pub mod plot;
pub mod setup;
pub mod table;
pub mod text;
pub mod verdict;
