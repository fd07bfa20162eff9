//! F8 · What one connection may cause in one turn.
//!
//! Owns the sums: commands, decoded bytes, bytes of replies, signature checks. Knows nothing of what they are spent on.
//! A budget is looked at before each step and charged after it, so a turn costs at most a budget and one step more.
//! When it is used up, the rest of the input waits for the next turn, after everyone else.

use crate::config::Config;

/// Why input waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// So many commands or frames.
    Commands,
    /// So many bytes of messages, after inflating them.
    Decoded,
    /// So many bytes of replies.
    Replies,
    /// So many signatures of tokens.
    Signatures,
    /// Until replies that are owed are there: too many are, or they count for too much.
    Unanswered,
    /// Until the connect command is answered.
    Connecting,
}

impl Wait {
    /// Its place among [`crate::base::metrics::WAITS`]; a client that connects is nothing to be counted.
    pub fn label(self) -> Option<usize> {
        match self {
            Wait::Commands => Some(0),
            Wait::Decoded => Some(1),
            Wait::Replies => Some(2),
            Wait::Signatures => Some(3),
            Wait::Unanswered => Some(4),
            Wait::Connecting => None,
        }
    }
}

/// What is left for one connection in this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Commands, or frames that hold none.
    pub commands: usize,
    pub decoded_bytes: usize,
    pub reply_bytes: usize,
    pub signatures: usize,
}

impl Budget {
    pub fn new(config: &Config) -> Budget {
        let reactor = &config.reactor;
        Budget {
            commands: reactor.command_budget,
            decoded_bytes: reactor.decode_budget,
            reply_bytes: reactor.reply_budget,
            signatures: reactor.signature_budget,
        }
    }

    /// Which part is used up?
    pub fn spent(&self) -> Option<Wait> {
        match *self {
            Budget { commands: 0, .. } => Some(Wait::Commands),
            Budget { decoded_bytes: 0, .. } => Some(Wait::Decoded),
            Budget { reply_bytes: 0, .. } => Some(Wait::Replies),
            Budget { signatures: 0, .. } => Some(Wait::Signatures),
            _ => None,
        }
    }

    /// A command, what it was answered, and the signatures that were checked for it.
    pub fn charge(&mut self, reply_bytes: u64, signatures: u64) {
        self.commands = self.commands.saturating_sub(1);
        self.reply_bytes = self.reply_bytes.saturating_sub(reply_bytes as usize);
        self.signatures = self.signatures.saturating_sub(signatures as usize);
    }

    /// A message of so many bytes, as it is decoded.
    pub fn charge_decoded(&mut self, bytes: usize) {
        self.decoded_bytes = self.decoded_bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_spent_by_itself() {
        let full = Budget::new(&Config::default());
        assert_eq!(full.spent(), None);
        let mut left = full;
        (0..full.commands).for_each(|_| left.charge(0, 0));
        assert_eq!(left.spent(), Some(Wait::Commands));
        let mut left = full;
        left.charge(full.reply_bytes as u64 + 1, 0);
        assert_eq!(left.spent(), Some(Wait::Replies));
        let mut left = full;
        left.charge(0, full.signatures as u64);
        assert_eq!(left.spent(), Some(Wait::Signatures));
        let mut left = full;
        left.charge_decoded(full.decoded_bytes - 1);
        assert_eq!(left.spent(), None);
        left.charge_decoded(1);
        assert_eq!(left.spent(), Some(Wait::Decoded));
    }
}
