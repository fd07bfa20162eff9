//! F10 · Where a request that came to the service thread says it is from and for.

use crate::origin::UNREADABLE;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};

/// The value of the only header line of that name: [`UNREADABLE`] if it is no text, or there are several.
pub fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?;
    Some(value.to_str().ok().filter(|_| lines.next().is_none()).unwrap_or(UNREADABLE))
}

/// The `Origin`, and the host that the request is for: that of its target if it is a whole URL, else `Host`.
pub fn origin_and_host(request: &Request) -> (Option<String>, Option<String>) {
    let headers = request.headers();
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| only(headers, header::HOST));
    (only(headers, header::ORIGIN).map(str::to_owned), host.map(str::to_owned))
}
