//! F10 · What the backend is told without asking: clients that come and go, channels that fill and empty.
//!
//! Owns the queue between the reactors and one sender of batches. Told at most once, in order: a full queue drops what
//! comes, and a batch that fails is dropped whole. Both are counted.

use super::backend::fixed_headers;
use super::fetch::{self, FetchError, Http};
use super::sums;
use crate::base::metrics::Page;
use crate::config;
use crate::session::backend::Hook;
use crate::wall_clock::unix_ms;
use axum::http::{HeaderMap, Uri};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes of the backend's answer, which is not looked at.
const ANSWER_MAX: usize = 64 << 10;

#[derive(Default)]
pub struct HookCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// An event and when it was.
type Event = (u64, Hook);

/// A reactor's end.
#[derive(Clone)]
pub struct HookLink {
    sender: Option<mpsc::Sender<Event>>,
    /// By kind, in the order of [`config::HOOK_EVENTS`].
    wanted: [bool; 4],
    counts: Arc<HookCounts>,
}

impl HookLink {
    /// Never waits.
    pub fn tell(&self, hook: Hook) {
        let Some(sender) = &self.sender else { return };
        let kind = match hook {
            Hook::Connected { .. } => 0,
            Hook::Disconnected { .. } => 1,
            Hook::Occupied { .. } => 2,
            Hook::Vacated { .. } => 3,
        };
        let time = unix_ms();
        if self.wanted[kind] && sender.try_send((time, hook)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The sender of batches.
pub struct Hooks {
    http: Arc<Http>,
    endpoint: Uri,
    headers: HeaderMap,
    options: config::HooksOptions,
    queue: mpsc::Receiver<Event>,
    counts: Arc<HookCounts>,
}

#[derive(Serialize)]
struct Batch<'a> {
    events: Vec<Told<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Told<'a> {
    Connected { client: &'a str, user: &'a str, time: u64 },
    Disconnected { client: &'a str, user: &'a str, code: u16, time: u64 },
    Occupied { channel: &'a str, time: u64 },
    Vacated { channel: &'a str, time: u64 },
}

impl<'a> Told<'a> {
    fn of((time, hook): &'a Event) -> Told<'a> {
        let time = *time;
        match hook {
            Hook::Connected { client, user } => Told::Connected { client, user, time },
            Hook::Disconnected { client, user, code } => Told::Disconnected { client, user, code: *code, time },
            Hook::Occupied { channel } => Told::Occupied { channel, time },
            Hook::Vacated { channel } => Told::Vacated { channel, time },
        }
    }
}

/// The two ends; no sender of batches when there is nobody to tell. The error is a sentence for the operator.
pub fn hooks(
    options: &config::HooksOptions,
    http: Arc<Http>,
) -> Result<(HookLink, Option<Hooks>, Arc<HookCounts>), String> {
    let counts = Arc::new(HookCounts::default());
    let wanted = config::HOOK_EVENTS.map(|kind| options.events.iter().any(|event| event == kind));
    if options.endpoint.is_empty() {
        return Ok((HookLink { sender: None, wanted, counts: counts.clone() }, None, counts));
    }
    let wrong = |text: String| format!("hooks: {text}");
    let endpoint =
        options.endpoint.parse().map_err(|e| wrong(format!("{:?}: {e}", config::shown_url(&options.endpoint))))?;
    let headers = fixed_headers(&options.http.static_headers).map_err(wrong)?;
    let (sender, queue) = mpsc::channel(options.queue_size);
    let link = HookLink { sender: Some(sender), wanted, counts: counts.clone() };
    let options = options.clone();
    let hooks = Hooks { http, endpoint, headers, options, queue, counts: counts.clone() };
    Ok((link, Some(hooks), counts))
}

impl Hooks {
    /// Sends batches, one after the other, until no reactor is left.
    pub async fn run(mut self) {
        while let Some(batch) = self.batch().await {
            let count = batch.len() as u64;
            let Err(failure) = self.post(&batch).await else {
                self.counts.sent.fetch_add(count, Ordering::Relaxed);
                continue;
            };
            self.counts.failed.fetch_add(count, Ordering::Relaxed);
            let endpoint = config::shown_url(&self.options.endpoint);
            let advice = "events for the backend are lost: does hooks.endpoint answer 200, and in hooks.timeout?";
            sums::add("hooks", count, move |events| tracing::warn!(endpoint, events, error = %failure, "{advice}"));
        }
    }

    /// The next events: as many as come within `batch_delay` of the first.
    async fn batch(&mut self) -> Option<Vec<Event>> {
        let mut batch = vec![self.queue.recv().await?];
        let until = Instant::now() + self.options.batch_delay;
        while batch.len() < self.options.batch_size {
            match tokio::time::timeout_at(until, self.queue.recv()).await {
                Ok(Some(event)) => batch.push(event),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    async fn post(&self, batch: &[Event]) -> Result<Bytes, FetchError> {
        let batch = Batch { events: batch.iter().map(Told::of).collect() };
        let body = serde_json::to_vec(&batch).map_err(|error| FetchError::Unreadable(error.to_string()))?;
        let request = fetch::post(&self.endpoint, self.headers.clone(), body.into());
        self.http.send(request, self.options.timeout, ANSWER_MAX).await
    }
}

impl HookCounts {
    pub fn write(&self, page: &mut Page) {
        let counters = [
            ("gannet_hooks_sent_total", "Events told to hooks.endpoint.", &self.sent),
            (
                "gannet_hooks_dropped_total",
                "Events not told because hooks.queue_size waited already: the backend is slow, or the queue is short.",
                &self.dropped,
            ),
            (
                "gannet_hooks_failed_total",
                "Events lost with a batch that hooks.endpoint did not answer with 200 in time.",
                &self.failed,
            ),
        ];
        for (name, help, counter) in counters {
            page.single(name, help, "counter", counter.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::testing::{App, in_time};
    use serde_json::json;
    use std::time::Duration;

    fn options(app: &App, path: &str) -> config::HooksOptions {
        config::HooksOptions {
            endpoint: app.at(path),
            timeout: Duration::from_secs(20),
            batch_delay: Duration::from_millis(5),
            ..config::HooksOptions::default()
        }
    }

    fn start(options: &config::HooksOptions) -> Result<(HookLink, Option<Hooks>, Arc<HookCounts>), String> {
        hooks(options, Arc::default())
    }

    fn occupied(channel: &str) -> Hook {
        Hook::Occupied { channel: channel.into() }
    }

    fn vacated(channel: &str) -> Hook {
        Hook::Vacated { channel: channel.into() }
    }

    /// The events of each batch, without their times.
    fn batches(app: &App) -> Vec<Vec<serde_json::Value>> {
        let events = |batch: serde_json::Value| batch["events"].as_array().expect("events").clone();
        let bare = |mut event: serde_json::Value| {
            let time = event.as_object_mut().and_then(|event| event.remove("time"));
            assert!(time.and_then(|time| time.as_u64()) > Some(1_700_000_000_000), "{event}");
            event
        };
        app.asked().iter().map(|asked| events(asked.json()).into_iter().map(bare).collect()).collect()
    }

    fn counted(counts: &HookCounts) -> [u64; 3] {
        [&counts.sent, &counts.dropped, &counts.failed].map(|counter| counter.load(Ordering::Relaxed))
    }

    async fn until(counts: &HookCounts, expected: [u64; 3]) {
        in_time(async {
            while counted(counts) != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn batches_in_order() {
        let app = App::start().await;
        let mut options = options(&app, "/gate");
        (options.batch_size, options.http.static_headers) = (3, [("x-key".to_owned(), "k".to_owned())].into());
        let (link, hooks, counts) = start(&options).expect("hooks");
        tokio::spawn(hooks.expect("somebody to tell").run());
        link.tell(Hook::Connected { client: "c1".into(), user: "42".into() });
        app.arrived(1).await;
        // While a batch is under way the others gather.
        for hook in [occupied("a"), vacated("a"), occupied("a"), vacated("b")] {
            link.tell(hook);
        }
        link.tell(Hook::Disconnected { client: "c1".into(), user: "".into(), code: 3008 });
        app.gate.add_permits(9);
        until(&counts, [6, 0, 0]).await;
        let of = |kind: &str, channel: &str| json!({"type": kind, "channel": channel});
        let expected = vec![
            vec![json!({"type": "connected", "client": "c1", "user": "42"})],
            vec![of("occupied", "a"), of("vacated", "a"), of("occupied", "a")],
            vec![of("vacated", "b"), json!({"type": "disconnected", "client": "c1", "user": "", "code": 3008})],
        ];
        assert_eq!(batches(&app), expected);
        assert_eq!(app.asked()[0].headers["x-key"], "k");
    }

    #[tokio::test]
    async fn a_full_queue_and_a_failed_batch_lose_events() {
        let app = App::start().await;
        let mut options = options(&app, "/gate");
        (options.queue_size, options.batch_delay) = (2, Duration::ZERO);
        let (link, hooks, counts) = start(&options).expect("hooks");
        tokio::spawn(hooks.expect("somebody to tell").run());
        app.answers(500, "");
        link.tell(occupied("a"));
        app.arrived(1).await;
        for channel in ["b", "c", "d", "e"] {
            link.tell(occupied(channel));
        }
        assert_eq!(counted(&counts), [0, 2, 0]);
        app.gate.add_permits(1);
        until(&counts, [0, 2, 1]).await;
        app.answers(200, "");
        app.gate.add_permits(9);
        until(&counts, [2, 2, 1]).await;
        assert!(!batches(&app).concat().contains(&json!({"type": "occupied", "channel": "d"})));
    }

    #[tokio::test]
    async fn only_what_is_wanted() {
        let app = App::start().await;
        let options = config::HooksOptions { events: vec!["vacated".into()], ..options(&app, "/") };
        let (link, hooks, counts) = start(&options).expect("hooks");
        tokio::spawn(hooks.expect("somebody to tell").run());
        for hook in [occupied("a"), Hook::Connected { client: "c".into(), user: "".into() }, vacated("a")] {
            link.tell(hook);
        }
        until(&counts, [1, 0, 0]).await;
        assert_eq!(batches(&app), [[json!({"type": "vacated", "channel": "a"})]]);

        let (nobody, none, counts) = start(&config::HooksOptions::default()).expect("hooks");
        nobody.tell(vacated("a"));
        assert!(none.is_none() && counted(&counts) == [0; 3]);
    }
}
