//! A peer: tokio-tungstenite as its examples use it, on one thread, with 4 KiB buffers.
//!
//! A task a client; in fan-out mode every client has an unbounded channel that is forwarded to its socket, as in the
//! crate's `server` example.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;

use clap::Parser;
use futures_channel::mpsc::{UnboundedSender, unbounded};
use futures_util::{SinkExt, StreamExt, TryStreamExt, future};
use gannet_bench::peer::{Flags, Mode, PUBLISHER};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

type Subscribers = Rc<RefCell<HashMap<u64, UnboundedSender<Message>>>>;

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn serve(stream: impl Stream, key: u64, mode: Mode, subscribers: Subscribers) -> Result<(), Error> {
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(4096);
    let mut publisher = false;
    #[expect(clippy::result_large_err, reason = "the crate's signature")]
    let see = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        publisher = request.uri().path() == PUBLISHER;
        Ok(response)
    };
    let socket = accept_hdr_async_with_config(stream, see, Some(config)).await?;
    match mode {
        Mode::Echo => echo(socket).await,
        Mode::Fanout if publisher => publish(socket, subscribers).await,
        Mode::Fanout => subscribe(socket, key, subscribers).await,
    }
}

async fn echo(mut socket: WebSocketStream<impl Stream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn publish(mut socket: WebSocketStream<impl Stream>, subscribers: Subscribers) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        for outbox in subscribers.borrow().values() {
            let _ = outbox.unbounded_send(message.clone());
        }
    }
    Ok(())
}

async fn subscribe(socket: WebSocketStream<impl Stream>, key: u64, subscribers: Subscribers) -> Result<(), Error> {
    let (outbox, messages) = unbounded();
    subscribers.borrow_mut().insert(key, outbox);
    let (outgoing, incoming) = socket.split();
    let read = incoming.try_for_each(|_| future::ok(()));
    let write = messages.map(Ok).forward(outgoing);
    let (read, write) = (std::pin::pin!(read), std::pin::pin!(write));
    future::select(read, write).await;
    subscribers.borrow_mut().remove(&key);
    Ok(())
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let subscribers = Subscribers::default();
    let tls = flags.tls()?.map(TlsAcceptor::from);
    let tasks = tokio::task::LocalSet::new();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(tasks.run_until(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port)).await?;
        for key in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (mode, subscribers) = (flags.mode, subscribers.clone());
            match tls.clone() {
                None => drop(tokio::task::spawn_local(serve(stream, key, mode, subscribers))),
                Some(tls) => drop(tokio::task::spawn_local(async move {
                    serve(tls.accept(stream).await?, key, mode, subscribers).await
                })),
            }
        }
        Ok(())
    }))
}
