//! Google Compute Engine: an instance asks to be deleted; one that is only powered off keeps its disk, which costs.

use crate::{BoxFuture, EndError, Platform, Power, Rung, Terminator};
use std::sync::Arc;
use towline_cloud_api::google::instances::{self, InstancesError, PUBLIC};
use towline_cloud_api::google::metadata::Metadata;

/// One instance, from inside.
#[derive(Debug)]
pub struct Instance {
    metadata: Arc<Metadata>,
    power: Power,
    service: Option<String>,
}

impl Instance {
    /// With its metadata server; `service` is Compute Engine's address if it is not the public one.
    pub fn new(metadata: Arc<Metadata>, power: Power, service: Option<String>) -> Self {
        Self { metadata, power, service }
    }

    async fn delete(&self) -> Result<(), EndError> {
        let read = async |path: &str| {
            let text = self.metadata.get(path).await.map_err(|error| failed(error.to_string(), true))?;
            text.ok_or_else(|| failed(format!("the metadata server has no {path}"), false))
        };
        let (project, zone, name) =
            (read("project/project-id").await?, read("instance/zone").await?, read("instance/name").await?);
        // `projects/NUMBER/zones/ZONE`
        let zone = zone.rsplit('/').next().unwrap_or_default();
        let path = format!("projects/{}/zones/{zone}/instances/{}", project.trim(), name.trim());
        let url = self.service.as_deref().unwrap_or(PUBLIC);
        let said = |error: InstancesError| failed(error.to_string(), error.is_passing());
        instances::delete(url, &path, &self.metadata).await.map_err(said)
    }
}

impl Terminator for Instance {
    fn rungs(&self) -> Vec<Rung> {
        vec![Rung::Delete, Rung::PowerOff, Rung::PowerOffForced]
    }

    fn attempt(&self, rung: Rung) -> BoxFuture<'_, Result<(), EndError>> {
        Box::pin(async move {
            match rung {
                Rung::Delete | Rung::Deallocate => self.delete().await,
                rung => crate::by_power(&self.power, Platform::Google, rung).await,
            }
        })
    }
}

fn failed(reason: String, is_passing: bool) -> EndError {
    EndError { platform: Platform::Google, reason, is_passing }
}
