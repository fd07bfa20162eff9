//! F10 · A connection to a Redis server: TCP, TLS or a unix socket, and who we are there.
//!
//! Owns the handshake and its time. Knows nothing of keys or channels.

use super::address::{Address, ServerPlace};
use crate::config::{RedisOptions, TlsOptions};
use crate::service::client_tls;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo};
use rustls::pki_types::ServerName;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

/// Why there is no connection, in words for the log.
#[derive(Debug, Clone)]
pub struct RedisFault(pub String);

impl std::fmt::Display for RedisFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<redis::RedisError> for RedisFault {
    fn from(error: redis::RedisError) -> RedisFault {
        RedisFault(error.to_string())
    }
}

/// One server, and how it is spoken to.
#[derive(Clone)]
pub struct RedisServer {
    pub place: ServerPlace,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    login: RedisConnectionInfo,
    connect_timeout: Duration,
    io_timeout: Duration,
}

/// A connection with its task, which ends with this.
pub struct Dialled {
    pub conn: MultiplexedConnection,
    driver: AbortHandle,
    /// Told when the server has ended it.
    pub ended: Arc<Notify>,
    /// How long whoever begins with it waits for an answer.
    pub patience: Duration,
}

impl Dialled {
    /// Ends it: whatever waits for an answer fails.
    pub fn end(&self) {
        self.driver.abort();
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.end();
    }
}

/// Who we are to servers, of whichever kind.
#[derive(Clone)]
pub struct RedisLogin {
    options: RedisOptions,
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    sentinel_tls: Option<(Arc<rustls::ClientConfig>, String)>,
}

type Wire = Pin<Box<dyn Stream>>;
trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

fn tls_of(options: &TlsOptions, wanted: bool) -> Result<Option<(Arc<rustls::ClientConfig>, String)>, String> {
    match options.enabled || wanted {
        true => Ok(Some((Arc::new(client_tls(options)?), options.server_name.clone()))),
        false => Ok(None),
    }
}

impl RedisLogin {
    /// Reads certificates. The error begins with an option below that of `options`.
    pub fn new(options: &RedisOptions) -> Result<RedisLogin, String> {
        let lists = [&options.address, &options.cluster_address].into_iter().flatten();
        let wanted = lists.into_iter().any(|address| address.starts_with("rediss:"));
        let sentinel = options.sentinel_address.iter().any(|address| address.starts_with("rediss:"));
        let tls = tls_of(&options.tls, wanted).map_err(|error| format!("tls.{error}"))?;
        let sentinel_tls = tls_of(&options.sentinel_tls, sentinel).map_err(|error| format!("sentinel_tls.{error}"))?;
        Ok(RedisLogin { options: options.clone(), tls, sentinel_tls })
    }

    /// A server of the option `address` or `cluster_address`.
    pub fn server(&self, address: &Address) -> RedisServer {
        let options = &self.options;
        let own = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
        let login = Login {
            user: own(&address.user, &options.user),
            password: own(&address.password, &options.password),
            db: address.db.unwrap_or(options.db),
            name: own(&options.client_name, "gannet"),
            protocol: ProtocolVersion::RESP3,
        };
        self.with(address.place.clone(), login, self.tls.clone(), options.tls.enabled)
    }

    pub fn sentinel(&self, address: &Address) -> RedisServer {
        let options = &self.options;
        let own = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
        let login = Login {
            user: own(&address.user, &options.sentinel_user),
            password: own(&address.password, &options.sentinel_password),
            db: 0,
            name: own(&options.sentinel_client_name, "gannet"),
            protocol: ProtocolVersion::RESP2,
        };
        self.with(address.place.clone(), login, self.sentinel_tls.clone(), options.sentinel_tls.enabled)
    }

    fn with(
        &self,
        place: ServerPlace,
        login: Login,
        tls: Option<(Arc<rustls::ClientConfig>, String)>,
        always: bool,
    ) -> RedisServer {
        let wants = always || matches!(place, ServerPlace::Tcp { tls: true, .. });
        let tls = tls.filter(|_| wants && !matches!(place, ServerPlace::Unix(_)));
        let (connect_timeout, io_timeout) = (self.options.connect_timeout, self.options.io_timeout);
        RedisServer { place, tls, login: login.info(), connect_timeout, io_timeout }
    }
}

struct Login {
    user: String,
    password: String,
    db: u32,
    name: String,
    protocol: ProtocolVersion,
}

impl Login {
    fn info(self) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default()
            .set_db(i64::from(self.db))
            .set_protocol(self.protocol)
            .set_lib_name(self.name, env!("CARGO_PKG_VERSION"));
        if !self.user.is_empty() {
            info = info.set_username(self.user);
        }
        if !self.password.is_empty() {
            info = info.set_password(self.password);
        }
        info
    }
}

impl RedisServer {
    /// The same options, another place: what a cluster or a sentinel names.
    pub fn at(&self, host: &str, port: u16) -> RedisServer {
        let tls = self.tls.is_some();
        RedisServer { place: ServerPlace::Tcp { host: host.into(), port, tls }, ..self.clone() }
    }

    /// Connects within the time there is for it. `heard` gets what the server says unasked.
    pub async fn dial(&self, heard: Option<UnboundedSender<PushInfo>>) -> Result<Dialled, RedisFault> {
        let dialled = tokio::time::timeout(self.connect_timeout, self.connect(heard)).await;
        match dialled {
            Ok(done) => done.map_err(|fault| RedisFault(format!("{}: {fault}", self.place))),
            Err(_) => Err(RedisFault(format!("{}: no answer within connect_timeout", self.place))),
        }
    }

    async fn connect(&self, heard: Option<UnboundedSender<PushInfo>>) -> Result<Dialled, RedisFault> {
        let wire = self.wire().await?;
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(self.io_timeout))
            .set_pipeline_buffer_size(4096)
            .set_write_backpressure_boundary(1 << 20);
        if let Some(heard) = heard {
            config = config.set_push_sender(heard);
        }
        let (conn, driver) = MultiplexedConnection::new_with_config(&self.login, wire, config).await?;
        let ended = Arc::new(Notify::new());
        let tell = ended.clone();
        let driver = tokio::task::spawn_local(async move {
            driver.await;
            tell.notify_one();
        });
        let mut dialled = Dialled { conn, driver: driver.abort_handle(), ended, patience: self.connect_timeout };
        // A server that loads its data answers, and knows nothing yet.
        let pong = dialled.conn.send_packed_command(&redis::cmd("PING")).await?;
        pong.extract_error()?;
        Ok(dialled)
    }

    async fn wire(&self) -> Result<Wire, RedisFault> {
        let failed = |error: std::io::Error| RedisFault(error.to_string());
        let (host, port) = match &self.place {
            ServerPlace::Unix(path) => return Ok(Box::pin(UnixStream::connect(path).await.map_err(failed)?)),
            ServerPlace::Tcp { host, port, .. } => (host, *port),
        };
        let tcp = TcpStream::connect((&**host, port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let Some((config, name)) = &self.tls else { return Ok(Box::pin(tcp)) };
        let name = if name.is_empty() { host } else { name };
        let name = ServerName::try_from(name.clone()).map_err(|error| RedisFault(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        Ok(Box::pin(connector.connect(name, tcp).await.map_err(failed)?))
    }
}
