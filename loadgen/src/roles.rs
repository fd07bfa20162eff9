//! Who listens to what and who speaks where, as arithmetic on client numbers.
//!
//! Nothing is stored, so a million clients cost nothing and every loop (and every process of a run in parts) agrees.
//! The first clients may only speak; those after them listen to `each` channels in a row. Without such speakers
//! everyone may do both. Never knows when anything happens.

/// The arithmetic of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub clients: u32,
    pub channels: u32,
    /// Clients 0 to this speak and do not listen.
    pub publishers: u32,
    /// Channels a listener has.
    pub each: u32,
    /// Without `publishers`: every client speaks in its own channel.
    pub all_speak: bool,
    /// The server does not send a message back to its speaker.
    pub not_to_self: bool,
}

impl Roles {
    /// Nobody speaks; with channels, everyone listens to one.
    pub fn silent(clients: u32, channels: u32) -> Self {
        let each = channels.min(1);
        Self { clients, channels, publishers: 0, each, all_speak: false, not_to_self: false }
    }

    /// Everyone has a channel alone.
    pub fn alone(clients: u32) -> Self {
        Self { all_speak: true, ..Self::silent(clients, clients) }
    }

    pub fn speaks(&self, client: u32) -> bool {
        client < self.publishers || self.all_speak
    }

    pub fn speakers(&self) -> u32 {
        if self.all_speak { self.clients } else { self.publishers }
    }

    /// The channel a speaker speaks in.
    pub fn channel_of(&self, speaker: u32) -> u32 {
        speaker % self.channels.max(1)
    }

    /// The channels a client listens to.
    pub fn listens_to(&self, client: u32) -> Vec<u32> {
        match client.checked_sub(self.publishers) {
            None => Vec::new(),
            Some(listener) => (0..self.each)
                .map(|n| ((u64::from(listener) + u64::from(n)) % u64::from(self.channels)) as u32)
                .collect(),
        }
    }

    /// Which of its channels, counted from 0, this one is for a client; None = it does not listen to it.
    pub fn slot(&self, client: u32, channel: u32) -> Option<usize> {
        let listener = client.checked_sub(self.publishers)?;
        let channels = self.channels.max(1);
        let slot = (channel + channels - listener % channels) % channels;
        (channel < channels && slot < self.each).then_some(slot as usize)
    }

    /// How many clients get what is said in a channel.
    pub fn audience(&self, channel: u32) -> u64 {
        let (listeners, channels) = (u64::from(self.clients - self.publishers), u64::from(self.channels.max(1)));
        let residue = |n: u32| (u64::from(channel) + channels - u64::from(n) % channels) % channels;
        let all: u64 =
            (0..self.each).map(|n| listeners / channels + u64::from(residue(n) < listeners % channels)).sum();
        all.saturating_sub(u64::from(self.not_to_self))
    }

    /// Speakers in the busiest channel.
    fn speakers_each(&self) -> u32 {
        self.speakers().div_ceil(self.channels.max(1))
    }

    /// How many speakers a client has to keep track of.
    pub fn tracks(&self, client: u32) -> usize {
        if client < self.publishers { 0 } else { (self.each * self.speakers_each()) as usize }
    }

    /// Which of its tracks a client keeps for `speaker`; None = it should not hear it.
    pub fn track(&self, client: u32, speaker: u32) -> Option<usize> {
        if speaker >= self.speakers() {
            return None;
        }
        let slot = self.slot(client, self.channel_of(speaker))?;
        Some(slot * self.speakers_each() as usize + (speaker / self.channels.max(1)) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arithmetic_agrees_with_counting() {
        for (publishers, listeners, channels, each) in
            [(1, 10, 1, 1), (3, 10, 4, 2), (5, 7, 2, 2), (2, 3, 5, 3), (0, 4, 3, 1)]
        {
            let clients = publishers + listeners;
            let roles = Roles { clients, channels, publishers, each, all_speak: false, not_to_self: false };
            for channel in 0..channels {
                let counted = (0..clients).filter(|client| roles.listens_to(*client).contains(&channel)).count();
                assert_eq!(roles.audience(channel), counted as u64, "{roles:?}");
            }
            for client in 0..clients {
                let listened = roles.listens_to(client);
                for channel in 0..=channels {
                    let place = listened.iter().position(|listened| *listened == channel);
                    assert_eq!(roles.slot(client, channel), place, "{roles:?}");
                }
                let heard: Vec<usize> = (0..publishers).filter_map(|speaker| roles.track(client, speaker)).collect();
                let mut unique = heard.clone();
                unique.sort_unstable();
                unique.dedup();
                assert_eq!(unique.len(), heard.len(), "one track a speaker");
                assert!(heard.iter().all(|track| *track < roles.tracks(client)));
                for speaker in 0..publishers {
                    let listens = roles.listens_to(client).contains(&roles.channel_of(speaker));
                    assert_eq!(roles.track(client, speaker).is_some(), listens);
                }
            }
        }
    }

    #[test]
    fn alone_means_one_track_and_an_audience_of_one() {
        let roles = Roles::alone(1000);
        assert_eq!((roles.audience(7), roles.tracks(7), roles.track(7, 7)), (1, 1, Some(0)));
        assert_eq!((roles.track(7, 8), roles.track(7, 1007)), (None, None));
    }

    #[test]
    fn rooms_hear_all_their_members() {
        let roles = Roles { all_speak: true, ..Roles::silent(10, 3) };
        assert_eq!((roles.audience(0), roles.audience(1), roles.tracks(0)), (4, 3, 4));
        assert_eq!(roles.track(1, 4), Some(1));
        assert_eq!(Roles { not_to_self: true, ..roles }.audience(1), 2);
    }
}
