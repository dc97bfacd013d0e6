//! What the machine is, as its owner says: which platform, how it ends, where its notices come from.
//!
//! The default is a host that only leaves: an agent that was not told so never powers a machine off. Images say `detect`.

use crate::logs::MachineIdentity;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use towline_cloud::container::Container;
use towline_cloud::local::LocalHost;
use towline_cloud::{Facts, Platform, Power, Terminator, aws, azure, google, machine, onprem};
use towline_cloud_api::{aws as aws_api, azure as azure_api, google as google_api};

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Where it comes from.
    pub platform: Platform,
    /// Whose notices are read; none: the platform's.
    pub notices: Option<Platform>,
    /// The metadata service; none: the link-local one.
    pub metadata_url: Option<String>,
    /// The platform's own service that ends instances; none: the public one.
    pub service_url: Option<String>,
    /// The program that powers the machine off; none: root's units.
    pub power_off: Option<PathBuf>,
    /// A machine of one's own is powered off when its host ends.
    pub power_off_at_end: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            platform: Platform::Local,
            notices: None,
            metadata_url: None,
            service_url: None,
            power_off: None,
            power_off_at_end: false,
        }
    }
}

impl Machine {
    /// What it is.
    pub fn facts(&self, host_dir: &Path) -> Box<dyn Facts> {
        match self.platform {
            Platform::Container => Box::new(Container::new(host_dir)),
            Platform::Local => Box::new(LocalHost::new(host_dir)),
            platform => Box::new(machine::Machine::new(platform, host_dir)),
        }
    }

    /// How it ends.
    pub fn terminator(&self, host_dir: &Path) -> reqwest::Result<Arc<dyn Terminator>> {
        let (power, service) = (self.power(), self.service_url.clone());
        Ok(match self.platform {
            Platform::Aws => {
                let metadata = aws_api::metadata::Metadata::new(self.metadata_url())?;
                Arc::new(aws::Instance::new(Arc::new(metadata), power, service))
            }
            Platform::Azure => {
                let metadata = azure_api::metadata::Metadata::new(self.metadata_url(), None)?;
                Arc::new(azure::VirtualMachine::new(Arc::new(metadata), power, service))
            }
            Platform::Google => {
                let metadata = google_api::metadata::Metadata::new(self.metadata_url())?;
                Arc::new(google::Instance::new(Arc::new(metadata), power, service))
            }
            Platform::Container => Arc::new(Container::new(host_dir)),
            Platform::Local => Arc::new(LocalHost::new(host_dir)),
            Platform::OnPrem => Arc::new(onprem::Machine::new(host_dir, self.power_off_at_end.then_some(power))),
        })
    }

    /// Where the metadata service answers: all three clouds have it at the same address.
    pub fn metadata_url(&self) -> &str {
        self.metadata_url.as_deref().unwrap_or(aws_api::metadata::LINK_LOCAL)
    }

    /// Who the machine is to services of its own cloud; none: it is of no cloud whose services we speak to.
    pub fn identity(&self) -> Option<MachineIdentity> {
        let known = matches!(self.platform, Platform::Aws | Platform::Azure);
        known.then(|| MachineIdentity { platform: self.platform, url: self.metadata_url().to_owned() })
    }

    /// Whose notices are read.
    pub fn notices(&self) -> Platform {
        self.notices.unwrap_or(self.platform)
    }

    fn power(&self) -> Power {
        self.power_off.clone().map_or(Power::Units, Power::Program)
    }
}
