//! What our certificates say, read by another parser.

use crate::support::{DAY, authority, client_request, now, server_request};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::HashSet;
use towline_protocol::ids::Digest;
use towline_protocol::time::UnixSeconds;
use towline_transport::authority::{Authority, AuthorityError, CertificateRequest};
use towline_transport::certificate::{CertificateError, PeerCertificate};
use towline_transport::keys::KeyPair;
use x509_parser::prelude::{FromDer, X509Certificate};

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("certificate").to_vec()
}

fn with<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = der(pem);
    let (rest, certificate) = X509Certificate::from_der(&der).expect("certificate");
    assert!(rest.is_empty());
    look(&certificate)
}

#[test]
fn an_authority_may_issue_leaves_and_nothing_else() {
    let ca = authority();
    with(ca.certificate_pem(), |certificate| {
        let constraints = certificate.basic_constraints().expect("readable").expect("present");
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = certificate.key_usage().expect("readable").expect("present");
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        assert!(certificate.extended_key_usage().expect("readable").is_none());
        assert_eq!(certificate.subject(), certificate.issuer());
    });
    assert_eq!(ca.certificate_sha256(), Digest::of(&der(ca.certificate_pem())));
    assert!(!format!("{ca:?}").contains("PRIVATE"));
}

#[test]
fn a_leaf_says_what_was_asked_for() {
    let ca = authority();
    let key = KeyPair::generate().expect("key");
    for (server, client) in [(true, false), (false, true), (true, true)] {
        let request = CertificateRequest { server, client, ..client_request(&key) };
        let request = CertificateRequest {
            dns_names: vec!["localhost".to_owned()],
            ip_addresses: vec!["::1".parse().expect("address")],
            ..request
        };
        let leaf = ca.issue(&request).expect("leaf");
        with(&leaf, |certificate| {
            let constraints = certificate.basic_constraints().expect("readable").expect("present");
            assert!(constraints.critical && !constraints.value.ca);
            let usage = certificate.key_usage().expect("readable").expect("present");
            assert!(usage.critical && usage.value.digital_signature());
            assert_eq!(usage.value.flags.count_ones(), 1);
            let extended = certificate.extended_key_usage().expect("readable").expect("present").value;
            assert_eq!((extended.server_auth, extended.client_auth, extended.any), (server, client, false));
            assert_ne!(certificate.subject(), certificate.issuer());
            assert_eq!(certificate.validity().not_before.timestamp() as u64, request.not_before.0);
            let names = certificate.subject_alternative_name().expect("readable").expect("present");
            assert_eq!(names.value.general_names.len(), 4);
        });
        let peer = PeerCertificate::from_pem(&leaf).expect("readable");
        assert_eq!(peer.spki, key.spki());
        assert_eq!(peer.uris, request.uris);
        assert_eq!(peer.not_after, request.not_after);
    }
}

#[test]
fn serials_are_random_and_positive() {
    let ca = authority();
    let key = KeyPair::generate().expect("key");
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let leaf = ca.issue(&client_request(&key)).expect("leaf");
        let serial = with(&leaf, |certificate| certificate.raw_serial().to_vec());
        assert!(serial.len() <= 20 && serial[0] < 0x80);
        assert!(seen.insert(serial));
    }
}

#[test]
fn an_authority_survives_its_files() {
    let ca = authority();
    let again = Authority::from_pem(ca.certificate_pem(), &ca.key_pem()).expect("readable");
    assert_eq!(again.certificate_sha256(), ca.certificate_sha256());
    assert_eq!(again.not_after(), ca.not_after());
    let key = KeyPair::generate().expect("key");
    let (one, two) = (ca.issue(&client_request(&key)), again.issue(&client_request(&key)));
    let raw_issuer = |pem: &str| with(pem, |certificate| certificate.issuer().as_raw().to_vec());
    assert_eq!(raw_issuer(&one.expect("leaf")), raw_issuer(&two.expect("leaf")));
    assert_eq!(
        raw_issuer(ca.certificate_pem()),
        with(again.certificate_pem(), |certificate| certificate.subject().as_raw().to_vec())
    );
}

#[test]
fn refuses_files_that_are_no_authority() {
    let (ca, other) = (authority(), authority());
    assert!(matches!(Authority::from_pem(ca.certificate_pem(), &other.key_pem()), Err(AuthorityError::OtherKey)));
    let key = KeyPair::generate().expect("key");
    let leaf = ca.issue(&client_request(&key)).expect("leaf");
    assert!(matches!(Authority::from_pem(&leaf, &key.to_pem()), Err(AuthorityError::Certificate)));
    assert!(matches!(Authority::from_pem("", &ca.key_pem()), Err(AuthorityError::Certificate)));
    assert!(matches!(Authority::from_pem(ca.certificate_pem(), ""), Err(AuthorityError::Key(_))));
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let ca = authority();
    let key = KeyPair::generate().expect("key");
    let request = CertificateRequest { not_after: now().plus(365 * DAY), ..client_request(&key) };
    let leaf = ca.issue(&request).expect("leaf");
    assert_eq!(PeerCertificate::from_pem(&leaf).expect("readable").not_after, ca.not_after());
}

#[test]
fn refuses_requests_that_make_no_sense() {
    let ca = authority();
    let key = KeyPair::generate().expect("key");
    let good = server_request(&key);
    let issue = |request: CertificateRequest| ca.issue(&request).expect_err("refused");
    let name = |common_name: &str| CertificateRequest { common_name: common_name.to_owned(), ..good.clone() };
    for bad in ["", &"x".repeat(65), "test authority"] {
        assert!(matches!(issue(name(bad)), AuthorityError::CommonName(_)), "{bad}");
    }
    let nothing = CertificateRequest { server: false, client: false, ..good.clone() };
    assert!(matches!(issue(nothing), AuthorityError::NoUsage));
    let backwards = CertificateRequest { not_after: good.not_before, ..good.clone() };
    assert!(matches!(issue(backwards), AuthorityError::Dates));
    let accent = CertificateRequest { dns_names: vec!["über.example".to_owned()], ..good.clone() };
    assert!(matches!(issue(accent), AuthorityError::Name(_)));
    let endless = Authority::create("endless", now(), UnixSeconds(u64::MAX));
    assert!(matches!(endless, Err(AuthorityError::Dates)));
}

#[test]
fn refuses_to_read_what_is_no_certificate_of_ours() {
    assert_eq!(PeerCertificate::from_pem("x"), Err(CertificateError::Pem));
    assert_eq!(PeerCertificate::from_der(b"\x30\x00"), Err(CertificateError::Malformed));
    let mut long = der(authority().certificate_pem());
    long.push(0);
    assert_eq!(PeerCertificate::from_der(&long), Err(CertificateError::Malformed));
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let certificate = rcgen::CertificateParams::new(vec![]).expect("parameters").self_signed(&ed25519).expect("made");
    assert_eq!(PeerCertificate::from_der(certificate.der()), Err(CertificateError::Key));
}
