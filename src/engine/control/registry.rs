//! F10 · Which nodes there are: who said so, and how long ago.
//!
//! Owns the list of the others. Pure: the time is an argument.

use super::messages::FleetNode;
use std::collections::BTreeMap;

/// A node that says nothing for so long is gone.
const FORGOTTEN_MS: u64 = 7_000;
/// Nodes known at once; more are no fleet but somebody's mistake.
const NODES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<String, (FleetNode, u64)>,
}

impl Registry {
    /// A node says what it is; true if it was not known.
    pub fn hear(&mut self, node: FleetNode, now_ms: u64) -> bool {
        let is_new = !self.nodes.contains_key(&node.uid);
        if node.uid.is_empty() || is_new && self.nodes.len() >= NODES_MAX {
            return false;
        }
        // Metrics come with some messages only, and hold until the next ones.
        let before = self.nodes.remove(&node.uid).and_then(|(before, _)| before.metrics);
        let metrics = node.metrics.clone().or(before);
        self.nodes.insert(node.uid.clone(), (FleetNode { metrics, ..node }, now_ms));
        is_new
    }

    pub fn leave(&mut self, uid: &str) {
        self.nodes.remove(uid);
    }

    /// Forgets those that have said nothing for too long.
    pub fn forget(&mut self, now_ms: u64) {
        self.nodes.retain(|_, (_, at)| now_ms.saturating_sub(*at) < FORGOTTEN_MS);
    }

    pub fn knows(&self, uid: &str) -> bool {
        self.nodes.contains_key(uid)
    }

    pub fn others(&self) -> impl Iterator<Item = &FleetNode> {
        self.nodes.values().map(|(node, _)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str) -> FleetNode {
        FleetNode { uid: uid.into(), ..FleetNode::default() }
    }

    #[test]
    fn nodes_come_stay_and_go() {
        let mut registry = Registry::default();
        assert!(registry.hear(node("a"), 0) && registry.hear(node("b"), 1000));
        assert!(!registry.hear(node("a"), 3000), "it is known");
        registry.forget(8000);
        let uids = |registry: &Registry| registry.others().map(|node| node.uid.clone()).collect::<Vec<_>>();
        assert_eq!(uids(&registry), ["a"]);
        assert!(registry.hear(node("b"), 9000), "it was away");
        registry.leave("a");
        assert_eq!(uids(&registry), ["b"]);
        assert!(!registry.hear(node(""), 9000) && registry.knows("b"));
    }

    #[test]
    fn there_is_a_limit() {
        let mut registry = Registry::default();
        for at in 0..2 * NODES_MAX {
            registry.hear(node(&at.to_string()), 0);
        }
        assert_eq!(registry.others().count(), NODES_MAX);
    }
}
