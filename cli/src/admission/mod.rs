//! Sharing a cluster: `towline cluster join` on the machine that wants in, `towline cluster admit` on the owner's.
//!
//! The control plane carries keys between the two and must not be able to swap one: the code that each side makes from
//! the key goes another road, from person to person (docs/decisions/0010).

pub mod admit;
pub mod join;
mod requests;

use crate::api::views::Cluster;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use towline_protocol::ids::ClusterId;

/// The id of a cluster that still takes clients.
fn open_cluster(cluster: &Cluster) -> Outcome<ClusterId> {
    if !matches!(cluster.state.as_str(), "starting" | "running") {
        let failure = Failure::new(
            Exit::Refused,
            "cluster_ended",
            format!("Cluster {} is {}", cluster.name, cluster.state),
            "make a new cluster",
        );
        return Err(match &cluster.reason {
            Some(reason) => failure.because(&reason.message),
            None => failure,
        });
    }
    cluster.id.parse().map_err(|error| {
        Failure::new(
            Exit::Failed,
            "answer_invalid",
            "The server names the cluster by something that is no id",
            "compare `towline version` with the server's",
        )
        .caused_by(&error)
    })
}
