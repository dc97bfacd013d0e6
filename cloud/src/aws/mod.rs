//! EC2: the instance was made so that it ends for good when it is powered off; asking EC2 is the second way.

use crate::{BoxFuture, EndError, Platform, Power, Rung, Terminator};
use std::sync::Arc;
use towline_cloud_api::aws::ec2::{Ec2, Ec2Error};
use towline_cloud_api::aws::metadata::Metadata;

/// One EC2 instance, from inside.
#[derive(Debug)]
pub struct Instance {
    metadata: Arc<Metadata>,
    power: Power,
    service: Option<String>,
}

impl Instance {
    /// With its metadata service; `service` is EC2's address if it is not the region's public one.
    pub fn new(metadata: Arc<Metadata>, power: Power, service: Option<String>) -> Self {
        Self { metadata, power, service }
    }

    /// Which instance and where, read when it is needed: an instance that cannot read it must still power off.
    async fn terminate(&self) -> Result<(), EndError> {
        let read = async |path: &str| {
            let text = self.metadata.get(path).await.map_err(|error| failed(error.to_string(), true))?;
            text.ok_or_else(|| failed(format!("the metadata service has no {path}"), false))
        };
        let (id, region) = (read("meta-data/instance-id").await?, read("meta-data/placement/region").await?);
        let ec2 = Ec2::new(&region, self.service.as_deref(), self.metadata.clone());
        let ec2 = ec2.map_err(|error| failed(error.to_string(), false))?;
        let said = |error: Ec2Error| failed(error.to_string(), error.is_passing());
        ec2.terminate(&id).await.map_err(said)
    }
}

impl Terminator for Instance {
    fn rungs(&self) -> Vec<Rung> {
        // Powering off needs no right and no network.
        vec![Rung::PowerOff, Rung::Delete, Rung::PowerOffForced]
    }

    fn attempt(&self, rung: Rung) -> BoxFuture<'_, Result<(), EndError>> {
        Box::pin(async move {
            match rung {
                Rung::Delete | Rung::Deallocate => self.terminate().await,
                rung => crate::by_power(&self.power, Platform::Aws, rung).await,
            }
        })
    }
}

fn failed(reason: String, is_passing: bool) -> EndError {
    EndError { platform: Platform::Aws, reason, is_passing }
}
