//! F0 · The options of the transports beside the bidirectional WebSocket.
//!
//! Owns their sections, which of them need another, and what errors are to clients that only listen. Never knows how
//! any of them speaks.

use super::backend::ToDisconnect;
use super::check::Problem;
use super::list::ListEntry;
use super::value::Rule;
use super::{Config, GIB, MIB, TlsOptions, TlsPort};

options! {
    pub struct HttpStream {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the endpoint.
        handler_prefix: String = String::new(), Rule::Path;
        /// Bytes of a request's body; beyond: 413.
        max_request_body_size: usize = 65536, Rule::Bytes(1, GIB);
    }
}

options! {
    pub struct UniHttpStream {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the endpoint.
        handler_prefix: String = String::new(), Rule::Path;
        /// Bytes of a request's body; beyond: 413.
        max_request_body_size: usize = 65536, Rule::Bytes(1, GIB);
        /// A connect request that is refused, as a status
        connect_code_to_http_response: HttpCodes = HttpCodes::default();
    }
}

options! {
    pub struct HttpCodes {
        /// The response begins once the client is connected; before, an error or a disconnect is its status: what
        /// transforms say of the code, else 500.
        enabled: bool = false;
        /// `[{code, to: {status_code, body}}]`: the status for the code of an error or of a disconnect. Without a body
        /// the text of the code is sent.
        transforms: Vec<HttpCode> = Vec::new();
    }
}

options! {
    pub struct HttpCode {
        /// Of the error, or of the disconnect.
        code: u32 = 0, Rule::Count(1, 0xffff_ffff);
        /// The response
        to: ToHttp = ToHttp::default();
    }
}

options! {
    pub struct ToHttp {
        /// With 204 an EventSource does not come again.
        status_code: u16 = 0, Rule::Count(200, 599);
        /// Empty = the text of the code.
        body: String = String::new();
    }
}

impl ListEntry for HttpCode {
    const WHAT: &'static str = "a transform";
    const EXAMPLE: &'static str = "[{\"code\": 404, \"to\": {\"status_code\": 404}}]";
    const NEEDED: &'static [&'static str] = &["code", "to"];
}

options! {
    pub struct UniGrpc {
        /// Whether it listens.
        enabled: bool = false;
        /// Address it listens on. Empty = all (loopback with `dev`).
        address: String = String::new();
        /// Port it listens on. 0 = one picked by the kernel, printed at start.
        port: u16 = 11000, Rule::Count(0, 65535);
        /// Bytes of a connect request; beyond: OUT_OF_RANGE.
        max_receive_message_size: usize = 4 << 20, Rule::Bytes(1, GIB);
        /// HTTP/2 connections served at once; beyond: they wait. While fewer than a quarter are free, those without a
        /// call end.
        connection_limit: usize = 4096, Rule::Count(1, MIB);
        /// Calls served at once, each a client and two file descriptors; beyond: RESOURCE_EXHAUSTED.
        stream_limit: usize = 16384, Rule::Count(1, MIB);
        /// TLS of its port
        tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct TcpLine {
        /// Whether it listens.
        enabled: bool = false;
        /// Address it listens on. Empty = all (loopback with `dev`).
        address: String = String::new();
        /// Port it listens on. 0 = one picked by the kernel, printed at start.
        port: u16 = 8100, Rule::Count(0, 65535);
        /// TLS with the certificates of http_server.tls or http_server.tls_autocert, which must be on.
        tls: bool = false;
        /// Bytes of one line from a client, its end not counted; beyond: disconnect 3501. Commands of one JSON object
        /// each.
        message_size_limit: usize = 65536, Rule::Bytes(1, GIB);
    }
}

options! {
    pub struct Emulation {
        /// URL path of the endpoint.
        handler_prefix: String = "/emulation".into(), Rule::Path;
        /// Bytes of a request's body; beyond: 413.
        max_request_body_size: usize = 65536, Rule::Bytes(1, GIB);
    }
}

options! {
    pub struct UniWebSocket {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the endpoint.
        handler_prefix: String = "/connection/uni_websocket".into(), Rule::Path;
        /// Bytes of one message from a client; beyond: close 1009.
        message_size_limit: usize = 65536, Rule::Bytes(1, GIB);
    }
}

options! {
    pub struct ConnectCodes {
        /// Errors are looked up in transforms first.
        enabled: bool = false;
        /// `[{code, to: {code, reason}}]`: the disconnect for an error of a connect command. One that is not listed
        /// is 3507 for 103, 3005 for 109 and 110, 3013 for 111, and else 3004.
        transforms: Vec<ConnectCode> = Vec::new();
    }
}

options! {
    pub struct ConnectCode {
        /// Of the error.
        code: u32 = 0, Rule::Count(1, 0xffff_ffff);
        /// The disconnect
        to: ToDisconnect = ToDisconnect::default();
    }
}

impl ListEntry for ConnectCode {
    const WHAT: &'static str = "a transform";
    const EXAMPLE: &'static str = "[{\"code\": 404, \"to\": {\"code\": 4904, \"reason\": \"not found\"}}]";
    const NEEDED: &'static [&'static str] = &["code", "to"];
}

