//! Any WebSocket server: messages as the user configures them, stamps found wherever the server puts them.

use super::{Heard, Names, Outgoing, Spot, Wanted};
use crate::stamp::Stamp;

/// Texts with `{client}`, `{channel}` and `{payload}` to fill in.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// Sent once for each channel a client listens to. None = nothing needs saying.
    pub subscribe: Option<String>,
    /// What a speaker sends. None = the payload alone.
    pub publish: Option<String>,
    /// Binary messages in place of text.
    pub binary: bool,
}

impl Raw {
    pub fn join(&self, client: u32, wanted: &[Wanted<'_>], names: &Names) -> Vec<Outgoing> {
        let Some(template) = &self.subscribe else { return Vec::new() };
        let fill = |wanted: &Wanted<'_>| fill(template, client, &names.of(wanted.channel)).into_bytes();
        wanted.iter().map(|wanted| Outgoing { text: !self.binary, bytes: fill(wanted) }).collect()
    }

    /// The payload inside the template; true = it is text.
    pub fn speak(&self, client: u32, channel: &str, payload: &[u8], out: &mut Vec<u8>) -> bool {
        match &self.publish {
            None => out.extend_from_slice(payload),
            Some(template) => {
                let text = fill(template, client, channel);
                let (before, after) = text.split_once("{payload}").unwrap_or((&text, ""));
                out.extend_from_slice(before.as_bytes());
                out.extend_from_slice(payload);
                out.extend_from_slice(after.as_bytes());
            }
        }
        !self.binary
    }
}

/// Fills in `{client}` and `{channel}`.
pub fn fill(template: &str, client: u32, channel: &str) -> String {
    template.replace("{client}", &client.to_string()).replace("{channel}", channel)
}

/// Every stamp is a publication; servers may put several messages in one.
pub fn hear(message: &[u8], mut heard: impl FnMut(Heard)) {
    let mut found = 0;
    for at in memchr::memmem::find_iter(message, b"gnt:") {
        if let Some(stamp) = message.get(at..at + crate::stamp::LEN).and_then(Stamp::find) {
            heard(Heard::Publication(stamp, Spot::default()));
            found += 1;
        }
    }
    if found == 0 {
        heard(Heard::Unstamped(Spot::default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Past;

    #[test]
    fn templates_are_filled() {
        let names = Names { prefix: "c-".to_owned() };
        let raw = Raw {
            subscribe: Some("sub {channel} as {client}".to_owned()),
            publish: Some(r#"{"to":"{channel}","text":"{payload}"}"#.to_owned()),
            binary: false,
        };
        let wanted = [1, 2].map(|channel| Wanted { id: 0, channel, past: Past::Ignored });
        let join = raw.join(7, &wanted, &names);
        assert_eq!(join[1].bytes, b"sub c-2 as 7");
        let mut out = Vec::new();
        assert!(raw.speak(7, "c-1", b"hi", &mut out));
        assert_eq!(out, br#"{"to":"c-1","text":"hi"}"#);
    }

    #[test]
    fn several_stamps_in_one_message_are_several_publications() {
        let mut message = b"[".to_vec();
        let stamp = |sequence| Stamp { run: 1, speaker: 2, sequence, due: 3 };
        stamp(0).write(60, &mut message);
        stamp(1).write(0, &mut message);
        let mut all = Vec::new();
        hear(&message, |heard| all.push(heard));
        assert_eq!(all, [0, 1].map(|sequence| Heard::Publication(stamp(sequence), Spot::default())));
        all.clear();
        hear(b"hello", |heard| all.push(heard));
        assert_eq!(all, [Heard::Unstamped(Spot::default())]);
    }
}
