//! Errors as people get them (RFC 9457): a stable code, the thing it is about, and what to do.
//!
//! Owns the list of codes with their statuses, titles and usual remedies. Must not carry what a person did not send or may
//! not see: causes from inside are logged here and told only as `internal`.

use crate::store::StoreError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident, $title:literal, $remedy:literal;)*) => {
        /// Every way a request can fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant),* }

        impl Code {
            /// All of them, for tests and docs.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }

            /// The HTTP status it comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),* }
            }

            /// What it means, in a few words.
            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }

            /// What to do about it, unless the problem says more.
            pub(crate) fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),* }
            }
        }
    };
}

codes! {
    /// The admission is not the owner's, or for something else.
    AdmissionInvalid = "admission_invalid", BAD_REQUEST, "The admission does not hold",
        "sign it with the cluster's owner key, for this cluster and this client's key";
    /// The owner or an admin said no.
    AdmissionRefused = "admission_refused", CONFLICT, "The owner does not let this client in",
        "talk to the owner; whoever asks again does so with a fresh key";
    /// Nobody of this name asks.
    AdmissionRequestUnknown = "admission_request_unknown", NOT_FOUND, "There is no such request to join",
        "`towline cluster admit NAME` shows who asks; a request lives an hour, and no longer than its token";
    /// No such backend here.
    BackendUnknown = "backend_unknown", BAD_REQUEST, "There is no such backend",
        "choose one of: local";
    /// Not every blob of the environment was uploaded.
    BlobsMissing = "blobs_missing", CONFLICT, "Files of the environment are not in the blob store",
        "announce the environment again and upload what is reported as missing";
    /// The blob store does not answer.
    BlobStoreUnavailable = "blob_store_unavailable", SERVICE_UNAVAILABLE, "The blob store does not answer",
        "try again; if it lasts, look at the blob store's log on the server";
    /// The request's body is too long.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The request is too large",
        "send at most 1 MiB of JSON";
    /// The client's name belongs to another key.
    ClientNameTaken = "client_name_taken", CONFLICT, "A client of this name is admitted with another key",
        "make a fresh client key under a fresh name";
    /// The cluster is ending or has ended.
    ClusterEnded = "cluster_ended", CONFLICT, "The cluster has ended",
        "make a new cluster";
    /// The roster has no room for more members.
    ClusterFull = "cluster_full", CONFLICT, "The cluster has no room for more members",
        "make a new cluster: every client and host that a cluster ever had keeps its place";
    /// A live cluster has this name.
    ClusterNameTaken = "cluster_name_taken", CONFLICT, "A live cluster has this name",
        "choose another name, or stop the other cluster with `towline cluster stop NAME`";
    /// No such cluster in the workspace.
    ClusterUnknown = "cluster_unknown", NOT_FOUND, "There is no such cluster",
        "`towline cluster list --all` shows every cluster of the workspace";
    /// It took too long.
    DeadlineExceeded = "deadline_exceeded", SERVICE_UNAVAILABLE, "The request took too long",
        "try again with the same Idempotency-Key; if it lasts, look at the server's log";
    /// The digest was announced before, with other contents.
    EnvironmentDiffers = "environment_differs", CONFLICT, "This digest was announced with other contents",
        "make the cluster again: the client prepares the environment anew, and its digest must name its lock";
    /// The environment is known but its blobs are not all there.
    EnvironmentIncomplete = "environment_incomplete", CONFLICT, "The environment is not completely uploaded",
        "make the cluster again: the client uploads what is missing";
    /// No such environment in the workspace.
    EnvironmentUnknown = "environment_unknown", NOT_FOUND, "There is no such environment",
        "`towline env list` shows what there is; the client prepares an environment when it makes a cluster";
    /// A value is outside its bounds.
    FieldInvalid = "field_invalid", BAD_REQUEST, "A value is not allowed",
        "correct the value that is named";
    /// The person may not do this.
    Forbidden = "forbidden", FORBIDDEN, "You may not do this",
        "ask the owner of the cluster or an admin of the workspace";
    /// The hold would reach beyond the cluster's longest life.
    HoldTooLong = "hold_too_long", CONFLICT, "The cluster does not live that long",
        "hold it for a shorter time; a longer life is given when a cluster is made: `max_lifetime=`";
    /// No such host in the workspace.
    HostUnknown = "host_unknown", NOT_FOUND, "There is no such host",
        "`towline host list` shows the hosts of live clusters";
    /// The key was used for another request.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key was used for another request",
        "use a fresh key for each new request";
    /// Something broke inside.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The control plane failed",
        "try again; the server's log has the cause under the request id";
    /// Not JSON, or not of the documented shape.
    JsonInvalid = "json_invalid", BAD_REQUEST, "The request cannot be read",
        "send JSON of the documented shape; /openapi.json describes it";
    /// A cluster would be more than the workspace or the person may have.
    LimitReached = "limit_reached", CONFLICT, "That is more than the limit allows",
        "end a cluster that you do not need, ask for fewer workers, or ask an admin to raise it with `towline limits set`";
    /// The method does not exist here.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "This address does not know this method",
        "/openapi.json describes every address and method";
    /// No such address.
    NotFound = "not_found", NOT_FOUND, "There is nothing here",
        "/openapi.json describes every address; does the client's version fit the server's?";
    /// A query parameter is unknown or wrong.
    QueryInvalid = "query_invalid", BAD_REQUEST, "A query parameter is not known or not right",
        "/openapi.json describes the parameters";
    /// The caller's role does not reach.
    RoleTooLow = "role_too_low", FORBIDDEN, "The token's role is too low for this",
        "ask an admin of the workspace to do it, or for a token of that role: `towline token create`";
    /// The token's time is over.
    TokenExpired = "token_expired", UNAUTHORIZED, "The token has expired",
        "ask an admin for a fresh token (`towline token create`), then log in with it: `towline login URL`";
    /// Without it nobody could make tokens any more.
    TokenIsLastAdmins = "token_is_last_admins", CONFLICT, "The workspace would lock itself out",
        "make another first: `towline token create --name NAME --person NAME --role admin --expires never`";
    /// No such token in the workspace.
    TokenIdUnknown = "token_id_unknown", NOT_FOUND, "There is no such token",
        "`towline token list --all` shows your tokens, and an admin everybody's";
    /// No bearer token.
    TokenMissing = "token_missing", UNAUTHORIZED, "The request has no bearer token",
        "log in with `towline login URL`, which keeps a token in your profile";
    /// Somebody took the token back.
    TokenRevoked = "token_revoked", UNAUTHORIZED, "The token was revoked",
        "ask an admin for a fresh token (`towline token create`), then log in with it: `towline login URL`";
    /// Not a token of this server.
    TokenUnknown = "token_unknown", UNAUTHORIZED, "The token is not known",
        "log in again with `towline login URL`; a reset server has new tokens";
    /// Too many event streams.
    TooManyStreams = "too_many_streams", SERVICE_UNAVAILABLE, "Too many event streams are open",
        "close some, or raise `limits.event_streams` in the server's settings";
    /// Not JSON by its content type.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The request is not JSON",
        "send `Content-Type: application/json`";
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:towline:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, naming the thing.
    pub detail: String,
    /// The stable word.
    pub code: String,
    /// What to do about it.
    pub remedy: String,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    detail: String,
    remedy: Option<String>,
}