impl HttpStream {
    pub(super) fn at(path: &str) -> HttpStream {
        HttpStream { handler_prefix: path.into(), ..HttpStream::default() }
    }
}

impl UniHttpStream {
    pub(super) fn at(path: &str) -> UniHttpStream {
        UniHttpStream { handler_prefix: path.into(), ..UniHttpStream::default() }
    }
}

impl Config {
    /// Are there clients that send their commands to `emulation`?
    pub fn has_emulation(&self) -> bool {
        self.sse.enabled || self.http_stream.enabled
    }

    /// TLS of lines is the public port's.
    pub(super) fn check_lines(&self) -> Option<Problem> {
        let lines = &self.tcp_line;
        let is_bare = lines.enabled && lines.tls && self.tls_of(TlsPort::Public).is_none();
        let message = "takes http_server.tls.enabled or http_server.tls_autocert.enabled: expected false without them";
        let problem = || Problem { option: "tcp_line.tls".into(), at: String::new(), message: message.into() };
        is_bare.then(problem)
    }

    pub(super) fn check_connect_codes(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, transform) in self.client.connect_code_to_unidirectional_disconnect.transforms.iter().enumerate() {
            let mut say = |key: &str, message: String| {
                let option = "client.connect_code_to_unidirectional_disconnect.transforms".to_owned();
                problems.push(Problem { option, at: format!("[{index}].to.{key}"), message });
            };
            let to = &transform.to;
            if !(3000..5000).contains(&to.code) {
                say("code", format!("expected 3000 to 4999; got {}", to.code));
            }
            if to.reason.len() > 123 {
                say("reason", "expected 123 bytes at most: a close frame has no more".into());
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, load};

    fn wrong(transforms: &str) -> Vec<String> {
        let text = format!(
            "{{\"client\":{{\"connect_code_to_unidirectional_disconnect\":{{\"enabled\":true,\"transforms\":{transforms}}}}}}}"
        );
        let loaded = load(Some(File { name: "c.json", text: &text }), &[], &[]);
        loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_have_tls_where_the_public_port_has_it() {
        let said = |lines: &str, tls: &str| {
            let text = format!(r#"{{"tcp_line":{{{lines}}},"http_server":{{"tls":{{{tls}}}}}}}"#);
            let loaded = load(Some(File { name: "c.json", text: &text }), &[], &[]);
            loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let tls = r#""enabled":true,"cert_pem":"/c","key_pem":"/k""#;
        assert_eq!(said(r#""enabled":true,"tls":true"#, tls), "");
        assert_eq!(said(r#""tls":true"#, ""), "");
        assert!(said(r#""enabled":true,"tls":true"#, "").contains("tcp_line.tls: takes http_server.tls.enabled"));
        assert!(said(r#""enabled":true,"port":8000"#, "").contains("tcp_line.port: expected another port"));
        assert!(said(r#""enabled":true,"address":"x""#, "").contains("tcp_line.address: expected an IP address"));
    }

    #[test]
    fn transforms_are_read_as_strictly_as_the_rest() {
        assert_eq!(wrong(r#"[{"code":404,"to":{"code":4904,"reason":"not found"}}]"#), [""; 0]);
        for (transforms, part) in [
            (r#"[{"code":404,"to":{"code":200}}]"#, "transforms[0].to.code: expected 3000 to 4999; got 200"),
            (r#"[{"code":404}]"#, "a transform wants a to"),
            (r#"[{"code":0,"to":{"code":4904}}]"#, "code: expected"),
            (r#"[{"kode":404,"to":{"code":4904}}]"#, "kode"),
        ] {
            let lines = wrong(transforms);
            assert!(lines.iter().any(|line| line.contains(part)), "{lines:?}");
        }
        let long = format!(r#"[{{"code":1,"to":{{"code":4000,"reason":"{}"}}}}]"#, "x".repeat(124));
        assert!(wrong(&long)[0].contains("to.reason: expected 123 bytes at most"));
    }
}
