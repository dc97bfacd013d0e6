//! What refusals mean that agents and operators see: of enrolments, documents and sessions. Only in tests.

use crate::enrolment::Refusal as EnrolmentRefusal;
use crate::store::StoreError;
use serde::Serialize;
use std::error::Error;
use towline_protocol::envelope::EnvelopeError;
use towline_protocol::message::SessionRefusal;
use towline_protocol::report::EventCode;
use towline_protocol::strict::StrictError;
use towline_protocol::trust::Refusal;
use towline_transport::authority::AuthorityError;

/// A value of every variant, with what belongs to it. A variant without a line does not compile.
macro_rules! every {
    ($kind:ty: $($pattern:pat => $example:expr),* $(,)?) => {{
        let _complete = |one: $kind| match one { $($pattern)|* => () };
        vec![$($example),*]
    }};
}
pub(super) use every;

/// One thing that a code means; a code that several parties give has several.
pub(super) struct Meaning {
    pub code: String,
    /// A sentence without its full stop.
    pub means: String,
    pub remedy: String,
}

impl Meaning {
    fn new(code: impl Into<String>, means: impl Into<String>, remedy: &str) -> Self {
        Self { code: code.into(), means: means.into(), remedy: remedy.to_owned() }
    }
}

/// Why a host gets no certificate.
pub(super) fn enrolment() -> Vec<Meaning> {
    use EnrolmentRefusal as R;
    let refusals = every!(R:
        R::Authority(_) => R::Authority(AuthorityError::Certificate),
        R::BadProof => R::BadProof,
        R::ChallengeUnknown => R::ChallengeUnknown,
        R::HostGone => R::HostGone,
        R::Late(_) => R::Late(crate::enrolment::REQUEST_DEADLINE.as_secs()),
        R::Malformed(_) => R::Malformed("why".to_owned()),
        R::NotKnownYet => R::NotKnownYet,
        R::OtherKey => R::OtherKey,
        R::Store(_) => R::Store(StoreError::Missing { path: "PATH".into() }),
        R::TokenExpired => R::TokenExpired,
        R::TokenUnknown => R::TokenUnknown,
        R::TooLong => R::TooLong,
        R::TooMany => R::TooMany,
        R::Version(_) => R::Version(9),
        R::WrongAttestation => R::WrongAttestation,
    );
    refusals.into_iter().map(|one| Meaning::new(one.code(), one.to_string(), one.remedy())).collect()
}

const SAME_VERSION: &str = "Use an agent and a control plane of one version. If they are, it is a defect: report it with \
                            that line of the log";
const OTHER_KEYS: &str = "A server that was made anew, or that has not its own folder `server` any more, cannot command the \
                          hosts of the old one: restore that folder from a backup (`towline server restore`), or end these \
                          hosts. If nobody did that, somebody changes what passes between them";
const MIXED_UP: &str = "Look for a copied host directory or image, and end the copy. If there is none, find out who changed \
                        the server's database";
const NOT_OURS: &str = "No server of ours sends such a list. Stop the cluster and find out who changed the server's database; \
                        if nobody did, report it with that line of the log";
const OLDER: &str = "Nothing to do if it came once: the newer word stays in force. If it lasts, set the server's clock right and \
                     start it again, which takes a new epoch. Files of a backup go back by `towline server restore` only";
const CLOCKS: &str = "Set the clocks of this host and of the server right (`timedatectl set-ntp true`)";

