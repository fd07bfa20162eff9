//! Pages in a browser on the operator's own machine: what they may do to a node that asks for no key.

use crate::peer::{PATH, Peer, upgrade_head};
use crate::server::{OPEN, Server};

const BODY: &str = r#"{"channel":"news","data":1}"#;
const JSON: &str = "Content-Type: application/json";
const TEXT: &str = "Content-Type: text/plain";

/// The status of a request with these header lines, its Host among them.
fn status(server: &Server, request: &str, lines: &[&str], body: &str) -> u16 {
    let mut peer = Peer::open(server.address);
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    peer.send(format!("{request} HTTP/1.1\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    peer.response().status
}

/// A browser asks it before it connects: for the pages that may connect.
#[test]
fn the_init_endpoint_answers_pages_that_may_connect() {
    let server = Server::with(OPEN, &["--init.enabled", "--client.allowed_origins", "https://gannet.example"]);
    let ask = |method: &str, path: &str, origin: &str| {
        let headers: &[(&str, &str)] = if origin.is_empty() { &[] } else { &[("Origin", origin)] };
        Peer::open(server.address).request(method, path, headers, "").expect("an answer")
    };
    let told = ask("GET", "/connection/init", "https://gannet.example");
    assert_eq!((told.status, told.body.as_str()), (200, "{}"));
    assert_eq!(told.header("access-control-allow-origin").as_deref(), Some("https://gannet.example"));
    assert_eq!((ask("GET", "/connection/init", "").status, ask("POST", "/connection/init", "").status), (200, 405));
    assert_eq!(ask("OPTIONS", "/connection/init", "https://gannet.example").status, 204);
    assert_eq!(ask("GET", "/connection/init", "https://evil.example").status, 403);
    let off = Server::start(OPEN);
    assert_eq!(status(&off, "GET /connection/init", &["Host: h"], ""), 404);
}

#[test]
fn an_api_without_a_key_is_not_for_pages_of_others() {
    let dev = Server::start(&["--dev"]);
    let (local, evil) = ("Host: 127.0.0.1:8000", "Host: evil.example:8000");
    let (page, foreign) = ("Origin: http://localhost:5173", "Origin: http://evil.example");
    for (lines, expected) in [
        // curl, with and without its content type.
        (&[local][..], 200),
        (&[local, "Content-Type: application/x-www-form-urlencoded"], 200),
        (&["Host: localhost:8000", JSON], 200),
        (&["Host: [::1]:8000", JSON], 200),
        (&[local, page, JSON], 200),
        (&[local, page, TEXT], 403),
        (&[local, page], 403),
        (&[local, foreign, JSON], 403),
        (&[local, foreign, TEXT], 403),
        (&[local, "Origin: null", JSON], 403),
        (&[local, page, page, JSON], 403),
        // A name that leads here.
        (&[evil, JSON], 403),
        (&[evil, "Origin: http://evil.example:8000", JSON], 403),
    ] {
        assert_eq!(status(&dev, "POST /api/publish", lines, BODY), expected, "{lines:?}");
    }
    for (lines, expected) in [(&[local][..], 200), (&[local, foreign], 403), (&[evil], 403)] {
        assert_eq!(status(&dev, "GET /metrics", lines, ""), expected, "{lines:?}");
    }
    let open = Server::with(OPEN, &["--http_api.insecure"]);
    let own = "Host: gannet.example";
    for (lines, expected) in [
        (&[own][..], 200),
        // Any name may be a page's that was led here.
        (&[own, "Origin: https://gannet.example", JSON], 403),
        (&["Host: 127.0.0.1:8000", "Origin: http://127.0.0.1:8000", JSON], 200),
        (&["Host: 127.0.0.1:8000", "Origin: http://127.0.0.1:8000", TEXT], 403),
        (&[own, foreign, JSON], 403),
    ] {
        assert_eq!(status(&open, "POST /api/publish", lines, BODY), expected, "{lines:?}");
    }
    let origins = ["--http_api.insecure", "--client.allowed_origins", "https://gannet.example"];
    let listed = Server::with(OPEN, &origins);
    assert_eq!(status(&listed, "POST /api/publish", &[own, "Origin: https://gannet.example", JSON], BODY), 200);
    assert_eq!(status(&listed, "POST /api/publish", &[own, foreign, JSON], BODY), 403);
}

#[test]
fn dev_lets_pages_of_this_machine_connect_and_no_others() {
    let server = Server::start(&["--dev"]);
    let status = |host: &str, origin: &str| {
        let head = upgrade_head(PATH, &[&format!("Origin: {origin}")]);
        let mut peer = Peer::open(server.address);
        peer.send(head.replace("Host: gannet.example", &format!("Host: {host}")).as_bytes());
        peer.response().status
    };
    for page in ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:4200", "https://localhost"] {
        assert_eq!(status("127.0.0.1:8000", page), 101, "{page}");
    }
    assert_eq!(status("127.0.0.1:8000", "http://evil.example"), 403);
    assert_eq!(status("evil.example:8000", "http://evil.example:8000"), 403, "its name leads here");
}
