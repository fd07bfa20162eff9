//! F10 · For tests: an application on a loopback port that answers as it is told and keeps what it was asked.

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub from: SocketAddr,
}

impl Asked {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// The application. Answers of a path that begins with `/gate` wait for a permit of `gate`.
pub struct App {
    pub url: String,
    pub gate: Arc<Semaphore>,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Mutex<(u16, String)>>,
    /// A value for each request, before it waits at the gate.
    pub arrivals: Arc<Semaphore>,
}

impl App {
    pub async fn start() -> App {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let app = App {
            url: format!("http://{}", listener.local_addr().expect("address")),
            gate: Arc::new(Semaphore::new(0)),
            asked: Arc::default(),
            answer: Arc::new(Mutex::new((200, "{}".into()))),
            arrivals: Arc::new(Semaphore::new(0)),
        };
        let (gate, asked, answer, arrivals) =
            (app.gate.clone(), app.asked.clone(), app.answer.clone(), app.arrivals.clone());
        type Peer = ConnectInfo<SocketAddr>;
        let reply = move |ConnectInfo(from): Peer, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let path = uri.path().to_owned();
            let waits = path.starts_with("/gate");
            asked.lock().expect("lock").push(Asked { path, headers, body: body.to_vec(), from });
            arrivals.add_permits(1);
            if waits {
                gate.acquire().await.expect("a gate").forget();
            }
            let (status, text) = answer.lock().expect("lock").clone();
            (StatusCode::from_u16(status).expect("a status"), text).into_response() as Response
        };
        let router = Router::new().fallback(reply).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, router).await });
        app
    }

    /// What it answers from now on.
    pub fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().expect("lock") = (status, body.to_owned());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("lock").clone()
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Waits until so many more requests are here.
    pub async fn arrived(&self, count: u32) {
        in_time(self.arrivals.acquire_many(count)).await.expect("arrivals").forget();
    }
}

pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}
