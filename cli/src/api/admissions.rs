//! The part of the API with which clients ask to join a cluster, and owners answer.

use super::views::Cluster;
use super::{Answer, Api};
use crate::failure::Outcome;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::Spki;

/// A client key that asks to join, as the server shows it. Nothing in it is to be trusted: the owner makes the code from
/// the key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Asked {
    /// The client's own name.
    pub client: String,
    /// Its key; text that is none has no code.
    #[serde(default)]
    pub spki: String,
    /// Who asks.
    #[serde(default)]
    pub person: String,
    /// Pending, refused or withdrawn.
    pub state: String,
    /// Since when, Unix milliseconds.
    #[serde(default)]
    pub asked_at_ms: u64,
    /// Until when, Unix milliseconds.
    #[serde(default)]
    pub expires_at_ms: u64,
}

impl Asked {
    /// Whether nobody has answered.
    pub fn pending(&self) -> bool {
        self.state == "pending"
    }
}

/// An admission on its way to the server.
#[derive(Clone, Debug, Serialize)]
pub struct NewAdmission<'a> {
    /// The client's own name.
    pub client: &'a str,
    /// Its key.
    pub spki: &'a Spki,
    /// The owner's word.
    pub admission: &'a Envelope,
    /// Whether it answers a request.
    pub requested: bool,
}

impl Api {
    /// Who asks to join a cluster.
    pub async fn admission_requests(&self, cluster: &str) -> Outcome<Answer<Vec<Asked>>> {
        self.get(&["clusters", cluster, "admission-requests"], &[]).await
    }

    /// Ask to join a cluster. The same key again changes nothing.
    pub async fn ask_admission(&self, cluster: &str, client: &str, spki: &Spki) -> Outcome<Answer<Cluster>> {
        let body = serde_json::json!({ "client": client, "spki": spki });
        let request = self.request(Method::POST, &["clusters", cluster, "admission-requests"])?.json(&body);
        self.answer(request).await
    }

    /// End a request: refused by the owner, or taken back by who asked.
    pub async fn end_admission_request(&self, cluster: &str, client: &str, refuse: bool) -> Outcome<Answer<Cluster>> {
        let request = self.request(Method::DELETE, &["clusters", cluster, "admission-requests", client])?;
        self.answer(if refuse { request.query(&[("refuse", "true")]) } else { request }).await
    }

    /// Hand over the owner's admission of a client.
    pub async fn admit(&self, cluster: &str, admission: &NewAdmission<'_>) -> Outcome<Answer<Cluster>> {
        let request = self.request(Method::POST, &["clusters", cluster, "admissions"])?.json(admission);
        self.answer(request).await
    }
}