impl Problem {
    /// This code, about this thing.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), remedy: None }
    }

    /// With a remedy that says more than the code's usual one.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A value outside its bounds.
    pub fn field(field: &str, message: impl std::fmt::Display) -> Self {
        Self::new(Code::FieldInvalid, format!("`{field}` {message}"))
    }

    /// Something broke inside: logged here with its whole chain, told without it.
    pub fn internal(doing: &'static str, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(component = "api", doing, error = %chain(error), "request failed inside");
        Self::new(Code::Internal, format!("could not {doing}"))
    }

    /// Which code.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// An error and its causes on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::UnknownCluster(id) => Self::new(Code::ClusterUnknown, format!("there is no cluster {id}")),
            StoreError::UnknownHost(id) => Self::new(Code::HostUnknown, format!("there is no host {id}")),
            _ => Self::internal("read or write the database", &error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = ProblemBody {
            kind: format!("urn:towline:error:{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            code: self.code.as_str().to_owned(),
            remedy: self.remedy.unwrap_or_else(|| self.code.remedy().to_owned()),
        };
        let text = serde_json::to_string(&body).expect("a problem holds only text and a number");
        let mut response = (status, text).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The commands that people have.
    const COMMANDS: [&str; 24] = [
        "agent",
        "cluster admit",
        "cluster join",
        "cluster list",
        "cluster show",
        "cluster stop",
        "demo",
        "doctor",
        "env list",
        "env scan",
        "env show",
        "host list",
        "host show",
        "limits set",
        "limits show",
        "login",
        "server init",
        "server reset",
        "server run",
        "token create",
        "token list",
        "token revoke",
        "usage",
        "version",
    ];

    #[test]
    fn remedies_name_only_what_is_there() {
        for code in Code::ALL {
            for named in code.remedy().split("`towline ").skip(1) {
                let is = |command: &str| named.strip_prefix(command).is_some_and(|rest| rest.starts_with(['`', ' ']));
                assert!(COMMANDS.into_iter().any(is), "{code:?}: `towline {named}");
            }
        }
        assert!(Code::BackendUnknown.remedy().ends_with(crate::backends::local::NAME));
    }

    #[test]
    fn every_code_is_its_own_word_and_has_a_remedy() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert!(code.remedy().len() > 10 && code.title().len() > 10, "{code:?}");
        }
    }
}
