//! F10 · Who may see the operators' page: passwords, how often they may be tried, and the cookies of who knew it.
//!
//! A session is what its cookie says: when it ends, signed. So nothing is kept of it, and every node with the same
//! secret and password knows it.

use super::FarEnd;
use crate::admission::network;
use crate::base::hex::hex;
use crate::base::meter::{Bucket, BucketTable};
use crate::base::metrics::Page;
use crate::config::Admin;
use crate::wall_clock::unix_s;
use foldhash::quality::RandomState;
use ring::hmac;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

const COOKIE: &str = "gannet_admin";
/// How long a session lasts.
const SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// Addresses that are told apart, about.
const ADDRESSES: usize = 4096;

/// What a try to sign in comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    Good,
    Wrong,
    /// It was not even looked at.
    TooOften,
}

/// The door.
pub struct Door {
    tries: BucketTable,
    hasher: RandomState,
    began: Instant,
    /// Signs where no secret is configured.
    own_secret: [u8; 32],
    counts: [AtomicU64; 3],
}

impl Door {
    pub fn new() -> Result<Door, getrandom::Error> {
        let mut own_secret = [0; 32];
        getrandom::fill(&mut own_secret)?;
        let (tries, hasher) = (BucketTable::new(ADDRESSES), RandomState::default());
        Ok(Door { tries, hasher, began: Instant::now(), own_secret, counts: Default::default() })
    }

    /// Is it the password? Who tries too often is not told.
    pub fn knock(&self, options: &Admin, far_end: FarEnd, password: &str) -> Tried {
        let bucket = Bucket::new(options.login_limit, Duration::from_secs(60));
        let address = self.hasher.hash_one(far_end.ip.map_or(0, network));
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let tried = if !self.tries.take(address, 0, bucket, now) {
            Tried::TooOften
        } else if !options.password.is_empty() && self.is_same(password, &options.password) {
            self.tries.give_back(address, 0, bucket);
            Tried::Good
        } else {
            Tried::Wrong
        };
        self.counts[tried as usize].fetch_add(1, Ordering::Relaxed);
        tried
    }

    /// In a time that tells nothing, not even of lengths.
    fn is_same(&self, one: &str, other: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.own_secret);
        let [one, other] = [one, other].map(|text| hmac::sign(&key, text.as_bytes()));
        one.as_ref().ct_eq(other.as_ref()).into()
    }

    /// Another password or secret ends all sessions.
    fn key(&self, options: &Admin) -> hmac::Key {
        let secret = if options.secret.is_empty() { &self.own_secret[..] } else { options.secret.as_bytes() };
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), options.password.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
    }

    /// The cookie of a session that begins now.
    pub fn cookie(&self, options: &Admin, far_end: FarEnd) -> String {
        let until = unix_s() + SESSION.as_secs();
        let tag = hmac::sign(&self.key(options), until.to_string().as_bytes());
        written(options, far_end, &format!("{until}.{}", hex(tag.as_ref())), SESSION)
    }

    /// Is there a session in these cookies?
    pub fn knows(&self, options: &Admin, cookies: &str) -> bool {
        let now = unix_s();
        let values = cookies.split(';').filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='));
        values.filter_map(|value| value.split_once('.')).any(|(until, tag)| {
            let expected = hex(hmac::sign(&self.key(options), until.as_bytes()).as_ref());
            let is_signed: bool = expected.as_bytes().ct_eq(tag.as_bytes()).into();
            is_signed && until.parse::<u64>().is_ok_and(|until| now < until)
        })
    }

    pub fn write(&self, page: &mut Page) {
        let counts = ["good", "wrong", "too_often"].into_iter().zip(self.counts.each_ref());
        let series = counts.map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)));
        let help = "Attempts to sign in to the operators' page.";
        page.labelled("gannet_admin_logins_total", help, "counter", "outcome", series);
    }
}

/// The cookie that ends a session in its browser.
pub fn no_cookie(options: &Admin, far_end: FarEnd) -> String {
    written(options, far_end, "", Duration::ZERO)
}

fn written(options: &Admin, far_end: FarEnd, value: &str, age: Duration) -> String {
    let secure = if far_end.secure { "; Secure" } else { "" };
    let (path, age) = (&options.handler_prefix, age.as_secs());
    format!("{COOKIE}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn options() -> Admin {
        Admin { enabled: true, password: "the password".into(), login_limit: 3, ..Admin::default() }
    }

    fn far_end(ip: &str) -> FarEnd {
        FarEnd { ip: ip.parse::<IpAddr>().ok(), secure: true }
    }

    #[test]
    fn who_tries_too_often_is_not_told() {
        let (door, options) = (Door::new().expect("random numbers"), options());
        let a = far_end("192.0.2.1");
        for _ in 0..100 {
            assert_eq!(
                door.knock(&options, a, "the password"),
                Tried::Good,
                "who knows it may come as often as they like"
            );
        }
        for _ in 0..3 {
            assert_eq!(door.knock(&options, a, "a guess"), Tried::Wrong);
        }
        assert_eq!(door.knock(&options, a, "the password"), Tried::TooOften);
        assert_eq!(door.knock(&options, far_end("192.0.2.2"), "the password"), Tried::Good, "from elsewhere");
        // Of one customer, who has as many addresses as they like.
        let [one, other] = ["2001:db8::1", "2001:db8::ffff:1"].map(far_end);
        for _ in 0..3 {
            assert_eq!(door.knock(&options, one, ""), Tried::Wrong);
        }
        assert_eq!(door.knock(&options, other, "the password"), Tried::TooOften);
        let without = Admin { password: String::new(), ..options };
        assert_eq!(door.knock(&without, far_end("192.0.2.3"), ""), Tried::Wrong, "no password is nobody's");
    }

    #[test]
    fn a_cookie_is_good_until_it_ends_or_is_touched() {
        let (door, options) = (Door::new().expect("random numbers"), options());
        let cookie = door.cookie(&options, far_end("192.0.2.1"));
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Path=/admin; Max-Age=43200; HttpOnly; SameSite=Strict; Secure");
        assert!(door.knows(&options, pair) && door.knows(&options, &format!("a=b; {pair}; c=d")));
        let (until, tag) =
            pair.strip_prefix("gannet_admin=").and_then(|value| value.split_once('.')).expect("two parts");
        let later = until.parse::<u64>().expect("a number") + 1;
        for other in ["", "gannet_admin=", &format!("gannet_admin={later}.{tag}"), &format!("gannet_admin={until}.")] {
            assert!(!door.knows(&options, other), "{other}");
        }
        let past = (unix_s() - 1).to_string();
        let signed = hex(hmac::sign(&door.key(&options), past.as_bytes()).as_ref());
        assert!(!door.knows(&options, &format!("gannet_admin={past}.{signed}")));
        assert!(
            !door.knows(&Admin { password: "another".into(), ..options.clone() }, pair),
            "another password ends it"
        );
        assert!(!Door::new().expect("random numbers").knows(&options, pair), "another node has another secret");
        let shared = Admin { secret: "the same everywhere".into(), ..options };
        let cookie = door.cookie(&shared, far_end("192.0.2.1"));
        assert!(Door::new().expect("random numbers").knows(&shared, &cookie), "or the same");
    }
}
