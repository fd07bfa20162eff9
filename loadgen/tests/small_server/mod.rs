//! A WebSocket server in a thread of the test, for any words: who hears a text may answer it, and tell others later.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tungstenite::{Error, Message};

/// Shows each text to `hear`, with the way back to the client that said it: the server's port.
pub fn serve(hear: impl Fn(&str, &Sender<String>) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hear = hear.clone();
            thread::spawn(move || {
                // It listens to both the client and those who have something for it.
                let short = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                short.expect("a timeout");
                let (sender, inbox) = channel();
                loop {
                    match socket.read() {
                        Ok(Message::Text(text)) => hear(&text, &sender),
                        Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                        Ok(_) => {}
                        Err(_) => return,
                    }
                    for text in inbox.try_iter() {
                        if socket.send(Message::text(text)).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}
