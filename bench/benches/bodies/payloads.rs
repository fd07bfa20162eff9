//! What is done to a publication for those who asked for less of it: the delta to the next one, and a tags filter.

use super::{Body, Operation};
use gannet::protocol::FilterNode;
use gannet::protocol::delta::delta;
use std::collections::HashMap;
use std::hint::black_box;

pub const BODIES: &[Body] = &[
    Body { name: "delta/one_number_in_4096", prepare: || change(&[("60064", "7")]) },
    Body { name: "delta/three_numbers_in_4096", prepare: || change(&[("60010", "7"), ("60064", "8"), ("60100", "9")]) },
    Body { name: "filter/match_of_four_leaves", prepare: filter },
];

/// Orders as an exchange would publish them, some 4 KiB, and the next with `changes`.
fn change(changes: &[(&str, &str)]) -> Operation {
    let orders: Vec<String> = (0..128).map(|n| format!(r#"{{"price":"{}","amount":{}}}"#, 60_000 + n, n * n)).collect();
    let old = format!("[{}]", orders.join(","));
    let new = changes.iter().fold(old.clone(), |text, (from, to)| text.replacen(from, to, 1));
    Box::new(move || {
        black_box(delta(black_box(old.as_bytes()), new.as_bytes()));
    })
}

fn filter() -> Operation {
    let json = r#"{"op":"and","nodes":[{"key":"market","cmp":"in","vals":["NASDAQ","NYSE","XETRA"]},
        {"key":"price","cmp":"gte","val":"99.5"},{"op":"or","nodes":[{"key":"ticker","cmp":"eq","val":"AAPL"},
        {"key":"ticker","cmp":"sw","val":"GOO"}]}]}"#;
    let filter = serde_json::from_str::<FilterNode>(json).expect("JSON").check().expect("a good filter");
    let tags = [("market", "NYSE"), ("price", "101.25"), ("ticker", "GOOG"), ("side", "buy")];
    let tags: HashMap<String, String> = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Box::new(move || {
        black_box(filter.matches(black_box(&tags)));
    })
}
