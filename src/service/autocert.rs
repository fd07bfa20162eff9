//! F10 · Certificates that come by themselves: orders at an ACME authority (RFC 8555), and their renewal.
//!
//! Owns a thread of its own, for an order is network, waiting and signatures; no reactor and no other request waits for
//! it. The authority asks back at the public port, where `certificates` answers. What it gives goes to a folder, and
//! from there to the ports as files do that change. Never knows a connection.

use super::fetch::below_tls;
use super::tls;
use crate::base::hex::hex;
use crate::certificates::{CertificateFolder, Certificates};
use crate::config::{TlsAutocert, TlsOptions};
use crate::session::Settings;
use crate::wall_clock::unix_s;
use bytes::Bytes;
use http_body_util::Limited;
use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout};

/// One request to the authority, all of an order, and how long the authority may take over its parts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
/// Bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// After an order that failed; doubled each time. Authorities count failures by the hour.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// The wall clock may be set: it is looked at so often.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// Starts the thread, if there is anything for it to do.
pub fn start(certificates: Arc<Certificates>, settings: Receiver<Arc<Settings>>) -> io::Result<()> {
    if !settings.borrow().config.http_server.tls_autocert.enabled {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = move || runtime.block_on(keep(certificates, settings));
    std::thread::Builder::new().name("autocert".to_owned()).spawn(work).map(drop)
}

/// What is known of a name.
#[derive(Default)]
struct Trouble {
    failures: u32,
    /// Not before.
    retry: Option<Instant>,
}

/// For ever: each name has a certificate, with a third of its time left.
async fn keep(certificates: Arc<Certificates>, mut settings: Receiver<Arc<Settings>>) {
    let mut account = None;
    let mut troubles: BTreeMap<String, Trouble> = BTreeMap::new();
    loop {
        let config = settings.borrow_and_update().config.clone();
        let options = &config.http_server.tls_autocert;
        let kept = CertificateFolder::new(&options.cache_dir);
        let mut pause = LOOK;
        for name in &options.host_whitelist {
            let trouble = troubles.entry(name.clone()).or_default();
            let retry = trouble.retry.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let wait = due_in(kept.validity(name), unix_s()).max(retry);
            if !wait.is_zero() {
                pause = pause.min(wait);
                continue;
            }
            let got = get(&mut account, options, &kept, name, &certificates).await;
            certificates.count_order(got.is_ok());
            match got.and_then(|()| certificates.reload(&config)) {
                Ok(_) => {
                    tracing::info!(name, "a certificate came by ACME and is taken; clients that are there stay");
                    *trouble = Trouble::default();
                    pause = pause.min(due_in(kept.validity(name), unix_s()).max(RETRY_FIRST / 60));
                }
                Err(error) => {
                    let wait = backoff(trouble.failures);
                    let again_s = wait.as_secs();
                    tracing::error!(name, error, again_s, "no certificate came by ACME; it is tried again");
                    *trouble = Trouble { failures: trouble.failures + 1, retry: Some(Instant::now() + wait) };
                    pause = pause.min(wait);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

/// When a certificate that is good from then to then must be got anew: with a third of its time left.
fn due_in(validity: Option<(u64, u64)>, unix_s: u64) -> Duration {
    let Some((from, to)) = validity else { return Duration::ZERO };
    let due = to.saturating_sub(to.saturating_sub(from) / 3);
    Duration::from_secs(due.saturating_sub(unix_s))
}

fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
}

/// A certificate for `name`, into the folder.
async fn get(
    account: &mut Option<(String, Account)>,
    options: &TlsAutocert,
    kept: &CertificateFolder,
    name: &str,
    certificates: &Certificates,
) -> Result<(), String> {
    let work = async {
        let there = account.take_if(|(directory, _)| *directory == options.directory_url);
        let (directory, ours) = match there {
            Some(there) => there,
            None => (options.directory_url.clone(), enroll(options, kept).await?),
        };
        let ordered = order(&ours, name, certificates).await;
        *account = Some((directory, ours));
        kept.write(name, ordered?.as_bytes()).map_err(|error| cannot_write(options, &error))
    };
    let got = timeout(ORDER_TIMEOUT, work).await;
    certificates.close_challenge(name);
    got.unwrap_or_else(|_| Err(format!("the order took more than {} s", ORDER_TIMEOUT.as_secs())))
}

fn cannot_write(options: &TlsAutocert, error: &io::Error) -> String {
    format!("http_server.tls_autocert.cache_dir: {}: cannot be written: {error}", options.cache_dir)
}

/// The account with the authority: that of before, or a new one.
async fn enroll(options: &TlsAutocert, kept: &CertificateFolder) -> Result<Account, String> {
    let told = |error: Error| format!("{}: {}", options.directory_url, with_causes(&error));
    // Each directory has its own.
    let digest = ring::digest::digest(&ring::digest::SHA256, options.directory_url.as_bytes());
    let name = hex(&digest.as_ref()[..8]);
    let file = format!("gannet-account-{name}.json");
    let known = kept.read(&file).and_then(|bytes| serde_json::from_slice::<AccountCredentials>(&bytes).ok());
    if let Some(credentials) = known {
        return builder(options)?.from_credentials(credentials).await.map_err(told);
    }
    let contact = format!("mailto:{}", options.email);
    let contact: &[&str] = if options.email.is_empty() { &[] } else { &[&contact] };
    let wanted = NewAccount { contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = builder(options)?.create(&wanted, options.directory_url.clone(), None).await;
    let (account, credentials) = made.map_err(told)?;
    let bytes = zeroize::Zeroizing::new(serde_json::to_vec(&credentials).map_err(|error| error.to_string())?);
    kept.write(&file, &bytes).map_err(|error| cannot_write(options, &error))?;
    Ok(account)
}

fn builder(options: &TlsAutocert) -> Result<instant_acme::AccountBuilder, String> {
    let tls = TlsOptions { server_ca_pem: options.directory_ca_pem.clone(), ..TlsOptions::default() };
    let config = tls::client_config(&tls).map_err(|error| match error.strip_prefix("server_ca_pem") {
        Some(error) => format!("http_server.tls_autocert.directory_ca_pem{error}"),
        None => error,
    })?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
    let client = Client::builder(TokioExecutor::new()).build(builder.wrap_connector(below_tls()));
    Ok(Account::builder_with_http(Box::new(Asker(client))))
}

/// The key and the certificates, in PEM.
async fn order(account: &Account, name: &str, certificates: &Certificates) -> Result<String, String> {
    let told = |error: Error| with_causes(&error);
    let names = [Identifier::Dns(name.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(told)?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(told)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.ok_or("the authority does not ask by TLS-ALPN-01")?;
        let digest = challenge.key_authorization().digest();
        certificates.open_challenge(name, digest.as_ref())?;
        challenge.set_ready().await.map_err(told)?;
    }
    match order.poll_ready(&PATIENCE).await.map_err(told)? {
        OrderStatus::Ready => {}
        _ => return Err(refusal(&mut order).await),
    }
    let key = zeroize::Zeroizing::new(order.finalize().await.map_err(told)?);
    let chain = order.poll_certificate(&PATIENCE).await.map_err(told)?;
    Ok(format!("{}{chain}", *key))
}

/// Why the authority does not believe us.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        if let Some(error) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return format!("the authority asked at the name's port 443 and refuses: {error}");
        }
    }
    "the authority refuses the order".to_owned()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Requests of the ACME library, with bounds.
struct Asker(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for Asker {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.0.request(request);
        Box::pin(async move {
            match timeout(REQUEST_TIMEOUT, asked).await {
                Ok(Ok(answer)) => Ok(answer.map(|body| Limited::new(body, ANSWER_MAX)).into()),
                Ok(Err(error)) => Err(Error::Other(Box::new(error))),
                Err(late) => Err(Error::Other(Box::new(late))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_got_anew_with_a_third_of_its_time_left() {
        let in_s = |validity, now| due_in(validity, now).as_secs();
        assert_eq!(in_s(None, 5), 0);
        assert_eq!([100, 159, 160, 1000].map(|now| in_s(Some((100, 190)), now)), [60, 1, 0, 0]);
        assert_eq!(in_s(Some((190, 100)), 50), 50, "one that ends before it begins is no reason to hurry");
    }

    #[test]
    fn orders_that_fail_are_tried_again_later_each_time() {
        assert_eq!(
            [0, 1, 2, 9, 10, 99].map(|failures| backoff(failures).as_secs()),
            [60, 120, 240, 30_720, 43_200, 43_200]
        );
    }
}
