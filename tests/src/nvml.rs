//! A library of ours that answers as NVIDIA's does (`tests/fakes/nvml`), built into a folder of its own.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// The built library, with its word on the GPUs beside it.
pub struct Nvml {
    folder: tempfile::TempDir,
}

impl Nvml {
    /// Build it; it says this of its GPUs, one a line.
    pub fn build(gpus: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fakes/nvml/nvml.c");
        let library = folder.path().join("libnvidia-ml.so.1");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o"])
            .args([library.as_path(), Path::new(source)])
            .arg("-ldl")
            .output()?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let nvml = Self { folder };
        nvml.say(gpus)?;
        Ok(nvml)
    }

    /// Say something else from now on. Whole at once: the library reads at every call.
    pub fn say(&self, gpus: &str) -> Result<()> {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("gpus"));
        std::fs::write(&new, gpus)?;
        std::fs::rename(new, file)?;
        Ok(())
    }

    /// Where the library lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
