//! F10 · A connection to a NATS server: where servers are, TCP or TLS, and who we are there.
//!
//! Owns the handshake and its time. Knows nothing of subjects.

use super::credentials::{self, Proof};
use super::protocol::{self, NatsCaller, ServerInfo, ServerWord};
use crate::config::NatsOptions;
use crate::engine::place::{decode, host_and_port};
use crate::service::client_tls;
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const PORT: u16 = 4222;
/// Servers that a server may name, beside those of the configuration.
const TOLD_MAX: usize = 64;

pub type NatsWire = Pin<Box<dyn NatsStream>>;
pub trait NatsStream: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> NatsStream for T {}

/// Where a server is, and what it is told of who comes.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsAddress {
    host: String,
    port: u16,
    tls: bool,
    user: String,
    password: String,
    token: String,
}

impl NatsAddress {
    fn parse(text: &str) -> Result<NatsAddress, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
        let tls = match &*scheme.to_ascii_lowercase() {
            "nats" => false,
            "tls" => true,
            _ => return Err(format!("expected nats:// or tls://; got {scheme}://")),
        };
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (user, password, token) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, decode(password)?, String::new()),
            None => (String::new(), String::new(), decode(login)?),
        };
        let (host, port) = host_and_port(rest.trim_end_matches('/'), PORT)?;
        Ok(NatsAddress { host, port, tls, user, password, token })
    }

    fn name(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A connection of which the server knows who it is.
pub struct NatsDialled {
    /// Where it goes.
    pub name: String,
    pub wire: NatsWire,
    /// What was read and not looked at.
    pub read: BytesMut,
    pub info: ServerInfo,
}

/// All servers there are, one of which is enough.
pub struct NatsServers {
    configured: Vec<NatsAddress>,
    /// Those that servers named.
    told: RefCell<Vec<NatsAddress>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    options: NatsOptions,
    next: Cell<usize>,
}

impl NatsServers {
    /// Reads certificates. The error begins with an option of the section `at`.
    pub fn new(options: &NatsOptions, at: &str) -> Result<NatsServers, String> {
        let urls = options.url.iter().flat_map(|entry| entry.split(',')).map(str::trim).filter(|url| !url.is_empty());
        let configured: Result<Vec<NatsAddress>, String> = urls.map(NatsAddress::parse).collect();
        let configured = configured.map_err(|error| format!("{at}.url: {error}"))?;
        if configured.is_empty() {
            return Err(format!("{at}.url: expected an address; got nothing"));
        }
        if !options.credentials_file.is_empty() {
            credentials::prove(&options.credentials_file, "")
                .map_err(|error| format!("{at}.credentials_file: {error}"))?;
        }
        // A server may demand it that no option says so of.
        let tls = client_tls(&options.tls).map_err(|error| format!("{at}.tls.{error}"))?;
        let next = Cell::new(getrandom::u32().unwrap_or(0) as usize);
        Ok(NatsServers {
            configured,
            told: RefCell::default(),
            tls: Some(Arc::new(tls)),
            options: options.clone(),
            next,
        })
    }

    /// What they are called in metrics and the log.
    pub fn name(&self) -> String {
        self.configured.iter().map(NatsAddress::name).collect::<Vec<_>>().join(",")
    }

    pub fn configured(&self) -> usize {
        self.configured.len()
    }

    /// A server tells of the others of its cluster.
    pub fn hear(&self, info: &ServerInfo) {
        let like = &self.configured[0];
        let address = |url: &String| {
            let (host, port) = host_and_port(url, PORT).ok()?;
            Some(NatsAddress { host, port, ..like.clone() })
        };
        let told = info.connect_urls.iter().filter_map(address).filter(|one| !self.configured.contains(one));
        self.told.replace(told.take(TOLD_MAX).collect());
    }

    /// Connects to another one each time, within the time there is for it. The error is for the log.
    pub async fn dial(&self) -> Result<NatsDialled, String> {
        let address = {
            let told = self.told.borrow();
            let at = self.next.replace(self.next.get().wrapping_add(1)) % (self.configured.len() + told.len());
            self.configured.get(at).or_else(|| told.get(at - self.configured.len())).cloned()
        };
        let address = address.ok_or("there is no server")?;
        let name = address.name();
        let limit: Duration = self.options.dial_timeout;
        match tokio::time::timeout(limit, self.connect(&address)).await {
            Ok(done) => done.map_err(|fault| format!("{name}: {fault}")),
            Err(_) => Err(format!("{name}: no answer within dial_timeout")),
        }
    }

    async fn connect(&self, address: &NatsAddress) -> Result<NatsDialled, String> {
        let said = |error: std::io::Error| error.to_string();
        let tcp = TcpStream::connect((&*address.host, address.port)).await.map_err(said)?;
        tcp.set_nodelay(true).map_err(said)?;
        let mut wire: NatsWire = Box::pin(tcp);
        let mut read = BytesMut::with_capacity(4096);
        let ServerWord::Info(info) = word(&mut wire, &mut read).await? else {
            return Err("it is no NATS server".into());
        };
        let tls = self.options.tls.enabled || address.tls || info.tls_required;
        if tls {
            // What came before TLS is nobody's word.
            read.clear();
            let config = self.tls.clone().ok_or("TLS is not configured")?;
            let name = match self.options.tls.server_name.as_str() {
                "" => address.host.clone(),
                name => name.to_owned(),
            };
            let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
            wire = Box::pin(tokio_rustls::TlsConnector::from(config).connect(name, wire).await.map_err(said)?);
        }
        let proof = self.proof(&info.nonce).await?;
        let who = NatsCaller {
            jwt: proof.jwt,
            nkey: proof.nkey,
            sig: proof.signature,
            tls_required: tls,
            user: address.user.clone(),
            pass: address.password.clone(),
            auth_token: address.token.clone(),
            name: "gannet".into(),
            lang: "rust".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: 1,
            echo: true,
            ..NatsCaller::default()
        };
        let mut out = BytesMut::new();
        protocol::introduce(&mut out, &who);
        protocol::ping(&mut out);
        wire.write_all(&out).await.map_err(said)?;
        wire.flush().await.map_err(said)?;
        loop {
            match word(&mut wire, &mut read).await? {
                ServerWord::Pong => break,
                ServerWord::Error(text) => {
                    let hint = "user and password stand in the url, a key or a JWT in credentials_file";
                    return Err(format!("{text} ({hint})"));
                }
                _ => {}
            }
        }
        Ok(NatsDialled { name: address.name(), wire, read, info: *info })
    }
}

impl NatsServers {
    /// What proves who we are, of the file as it is now: who issues JWTs renews them.
    async fn proof(&self, nonce: &str) -> Result<Proof, String> {
        let file = self.options.credentials_file.clone();
        if file.is_empty() {
            return Ok(Proof::default());
        }
        if nonce.is_empty() {
            return Err("credentials_file is set, and the server knows users neither by key nor by JWT".into());
        }
        let nonce = nonce.to_owned();
        let read = tokio::task::spawn_blocking(move || credentials::prove(&file, &nonce));
        read.await.map_err(|error| error.to_string())?.map_err(|error| format!("credentials_file: {error}"))
    }
}

/// The next word, in a handshake.
async fn word(wire: &mut NatsWire, read: &mut BytesMut) -> Result<ServerWord, String> {
    loop {
        if let Some(word) = protocol::next(read).map_err(|_| "it does not speak the protocol of NATS")? {
            return Ok(word);
        }
        if wire.read_buf(read).await.map_err(|error| error.to_string())? == 0 {
            return Err("the server ended it".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = |text: &str| NatsAddress::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let full = read("nats://me:p%40ss:w@h:1");
        assert_eq!((&*full.user, &*full.password, &*full.token, &*full.name()), ("me", "p@ss:w", "", "h:1"));
        assert_eq!((&*read("tok@h").token, read("tok@h").port), ("tok", 4222));
        assert!(read("tls://[::1]:7/").tls && read("tls://[::1]:7").name() == "[::1]:7");
        assert_eq!(read("localhost").name(), "localhost:4222");
        for bad in ["ws://hush@a", "nats://hush@a:x", "nats://hu%sh@a"] {
            let error = NatsAddress::parse(bad).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn servers_that_are_told_of_are_tried_too() {
        let options = NatsOptions { url: vec!["nats://u:p@a:1, b".into()], ..NatsOptions::default() };
        let servers = NatsServers::new(&options, "engine.nats").expect("servers");
        assert_eq!((servers.name(), servers.configured()), ("a:1,b:4222".into(), 2));
        let urls = |urls: &[&str]| urls.iter().map(ToString::to_string).collect();
        servers.hear(&ServerInfo { connect_urls: urls(&["c:3", "d:x"]), ..ServerInfo::default() });
        let told = servers.told.borrow();
        assert_eq!(
            told.iter().map(|one| (one.name(), one.user.clone())).collect::<Vec<_>>(),
            [("c:3".into(), "u".into())]
        );
    }
}
