//! Azure: a machine that shuts itself down is still paid for, so it asks Azure Resource Manager first.

use crate::{BoxFuture, EndError, Platform, Power, Rung, Terminator};
use std::sync::Arc;
use towline_cloud_api::azure::machines::{Machines, MachinesError, PUBLIC};
use towline_cloud_api::azure::metadata::Metadata;

/// One virtual machine, from inside.
#[derive(Debug)]
pub struct VirtualMachine {
    metadata: Arc<Metadata>,
    power: Power,
    service: Option<String>,
}

impl VirtualMachine {
    /// With its metadata service; `service` is the resource manager's address if it is not the public one.
    pub fn new(metadata: Arc<Metadata>, power: Power, service: Option<String>) -> Self {
        Self { metadata, power, service }
    }

    async fn ask(&self, rung: Rung) -> Result<(), EndError> {
        let compute = self.metadata.compute().await.map_err(|error| failed(error.to_string(), true))?;
        let url = self.service.as_deref().unwrap_or(PUBLIC);
        let machines = Machines::new(url, self.metadata.clone()).map_err(|error| failed(error.to_string(), false))?;
        let asked = match rung {
            Rung::Deallocate => machines.deallocate(&compute.resource_id).await,
            _ => machines.delete(&compute.resource_id).await,
        };
        asked.map_err(|error: MachinesError| failed(error.to_string(), error.is_passing()))
    }
}

impl Terminator for VirtualMachine {
    fn rungs(&self) -> Vec<Rung> {
        // An identity may have the right to the one and not to the other; with neither the control plane deletes the
        // machine, and powering off at least ends its work.
        vec![Rung::Delete, Rung::Deallocate, Rung::PowerOff, Rung::PowerOffForced]
    }

    fn attempt(&self, rung: Rung) -> BoxFuture<'_, Result<(), EndError>> {
        Box::pin(async move {
            match rung {
                Rung::Delete | Rung::Deallocate => self.ask(rung).await,
                rung => crate::by_power(&self.power, Platform::Azure, rung).await,
            }
        })
    }
}

fn failed(reason: String, is_passing: bool) -> EndError {
    EndError { platform: Platform::Azure, reason, is_passing }
}
