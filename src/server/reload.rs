//! F11 · The configuration loaded again while the node runs: all of it is taken, or nothing.
//!
//! Owns the order: what can fail is done first and changes nothing. What each option means is for those to know that
//! are given the new [`Settings`].

use super::log::Logger;
use crate::admission::Admission;
use crate::base::mailbox::Sender;
use crate::config::{Config, Warning};
use crate::service::Backend;
use crate::session::Settings;
use crate::shard::Mail;
use std::sync::Arc;
use tokio::sync::watch;

/// Loads the configuration once more, from where it came; or tells every problem with it.
pub type Again<'a> = &'a dyn Fn() -> Result<(Config, Vec<Warning>), Vec<String>>;

/// A node at work, as far as it is told of another configuration.
pub struct Running<'a> {
    pub again: Again<'a>,
    pub settings: watch::Sender<Arc<Settings>>,
    pub log: Logger,
    pub admission: Arc<Admission>,
    pub proxies: Arc<Backend>,
    pub reactors: Vec<Sender<Mail>>,
}

impl Running<'_> {
    /// Serves by the configuration as it is now, as far as that takes no restart.
    pub fn reload(&self) {
        match self.try_reload() {
            Ok(()) => {}
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(problem, "SIGHUP: this is wrong with the configuration");
                }
                let problems = problems.len();
                tracing::error!(problems, "SIGHUP: the configuration is refused as a whole, and the old one stays");
            }
        }
    }

    fn try_reload(&self) -> Result<(), Vec<String>> {
        let (loaded, warnings) = (self.again)()?;
        let now = self.settings.borrow().clone();
        let (config, changes) = now.config.followed_by(loaded);
        // What needs a restart may not go with what does not.
        config.check().map_err(|errors| {
            let line = |error| format!("it takes a restart: with the options that stay until then, {error}");
            errors.iter().map(line).collect::<Vec<_>>()
        })?;
        let one = |error: String| vec![error];
        let next = Arc::new(now.next(config).map_err(|error| one(error.to_string()))?);
        let proxies = self.proxies.prepare(&next).map_err(one)?;

        self.log.set_level(&next.config.log.level);
        self.admission.take_settings(&next.config);
        self.proxies.take(proxies);
        self.reactors.iter().for_each(|reactor| reactor.send(Mail::Settings(next.clone())));
        self.settings.send_replace(next);

        for warning in &warnings {
            tracing::warn!(option = warning.option, "{warning}");
        }
        for option in &changes.need_restart {
            tracing::warn!(option, "SIGHUP: {option} has changed and needs a restart; until then the old value holds");
        }
        match changes.taken.is_empty() {
            true => tracing::info!("SIGHUP: the configuration was loaded again; nothing else holds now"),
            false => tracing::info!(
                options = changes.taken.join(", "),
                "SIGHUP: the configuration was loaded again; these options are other than before"
            ),
        }
        Ok(())
    }
}
