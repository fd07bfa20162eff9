//! F11 · The log: where lines go, which are written, and what may change while the node runs.

use crate::config::Config;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Our own lines; other crates write one for what any peer may do.
const OWN: &str = "gannet";

pub struct Logger {
    /// Lines that were dropped because too many waited.
    pub dropped: Arc<dyn Fn() -> usize + Send + Sync>,
    level: Box<dyn Fn(&str) + Send>,
    /// Writes what waits when it is dropped.
    _guard: WorkerGuard,
}

impl Logger {
    /// Text on a terminal, JSON elsewhere; written by a thread of its own, whose queue drops lines rather than wait.
    pub fn start(config: &Config) -> Logger {
        let (writer, guard) =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(config.log.queue_size).finish(io::stderr());
        let dropped = writer.error_counter();
        let text = config.log.format == "text" || (config.log.format == "auto" && io::stderr().is_terminal());
        let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(writer);
        let lines = match text {
            true => lines.with_ansi(io::stderr().is_terminal()).boxed(),
            false => lines.json().flatten_event(true).boxed(),
        };
        // A subscriber that is set already, as in a test, stays.
        let (filter, handle) = reload::Layer::new(filter(&config.log.level));
        let _ = set_global_default(Registry::default().with(filter).with(lines));
        // It fails only if that subscriber is gone.
        let level = Box::new(move |level: &str| drop(handle.reload(self::filter(level))));
        Logger { dropped: Arc::new(move || dropped.dropped_lines()), level, _guard: guard }
    }

    /// The least grave lines that are written from now on.
    pub fn set_level(&self, level: &str) {
        (self.level)(level);
    }

    /// Opens the file anew, after somebody has moved it away. Standard error is nobody's to move.
    pub fn reopen(&self) {
        tracing::info!("SIGUSR1: the log goes to standard error, and there is no file to open anew");
    }
}

fn filter(level: &str) -> Targets {
    let level = match level {
        "fatal" | "none" => LevelFilter::OFF,
        other => other.parse().unwrap_or(LevelFilter::INFO),
    };
    Targets::new().with_target(OWN, level).with_default(level.min(LevelFilter::ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn other_crates_write_errors_only() {
        for (level, own) in [("error", Level::ERROR), ("info", Level::INFO), ("trace", Level::TRACE)] {
            let filter = filter(level);
            assert!(filter.would_enable("gannet::service::watch", &own), "{level}");
            assert!(filter.would_enable("gannet", &own) && filter.would_enable("h2::proto", &Level::ERROR), "{level}");
            assert!(!filter.would_enable("h2::proto::streams", &Level::WARN), "{level}");
            assert!(!filter.would_enable("hyper", &Level::DEBUG), "{level}");
        }
        assert!(!filter("info").would_enable("gannet::reactor", &Level::DEBUG));
        for silent in ["fatal", "none"] {
            assert!(!["gannet", "h2"].iter().any(|target| filter(silent).would_enable(target, &Level::ERROR)));
        }
    }
}
