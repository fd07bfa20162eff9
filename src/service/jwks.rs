//! F10 · Sets of public keys, fetched where tokens come from.
//!
//! Owns the sets by their URL: one fetch at a time for each, a pause between fetches, a bound on how many there are.
//! Whatever changes goes to all reactors. What a key is for is the token's verifier's to know.

use super::fetch::{FetchError, Http};
use super::sums;
use crate::auth::{Jwks, KeySet};
use crate::base::mailbox::Sender;
use crate::base::metrics::Page;
use crate::config;
use crate::session::Rules;
use crate::shard::Mail;
use crate::wall_clock::unix_s;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Sets are looked at no more often than this.
const RENEWAL_PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Entry {
    /// When the set that is known was fetched.
    fetched: Option<Instant>,
    /// The last fetch that ended.
    tried: Option<Instant>,
    /// Who waits for the one under way.
    waiting: Option<Vec<oneshot::Sender<()>>>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Box<str>, Entry>,
    all: Arc<Jwks>,
    /// Say which sets tokens may name; absent until they are loaded again.
    rules: Option<Arc<Rules>>,
    fetches: u64,
    errors: u64,
}

pub struct Keys {
    http: Arc<Http>,
    options: config::JwksOptions,
    reactors: Vec<Sender<Mail>>,
    state: Mutex<State>,
}

/// What a question finds.
enum Found {
    Known(Arc<Jwks>),
    /// It was tried a moment ago, or there is no room for it.
    Nothing,
    /// Somebody fetches it.
    Wait(oneshot::Receiver<()>),
    /// It is this one's to fetch.
    Fetch,
}

