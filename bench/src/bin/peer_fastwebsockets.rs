//! A peer: fastwebsockets behind hyper, as its echo example uses it, on one thread.
//!
//! A task a client; in fan-out mode every client has an unbounded channel and writes each message as it comes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::Bytes;
use clap::Parser;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocketError, upgrade};
use gannet_bench::peer::{Flags, Mode, PUBLISHER};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

type Subscribers = Rc<RefCell<HashMap<u64, UnboundedSender<Bytes>>>>;
type Socket = FragmentCollector<TokioIo<hyper::upgrade::Upgraded>>;

async fn serve(
    upgraded: upgrade::UpgradeFut,
    publisher: bool,
    key: u64,
    mode: Mode,
    subscribers: Subscribers,
) -> Result<(), WebSocketError> {
    let socket = FragmentCollector::new(upgraded.await?);
    match mode {
        Mode::Echo => echo(socket).await,
        Mode::Fanout if publisher => publish(socket, subscribers).await,
        Mode::Fanout => {
            let ended = subscribe(socket, key, &subscribers).await;
            subscribers.borrow_mut().remove(&key);
            ended
        }
    }
}

async fn echo(mut socket: Socket) -> Result<(), WebSocketError> {
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn publish(mut socket: Socket, subscribers: Subscribers) -> Result<(), WebSocketError> {
    loop {
        let frame = socket.read_frame().await?;
        if frame.opcode == OpCode::Close {
            return Ok(());
        }
        let message = Bytes::copy_from_slice(&frame.payload);
        for outbox in subscribers.borrow().values() {
            let _ = outbox.send(message.clone());
        }
    }
}

/// A subscriber sends nothing once it is upgraded, so dropping a read half way loses nothing.
async fn subscribe(mut socket: Socket, key: u64, subscribers: &Subscribers) -> Result<(), WebSocketError> {
    let (outbox, mut messages) = unbounded_channel();
    subscribers.borrow_mut().insert(key, outbox);
    loop {
        tokio::select! {
            Some(message) = messages.recv() => socket.write_frame(Frame::text(Payload::Borrowed(&message))).await?,
            frame = socket.read_frame() => if frame?.opcode == OpCode::Close { return Ok(()) },
        }
    }
}

async fn connection(stream: TcpStream, key: u64, mode: Mode, subscribers: Subscribers) -> Result<(), hyper::Error> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let subscribers = subscribers.clone();
        async move {
            let publisher = request.uri().path() == PUBLISHER;
            let (response, upgraded) = upgrade::upgrade(&mut request)?;
            let task = serve(upgraded, publisher, key, mode, subscribers);
            tokio::task::spawn_local(tokio::task::unconstrained(task));
            Ok::<Response<Empty<Bytes>>, WebSocketError>(response)
        }
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let subscribers = Subscribers::default();
    let tasks = tokio::task::LocalSet::new();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(tasks.run_until(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port)).await?;
        for key in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream, key, flags.mode, subscribers.clone()));
        }
        Ok(())
    }))
}
