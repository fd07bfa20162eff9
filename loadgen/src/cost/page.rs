//! A server's metrics page in Prometheus's text format: one GET, two numbers.
//!
//! The names are those that Prometheus's client libraries give every process. A page is bounded in time and size.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memmem;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};
use tungstenite::http::Uri;

use super::Cost;
use crate::place::{first_that_answers, place};

/// A page has this long for all of it.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Of `http://` without one, and of `https://`.
const PORT: u16 = 80;
const SECURE_PORT: u16 = 443;
/// A longer page is none.
const BYTES_MAX: usize = 8 << 20;

const CPU: &str = "process_cpu_seconds_total";
const RSS: &str = "process_resident_memory_bytes";

/// Where a page is.
#[derive(Clone, Debug)]
pub struct Page {
    url: String,
    /// All that its name has.
    addresses: Vec<SocketAddr>,
    authority: String,
    path: String,
    /// How to speak TLS to it, and who its certificate must be of.
    secure: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Page {
    /// Takes `http://host:port/path`, and `https://` if there is a `tls`.
    pub fn parse(url: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Self, String> {
        let wrong = |why: &str| format!("--metrics {url}: {why}");
        let (tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (None, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") && tls.is_some() => (tls, rest),
            Some((other, _)) => return Err(wrong(&format!("only http:// and https:// are spoken, not {other}://"))),
            None => return Err(wrong("a URL such as http://127.0.0.1:9000/metrics is needed")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            // Not shown: there may be a password in it.
            return Err("--metrics: a page that wants a user cannot be read".to_owned());
        }
        let port = if tls.is_some() { SECURE_PORT } else { PORT };
        let place = place(authority, port).map_err(|why| wrong(&why))?;
        let name = |tls: &Arc<ClientConfig>| {
            let name = ServerName::try_from(place.host.to_owned());
            name.map(|name| (tls.clone(), name)).map_err(|error| wrong(&error.to_string()))
        };
        let secure = tls.map(name).transpose()?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        path.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let (addresses, authority) = (place.addresses().map_err(|why| wrong(&why))?, place.authority.to_owned());
        Ok(Self { url: url.to_owned(), addresses, authority, path, secure })
    }

    /// What the process behind the page has spent.
    pub fn read(&self) -> Result<Cost, String> {
        let text = self.get().map_err(|why| format!("{}: {why}", self.url))?;
        let found = |name: &str| {
            value(&text, name).ok_or_else(|| {
                format!("{}: there is no {name}, so the page does not tell what the process spends", self.url)
            })
        };
        Ok(Cost { cpu_seconds: found(CPU)?, rss_bytes: found(RSS)? as u64, ..Cost::default() })
    }

    fn get(&self) -> Result<String, String> {
        let until = Instant::now() + TIME_MAX;
        let say = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer in {} s", TIME_MAX.as_secs()),
            _ => error.to_string(),
        };
        let address = first_that_answers(&self.addresses).ok_or("no address")?;
        let mut stream = TcpStream::connect_timeout(&address, TIME_MAX).map_err(say)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        );
        stream.set_write_timeout(Some(TIME_MAX)).map_err(say)?;
        stream.set_read_timeout(Some(TIME_MAX)).map_err(say)?;
        let secure = self.secure.clone().map(|(config, name)| ClientConnection::new(config, name)).transpose();
        let mut tls = secure.map_err(|error| error.to_string())?;
        match &mut tls {
            Some(tls) => Stream::new(tls, &mut stream).write_all(request.as_bytes()),
            None => stream.write_all(request.as_bytes()),
        }
        .map_err(say)?;
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).map_err(say)?;
            let read = match &mut tls {
                Some(tls) => Stream::new(tls, &mut stream).read(&mut buffer),
                None => stream.read(&mut buffer),
            };
            let size = match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(say)?,
            };
            bytes.extend_from_slice(&buffer[..size]);
            if let Some(text) = body(&bytes, size == 0)? {
                return Ok(text);
            }
            if bytes.len() > BYTES_MAX || Instant::now() >= until {
                return Err(format!("more than {BYTES_MAX} bytes, or than {} s", TIME_MAX.as_secs()));
            }
        }
    }
}

