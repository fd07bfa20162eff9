//! F10 · What the backend is told without asking: clients that come and go, channels that fill and empty.
//!
//! Owns the queues between the reactors and two senders of batches. Events are told at most once, in order: a full
//! queue drops what comes, and a batch that fails is dropped whole. Both are counted. What has not arrived at users
//! goes by a queue of its own, and a batch of that is sent again, after longer and longer pauses.

use super::backend::fixed_headers;
use super::fetch::{self, FetchError, Http};
use super::sums;
use crate::base::metrics::Page;
use crate::broker::Undelivered;
use crate::config;
use crate::protocol::{ClientInfo, Publication};
use crate::session::backend::Hook;
use crate::wall_clock::unix_ms;
use axum::http::{HeaderMap, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
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
    retried: AtomicU64,
}

/// An event and when it was.
type Event = (u64, Hook);

/// A reactor's end.
#[derive(Clone)]
pub struct HookLink {
    sender: Option<mpsc::Sender<Event>>,
    /// For what is sent again.
    patient: Option<mpsc::Sender<Event>>,
    /// By kind, in the order of [`config::HOOK_EVENTS`].
    wanted: [bool; 5],
    counts: Arc<HookCounts>,
}

impl HookLink {
    /// Never waits.
    pub fn tell(&self, hook: Hook) {
        let is_patient = matches!(hook, Hook::Undelivered(_));
        let Some(sender) = (if is_patient { &self.patient } else { &self.sender }) else { return };
        let kind = match hook {
            Hook::Connected { .. } => 0,
            Hook::Disconnected { .. } => 1,
            Hook::Occupied { .. } => 2,
            Hook::Vacated { .. } => 3,
            Hook::Undelivered(_) => 4,
        };
        let time = unix_ms();
        if self.wanted[kind] && sender.try_send((time, hook)).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The two senders of batches.
pub struct Hooks {
    sender: BatchSender,
    queue: mpsc::Receiver<Event>,
    patient: mpsc::Receiver<Event>,
}

/// What both of them send with.
#[derive(Clone)]
struct BatchSender {
    http: Arc<Http>,
    endpoint: Uri,
    headers: HeaderMap,
    options: config::HooksOptions,
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
    Undelivered(Missed<'a>),
}

/// What has not arrived at a user.
#[derive(Serialize)]
struct Missed<'a> {
    channel: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    device: &'a str,
    /// Offsets, both included.
    from: u64,
    to: u64,
    epoch: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publications: Vec<Waiting<'a>>,
    time: u64,
}

/// One of the publications.
#[derive(Serialize)]
struct Waiting<'a> {
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// What is no JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    tags: &'a HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a ClientInfo>,
}

impl<'a> Waiting<'a> {
    fn of(publication: &'a Publication) -> Waiting<'a> {
        let Publication { offset, data, tags, info, .. } = publication;
        let json = serde_json::from_slice::<&RawValue>(data).ok();
        let b64data = json.is_none().then(|| STANDARD.encode(data));
        Waiting { offset: *offset, data: json, b64data, tags, info: info.as_ref() }
    }
}

impl<'a> Told<'a> {
    fn of((time, hook): &'a Event) -> Told<'a> {
        let time = *time;
        match hook {
            Hook::Connected { client, user } => Told::Connected { client, user, time },
            Hook::Disconnected { client, user, code } => Told::Disconnected { client, user, code: *code, time },
            Hook::Occupied { channel } => Told::Occupied { channel, time },
            Hook::Vacated { channel } => Told::Vacated { channel, time },
            Hook::Undelivered(missed) => {
                let Undelivered { channel, user, device, from, to, epoch, publications, .. } = &**missed;
                let publications = publications.iter().map(Waiting::of).collect();
                let (from, to, epoch) = (*from, *to, epoch.as_str());
                Told::Undelivered(Missed { channel, user, device, from, to, epoch, publications, time })
            }
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
        return Ok((HookLink { sender: None, patient: None, wanted, counts: counts.clone() }, None, counts));
    }
    let wrong = |text: String| format!("hooks: {text}");
    let endpoint =
        options.endpoint.parse().map_err(|e| wrong(format!("{:?}: {e}", config::shown_url(&options.endpoint))))?;
    let headers = fixed_headers(&options.http.static_headers).map_err(wrong)?;
    let (sender, queue) = mpsc::channel(options.queue_size);
    let (patient, waiting) = mpsc::channel(options.queue_size);
    let link = HookLink { sender: Some(sender), patient: Some(patient), wanted, counts: counts.clone() };
    let sender = BatchSender { http, endpoint, headers, options: options.clone(), counts: counts.clone() };
    Ok((link, Some(Hooks { sender, queue, patient: waiting }), counts))
}

impl Hooks {
    /// Sends batches, one after the other in each of the two lines, until no reactor is left.
    pub async fn run(self) {
        let Hooks { sender, queue, patient } = self;
        let retries = sender.options.retry_limit;
        tokio::join!(sender.clone().run(queue, 0), sender.run(patient, retries));
    }
}

impl BatchSender {
    async fn run(self, mut queue: mpsc::Receiver<Event>, retries: usize) {
        while let Some(batch) = self.batch(&mut queue).await {
            let count = batch.len() as u64;
            let Err(failure) = self.deliver(&batch, retries).await else {
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
    async fn batch(&self, queue: &mut mpsc::Receiver<Event>) -> Option<Vec<Event>> {
        let mut batch = vec![queue.recv().await?];
        let until = Instant::now() + self.options.batch_delay;
        while batch.len() < self.options.batch_size {
            match tokio::time::timeout_at(until, queue.recv()).await {
                Ok(Some(event)) => batch.push(event),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    /// Posts a batch, and so many times again if need be. Pauses double, and no two nodes have the same.
    async fn deliver(&self, batch: &[Event], retries: usize) -> Result<(), FetchError> {
        let mut pause = self.options.retry_min_delay;
        for _ in 0..retries {
            if self.post(batch).await.is_ok() {
                return Ok(());
            }
            self.counts.retried.fetch_add(batch.len() as u64, Ordering::Relaxed);
            let part = getrandom::u32().unwrap_or(u32::MAX / 2);
            tokio::time::sleep(pause / 2 + (pause / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
            pause = (pause * 2).min(self.options.retry_max_delay);
        }
        self.post(batch).await.map(|_| ())
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
            (
                "gannet_hooks_retried_total",
                "Events that will be sent again, because hooks.endpoint did not answer with 200 in time.",
                &self.retried,
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
    async fn what_has_not_arrived_is_sent_until_it_is_taken() {
        let app = App::start().await;
        let mut options = options(&app, "/gate");
        (options.retry_min_delay, options.retry_max_delay) = (Duration::from_millis(1), Duration::from_millis(4));
        let (link, hooks, counts) = start(&options).expect("hooks");
        tokio::spawn(hooks.expect("somebody to tell").run());
        app.answers(500, "");
        let text = |offset, data: &'static str| Publication { offset, data: data.into(), ..Publication::default() };
        link.tell(Hook::Undelivered(Box::new(Undelivered {
            channel: "inbox:1".into(),
            user: "42".into(),
            device: "phone".into(),
            from: 3,
            to: 5,
            epoch: "abcd".into(),
            publications: vec![text(3, "{\"n\":1}"), text(4, "no JSON")],
            with_data: true,
        })));
        app.gate.add_permits(3);
        app.arrived(3).await;
        app.answers(200, "");
        app.gate.add_permits(9);
        in_time(async {
            while counts.sent.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(counts.failed.load(Ordering::Relaxed), 0);
        assert!(counts.retried.load(Ordering::Relaxed) >= 3);
        let publications = json!([{"offset": 3, "data": {"n": 1}}, {"offset": 4, "b64data": "bm8gSlNPTg=="}]);
        let event = json!({
            "type": "undelivered", "channel": "inbox:1", "user": "42", "device": "phone",
            "from": 3, "to": 5, "epoch": "abcd", "publications": publications,
        });
        assert!(batches(&app).iter().all(|batch| *batch == [event.clone()]));
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
