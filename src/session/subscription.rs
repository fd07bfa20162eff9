//! F6 · In which state a subscription is, and how it comes from one state into the next.
//!
//! ```text
//!            reserve              ask the owner            the owner answers
//!   (none) ----------> Reserved ----------------> Waiting -----------------> Live
//!      |                  | decided against,         ^ |  unsubscribed          | unsubscribed, taken away
//!      |                  | unsubscribed             | v                        v
//!      |                  v                          | Abandoned -> (none)    (none)
//!      +---------------------------------------------+    the owner answers
//! ```
//! Owns the two forms that have a state: [`Subscription`], 8 bytes in the session's list, for one that the channel's
//! owner knows of; and [`SubscriptionState`] behind the session's pointer for what is more than plain, or is not in
//! that list. Never knows who may subscribe, or what a client is told.

use super::more::To;
use crate::base::wheel::{NEVER, Tick};
use crate::hub::{ChannelId, Flags};
use crate::protocol::Filter;
use SubscriptionState as State;
use bytes::Bytes;
use compact_str::CompactString;
use std::num::NonZeroU32;

/// A subscription that its channel's owner was asked for and that was not given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// The owner has not answered.
    Waiting { channel: ChannelId },
    /// In the hub.
    Live { channel: ChannelId, slot: HubPlace },
}

const _: () = assert!(size_of::<Subscription>() <= 8);

/// A slot of the hub plus one, so that zero is left to tell the states apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubPlace(NonZeroU32);

impl Subscription {
    pub fn channel(self) -> ChannelId {
        match self {
            Subscription::Waiting { channel } | Subscription::Live { channel, .. } => channel,
        }
    }

    /// Its slot in the hub, once it is there.
    pub fn slot(self) -> Option<u32> {
        match self {
            Subscription::Waiting { .. } => None,
            Subscription::Live { slot, .. } => Some(slot.0.get() - 1),
        }
    }

    pub fn is_live(self) -> bool {
        self.slot().is_some()
    }

    /// It stands at `slot` in the hub now, for the first time or anew.
    pub fn place(&mut self, slot: u32) {
        // No hub has as many slots as there are numbers.
        let slot = HubPlace(NonZeroU32::MIN.saturating_add(slot));
        *self = Subscription::Live { channel: self.channel(), slot };
    }
}

/// What is to be remembered of a subscription besides its place in the session's list. A plain one has none.
#[derive(Debug)]
pub enum SubscriptionState {
    /// The backend is asked whether it may be, or for the keys of its token, for the command of `ticket`. It is known
    /// by its name: neither owner nor hub has heard of it.
    Reserved { channel: CompactString, ticket: u32 },
    /// Its owner was asked, and it will be more than plain.
    Waiting { channel: ChannelId, pending: Box<Pending> },
    /// It is in the hub, and more than its flags.
    Live { channel: ChannelId, details: Details },
    /// Given up before its owner answered: the answer, when it comes, begins nothing. `to`: who would have been told.
    Abandoned { channel: ChannelId, to: To },
}

/// A subscription on its way, and what its reply will say.
#[derive(Debug)]
pub struct Pending {
    pub ticket: u32,
    pub flags: Flags,
    pub to: To,
    pub recoverable: bool,
    /// The offset from which the client wanted to recover.
    pub recovers: Option<u64>,
    /// Better no subscription than one with a gap.
    pub reject_unrecovered: bool,
    pub data: Bytes,
    /// Seconds until it expires, if the client is to refresh it.
    pub ttl: Option<u32>,
    pub details: Details,
}

/// What a subscription has beside its flags.
#[derive(Debug)]
pub struct Details {
    /// When it is over, or the backend is to be asked.
    pub expires: Tick,
    /// The backend was asked for more time.
    pub refreshing: bool,
    /// Shown to others as `chan_info`.
    pub info: Bytes,
    pub filter: Option<Box<Filter>>,
}

impl Default for Details {
    fn default() -> Details {
        Details { expires: NEVER, refreshing: false, info: Bytes::new(), filter: None }
    }
}

impl Details {
    pub fn is_empty(&self) -> bool {
        self.expires == NEVER && self.info.is_empty() && self.filter.is_none()
    }
}

/// The states of a session's subscriptions that have one. In the order of their making, so far as one channel goes: its
/// owner answers in that order.
#[derive(Debug, Default)]
pub struct States(Vec<State>);

impl States {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Subscriptions that nobody has decided about.
    pub fn reserved(&self) -> usize {
        self.0.iter().filter(|state| matches!(state, State::Reserved { .. })).count()
    }