/// The body of a response that is whole; None = more is to come. `ended` says that nothing is.
fn body(bytes: &[u8], ended: bool) -> Result<Option<String>, String> {
    if !bytes.starts_with(b"HTTP/1.") && !b"HTTP/1.".starts_with(bytes) {
        return Err("not an HTTP response".to_owned());
    }
    let Some(head) = memmem::find(bytes, b"\r\n\r\n") else {
        return if ended { Err("the answer was cut short".to_owned()) } else { Ok(None) };
    };
    let (head, after) = (String::from_utf8_lossy(&bytes[..head]), &bytes[head + 4..]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("http {status}"));
    }
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| {
        headers.iter().find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then_some(value.trim()))
    };
    let length = header("Content-Length").and_then(|text| text.parse::<usize>().ok());
    let whole = if header("Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        chunks(after)?
    } else if let Some(length) = length {
        after.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| after.to_vec())
    };
    match whole {
        Some(whole) => String::from_utf8(whole).map(Some).map_err(|_| "not a text".to_owned()),
        None if ended => Err("the answer was cut short".to_owned()),
        None => Ok(None),
    }
}

/// What chunks hold together; None = more is to come.
fn chunks(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut whole = Vec::new();
    loop {
        let Some(end) = memmem::find(bytes, b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
        let size = line.split(';').next().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size <= BYTES_MAX).ok_or("a chunk without a sound size")?;
        if size == 0 {
            return Ok(Some(whole));
        }
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else { return Ok(None) };
        whole.extend_from_slice(chunk);
        let Some(rest) = bytes.get(end + 2 + size + 2..) else { return Ok(None) };
        bytes = rest;
    }
}

/// The sum of all series of this name; None = there is none.
fn value(page: &str, name: &str) -> Option<f64> {
    let series = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        // A timestamp may follow; a longer name does not begin with a space.
        rest.starts_with([' ', '\t']).then(|| rest.split_whitespace().next()?.parse::<f64>().ok())?
    });
    series.filter(|value| value.is_finite()).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server that answers one request so: its URL.
    fn answers(with: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                let size = stream.read(&mut buffer).expect("a request");
                request.extend_from_slice(&buffer[..size]);
            }
            assert!(request.starts_with(b"GET /metrics?a=b HTTP/1.1\r\nHost: 127.0.0.1:"), "{request:?}");
            stream.write_all(&with).expect("written");
        });
        format!("http://127.0.0.1:{port}/metrics?a=b")
    }

    fn read(answer: &str) -> Result<Cost, String> {
        Page::parse(&answers(answer.as_bytes().to_vec()), None).expect("a URL").read()
    }

    const TEXT: &str = "# HELP process_cpu_seconds_total Total.\n# TYPE process_cpu_seconds_total counter\n\
        process_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 2.5e+07\nprocess_resident_memory_bytes_max 7\n";

    #[test]
    fn pages_are_read_however_they_are_framed() {
        let expected = Cost { cpu_seconds: 12.5, rss_bytes: 25_000_000, ..Cost::default() };
        let (first, second) = TEXT.split_at(70);
        for answer in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{TEXT}more", TEXT.len()),
            format!("HTTP/1.0 200 OK\r\n\r\n{TEXT}"),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:X};x=y\r\n{second}\r\n0\r\n\r\n",
                first.len(),
                second.len()
            ),
        ] {
            assert_eq!(read(&answer), Ok(expected), "{answer}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_page_is_said() {
        for (answer, words) in [
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http 404"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "cut short"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "cut short"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhalf\r\n", "sound size"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "there is no process_cpu_seconds_total"),
            ("SSH-2.0\r\n\r\n", "not an HTTP response"),
            ("", "cut short"),
        ] {
            let why = read(answer).expect_err("refused");
            assert!(why.contains(words), "{answer}: {why}");
        }
        for (url, words) in [
            ("https://127.0.0.1/metrics", "only http://"),
            ("127.0.0.1:9000", "such as http://"),
            ("http://127.0.0.1:1/a b", "--metrics"),
            ("http://127.0.0.1:99999/metrics", "is no port"),
            ("HTTP://127.0.0.1:8x", "is no port"),
            ("http://u:p@127.0.0.1/", "wants a user"),
        ] {
            let why = Page::parse(url, None).expect_err("refused");
            assert!(why.contains(words), "{url}: {why}");
        }
    }

    #[test]
    fn series_of_one_name_are_added() {
        let page = "a{x=\"1 } 2\"} 3 1700000000000\na{x=\"2\"} 4\nab 100\n# a 1000\na NaN\n";
        assert_eq!((value(page, "a"), value(page, "ab"), value(page, "b")), (Some(7.0), Some(100.0), None));
    }
}
