//! F11 · What systemd is told of the node, if it started it: ready, reloading, alive, stopping.
//!
//! Owns the words of sd_notify. Without `$NOTIFY_SOCKET` nobody is told, and nothing is done for it.

use crate::config::Shutdown;
use crate::service::Node;
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Reloading, Status, Stopping, Watchdog};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// From the deadline of the drain to the end of the process.
const MARGIN: Duration = Duration::from_secs(10);

/// Nobody being there to be told is no failure; whatever else keeps it from being told is worth a line.
fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "systemd cannot be told of the node's state");
    }
}

/// Clients are served.
pub fn ready(listening: &str) {
    tell(&[Ready, Status(listening)]);
}

/// Runs `reload` between the words that it begins and that it is over.
pub fn reloading(reload: impl FnOnce()) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[Reloading, now]);
    }
    reload();
    tell(&[Ready]);
}

/// The drain has begun. It may take as long as is configured, whatever `TimeoutStopSec` says.
pub fn stopping(shutdown: &Shutdown, clients: usize) {
    let longest = (shutdown.deadline + MARGIN).as_micros();
    let longest = u32::try_from(longest).unwrap_or(u32::MAX);
    let status = format!("draining {clients} clients");
    tell(&[Stopping, Status(&status), ExtendTimeoutUsec(longest)]);
}

/// With `WatchdogSec` in the unit: from now on systemd hears that the node lives, as long as every reactor answers. One
/// that is stuck, or a service thread that is, ends that, and systemd starts the node anew.
pub fn watch(node: Arc<Node>) -> std::io::Result<()> {
    let Some(interval) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let body = move || loop {
        // Half of the time is what systemd advises.
        thread::sleep(interval / 2);
        if runtime.block_on(node.is_turning()) {
            tell(&[Watchdog]);
        }
    };
    thread::Builder::new().name("watchdog".into()).spawn(body).map(drop)
}
