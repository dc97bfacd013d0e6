//! What a new host is told at its creation. No secret in it outlives enrolment.

use crate::ids::{ClusterId, HostId, VerifyingKey, WorkspaceId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The document that clouds carry as user data and `local` hosts find as `user-data.json` (mode 0600).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserData {
    /// Wire version.
    pub v: u32,
    /// `https://host:port` of the control plane's `agents` listener.
    pub control_plane: String,
    /// The control plane's CA certificate, PEM. The only root an agent trusts for this connection.
    pub control_plane_ca: String,
    /// The operator's root key, which delegations must be signed by.
    pub root_key: VerifyingKey,
    /// `spiffe://` trust domain of the control plane.
    pub trust_domain: String,
    /// The workspace this host is for.
    pub workspace: WorkspaceId,
    /// The cluster this host is for.
    pub cluster: ClusterId,
    /// The id the host was created under.
    pub host: HostId,
    /// One-time enrolment token; removed from the file once spent.
    pub token: Option<String>,
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserData")
            .field("control_plane", &self.control_plane)
            .field("workspace", &self.workspace)
            .field("cluster", &self.cluster)
            .field("host", &self.host)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}
