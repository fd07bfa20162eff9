//! F10 · The watch over certificates: files that change, and ends that come near.

use crate::certificates::Certificates;
use crate::session::Settings;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch::Receiver;

/// From so long before its end on a certificate is told of, once a day.
const NEAR: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Looks at files now and then, and at once when the configuration was loaded again.
pub async fn watch(certificates: Arc<Certificates>, mut settings: Receiver<Arc<Settings>>) {
    if !certificates.are_there() {
        return;
    }
    let mut told: Option<SystemTime> = None;
    loop {
        let now = SystemTime::now();
        if told.is_none_or(|told| now.duration_since(told).is_ok_and(|since| since >= DAY)) {
            tell_of_ends(&certificates, now);
            told = Some(now);
        }
        let config = settings.borrow_and_update().config.clone();
        // Files may be slow, and this thread serves others.
        let (these, options) = (certificates.clone(), config.clone());
        match tokio::task::spawn_blocking(move || these.reload(&options)).await {
            Ok(Ok(true)) => {
                tracing::info!("other certificates or keys are taken; clients that are there stay");
                told = None;
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(error, "certificates or keys have changed and are refused; the old ones stay");
            }
            Err(error) => tracing::error!(%error, "certificates were not looked at"),
        }
        tokio::select! {
            () = tokio::time::sleep(config.tls.reload_interval) => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

fn tell_of_ends(certificates: &Certificates, now: SystemTime) {
    let unix_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (port, left) in certificates.expiring(unix_s, NEAR.as_secs()) {
        let days = left / DAY.as_secs();
        tracing::warn!(port = port.label(), days, "a certificate ends within so many days: replace it");
    }
}
