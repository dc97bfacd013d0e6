//! Why an enrolment was refused, and the answer that says so.

use crate::store::StoreError;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use towline_transport::authority::AuthorityError;

/// Why an enrolment was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The certificate could not be made.
    #[error("the certificate could not be made")]
    Authority(#[source] AuthorityError),
    /// The signature does not fit key, challenge, host and token.
    #[error("the proof does not fit the key, the challenge, the host and the token")]
    BadProof,
    /// Never given, used, or too old.
    #[error("the challenge is not known, was used, or is older than two minutes")]
    ChallengeUnknown,
    /// The host was banned or has ended.
    #[error("the host has ended or was shut out")]
    HostGone,
    /// Not answered in time.
    #[error("no answer within {0} s: the request came too slowly, or the control plane has too much to do")]
    Late(u64),
    /// The body is not an enrolment request.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// The backend has not told us this instance yet.
    #[error("the backend has not confirmed this host yet")]
    NotKnownYet,
    /// The token was spent for another key.
    #[error("the token was spent for another key")]
    OtherKey,
    /// The store failed.
    #[error("the control plane's store failed")]
    Store(#[from] StoreError),
    /// Not spent in time.
    #[error("the token has expired")]
    TokenExpired,
    /// No such token for this host.
    #[error("the token is not one of this host's")]
    TokenUnknown,
    /// More than any enrolment request is long.
    #[error("the request is longer than any enrolment request")]
    TooLong,
    /// Too many requests.
    #[error("too many requests")]
    TooMany,
    /// Another wire version.
    #[error("the request is of wire version {0}, which this control plane does not speak")]
    Version(u32),
    /// Not a proof of the platform that the host was made on.
    #[error("the attestation is not one of the backend that made the host")]
    WrongAttestation,
}

struct Words {
    status: StatusCode,
    code: &'static str,
    remedy: &'static str,
}

impl Refusal {
    fn words(&self) -> Words {
        let (status, code, remedy) = match self {
            Self::Authority(_) | Self::Store(_) => (500, "internal", "Try again; the control plane's log says more"),
            Self::BadProof => (403, "proof_invalid", "The host must sign with the key it shows"),
            Self::ChallengeUnknown => (409, "challenge_unknown", "Ask for a new challenge"),
            Self::HostGone => (410, "host_gone", "End this host; a new one has a new token"),
            Self::Late(_) => (503, "deadline_exceeded", "Try again; check the network from this host to the server"),
            Self::Malformed(_) => (400, "malformed", "Use a bootstrap of this control plane's version"),
            Self::NotKnownYet => (425, "not_known_yet", "Try again in some seconds"),
            Self::OtherKey => (409, "token_spent", "If this host was copied, end the copy; else make a new host"),
            Self::TokenExpired => (403, "token_expired", "Make a new host: its token lasts for one start"),
            Self::TokenUnknown => (403, "token_unknown", "Check that the user data belongs to this host"),
            Self::TooLong => (413, "body_too_large", "Use a bootstrap of this control plane's version"),
            Self::TooMany => (429, "too_many_requests", "Try again later"),
            Self::Version(_) => (400, "wire_version", "Use a bootstrap of this control plane's version"),
            Self::WrongAttestation => (403, "attestation_wrong", "Check which backend the cluster names"),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Words { status, code, remedy }
    }

    /// The body could not be read.
    pub(super) fn unread(error: &BytesRejection) -> Self {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLong,
            _ => Self::Malformed(error.body_text()),
        }
    }

    /// What the host, or who looks after it, is to do.
    #[cfg(test)]
    pub(crate) fn remedy(&self) -> &'static str {
        self.words().remedy
    }

    /// The stable word.
    pub fn code(&self) -> &'static str {
        self.words().code
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let words = self.words();
        match &self {
            Self::Authority(_) | Self::Store(_) => {
                tracing::error!(component = "enrolment", error = %chain(&self), "enrolment failed");
            }
            _ => tracing::info!(component = "enrolment", code = words.code, "enrolment refused"),
        }
        crate::metrics::get().enrolment(words.code);
        let body = serde_json::json!({
            "type": format!("urn:towline:error:{}", words.code),
            "title": "enrolment refused",
            "status": words.status.as_u16(),
            "detail": self.to_string(),
            "code": words.code,
            "remedy": words.remedy,
        });
        (words.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
