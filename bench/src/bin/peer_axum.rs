//! A peer: an axum handler that reads the body of `POST /api/publish` and does nothing with it, on one thread.
//!
//! What a call over HTTP costs before it means anything. It has no WebSocket, and the mode says nothing to it.

use std::io;
use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt;
use clap::Parser;
use gannet_bench::peer::Flags;
use tokio::net::TcpListener;

async fn publish(body: Bytes) -> impl IntoResponse {
    std::hint::black_box(body);
    ([(CONTENT_TYPE, "application/json")], r#"{"result":{}}"#)
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port)).await?;
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, Router::new().route("/api/publish", post(publish))).await
    })
}
