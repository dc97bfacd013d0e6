//! Error answers (RFC 9457), one shape for every refusal.
//!
//! Must not repeat a grant, a path or an address. Driven by `api`.

use crate::store::UploadError;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use towline_transport::blob_grant::GrantError;

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    remedy: &'static str,
}

impl Problem {
    pub(crate) const MALFORMED: Self = Self {
        status: StatusCode::BAD_REQUEST,
        code: "malformed_request",
        detail: "The path must be /v1/blobs/<64 hexadecimal digits>?grant=<grant>.",
        remedy: "Use the URL exactly as the control plane gave it.",
    };
    pub(crate) const NOT_FOUND: Self = Self {
        status: StatusCode::NOT_FOUND,
        code: "blob_not_found",
        detail: "The blob is not here.",
        remedy: "Upload it first, or ask the control plane which blobs are missing.",
    };
    pub(crate) const BROKEN: Self = Self {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: "storage_failed",
        detail: "The blob store could not read or write its directory.",
        remedy: "Look at the blob store's log, then try again.",
    };
    pub(crate) const NO_SUCH_PAGE: Self = Self {
        status: StatusCode::NOT_FOUND,
        code: "not_found",
        detail: "There is nothing here.",
        remedy: "Use the URL exactly as the control plane gave it.",
    };
}

#[cfg(test)]
impl Problem {
    pub(crate) fn code(self) -> &'static str {
        self.code
    }

    pub(crate) fn detail(self) -> &'static str {
        self.detail
    }

    pub(crate) fn remedy(self) -> &'static str {
        self.remedy
    }

    pub(crate) fn status(self) -> u16 {
        self.status.as_u16()
    }
}

impl From<GrantError> for Problem {
    fn from(error: GrantError) -> Self {
        let (detail, remedy) = match error {
            GrantError::Malformed => ("The grant is malformed.", "Use the URL exactly as the control plane gave it."),
            GrantError::BadSignature => {
                ("The grant's signature does not fit.", "Use the URL exactly as the control plane gave it.")
            }
            GrantError::Expired => ("The grant has expired.", "Ask the control plane for a new one."),
            GrantError::TooLong => {
                ("The grant claims a longer life than grants may have.", "Compare the clocks of both machines.")
            }
            GrantError::OtherDigest => ("The grant is for another blob.", "Ask the control plane for this blob."),
            GrantError::OtherMethod => ("The grant is for another method.", "Ask the control plane for this method."),
        };
        Self { status: StatusCode::FORBIDDEN, code: error.kind(), detail, remedy }
    }
}

impl From<&UploadError> for Problem {
    fn from(error: &UploadError) -> Self {
        let (status, code, detail, remedy) = match error {
            UploadError::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "blob_too_large",
                "The blob is larger than its grant or the store allows.",
                "Ship fewer or smaller files; the store's own limit cannot be changed.",
            ),
            UploadError::OtherDigest => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "digest_mismatch",
                "The bytes do not have the hash they were announced with.",
                "Upload again; if it happens again, the file changes while it is read.",
            ),
            UploadError::Cut => (StatusCode::BAD_REQUEST, "upload_cut", "The upload ended early.", "Upload again."),
            UploadError::Stalled => (
                StatusCode::REQUEST_TIMEOUT,
                "upload_stalled",
                "The upload stood still for too long.",
                "Upload again, over a better connection.",
            ),
            UploadError::Full(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
                "The blob store's disk is full.",
                "Free space on the blob store's disk, then upload again.",
            ),
            UploadError::Storage(_) => return Self::BROKEN,
        };
        Self { status, code, detail, remedy }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": format!("urn:towline:error:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "remedy": self.remedy,
        });
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, headers, body.to_string()).into_response()
    }
}
