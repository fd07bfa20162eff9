//! F10 · The scripts that Redis runs for a node, each known to it by its SHA-1.
//!
//! Owns their texts. Keys and arguments are each script's own; what they leave in Redis, and publish, is what all nodes
//! of a fleet read. Never speaks to a server.

use crate::base::hex::hex;
use sha1::{Digest, Sha1};
use std::sync::LazyLock;

#[derive(Debug)]
pub struct LuaScript {
    pub text: &'static str,
    pub sha: String,
}

/// Each is one file, or several that belong together.
macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)*) => {
        $(pub static $name: LazyLock<LuaScript> =
            LazyLock::new(|| LuaScript::new(concat!($(include_str!(concat!("lua/", $file, ".lua"))),+)));)*

        pub fn all() -> [&'static LuaScript; count!($($name)*)] {
            [$(&$name),*]
        }
    };
}

macro_rules! count {
    () => { 0 };
    ($one:ident $($more:ident)*) => { 1 + count!($($more)*) };
}

scripts! {
    PUBLISH_STREAM = "publish_begin" "publish_stream" "publish_finish";
    PUBLISH_LIST = "publish_begin" "publish_list" "publish_finish";
    PUBLISH_ONCE = "publish_once";
    READ_STREAM = "read_stream";
    READ_LIST = "read_list";
    ADD_PRESENCE = "add_presence";
    REMOVE_PRESENCE = "remove_presence";
    PRESENCE = "presence";
    PRESENCE_STATS = "presence_stats";
    WRITE_CURSOR = "write_cursor";
}

impl LuaScript {
    fn new(text: &'static str) -> LuaScript {
        let sha = hex(Sha1::digest(text));
        LuaScript { text, sha }
    }
}