/// Why an agent does not do what a document says.
pub(super) fn documents() -> Vec<Meaning> {
    use EnvelopeError as E;
    use Refusal as R;
    use StrictError as S;
    let who = || "NAME".to_owned();
    let refusals = every!(R:
        R::Envelope(E::BadSignature) => (R::Envelope(E::BadSignature), OTHER_KEYS),
        R::Envelope(E::Malformed(S::DuplicateKey)) => (R::Envelope(E::Malformed(S::DuplicateKey)), SAME_VERSION),
        R::Envelope(E::Malformed(S::NotInteger)) => (R::Envelope(E::Malformed(S::NotInteger)), SAME_VERSION),
        R::Envelope(E::Malformed(S::Shape(_))) => (R::Envelope(E::Malformed(S::Shape("why".to_owned()))), SAME_VERSION),
        R::Envelope(E::Malformed(S::TooDeep)) => (R::Envelope(E::Malformed(S::TooDeep)), SAME_VERSION),
        R::Envelope(E::Malformed(S::UnknownField(_))) =>
            (R::Envelope(E::Malformed(S::UnknownField(who()))), SAME_VERSION),
        R::Envelope(E::MalformedPayload) => (R::Envelope(E::MalformedPayload), SAME_VERSION),
        R::Envelope(E::MalformedSignature) => (R::Envelope(E::MalformedSignature), SAME_VERSION),
        // Two variants of one word.
        R::Envelope(E::TooLarge | E::Malformed(S::TooLarge(_))) => (R::Envelope(E::TooLarge), SAME_VERSION),
        R::Envelope(E::Version(_)) => (R::Envelope(E::Version(9)), SAME_VERSION),
        R::Envelope(E::WrongType { .. }) =>
            (R::Envelope(E::WrongType { found: "lease".to_owned(), wanted: "assignment".to_owned() }), SAME_VERSION),
        R::AdmissionMismatch(_) => (R::AdmissionMismatch(who()), NOT_OURS),
        R::AdmissionNotOwners(_) => (R::AdmissionNotOwners(who()), NOT_OURS),
        R::Conflict => (R::Conflict, "Two servers with the same keys are at work: end the one that is a copy, and start \
                                      the other again, which takes a new epoch"),
        R::DelegationNotValid => (R::DelegationNotValid, "Set the clocks of this host and of the server right. If they are, and \
                                                          you keep `root.key` offline, put it back for one start of the \
                                                          server: a delegation lasts 30 days"),
        R::DelegationRollback => (R::DelegationRollback, "Set the server's clock right, put `root.key` back if it is offline, and start the server again: it signs a newer one"),
        R::DelegationTooLong => (R::DelegationTooLong, "Only the root key signs delegations, and no server of ours signs \
                                                        such a one: find out who else holds `root.key`"),
        R::EpochCeiling => (R::EpochCeiling, "Set the server's clock right and start it again: it makes epochs of its time"),
        R::EpochFloor => (R::EpochFloor, OLDER),
        R::Expired => (R::Expired, CLOCKS),
        R::NoAdmission(_) => (R::NoAdmission(who()), NOT_OURS),
        R::NoDelegation => (R::NoDelegation, SAME_VERSION),
        R::NotDelegated => (R::NotDelegated, OTHER_KEYS),
        R::NotYetValid => (R::NotYetValid, CLOCKS),
        R::OtherAudience => (R::OtherAudience, MIXED_UP),
        R::OtherCluster => (R::OtherCluster, MIXED_UP),
        R::OtherOwner => (R::OtherOwner, "A cluster keeps its owner for life: stop it, and find out who changed the \
                                          server's database"),
        R::OtherScheduler(_) => (R::OtherScheduler(who()), NOT_OURS),
        R::OtherWorkspace => (R::OtherWorkspace, MIXED_UP),
        R::Replay => (R::Replay, OLDER),
        R::RosterShrank => (R::RosterShrank, NOT_OURS),
        R::RosterTooEarly => (R::RosterTooEarly, SAME_VERSION),
    );
    refusals.into_iter().map(|(one, remedy)| Meaning::new(one.kind(), chain(&one), remedy)).collect()
}

