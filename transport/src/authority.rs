//! Certificate authorities: the control plane's own and each cluster's.
//!
//! Every name in a certificate is written here by its issuer; nothing is taken from the one who asks but the public
//! key. Must not decide who gets a certificate. Driven by the control plane and by the scheduler host's agent.

use crate::keys::{self, KeyError, KeyPair, Zeroizing};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use towline_protocol::ids::{Digest, Spki};
use towline_protocol::time::UnixSeconds;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest common name (X.520's upper bound).
const MAX_COMMON_NAME: usize = 64;

/// The last second of the year 9999, after which X.509 has no dates.
const END_OF_DATES: UnixSeconds = UnixSeconds(253_402_300_799);

/// Why an authority could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key could not be made or read.
    #[error("the authority's key cannot be used")]
    Key(#[from] KeyError),
    /// The text is not a certificate of an authority of ours.
    #[error("the text is not the certificate of an authority made by Towline")]
    Certificate,
    /// Certificate and key belong to different authorities.
    #[error("the authority's key is not the one in its certificate")]
    OtherKey,
    /// Empty, too long, or the authority's own.
    #[error("the common name {0:?} is empty, longer than {MAX_COMMON_NAME} letters or the authority's own")]
    CommonName(String),
    /// A name that a certificate cannot carry.
    #[error("the name {0:?} cannot stand in a certificate")]
    Name(String),
    /// Ends before it begins, or outlives the calendar.
    #[error("the certificate would end before it begins, or after the year 9999")]
    Dates,
    /// Neither for servers nor for clients.
    #[error("the certificate would be good for nothing: ask for server, client or both")]
    NoUsage,
    /// The crypto library refused.
    #[error("the certificate could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The holder's public key.
    pub spki: Spki,
    /// The subject's common name; for people who read it only, nothing trusts it.
    pub common_name: String,
    /// URI names (`spiffe://…`).
    pub uris: Vec<String>,
    /// DNS names, for servers.
    pub dns_names: Vec<String>,
    /// Addresses, for servers.
    pub ip_addresses: Vec<IpAddr>,
    /// May serve TLS.
    pub server: bool,
    /// May connect with it.
    pub client: bool,
    /// Its beginning.
    pub not_before: UnixSeconds,
    /// Its end; cut to the authority's own.
    pub not_after: UnixSeconds,
}

/// A certificate authority and its key.
pub struct Authority {
    key: KeyPair,
    common_name: String,
    not_after: UnixSeconds,
    certificate_pem: String,
    certificate_sha256: Digest,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("common_name", &self.common_name)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a new key. It issues leaves only, never further authorities.
    pub fn create(common_name: &str, not_before: UnixSeconds, not_after: UnixSeconds) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(common_name, not_before, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&Signer(&key)).map_err(AuthorityError::Sign)?;
        Ok(Self {
            common_name: common_name.to_owned(),
            not_after,
            certificate_sha256: Digest::of(certificate.der()),
            certificate_pem: certificate.pem(),
            key,
        })
    }

    /// Read an authority that [`Authority::create`] made.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| AuthorityError::Certificate)?;
        if !parsed.is_ca() {
            return Err(AuthorityError::Certificate);
        }
        if Spki::from_der(parsed.public_key().raw).map_err(|_| AuthorityError::Certificate)? != key.spki() {
            return Err(AuthorityError::OtherKey);
        }
        // The issuer's name in each leaf is written anew from the common name, so there must be nothing else in it.
        let mut names = parsed.subject().iter_attributes();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(AuthorityError::Certificate);
        };
        let common_name = name.as_str().map_err(|_| AuthorityError::Certificate)?;
        if parsed.subject().iter_common_name().next().is_none() {
            return Err(AuthorityError::Certificate);
        }
        let not_after =
            u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| AuthorityError::Certificate)?;
        Ok(Self {
            common_name: common_name.to_owned(),
            not_after: UnixSeconds(not_after),
            certificate_pem: certificate.to_owned(),
            certificate_sha256: Digest::of(&der),
            key,
        })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key, PKCS#8 PEM.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// SHA-256 of the certificate's DER, which others pin.
    pub fn certificate_sha256(&self) -> Digest {
        self.certificate_sha256.clone()
    }

    /// The last second of the authority's life.
    pub fn not_after(&self) -> UnixSeconds {
        self.not_after
    }

    /// Issue a leaf, PEM. The chain that its holder shows is this, then [`Authority::certificate_pem`].
    pub fn issue(&self, request: &CertificateRequest) -> Result<String, AuthorityError> {
        if request.common_name == self.common_name {
            return Err(AuthorityError::CommonName(request.common_name.clone()));
        }
        if !request.server && !request.client {
            return Err(AuthorityError::NoUsage);
        }
        // A leaf that outlives its issuer would be refused by everybody anyway.
        let not_after = request.not_after.min(self.not_after);
        let mut params = parameters(&request.common_name, request.not_before, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if request.server {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if request.client {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.subject_alt_names = alternative_names(request)?;
        let issuer = Issuer::new(self.issuer_parameters(), Signer(&self.key));
        let public = PublicKey { point: request.spki.point() };
        let certificate = params.signed_by(&public, &issuer).map_err(AuthorityError::Sign)?;
        Ok(certificate.pem())
    }

    fn issuer_parameters(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.common_name);
        params
    }
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn parameters(
    common_name: &str,
    not_before: UnixSeconds,
    not_after: UnixSeconds,
) -> Result<CertificateParams, AuthorityError> {
    if common_name.is_empty() || common_name.chars().count() > MAX_COMMON_NAME {
        return Err(AuthorityError::CommonName(common_name.chars().take(80).collect()));
    }
    if not_after <= not_before || not_after > END_OF_DATES {
        return Err(AuthorityError::Dates);
    }
    let start = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = start + Duration::from_secs(not_before.0);
    params.not_after = start + Duration::from_secs(not_after.0);
    params.serial_number = Some(serial());
    params.distinguished_name = subject(common_name);
    // Tells two authorities of the same name apart; OpenSSL's strict mode demands it.
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 128 random bits, positive and of full length whatever the first ones are.
fn serial() -> SerialNumber {
    let mut bytes = [0u8; 17];
    keys::fill(&mut bytes[1..]);
    bytes[0] = 0x01;
    SerialNumber::from_slice(&bytes)
}

fn alternative_names(request: &CertificateRequest) -> Result<Vec<SanType>, AuthorityError> {
    let mut names = Vec::new();
    for uri in &request.uris {
        let name = uri.as_str().try_into().map_err(|_| AuthorityError::Name(uri.clone()))?;
        names.push(SanType::URI(name));
    }
    for dns in &request.dns_names {
        let name = dns.as_str().try_into().map_err(|_| AuthorityError::Name(dns.clone()))?;
        names.push(SanType::DnsName(name));
    }
    names.extend(request.ip_addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// A public key as rcgen takes it.
struct PublicKey {
    point: Vec<u8>,
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Our key as rcgen takes it, so that no second copy of the private key is made.
struct Signer<'a>(&'a KeyPair);

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
