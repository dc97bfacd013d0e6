//! Client keys at a cluster's door: those that were admitted, and those that ask to be.

use super::MemberRecord;
use serde::Serialize;
use towline_protocol::ids::{ClusterId, KeyId, Spki, TokenId};
use utoipa::ToSchema;

/// A client key that asks to join a cluster. The control plane adds who and when; nothing in it is free text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionRequest {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The client's own name, `client-…`.
    pub client: String,
    /// Its key.
    pub spki: Spki,
    /// Who asks.
    pub person: String,
    /// With which token: a request is void when that is revoked.
    pub token: TokenId,
    /// What became of it.
    pub state: RequestState,
    /// Since when, Unix milliseconds.
    pub asked_at_ms: u64,
    /// Until when, Unix milliseconds.
    pub expires_at_ms: u64,
}

/// What became of a request that was not answered by an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Nobody has answered it.
    Pending,
    /// The owner or an admin said no.
    Refused,
    /// Who asked took it back.
    Withdrawn,
}

impl RequestState {
    /// The word in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// The state of a word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Refused, Self::Withdrawn].into_iter().find(|state| state.as_str() == text)
    }
}

/// Who is in a cluster, and who asks to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doorway {
    /// Admitted clients, by name.
    pub members: Vec<MemberRecord>,
    /// Requests that still count, oldest first.
    pub requests: Vec<AdmissionRequest>,
}

impl Doorway {
    /// The request of this client.
    pub fn request(&self, client: &str) -> Option<&AdmissionRequest> {
        self.requests.iter().find(|request| request.client == client)
    }

    /// The admitted client of this name.
    pub fn member(&self, client: &str) -> Option<&MemberRecord> {
        self.members.iter().find(|member| member.id == client)
    }
}

/// A request as people see it. It holds no code: the owner makes that from the key, and compares it with what the person
/// who asks has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AdmissionRequestView {
    /// The client's own name.
    pub client: String,
    /// Its P-256 public key: SubjectPublicKeyInfo, base64.
    #[schema(value_type = String)]
    pub spki: Spki,
    /// SHA-256 of that key.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// Who asks, as the control plane knows them.
    pub person: String,
    /// What became of it.
    pub state: RequestState,
    /// Since when, Unix milliseconds.
    pub asked_at_ms: u64,
    /// Until when, Unix milliseconds.
    pub expires_at_ms: u64,
}

impl From<&AdmissionRequest> for AdmissionRequestView {
    fn from(request: &AdmissionRequest) -> Self {
        Self {
            client: request.client.clone(),
            key: request.spki.key_id(),
            spki: request.spki.clone(),
            person: request.person.clone(),
            state: request.state,
            asked_at_ms: request.asked_at_ms,
            expires_at_ms: request.expires_at_ms,
        }
    }
}
