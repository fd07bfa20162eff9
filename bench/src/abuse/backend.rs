//! A backend that takes every request and never answers.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Listens until dropped. What it accepts stays open, unread.
pub struct SilentBackend {
    over: Arc<AtomicBool>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl SilentBackend {
    pub fn listen(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                held.push(stream);
            }
        });
        Ok(Self { over, port, thread: Some(thread) })
    }
}

impl Drop for SilentBackend {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // The connection wakes it; if there is none, it ends with the process.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::time::Duration;

    #[test]
    fn it_takes_a_request_and_says_nothing() -> io::Result<()> {
        let backend = SilentBackend::listen(0)?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, backend.port))?;
        stream.write_all(b"POST / HTTP/1.1\r\n\r\n")?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        let kind = stream.read(&mut [0]).err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::WouldBlock));
        drop(backend);
        Ok(())
    }
}
