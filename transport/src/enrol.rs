//! The enrolment client: a new key and a one-time token become a certificate.
//!
//! Owns the retries. Must not write a file or keep the token. Driven by bootstrap. A lost reply harms nobody: asking
//! again with the same key gets the same certificate.

use crate::backoff::Backoff;
use crate::certificate::{CertificateError, PeerCertificate};
use crate::client;
use crate::keys::{self, KeyError, KeyPair};
use crate::name::HostName;
use crate::tls::TlsError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use towline_protocol::WIRE_VERSION;
use towline_protocol::enrolment::{Attestation, Challenge, EnrolmentGrant, EnrolmentRequest, proof_bytes};
use towline_protocol::strict;
use towline_protocol::user_data::UserData;
use tracing::info;

/// First ceiling of the wait between two tries. Short: a `local` start is over within a second.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Last ceiling of the wait between two tries.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Longest single request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Refusals that a new challenge can cure.
const STALE_CHALLENGE: [&str; 3] = ["challenge_expired", "challenge_unknown", "challenge_used"];

/// Why a host could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The user data carries no token.
    #[error("the user data carries no enrolment token")]
    NoToken,
    /// The pinned authority is not usable.
    #[error("the control plane's authority in the user data cannot be used")]
    Authority(#[source] TlsError),
    /// The key could not sign.
    #[error("the identity key cannot be used")]
    Key(#[source] KeyError),
    /// The control plane said no, for good.
    #[error("the control plane refused the enrolment: {refusal}")]
    Refused {
        /// What it said.
        refusal: Refusal,
    },
    /// The answer was good but not for us.
    #[error("the control plane's grant is not for this host: {0}")]
    WrongGrant(&'static str),
    /// The certificate in the answer cannot be read.
    #[error("the certificate in the control plane's grant cannot be read")]
    Certificate(#[source] CertificateError),
    /// Out of time; the last failure says why.
    #[error("no certificate within {} s; the last try: {last}", deadline.as_secs())]
    Deadline {
        /// The time that was allowed.
        deadline: Duration,
        /// Why the last try failed.
        last: String,
    },
}

impl EnrolError {
    /// Whether trying again later, with the same token and key, may help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

/// An answer that says no (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable word, e.g. `token_expired`; `unknown` when the answer had none.
    pub code: String,
    /// What is wrong, for people.
    pub detail: String,
    /// What to do about it, for people.
    pub remedy: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.detail, self.code, self.status)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// A problem document as far as we read it. Unknown members are allowed by RFC 9457.
#[derive(Deserialize)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
    title: Option<String>,
    remedy: Option<String>,
}

/// One try's outcome other than success.
enum Failure {
    Permanent(EnrolError),
    Passing(String),
}

/// Enrol: ask for a challenge, answer it, and again until it works, is refused for good, or `deadline` has passed.
pub async fn enrol(
    user_data: &UserData,
    key: &KeyPair,
    attestation: Attestation,
    deadline: Duration,
) -> Result<EnrolmentGrant, EnrolError> {
    let token = user_data.token.as_deref().ok_or(EnrolError::NoToken)?;
    let http = client::http_client(&user_data.control_plane_ca, None).map_err(EnrolError::Authority)?;
    let attempt = Attempt { user_data, token, key, attestation, http };
    let end = Instant::now() + deadline;
    let mut backoff = Backoff::new(FIRST_WAIT, LAST_WAIT);
    let mut last = "no answer".to_owned();
    for number in 1u32.. {
        match timeout_at(end, attempt.run()).await {
            Ok(Ok(grant)) => return Ok(grant),
            Ok(Err(Failure::Permanent(error))) => return Err(error),
            Ok(Err(Failure::Passing(reason))) => last = reason,
            Err(_) => break,
        }
        let wait = backoff.next(keys::random_fraction());
        info!(attempt = number, reason = %last, wait_ms = wait.as_millis() as u64, "enrolment will be tried again");
        if Instant::now() + wait >= end {
            break;
        }
        tokio::time::sleep(wait).await;
    }
    Err(EnrolError::Deadline { deadline, last })
}

struct Attempt<'a> {
    user_data: &'a UserData,
    token: &'a str,
    key: &'a KeyPair,
    attestation: Attestation,
    http: reqwest::Client,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<EnrolmentGrant, Failure> {
        let challenge: Challenge = self.post("/enroll/challenge", &serde_json::json!({})).await?;
        let spki = self.key.spki();
        let host = &self.user_data.host;
        let proof = self
            .key
            .sign(&proof_bytes(&challenge.challenge, host, self.token, &spki))
            .map_err(|error| Failure::Permanent(EnrolError::Key(error)))?;
        let request = EnrolmentRequest {
            v: WIRE_VERSION,
            host: host.clone(),
            challenge: challenge.challenge,
            spki,
            proof: STANDARD.encode(proof),
            token: self.token.to_owned(),
            attestation: self.attestation.clone(),
        };
        let grant: EnrolmentGrant = self.post("/enroll", &request).await?;
        check(&grant, self.user_data, self.key).map_err(Failure::Permanent)?;
        Ok(grant)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, Failure> {
        let url = format!("{}{path}", self.user_data.control_plane.trim_end_matches('/'));
        let answer = self.http.post(url).json(body).timeout(REQUEST_DEADLINE).send().await.map_err(passing)?;
        let status = answer.status().as_u16();
        let bytes = read(answer).await?;
        if (200..300).contains(&status) {
            return strict::from_slice(&bytes).map_err(|error| Failure::Passing(format!("{path}: {error}")));
        }
        Err(classify(status, &bytes))
    }
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(passing)? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Passing("the answer is too long".to_owned()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Which answers pass by themselves: overload, a server in trouble, a host not known yet, a challenge that ran out.
fn classify(status: u16, body: &[u8]) -> Failure {
    let refusal = refusal(status, body);
    let passing =
        matches!(status, 408 | 425 | 429 | 500..) || status < 400 || STALE_CHALLENGE.contains(&refusal.code.as_str());
    if passing { Failure::Passing(refusal.to_string()) } else { Failure::Permanent(EnrolError::Refused { refusal }) }
}

fn refusal(status: u16, body: &[u8]) -> Refusal {
    let problem =
        serde_json::from_slice(body).unwrap_or(Problem { code: None, detail: None, title: None, remedy: None });
    Refusal {
        status,
        code: problem.code.map_or_else(|| "unknown".to_owned(), |code| printable(&code)),
        detail: problem.detail.or(problem.title).map_or_else(|| "no reason given".to_owned(), |text| printable(&text)),
        remedy: problem.remedy.map(|text| printable(&text)),
    }
}

/// What a server says ends up in logs and on terminals: one line, no control characters, not too long.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn passing(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut reason = error.to_string();
    // reqwest's own words are general; the causes below say what happened.
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    Failure::Passing(printable(&reason))
}

fn check(grant: &EnrolmentGrant, user_data: &UserData, key: &KeyPair) -> Result<(), EnrolError> {
    if grant.workspace != user_data.workspace {
        return Err(EnrolError::WrongGrant("it names another workspace"));
    }
    if grant.cluster != user_data.cluster {
        return Err(EnrolError::WrongGrant("it names another cluster"));
    }
    let certificate = PeerCertificate::from_pem(&grant.certificate_chain).map_err(EnrolError::Certificate)?;
    if certificate.spki != key.spki() {
        return Err(EnrolError::WrongGrant("its certificate is for another key"));
    }
    let name = HostName {
        trust_domain: user_data.trust_domain.clone(),
        workspace: user_data.workspace.clone(),
        cluster: user_data.cluster.clone(),
        host: user_data.host.to_string(),
    };
    if !certificate.uris.contains(&name.to_uri()) {
        return Err(EnrolError::WrongGrant("its certificate names another host"));
    }
    Ok(())
}
