//! F11 · The log: where lines go, which are written, and what may change while the node runs.

use crate::config::Config;
use crate::host;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// `log.file`, if lines go there.
    path: String,
    next: NextFile,
    /// Writes what waits when it is dropped.
    _guard: WorkerGuard,
}

/// A file that takes the place of the one that lines are written to.
type NextFile = Arc<Mutex<Option<File>>>;

/// `log.file`, until there is a next one.
struct LogFile {
    file: File,
    next: NextFile,
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(next) = self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.file = next;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Lines of JSON, each of which says whose it is.
struct NodeLine<W> {
    writer: W,
    /// What a line ends with in place of its own brace.
    end: Arc<[u8]>,
}

impl<W: Write> Write for NodeLine<W> {
    /// A line comes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match line.strip_suffix(b"}\n") {
            Some(start) => self.writer.write_all(&[start, &self.end].concat())?,
            None => self.writer.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Logger {
    /// Text on a terminal, JSON elsewhere; written by a thread of its own, whose queue drops lines rather than wait.
    /// The error is a sentence for the operator.
    pub fn start(config: &Config) -> Result<Logger, String> {
        let (path, next) = (config.log.file.clone(), NextFile::default());
        let file = host::open_to_append("log.file", &path)?;
        let terminal = file.is_none() && io::stderr().is_terminal();
        let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(config.log.queue_size);
        let (writer, guard) = match file {
            Some(file) => queue.finish(LogFile { file, next: next.clone() }),
            None => queue.finish(io::stderr()),
        };
        let dropped = writer.error_counter();
        let text = config.log.format == "text" || (config.log.format == "auto" && terminal);
        let lines = tracing_subscriber::fmt::layer().with_target(false);
        let lines = match text {
            true => lines.with_writer(writer).with_ansi(terminal).boxed(),
            false => {
                let end = format!(",\"node\":{}}}\n", serde_json::Value::from(host::node_name(config)));
                let end: Arc<[u8]> = end.into_bytes().into();
                let writer = move || NodeLine { writer: writer.clone(), end: end.clone() };
                lines.with_writer(writer).json().flatten_event(true).boxed()
            }
        };
        // A subscriber that is set already, as in a test, stays.
        let (filter, handle) = reload::Layer::new(filter(&config.log.level));
        let _ = set_global_default(Registry::default().with(filter).with(lines));
        // It fails only if that subscriber is gone.
        let level = Box::new(move |level: &str| drop(handle.reload(self::filter(level))));
        Ok(Logger { dropped: Arc::new(move || dropped.dropped_lines()), level, path, next, _guard: guard })
    }

    /// The least grave lines that are written from now on.
    pub fn set_level(&self, level: &str) {
        (self.level)(level);
    }

    /// Opens the file anew, after somebody has moved it away. Standard error is nobody's to move.
    pub fn reopen(&self) {
        match host::open_to_append("log.file", &self.path) {
            Ok(None) => tracing::info!("SIGUSR1: the log goes to standard error, and there is no file to open anew"),
            Ok(file) => {
                *self.next.lock().unwrap_or_else(PoisonError::into_inner) = file;
                tracing::info!(file = self.path, "SIGUSR1: the log's file was opened anew");
            }
            Err(error) => tracing::error!(error, "SIGUSR1: the log goes on in the old file"),
        }
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
    fn a_line_says_which_node_it_is_from() {
        let mut lines = NodeLine { writer: Vec::new(), end: Arc::from(&b",\"node\":\"a\"}\n"[..]) };
        lines.write_all(b"{\"level\":\"INFO\"}\n").expect("written");
        lines.write_all(b"plain\n").expect("written");
        assert_eq!(String::from_utf8_lossy(&lines.writer), "{\"level\":\"INFO\",\"node\":\"a\"}\nplain\n");
    }

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