/// Why a session ends, and what hosts tell of within one.
pub(super) fn sessions() -> Vec<Meaning> {
    use EventCode as E;
    use SessionRefusal as R;
    const COMES_AGAIN: &str = "Nothing to do: the agent comes again by itself";
    let refusals = every!(R:
        R::AgentTooOld => (R::AgentTooOld, "the control plane speaks no version of the protocol that this agent speaks",
            "Install the agent of the control plane's version"),
        R::AlreadyConnected => (R::AlreadyConnected, "the same host is connected already, and alive",
            "Nothing to do if it passes: the agent comes again by itself. If it lasts, look for a copied host directory \
             or image"),
        R::Banned => (R::Banned, "the host was shut out",
            "See why: `towline host show HOST`. Then end what is left of it; it never comes back"),
        R::Fenced => (R::Fenced, "a newer session of the same host took the place of this one", COMES_AGAIN),
        R::GoingAway => (R::GoingAway, "the control plane stops, or could not go on with this session; its log says which", COMES_AGAIN),
        R::Malformed => (R::Malformed, "the agent sent something that the control plane cannot read", SAME_VERSION),
        R::UnknownHost => (R::UnknownHost, "the control plane does not know the host, or it has ended",
            "End what is left of it. If the server should know it, see that it runs on the right data directory"),
    );
    let events = every!(E:
        E::Adopted => (E::Adopted, "the agent was started again and found its Dask processes alive", "Nothing to do"),
        E::ClockSkew => (E::ClockSkew, "the clocks of host and server are too far apart", CLOCKS),
        E::DocumentRefused => (E::DocumentRefused, "an agent refused a document of the control plane",
            "Read the host's agent.log: the `kind` of its line says why, and has an entry here"),
        E::Withheld => (E::Withheld, "the host was told of a newer assignment and did not get it for two minutes",
            "Look for ERROR lines in the server's log and in the host's agent.log; if there are none, something between \
             them drops messages"),
    );
    let mut all: Vec<_> = refusals.iter().map(|(one, means, remedy)| Meaning::new(word(one), *means, remedy)).collect();
    all.extend(events.iter().map(|(one, means, remedy)| Meaning::new(word(one), *means, remedy)));
    all.push(Meaning::new(
        crate::sessions::CERTIFICATE_REQUIRED,
        "somebody without the certificate of an enrolled host asked for a session",
        "Enrol the host and connect with the certificate it gets; a browser or a script has no business at this address",
    ));
    all
}

/// What a word of the parts above also means on one's own machine or of another server. Sources of these are read by
/// `tests/house/codes.rs`, which looks only for one entry.
pub(super) fn elsewhere() -> Vec<(&'static str, Meaning)> {
    const HERE: &str = "On your own machine";
    let here = |code: &str, means: &str, remedy: &str| (HERE, Meaning::new(code, means, remedy));
    vec![
        here(
            "cluster_ended",
            "the cluster that `Cluster.from_name` should join has ended",
            "Make a new one: `towline.Cluster(...)`",
        ),
        here(
            "environment_failed",
            "uv could not make the demo's virtual environment or install into it; the message has its last words",
            "Run `towline doctor`: it checks the package index, its certificate and the disk",
        ),
        here(
            "environment_unknown",
            "no environment, or more than one, begins with the digits that you gave",
            "Give more of the digest: `towline env list`",
        ),
        here(
            "hash_mismatch",
            "the uv that was downloaded is not the pinned file, and was not run",
            "Install uv yourself (`pip install uv`), and ask who runs the package index why its file differs",
        ),
        here(
            "index_unreachable",
            "the package index did not answer, or not in time",
            "Check the network, a proxy in HTTPS_PROXY, and the index in UV_DEFAULT_INDEX or pip's settings",
        ),
        here(
            "index_untrusted",
            "the certificate of the package index is not trusted here",
            "Add your organisation's root certificate to this machine's trust store, or name it in SSL_CERT_FILE",
        ),
        here("internal", "a part of the program failed", "Report it with these words"),
        here(
            "interpreter_missing",
            "the hosts have no Python of the very version that you run; nothing was started",
            "Install it where the hosts run (e.g. `uv python install`), or make your environment with one they have",
        ),
        here(
            "not_found",
            "the control plane does not know what was asked for, and gave no reason",
            "`towline cluster list` shows what there is; check that the profile's address is a control plane's",
        ),
        (
            "The blob store",
            Meaning::new("not_found", "it has no such address", "Use the URL as the control plane gave it"),
        ),
        here(
            "tool_missing",
            "there is no uv here, and none could be downloaded",
            "Install it so that it is on PATH: `pip install uv`",
        ),
    ]
}

/// The word on the wire.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("a code is a word");
    value.as_str().expect("a code is a word").to_owned()
}

/// An error and its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    crate::api::chain(error)
}
