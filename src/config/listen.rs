//! F0 · Where to listen: addresses and ports, each alone and together.
//!
//! Owns which sockets a configuration asks for and what their addresses mean. Never opens one: whether this host has
//! such an address is the start's to find out.

use core::net::{IpAddr, Ipv4Addr};

use super::Config;
use super::check::Problem;

/// What an address to listen on means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// Every address of the host.
    All,
    At(IpAddr),
}

/// A socket that is asked for, with the options that ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenSocket<'a> {
    pub address_option: &'static str,
    pub port_option: &'static str,
    pub address: &'a str,
    pub port: u16,
}

impl ListenAddress {
    /// A name would have to be looked up, and could be several addresses, or another host's.
    pub fn parse(text: &str) -> Option<ListenAddress> {
        match text {
            "" => Some(ListenAddress::All),
            "localhost" => Some(ListenAddress::At(Ipv4Addr::LOCALHOST.into())),
            _ => {
                let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let ip: IpAddr = bare.unwrap_or(text).parse().ok()?;
                (bare.is_none() || ip.is_ipv6()).then_some(ListenAddress::At(ip))
            }
        }
    }

    fn meets(self, other: ListenAddress) -> bool {
        let is_all = |address| match address {
            ListenAddress::All => true,
            ListenAddress::At(ip) => ip.is_unspecified(),
        };
        is_all(self) || is_all(other) || self == other
    }
}

