//! F10 · The id of a call, so that the log here and the one of its caller can be laid side by side.
//!
//! Owns which it is: that of `X-Request-Id`, which a caller or a proxy sets, or one made here. Its trace is looked for
//! at the same place. Never knows what the call is about.

use crate::spans;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that is taken; in place of a longer one another is made.
const LENGTH_MAX: usize = 128;

/// What the ids of this process begin with, so that those of two nodes differ.
static START: LazyLock<u64> = LazyLock::new(|| getrandom::u64().unwrap_or_default());
static MADE: AtomicU64 = AtomicU64::new(1);

tokio::task_local! {
    static CURRENT: Arc<str>;
}

/// Letters, digits and a few signs: it stands in lines of the log, and goes back in a header.
fn is_taken(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@,~".contains(&byte);
    (1..=LENGTH_MAX).contains(&id.len()) && id.bytes().all(plain)
}

fn id_of(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(NAME).and_then(|value| value.to_str().ok()).filter(|id| is_taken(id));
    given.map_or_else(|| format!("{:016x}-{:x}", *START, MADE.fetch_add(1, Ordering::Relaxed)).into(), Arc::from)
}

/// Of the call that is carried out.
pub fn current() -> Option<Arc<str>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Carries out a call with the id that its headers have, which its answer's get too.
pub async fn within<B>(
    headers: &HeaderMap,
    call: impl Future<Output = axum::http::Response<B>>,
) -> axum::http::Response<B> {
    let id = id_of(headers);
    let mut response = CURRENT.scope(id.clone(), spans::within(headers, call)).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(NAME, value);
    }
    response
}

/// The same for the routes of a port.
pub async fn carried(request: Request, next: Next) -> Response {
    let mut headers = spans::lines_of(request.headers());
    headers.extend(request.headers().get(NAME).map(|id| (NAME, id.clone())));
    within(&headers, next.run(request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: &str) -> HeaderMap {
        [(NAME, HeaderValue::from_bytes(id.as_bytes()).expect("a value"))].into_iter().collect()
    }

    #[test]
    fn an_id_is_taken_if_it_is_short_and_plain_and_otherwise_made() {
        let long = "a".repeat(LENGTH_MAX);
        for id in ["7", "6f9619ff-8b86-d011-b42d-00c04fc964ff", "Root=1-67891233-abcdef012345678912345678", &long] {
            assert_eq!(&*id_of(&with(id)), id);
        }
        let longer = "a".repeat(LENGTH_MAX + 1);
        let mut made: Vec<_> = ["", "a b", "a\"b", "{}", "\u{e9}", &longer].map(|id| id_of(&with(id))).into();
        made.push(id_of(&HeaderMap::new()));
        for id in &made {
            assert!(is_taken(id) && id.len() > 17, "{id}");
        }
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 7, "each is another");
        assert!(current().is_none());
    }

    #[tokio::test]
    async fn a_call_knows_its_id_and_its_answer_has_it() {
        let headers = with("abc");
        let call = async { axum::http::Response::new(current().expect("an id").to_string()) };
        let response = within(&headers, call).await;
        assert_eq!((response.body().as_str(), &response.headers()[NAME]), ("abc", &HeaderValue::from_static("abc")));
    }
}
