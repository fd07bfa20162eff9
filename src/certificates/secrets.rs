//! F9 · The traffic secrets of a handshake of TLS 1.3, caught where rustls tells them.
//!
//! rustls gives the keys of a connection away, and not the secrets that the next keys come from. It tells those to
//! whoever logs keys, on the thread that carries out the handshake: there they wait to be taken, and nowhere else.

use rustls::KeyLog;
use std::cell::RefCell;
use zeroize::Zeroizing;

/// Both directions' secrets, which are erased with this; empty = none came.
#[derive(Default)]
pub struct Secrets {
    pub client: Zeroizing<Vec<u8>>,
    pub server: Zeroizing<Vec<u8>>,
}

thread_local! {
    static CAUGHT: RefCell<Secrets> = RefCell::default();
}

/// What this thread's handshake told since the last call.
pub fn take_secrets() -> Secrets {
    CAUGHT.take()
}

#[derive(Debug)]
pub(super) struct Catch;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for Catch {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| match label {
            CLIENT => caught.client = secret.to_vec().into(),
            SERVER => caught.server = secret.to_vec().into(),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}
