//! F9 · The folder where certificates that an authority gave are kept, each with its key, by its name.
//!
//! Owns the files: nobody else may read them, and each is there whole or as it was before. They are those of Centrifugo
//! too, one for each name: the key and then the certificates, in PEM.

use super::expiry;
use super::material::Identity;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Whose owner alone may do anything.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The folder.
pub struct CertificateFolder(PathBuf);

impl CertificateFolder {
    pub fn new(folder: &str) -> CertificateFolder {
        CertificateFolder(PathBuf::from(folder))
    }

    /// What is kept of `name`, if it is a certificate and its key.
    pub(super) fn identity(&self, name: &str, provider: &CryptoProvider) -> Option<Identity> {
        let pem = self.read(name)?;
        let identity = Identity::of(pem.to_vec(), pem.to_vec());
        identity.certified(provider).is_ok().then_some(identity)
    }

    /// From when to when the certificate of `name` is good, by seconds since 1970.
    pub fn validity(&self, name: &str) -> Option<(u64, u64)> {
        let certificate = CertificateDer::from_pem_slice(&self.read(name)?).ok()?;
        expiry::validity(&certificate)
    }

    pub fn read(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        fs::read(self.0.join(name)).ok().map(Zeroizing::new)
    }

    /// In place of what was there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.0)?;
        let beside = self.0.join(format!(".{name}.{}", std::process::id()));
        // What a process with this number left behind may have other rights.
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.0.join(name))?;
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::ring;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_whole_and_nobody_else_s() {
        let folder = std::env::temp_dir().join(format!("gannet-kept-{}", std::process::id()));
        let (kept, provider) = (CertificateFolder::new(folder.to_str().expect("a path")), ring::default_provider());
        assert!(kept.validity("a.example").is_none() && kept.identity("a.example", &provider).is_none());
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        kept.write("a.example", b"half of one").expect("written");
        assert!(kept.identity("a.example", &provider).is_none(), "no certificate, so it is got anew");
        kept.write("a.example", pem.as_bytes()).expect("written");
        assert!(kept.identity("a.example", &provider).is_some());
        assert!(kept.validity("a.example").is_some_and(|(from, to)| from < to));
        let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("a.example"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "nothing is left beside it");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