impl Keys {
    pub fn new(http: Arc<Http>, options: config::JwksOptions, reactors: Vec<Sender<Mail>>) -> Keys {
        let all = Arc::new(Jwks::fetched_after(options.refetch_interval.as_secs()));
        Keys { http, options, reactors, state: Mutex::new(State { all, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sets, that of `url` fetched again if it may be. `None` = there is none at `url`.
    pub async fn get(&self, url: &str) -> Option<Arc<Jwks>> {
        match self.find(url) {
            Found::Known(all) => return Some(all),
            Found::Nothing => return None,
            // An error means that the fetch ended in a panic; what is known tells the rest.
            Found::Wait(end) => drop(end.await),
            Found::Fetch => self.fetch(url).await,
        }
        let state = self.lock();
        state.entries.get(url).is_some_and(|entry| entry.fetched.is_some()).then(|| state.all.clone())
    }

    fn find(&self, url: &str) -> Found {
        let mut state = self.lock();
        let now = Instant::now();
        if !state.entries.contains_key(url) {
            if state.entries.len() >= self.options.url_limit && !self.make_room(&mut state) {
                return Found::Nothing;
            }
            state.entries.insert(url.into(), Entry::default());
        }
        let all = state.all.clone();
        let Some(entry) = state.entries.get_mut(url) else { return Found::Nothing };
        if let Some(waiting) = &mut entry.waiting {
            let (end, waits) = oneshot::channel();
            waiting.push(end);
            return Found::Wait(waits);
        }
        if entry.tried.is_some_and(|at| now.duration_since(at) < self.options.refetch_interval) {
            return if entry.fetched.is_some() { Found::Known(all) } else { Found::Nothing };
        }
        entry.waiting = Some(Vec::new());
        Found::Fetch
    }

    /// Forgets a URL that gave nothing: one that gave a set is in use.
    fn make_room(&self, state: &mut State) -> bool {
        let useless = state.entries.iter().filter(|(_, entry)| entry.fetched.is_none() && entry.waiting.is_none());
        let oldest = useless.min_by_key(|(_, entry)| entry.tried).map(|(url, _)| url.clone());
        if let Some(url) = &oldest {
            state.entries.remove(url);
        } else {
            let (limit, advice) = (self.options.url_limit, "no room for another key set: raise jwks.url_limit");
            sums::add("key sets", 1, move |count| tracing::warn!(limit, count, "{advice}"));
        }
        oldest.is_some()
    }

    /// Fetches the set at `url`, for which `waiting` is set.
    async fn fetch(&self, url: &str) {
        let result = self.load(url).await;
        let now = Instant::now();
        let mut state = self.lock();
        state.fetches += 1;
        if let Err(failure) = &result {
            state.errors += 1;
            let (place, failure) = (config::shown_url(url), failure.clone());
            let advice =
                "a key set cannot be fetched: tokens whose keys are in it are refused; does its server answer?";
            let write = move |count| tracing::warn!(url = place, count, error = %failure, "{advice}");
            sums::add("key set", 1, write);
        }
        let (mut all, ttl) = (Jwks::clone(&state.all), self.options.ttl);
        let Some(entry) = state.entries.get_mut(url) else { return };
        entry.tried = Some(now);
        let waiting = entry.waiting.take().unwrap_or_default();
        match result {
            Ok(set) => {
                entry.fetched = Some(now);
                all.insert(url.into(), set, unix_s());
            }
            // Keys may have been withdrawn meanwhile: nobody could tell.
            Err(_) if entry.fetched.is_some_and(|at| now.duration_since(at) >= 2 * ttl) => {
                entry.fetched = None;
                all.forget(url.into(), unix_s());
            }
            Err(_) => all.fail(url.into(), unix_s()),
        }
        self.spread(&mut state, all);
        drop(state);
        // Who went away does not mind.
        for end in waiting {
            let _ = end.send(());
        }
    }

    /// Other rules hold: sets that no token can name any more are forgotten.
    pub fn take(&self, rules: Arc<Rules>) {
        let mut state = self.lock();
        state.rules = Some(rules);
        self.forget_unwanted(&mut state);
    }

    /// What is being fetched now is forgotten when its renewal is due.
    fn forget_unwanted(&self, state: &mut State) {
        let Some(rules) = &state.rules else { return };
        let gone = state.entries.iter().filter(|(url, entry)| entry.waiting.is_none() && !rules.wants_keys_of(url));
        let gone: Vec<Box<str>> = gone.map(|(url, _)| url.clone()).collect();
        if gone.is_empty() {
            return;
        }
        let mut all = Jwks::clone(&state.all);
        for url in gone {
            state.entries.remove(&url);
            all.remove(&url);
        }
        self.spread(state, all);
    }

    async fn load(&self, url: &str) -> Result<KeySet, FetchError> {
        let body = self.http.get(url, self.options.timeout, self.options.response_size_limit).await?;
        KeySet::parse(&body).map_err(|error| FetchError::Unreadable(error.to_string()))
    }

    /// Tells all reactors.
    fn spread(&self, state: &mut State, all: Jwks) {
        state.all = Arc::new(all);
        for reactor in &self.reactors {
            reactor.send(Mail::Keys(state.all.clone()));
        }
    }

    /// Fetches again what is older than its time, for ever.
    pub async fn renew(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.next_renewal()).await;
            for url in self.due() {
                let keys = self.clone();
                tokio::spawn(async move { keys.fetch(&url).await });
            }
        }
    }

    fn next_renewal(&self) -> Duration {
        let state = self.lock();
        let now = Instant::now();
        let due = state.entries.values().filter_map(|entry| Some(self.renewal(entry.fetched?, entry.tried)));
        // A set that comes meanwhile is not due before its time is over.
        let wait = due.min().map_or(self.options.ttl, |due| due.saturating_duration_since(now));
        // While one is being fetched it is looked at again soon.
        wait.min(self.options.ttl).max(RENEWAL_PAUSE)
    }

    fn renewal(&self, fetched: Instant, tried: Option<Instant>) -> Instant {
        let at = fetched + self.options.ttl;
        tried.map_or(at, |tried| at.max(tried + self.options.refetch_interval))
    }

    /// The sets to renew, marked as being fetched.
    fn due(&self) -> Vec<Box<str>> {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut state = self.lock();
        self.forget_unwanted(&mut state);
        for (url, entry) in &mut state.entries {
            let renewal = entry.fetched.map(|fetched| self.renewal(fetched, entry.tried));
            if entry.waiting.is_none() && renewal.is_some_and(|at| at <= now) {
                entry.waiting = Some(Vec::new());
                due.push(url.clone());
            }
        }
        due
    }

    pub fn write(&self, page: &mut Page) {
        let state = self.lock();
        let sets = state.entries.values().filter(|entry| entry.fetched.is_some()).count();
        page.single("gannet_jwks_sets", "Key sets known; the limit is jwks.url_limit.", "gauge", sets);
        page.single("gannet_jwks_fetches_total", "Fetches of key sets.", "counter", state.fetches);
        let help = "Fetches of key sets that failed: tokens whose keys are not known are refused.";
        page.single("gannet_jwks_errors_total", help, "counter", state.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::mailbox::{Mailbox, mailbox};
    use crate::service::testing::{App, in_time};

    const SET: &str = r#"{"keys":[{"kid":"a"}]}"#;

    fn keys(options: config::JwksOptions) -> (Arc<Keys>, Mailbox<Mail>) {
        let (sender, mailbox) = mailbox(8, || {});
        let options = config::JwksOptions { timeout: Duration::from_secs(20), ..options };
        (Arc::new(Keys::new(Arc::new(Http::default()), options, vec![sender])), mailbox)
    }

    fn told(mailbox: &Mailbox<Mail>) -> usize {
        let mut letters = Vec::new();
        mailbox.drain(&mut letters);
        letters.iter().filter(|letter| matches!(letter, Mail::Keys(_))).count()
    }

    #[tokio::test]
    async fn one_fetch_for_all_who_wait_and_a_pause_after_it() {
        let app = App::start().await;
        app.answers(200, SET);
        let (keys, mailbox) = keys(config::JwksOptions::default());
        let url = app.at("/gate");
        let ask = || {
            let (keys, url) = (keys.clone(), url.clone());
            tokio::spawn(async move { keys.get(&url).await.is_some() })
        };
        let all: Vec<_> = (0..50).map(|_| ask()).collect();
        app.arrived(1).await;
        app.gate.add_permits(1);
        for one in all {
            assert!(in_time(one).await.expect("an answer"));
        }
        assert!(in_time(ask()).await.expect("an answer"), "known, and not fetched again so soon");
        assert_eq!((app.asked().len(), told(&mailbox)), (1, 1));
    }

    #[tokio::test]
    async fn fetched_again_after_the_pause() {
        let app = App::start().await;
        let (keys, mailbox) =
            keys(config::JwksOptions { refetch_interval: Duration::from_millis(1), ..Default::default() });
        app.answers(200, SET);
        assert!(keys.get(&app.url).await.is_some());
        in_time(async {
            while app.asked().len() < 2 {
                assert!(keys.get(&app.url).await.is_some());
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(told(&mailbox), app.asked().len(), "reactors know of each fetch");
        app.answers(500, "");
        let before = app.asked().len();
        in_time(async {
            while app.asked().len() == before {
                assert!(keys.get(&app.url).await.is_some(), "what was known stays");
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(told(&mailbox) >= 1, "and that one failed");
    }

    #[tokio::test]
    async fn what_gives_no_set_is_not_asked_again_at_once() {
        let app = App::start().await;
        let (keys, mailbox) = keys(config::JwksOptions { url_limit: 2, ..Default::default() });
        for (at, (status, body)) in [(404, SET), (200, "nonsense"), (200, "{}"), (200, "[]")].into_iter().enumerate() {
            app.answers(status, body);
            let url = app.at(&format!("/{at}"));
            assert!(keys.get(&url).await.is_none(), "{body}");
            assert!(keys.get(&url).await.is_none());
            assert_eq!(app.asked().len(), at + 1);
        }
        assert!(keys.get("no url").await.is_none());
        // No URL is no fetch that could be tried again.
        assert_eq!(told(&mailbox), 5);
        app.answers(200, SET);
        // Those that gave nothing make room; those that gave a set do not.
        assert!(keys.get(&app.at("/a")).await.is_some());
        assert!(keys.get(&app.at("/b")).await.is_some());
        assert!(keys.get(&app.at("/c")).await.is_none());
        let mut page = Page::default();
        keys.write(&mut page);
        let page = page.into_text();
        for line in ["gannet_jwks_sets 2", "gannet_jwks_fetches_total 7", "gannet_jwks_errors_total 5"] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }

    #[tokio::test]
    async fn renewed_when_old_and_dropped_when_twice_as_old() {
        let app = App::start().await;
        let ms = Duration::from_millis;
        let (keys, mailbox) = keys(config::JwksOptions { ttl: ms(20), refetch_interval: ms(10), ..Default::default() });
        tokio::spawn(keys.clone().renew());
        app.answers(200, SET);
        assert!(keys.get(&app.url).await.is_some());
        app.arrived(3).await;
        assert!(told(&mailbox) >= 1);
        app.answers(500, "");
        in_time(async {
            while keys.lock().entries[app.url.as_str()].fetched.is_some() {
                tokio::time::sleep(ms(1)).await;
            }
        })
        .await;
        assert!(told(&mailbox) >= 1, "reactors know that it is gone");
    }
}