impl Config {
    /// The public port first.
    pub fn sockets(&self) -> Vec<ListenSocket<'_>> {
        let (grpc, uni) = (&self.grpc_api, &self.uni_grpc);
        let api = ListenSocket {
            address_option: "grpc_api.address",
            port_option: "grpc_api.port",
            address: &grpc.address,
            port: grpc.port,
        };
        let streams = ListenSocket {
            address_option: "uni_grpc.address",
            port_option: "uni_grpc.port",
            address: &uni.address,
            port: uni.port,
        };
        let others =
            [self.internal_socket(), grpc.enabled.then_some(api), self.line_socket(), uni.enabled.then_some(streams)];
        std::iter::once(self.public_socket()).chain(others.into_iter().flatten()).collect()
    }

    pub fn public_socket(&self) -> ListenSocket<'_> {
        let http = &self.http_server;
        let (address_option, port_option) = ("http_server.address", "http_server.port");
        ListenSocket { address_option, port_option, address: &http.address, port: http.port }
    }

    /// That of clients in lines, if there is one.
    pub fn line_socket(&self) -> Option<ListenSocket<'_>> {
        let lines = &self.tcp_line;
        let (address_option, port_option) = ("tcp_line.address", "tcp_line.port");
        let socket = ListenSocket { address_option, port_option, address: &lines.address, port: lines.port };
        lines.enabled.then_some(socket)
    }

    /// That of the second port, if there is one.
    pub fn internal_socket(&self) -> Option<ListenSocket<'_>> {
        let http = &self.http_server;
        let (address_option, address) = match http.internal_address.as_str() {
            "" => ("http_server.address", &http.address),
            _ => ("http_server.internal_address", &http.internal_address),
        };
        let port_option = "http_server.internal_port";
        let socket = ListenSocket { address_option, port_option, address, port: http.internal_port };
        (http.internal_port != 0).then_some(socket)
    }

    pub(super) fn check_addresses(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for socket in self.sockets().iter().filter(|socket| ListenAddress::parse(socket.address).is_none()) {
            let hint = match socket.address {
                "*" => "; all are an empty text".to_owned(),
                text if text.trim() != text => "; write it without blanks".to_owned(),
                text if text.contains(':') => format!("; the port is {}", socket.port_option),
                _ => String::new(),
            };
            let message = format!(
                "expected an IP address (127.0.0.1, ::1), localhost, or nothing for all; got {:?}{hint}",
                socket.address
            );
            let (option, at) = (socket.address_option.to_owned(), String::new());
            if problems.iter().all(|known| known.option != option) {
                problems.push(Problem { option, at, message });
            }
        }
        problems
    }

    /// Two sockets on one port.
    pub(super) fn check_ports(&self) -> Vec<Problem> {
        let sockets = self.sockets();
        let mut problems = Vec::new();
        for (index, socket) in sockets.iter().enumerate().filter(|(_, socket)| socket.port != 0) {
            let address = ListenAddress::parse(socket.address);
            let meets = |earlier: &&ListenSocket<'_>| {
                let both = ListenAddress::parse(earlier.address).zip(address);
                earlier.port == socket.port && both.is_some_and(|(one, other)| one.meets(other))
            };
            if let Some(earlier) = sockets[..index].iter().find(meets) {
                let message = format!("expected another port than {}; got {}", earlier.port_option, socket.port);
                problems.push(Problem { option: socket.port_option.to_owned(), at: String::new(), message });
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        config.check().err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_literals() {
        for good in
            ["", "localhost", "127.0.0.1", "0.0.0.0", "::", "::1", "[::]", "[::1]", "10.1.2.3", "::ffff:1.2.3.4"]
        {
            assert!(said(|c| c.http_server.address = good.into()).is_empty(), "{good}");
        }
        for (bad, hint) in [
            (":8000", "; the port is http_server.port"),
            ("127.0.0.1:8000", "; the port is http_server.port"),
            ("[::]:8000", "; the port is http_server.port"),
            ("*", "; all are an empty text"),
            (" ", "; write it without blanks"),
            (" 127.0.0.1", "; write it without blanks"),
            ("name.local", ""),
            ("LOCALHOST", ""),
            ("[127.0.0.1]", ""),
            ("127.1", ""),
            ("[::", "; the port is http_server.port"),
            ("fe80::1%eth0", "; the port is http_server.port"),
        ] {
            let start = "http_server.address: expected an IP address (127.0.0.1, ::1), localhost, or nothing for all; ";
            let expected = format!("{start}got {bad:?}{hint}");
            assert_eq!(said(|c| c.http_server.address = bad.into()), [expected]);
        }
    }

    #[test]
    fn an_address_is_judged_where_it_is_listened_on() {
        let internal = |port: u16| {
            said(|c| (c.http_server.internal_port, c.http_server.internal_address) = (port, "name.local".into()))
        };
        assert!(internal(0).is_empty());
        assert!(internal(9000)[0].starts_with("http_server.internal_address: expected an IP address"));
        let grpc = |enabled: bool| said(|c| (c.grpc_api.enabled, c.grpc_api.address) = (enabled, ":1".into()));
        assert!(grpc(false).is_empty());
        assert!(grpc(true)[0].ends_with("got \":1\"; the port is grpc_api.port"));
        let once = said(|c| (c.http_server.internal_port, c.http_server.address) = (9000, "*".into()));
        assert_eq!(once.len(), 1, "{once:?}");
    }

    #[test]
    fn two_sockets_have_two_ports_where_they_meet() {
        let said = |http: (&str, u16), internal: (&str, u16), grpc: Option<(&str, u16)>| {
            said(|c| {
                (c.http_server.address, c.http_server.port) = (http.0.into(), http.1);
                (c.http_server.internal_address, c.http_server.internal_port) = (internal.0.into(), internal.1);
                c.grpc_api.enabled = grpc.is_some();
                (c.grpc_api.address, c.grpc_api.port) = grpc.map_or(("".into(), 1), |(a, port)| (a.into(), port));
            })
        };
        let text =
            |of: &str, than: &str, port: u16| vec![format!("{of}: expected another port than {than}; got {port}")];
        let (port, internal, grpc) = ("http_server.port", "http_server.internal_port", "grpc_api.port");
        assert_eq!(said(("", 8000), ("", 8000), None), text(internal, port, 8000));
        assert_eq!(said(("", 8000), ("", 0), Some(("", 8000))), text(grpc, port, 8000));
        assert_eq!(said(("", 8000), ("", 9000), Some(("", 9000))), text(grpc, internal, 9000));
        assert_eq!(said(("127.0.0.1", 80), ("", 0), Some(("localhost", 80))), text(grpc, port, 80));
        assert_eq!(said(("127.0.0.1", 80), ("", 0), Some(("0.0.0.0", 80))), text(grpc, port, 80));
        assert_eq!(said(("::", 80), ("127.0.0.1", 80), None), text(internal, port, 80));
        assert!(said(("127.0.0.1", 80), ("127.0.0.2", 80), Some(("[::1]", 80))).is_empty());
        assert!(said(("", 0), ("", 0), Some(("", 0))).is_empty(), "those are picked");
    }
}