    pub fn reserve(&mut self, channel: &str, ticket: u32) {
        self.0.push(State::Reserved { channel: channel.into(), ticket });
    }

    pub fn is_reserved(&self, name: &str) -> bool {
        self.0.iter().any(|state| matches!(state, State::Reserved { channel, .. } if channel == name))
    }

    /// Does the answer for the command `by` still decide about this channel? Another command may have come since, and
    /// an answer of its own will.
    pub fn is_reserved_for(&self, name: &str, by: u32) -> bool {
        let is_it =
            |state: &State| matches!(state, State::Reserved { channel, ticket } if channel == name && *ticket == by);
        self.0.iter().any(is_it)
    }

    /// The reservation is over: whoever decides has decided, or it is given up. False if there was none.
    pub fn unreserve(&mut self, name: &str) -> bool {
        !name.is_empty() && self.take_reserved(name).is_some()
    }

    /// A reserved channel of that name ("" = any), the reservation being over.
    pub fn take_reserved(&mut self, name: &str) -> Option<CompactString> {
        let is_it = |channel: &str| name.is_empty() || channel == name;
        match self.take(|state| matches!(state, State::Reserved { channel, .. } if is_it(channel)))? {
            State::Reserved { channel, .. } => Some(channel),
            State::Waiting { .. } | State::Live { .. } | State::Abandoned { .. } => None,
        }
    }

    /// The owner is asked for one that is more than plain.
    pub fn wait(&mut self, channel: ChannelId, pending: Box<Pending>) {
        self.0.push(State::Waiting { channel, pending });
    }

    pub fn pending(&self, id: ChannelId) -> Option<&Pending> {
        self.all_pending(id).next()
    }

    /// It waits no longer.
    pub fn take_pending(&mut self, id: ChannelId) -> Option<Box<Pending>> {
        match self.take(|state| matches!(state, State::Waiting { channel, .. } if *channel == id))? {
            State::Waiting { pending, .. } => Some(pending),
            State::Reserved { .. } | State::Live { .. } | State::Abandoned { .. } => None,
        }
    }

    /// Is this a subscription of the server's making of which the client has not heard?
    pub fn is_untold(&self, channel: ChannelId) -> bool {
        self.pending(channel).is_some_and(|pending| pending.to != To::Reply)
    }

    /// Does one wait that will have this flag?
    pub fn has_pending(&self, id: ChannelId, flag: Flags) -> bool {
        self.all_pending(id).any(|pending| pending.flags.has(flag))
    }

    /// How many to this channel the client will hear of by a push.
    pub fn pushed(&self, id: ChannelId) -> usize {
        self.all_pending(id).filter(|pending| pending.to == To::Push).count()
    }

    fn all_pending(&self, id: ChannelId) -> impl Iterator<Item = &Pending> {
        self.0.iter().filter_map(move |state| match state {
            State::Waiting { channel, pending } => (*channel == id).then_some(&**pending),
            State::Reserved { .. } | State::Live { .. } | State::Abandoned { .. } => None,
        })
    }

    /// It is given up while its owner is asked; what was known of it, if it was more than plain.
    pub fn abandon(&mut self, channel: ChannelId) -> Option<Box<Pending>> {
        let pending = self.take_pending(channel);
        let to = pending.as_ref().map_or(To::Reply, |pending| pending.to);
        self.0.push(State::Abandoned { channel, to });
        pending
    }

    /// The owner answers: is it about one that was given up? Who would have been told.
    pub fn take_abandoned(&mut self, id: ChannelId) -> Option<To> {
        match self.take(|state| matches!(state, State::Abandoned { channel, .. } if *channel == id))? {
            State::Abandoned { to, .. } => Some(to),
            State::Reserved { .. } | State::Waiting { .. } | State::Live { .. } => None,
        }
    }

    /// It is live, with these details, if there are any.
    pub fn begin(&mut self, channel: ChannelId, details: Details) {
        if !details.is_empty() {
            self.0.push(State::Live { channel, details });
        }
    }

    pub fn take_details(&mut self, id: ChannelId) -> Option<Details> {
        match self.take(|state| matches!(state, State::Live { channel, .. } if *channel == id))? {
            State::Live { details, .. } => Some(details),
            State::Reserved { .. } | State::Waiting { .. } | State::Abandoned { .. } => None,
        }
    }

    /// Of live ones that have any.
    pub fn live(&self) -> impl Iterator<Item = (ChannelId, &Details)> {
        self.0.iter().filter_map(|state| match state {
            State::Live { channel, details } => Some((*channel, details)),
            State::Reserved { .. } | State::Waiting { .. } | State::Abandoned { .. } => None,
        })
    }

