//! F10 · A PostgreSQL database by its DSN: who is asked, by whom, and whether under TLS.
//!
//! Owns what libpq and pgx understand there and the client does not, and the connector for TLS. Never tells a DSN, for
//! it has a password. Never asks the database anything.

use crate::config::TlsOptions;
use crate::service::client_tls;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_rustls::{TlsConnector, client};

/// How long a connection may take, if the DSN does not say so.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A host that is gone is noticed: so soon it is asked whether it is there, and so often again.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVES: u32 = 3;

/// Where a database is, and how it is spoken to.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: DatabaseTls,
}

/// What a DSN says of TLS, in libpq's words.
#[derive(Debug, Default, PartialEq)]
struct Said {
    mode: String,
    options: TlsOptions,
}

/// The DSN as the client takes it, and what it says of TLS.
fn split(dsn: &str) -> (String, Said) {
    let mut said = Said::default();
    let mut keep = |pair: &&str| {
        let Some((key, value)) = pair.split_once('=') else { return true };
        let value = value.trim_matches('\'').to_owned();
        match key.trim() {
            "sslmode" => said.mode = value,
            "sslrootcert" => said.options.server_ca_pem = value,
            "sslcert" => said.options.cert_pem = value,
            "sslkey" => said.options.key_pem = value,
            // Of Go's client alone.
            key => {
                return !key.starts_with("pool_")
                    && !key.ends_with("_cache_capacity")
                    && key != "default_query_exec_mode";
            }
        }
        false
    };
    let is_url = dsn.starts_with("postgres://") || dsn.starts_with("postgresql://");
    let rest = match dsn.split_once('?').filter(|_| is_url) {
        Some((before, query)) => {
            let query: Vec<&str> = query.split('&').filter(&mut keep).collect();
            if query.is_empty() { before.to_owned() } else { format!("{before}?{}", query.join("&")) }
        }
        None if is_url => dsn.to_owned(),
        None => dsn.split(' ').filter(&mut keep).collect::<Vec<_>>().join(" "),
    };
    (rest, said)
}

impl Database {
    /// Reads certificates. The error is about the option that has the DSN, or one below `tls`, and begins with neither.
    pub fn new(dsn: &str, tls: &TlsOptions) -> Result<Database, String> {
        let (dsn, said) = split(dsn);
        // Its own words might quote the password.
        let form = "expected postgres://user:password@host:port/name, or host=... user=... password=... dbname=...";
        let mut config: Config = dsn.parse().map_err(|_| form.to_owned())?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVES);
        config.tcp_user_timeout(KEEPALIVE + KEEPALIVE_INTERVAL * KEEPALIVES);
        if config.get_application_name().is_none() {
            config.application_name("gannet");
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("127.0.0.1");
        }
        let verifies = matches!(&*said.mode, "verify-ca" | "verify-full") || !said.options.server_ca_pem.is_empty();
        let (mode, options) = match &*said.mode {
            _ if tls.enabled => (SslMode::Require, tls.clone()),
            "disable" => (SslMode::Disable, TlsOptions { insecure_skip_verify: true, ..TlsOptions::default() }),
            "require" | "verify-ca" | "verify-full" => {
                (SslMode::Require, TlsOptions { insecure_skip_verify: !verifies, ..said.options })
            }
            "" | "allow" | "prefer" => {
                (SslMode::Prefer, TlsOptions { insecure_skip_verify: true, ..TlsOptions::default() })
            }
            _ => return Err("sslmode: expected disable, prefer, require, verify-ca or verify-full".into()),
        };
        config.ssl_mode(mode);
        let client = client_tls(&options).map_err(|error| format!("tls.{error}"))?;
        Ok(Database { config, tls: DatabaseTls { config: Arc::new(client), name: options.server_name } })
    }

    /// For who keeps several connections.
    pub fn into_parts(self) -> (Config, DatabaseTls) {
        (self.config, self.tls)
    }

    pub async fn connect(&self) -> Result<(Client, Connection<Socket, UnderTls<Socket>>), String> {
        self.config.connect(self.tls.clone()).await.map_err(|error| told(&error))
    }
}

/// An error with its causes, none of which has the DSN in it.
pub fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{}: {} ({})", said.severity(), said.message(), said.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// TLS to whichever host.
#[derive(Clone)]
pub struct DatabaseTls {
    config: Arc<rustls::ClientConfig>,
    /// In place of the host's.
    name: String,
}

/// TLS to one host.
pub struct DatabaseHost {
    connector: TlsConnector,
    /// A unix socket has none, and no TLS.
    name: Option<ServerName<'static>>,
}

impl MakeTlsConnect<Socket> for DatabaseTls {
    type Stream = UnderTls<Socket>;
    type TlsConnect = DatabaseHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<DatabaseHost> {
        let name = if self.name.is_empty() { host } else { &self.name };
        let name = ServerName::try_from(name.to_owned()).ok();
        Ok(DatabaseHost { connector: self.config.clone().into(), name })
    }
}

impl TlsConnect<Socket> for DatabaseHost {
    type Stream = UnderTls<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<UnderTls<Socket>>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| io::Error::other("TLS wants the name of a host"))?;
            self.connector.connect(name, stream).await.map(UnderTls)
        })
    }
}

/// A connection under TLS.
pub struct UnderTls<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for UnderTls<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UnderTls<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for UnderTls<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_does_not_know_is_taken_out() {
        let (dsn, said) = split("postgres://u:p@h:1/d?sslmode=verify-full&pool_max_conns=4&application_name=x");
        assert_eq!((&*dsn, &*said.mode), ("postgres://u:p@h:1/d?application_name=x", "verify-full"));
        let (dsn, said) = split("host=h password='a  b' sslmode=disable sslrootcert=/r.pem dbname=d");
        assert_eq!((&*dsn, &*said.mode), ("host=h password='a  b' dbname=d", "disable"));
        assert_eq!(said.options.server_ca_pem, "/r.pem");
        assert_eq!(split("postgresql://h/d"), ("postgresql://h/d".to_owned(), Said::default()));
        assert_eq!(split("postgres://h?sslmode=require").0, "postgres://h");
    }

    #[test]
    fn tls_is_as_libpq_has_it_unless_the_option_says_more() {
        let mode = |dsn: &str, enabled: bool| {
            let tls = TlsOptions { enabled, insecure_skip_verify: true, ..TlsOptions::default() };
            Database::new(dsn, &tls).map(|database| database.config.get_ssl_mode())
        };
        for (word, expected) in
            [("disable", SslMode::Disable), ("prefer", SslMode::Prefer), ("require", SslMode::Require)]
        {
            assert_eq!(mode(&format!("postgres://h/d?sslmode={word}"), false), Ok(expected));
            assert_eq!(mode(&format!("postgres://h/d?sslmode={word}"), true), Ok(SslMode::Require));
        }
        assert_eq!(mode("host=h user=u", false), Ok(SslMode::Prefer));
        assert!(mode("postgres://h/d?sslmode=maybe", false).is_err());
        assert!(mode("postgres://h/d?sslmode=verify-full&sslrootcert=/nowhere", false).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for bad in ["postgres://u:hush@h:port/d", "host=h password=hush port=x", "hush", "host=h hush=1 password='hush"]
        {
            let why = Database::new(bad, &TlsOptions::default()).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!why.contains("hush"), "{why}");
        }
    }
}
