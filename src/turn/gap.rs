//! F8 · What becomes of mail to a reactor that takes no more.
//!
//! Owns the rule: replies, leaves and answers always go; publications may be lost, are counted, and the gap that they
//! leave is told in their place. Pure.

use crate::broker::Event;
use crate::shard::Mail;
use foldhash::quality::RandomState;
use hashbrown::HashSet;
use std::sync::Arc;

/// Takes the publications, joins and leaves out of `mail`; how many there were. Where publications of a
/// channel's stream go, the news of the gap stands: once for those next to each other, and again behind each
/// subscription that begins in between, whose position is younger than the gap before it.
pub fn drop_publications(mail: &mut Vec<Mail>) -> u64 {
    let mut told: HashSet<Arc<str>, RandomState> = HashSet::default();
    let mut dropped = 0;
    mail.retain_mut(|mail| {
        let Mail::Event(event) = mail else { return true };
        match event {
            Event::Publication { channel, publication, .. } => {
                dropped += 1;
                if publication.offset == 0 || !told.insert(channel.clone()) {
                    return false;
                }
                *event = Event::Gap { channel: channel.clone() };
            }
            Event::Subscribed { channel, .. } => {
                told.remove(channel);
            }
            // Nobody counts on them: presence is asked for.
            Event::Join { .. } | Event::Leave { .. } => {
                dropped += 1;
                return false;
            }
            Event::Gap { .. }
            | Event::Answer { .. }
            | Event::Occupied { .. }
            | Event::Undelivered(_)
            | Event::Logged(_)
            | Event::Refused { .. } => {}
        }
        true
    });
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ConnKey;
    use crate::protocol::Publication;

    fn publication(channel: &str, offset: u64) -> Mail {
        let publication = Arc::new(Publication { offset, ..Publication::default() });
        Mail::Event(Event::Publication { channel: channel.into(), publication, extras: None })
    }

    fn subscribed(channel: &str) -> Mail {
        let conn = ConnKey { reactor: 0, index: 0, generation: 0 };
        Mail::Event(Event::Subscribed { channel: channel.into(), conn, ticket: 1, found: None })
    }

    fn shown(mail: &[Mail]) -> Vec<String> {
        let show = |mail: &Mail| match mail {
            Mail::Event(Event::Gap { channel }) => format!("gap {channel}"),
            Mail::Event(Event::Subscribed { channel, .. }) => format!("subscribed {channel}"),
            other => format!("{other:?}"),
        };
        mail.iter().map(show).collect()
    }

    #[test]
    fn the_gap_stands_where_the_publications_were() {
        let mut mail = vec![
            publication("a", 1),
            publication("a", 2),
            publication("plain", 0),
            subscribed("a"),
            publication("b", 9),
            publication("a", 3),
            publication("a", 4),
        ];
        assert_eq!(drop_publications(&mut mail), 6);
        assert_eq!(shown(&mail), ["gap a", "subscribed a", "gap b", "gap a"]);
        assert_eq!(drop_publications(&mut mail), 0, "what is left stays");
        assert_eq!(mail.len(), 4);
    }

    /// Each letter is looked at once, however many channels there are.
    #[test]
    fn many_channels_cost_what_as_many_letters_cost() {
        let mut mail: Vec<Mail> = (0..16_000).map(|at| publication(&at.to_string(), 1)).collect();
        assert_eq!((drop_publications(&mut mail), mail.len()), (16_000, 16_000));
    }
}
