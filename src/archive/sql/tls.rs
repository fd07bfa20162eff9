//! F10 · TLS to MySQL: what the options say, in the words of its client.
//!
//! Owns nothing else: PostgreSQL's is where consumers have it. Never decides whether there is TLS.

use crate::certificates::pem;
use crate::config::TlsOptions;
use mysql_async::{ClientIdentity, SslOpts};

/// The error begins with the option's key.
pub fn mysql_tls(options: &TlsOptions) -> Result<SslOpts, String> {
    let mut tls = SslOpts::default().with_danger_accept_invalid_certs(options.insecure_skip_verify);
    if !options.server_ca_pem.is_empty() {
        let roots = pem("server_ca_pem", &options.server_ca_pem)?;
        tls = tls.with_root_certs(vec![roots.into()]).with_disable_built_in_roots(true);
    }
    if !options.cert_pem.is_empty() {
        let certificate = pem("cert_pem", &options.cert_pem)?;
        let key = pem("key_pem", &options.key_pem)?;
        tls = tls.with_client_identity(Some(ClientIdentity::new(certificate.into(), key.into())));
    }
    if !options.server_name.is_empty() {
        tls = tls.with_danger_tls_hostname_override(Some(options.server_name.clone()));
    }
    Ok(tls)
}