    pub fn details(&self, id: ChannelId) -> Option<&Details> {
        self.live().find(|(channel, _)| *channel == id).map(|(_, details)| details)
    }

    /// Changes the details of a live one; if nothing is left of them, it is plain again.
    pub fn change(&mut self, id: ChannelId, change: impl FnOnce(&mut Details)) {
        let mut details = self.take_details(id).unwrap_or_default();
        change(&mut details);
        self.begin(id, details);
    }

    /// When the first of the live ones is over.
    pub fn next_expiry(&self) -> Tick {
        self.live().map(|(_, details)| details.expires).min().unwrap_or(NEVER)
    }

    fn take(&mut self, is_it: impl Fn(&State) -> bool) -> Option<State> {
        let at = self.0.iter().position(is_it)?;
        // Not swapped: of two with one channel the older is found first.
        Some(self.0.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChannelId = 7;
    const B: ChannelId = 8;

    fn pending(to: To) -> Box<Pending> {
        Box::new(Pending {
            ticket: 1,
            flags: Flags::default(),
            to,
            recoverable: false,
            recovers: None,
            reject_unrecovered: false,
            data: Bytes::new(),
            ttl: None,
            details: Details::default(),
        })
    }

    fn expiring(expires: Tick) -> Details {
        Details { expires, ..Details::default() }
    }

    #[test]
    fn one_that_waits_is_live_once_it_has_a_place_and_may_change_it() {
        let mut one = Subscription::Waiting { channel: A };
        assert_eq!((one.channel(), one.slot(), one.is_live()), (A, None, false));
        for slot in [0, 5, u32::MAX - 1] {
            one.place(slot);
            assert_eq!((one.channel(), one.slot(), one.is_live()), (A, Some(slot), true));
        }
    }

    #[test]
    fn a_reservation_is_decided_by_the_answer_to_its_own_command() {
        let mut states = States::default();
        states.reserve("a", 1);
        states.reserve("b", 2);
        assert_eq!((states.reserved(), states.is_reserved("a"), states.is_reserved("c")), (2, true, false));
        assert!(states.unreserve("a") && !states.unreserve("a"));
        // Asked for again: the answer to the first command decides nothing.
        states.reserve("a", 3);
        assert!(!states.is_reserved_for("a", 1) && states.is_reserved_for("a", 3));
        assert!(states.take_reserved("c").is_none());
        assert_eq!(states.take_reserved("").as_deref(), Some("b"));
        assert_eq!(states.take_reserved("a").as_deref(), Some("a"));
        assert!(states.take_reserved("").is_none() && states.is_empty());
    }

    #[test]
    fn one_that_waits_becomes_live_or_is_abandoned() {
        let mut states = States::default();
        states.wait(A, pending(To::Push));
        states.wait(B, pending(To::Reply));
        assert!(states.is_untold(A) && !states.is_untold(B));
        assert!(states.take_pending(A).is_some() && states.pending(A).is_none());
        states.begin(A, expiring(9));
        assert!(states.details(A).is_some());
        assert!(states.abandon(B).is_some() && states.pending(B).is_none());
        assert_eq!((states.take_abandoned(A), states.take_abandoned(B)), (None, Some(To::Reply)));
        assert!(states.take_abandoned(B).is_none());
    }

    #[test]
    fn what_was_given_up_first_is_answered_first() {
        let mut states = States::default();
        states.wait(A, pending(To::Connect));
        states.abandon(A);
        // A plain one had no state while it waited.
        assert!(states.abandon(A).is_none());
        states.wait(A, pending(To::Push));
        states.abandon(A);
        let answered: Vec<_> = std::iter::from_fn(|| states.take_abandoned(A)).collect();
        assert_eq!(answered, [To::Connect, To::Reply, To::Push]);
    }

    #[test]
    fn a_live_one_without_details_has_no_state() {
        let mut states = States::default();
        states.begin(A, Details::default());
        assert!(states.is_empty());
        states.change(A, |details| details.expires = 30);
        states.change(B, |details| details.expires = 20);
        assert_eq!((states.next_expiry(), states.live().count()), (20, 2));
        states.change(B, |details| details.expires = NEVER);
        assert_eq!(states.next_expiry(), 30);
        assert!(states.take_details(B).is_none() && states.take_details(A).is_some());
        assert_eq!((states.next_expiry(), states.is_empty()), (NEVER, true));
    }
}
