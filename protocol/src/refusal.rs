//! Why a host refuses a signed document: one reason per attack, each with a stable word.

use crate::envelope::EnvelopeError;
use crate::strict::StrictError;

/// Why a document was refused. Each attack has its own reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The envelope itself does not hold.
    #[error("the envelope was refused")]
    Envelope(#[from] EnvelopeError),
    /// No delegation accepted yet.
    #[error("no signing key is delegated yet")]
    NoDelegation,
    /// The delegation that names the signing key has run out, or has not begun.
    #[error("the delegation of the signing key is not valid now")]
    DelegationNotValid,
    /// The signing key is not delegated for this workspace.
    #[error("the signing key is not delegated for this workspace")]
    NotDelegated,
    /// An older delegation than the one in force.
    #[error("the delegation is older than the one in force")]
    DelegationRollback,
    /// The delegation claims a longer life than allowed.
    #[error("the delegation's life is longer than 30 days or ends before it begins")]
    DelegationTooLong,
    /// For another host.
    #[error("the document is for another host")]
    OtherAudience,
    /// For another workspace.
    #[error("the document is for another workspace")]
    OtherWorkspace,
    /// For another cluster.
    #[error("the document is for another cluster")]
    OtherCluster,
    /// Names another owner than the first assignment did.
    #[error("the document names another owner than the first assignment did")]
    OtherOwner,
    /// Below the delegation's floor.
    #[error("the epoch is below the delegation's floor")]
    EpochFloor,
    /// Above what the delegation allows.
    #[error("the epoch lies beyond the delegation's end")]
    EpochCeiling,
    /// Lower than the one in force.
    #[error("the document is older than the one in force")]
    Replay,
    /// Same place, other content.
    #[error("the document has the place of the one in force but says something else")]
    Conflict,
    /// Too late.
    #[error("the document has expired")]
    Expired,
    /// Too early.
    #[error("the document is from the future")]
    NotYetValid,
    /// A client entry without the owner's word.
    #[error("roster entry {0:?} is a client without an admission")]
    NoAdmission(String),
    /// A host entry with an admission, or one that does not match the entry.
    #[error("the admission of roster entry {0:?} does not fit the entry")]
    AdmissionMismatch(String),
    /// An admission signed by somebody else.
    #[error("the admission of roster entry {0:?} is not the owner's")]
    AdmissionNotOwners(String),
    /// A scheduler beside the host that the roster is for.
    #[error("roster entry {0:?} is a scheduler, but not the host that the roster is for")]
    OtherScheduler(String),
    /// Entries vanished or changed within one epoch.
    #[error("the roster dropped or changed an entry of its own epoch")]
    RosterShrank,
    /// No assignment yet, so no owner to check admissions against.
    #[error("a roster came before the first assignment")]
    RosterTooEarly,
}

impl Refusal {
    /// A stable word for metrics and events.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Envelope(EnvelopeError::BadSignature) => "bad_signature",
            Self::Envelope(EnvelopeError::Malformed(StrictError::DuplicateKey)) => "duplicate_key",
            Self::Envelope(EnvelopeError::Malformed(StrictError::NotInteger)) => "not_integer",
            Self::Envelope(EnvelopeError::Malformed(StrictError::Shape(_))) => "malformed",
            Self::Envelope(EnvelopeError::Malformed(StrictError::TooDeep)) => "too_deep",
            Self::Envelope(EnvelopeError::Malformed(StrictError::TooLarge(_))) => "too_large",
            Self::Envelope(EnvelopeError::Malformed(StrictError::UnknownField(_))) => "unknown_field",
            Self::Envelope(EnvelopeError::MalformedPayload) => "malformed_payload",
            Self::Envelope(EnvelopeError::MalformedSignature) => "malformed_signature",
            Self::Envelope(EnvelopeError::TooLarge) => "too_large",
            Self::Envelope(EnvelopeError::Version(_)) => "wire_version",
            Self::Envelope(EnvelopeError::WrongType { .. }) => "wrong_type",
            Self::NoDelegation => "no_delegation",
            Self::DelegationNotValid => "delegation_not_valid",
            Self::NotDelegated => "not_delegated",
            Self::DelegationRollback => "delegation_rollback",
            Self::DelegationTooLong => "delegation_too_long",
            Self::OtherAudience => "other_audience",
            Self::OtherWorkspace => "other_workspace",
            Self::OtherCluster => "other_cluster",
            Self::OtherOwner => "other_owner",
            Self::EpochFloor => "epoch_floor",
            Self::EpochCeiling => "epoch_ceiling",
            Self::Replay => "replay",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoAdmission(_) => "no_admission",
            Self::AdmissionMismatch(_) => "admission_mismatch",
            Self::AdmissionNotOwners(_) => "admission_not_owners",
            Self::OtherScheduler(_) => "other_scheduler",
            Self::RosterShrank => "roster_shrank",
            Self::RosterTooEarly => "roster_too_early",
        }
    }
}
