//! The harness of the end-to-end tests: real binaries, real Dask, short times, nothing left behind.
//!
//! A [`World`] is one data directory with a control plane, a blob store and whatever hosts its tests make. Dropping it
//! ends every process that names the directory. Must not fake anything: what the tests need to bend is bent by settings.

pub mod api;
pub mod cloud;
pub mod logs;
pub mod node;
pub mod nvml;
pub mod processes;
pub mod running;
pub mod uml;
pub mod world;

pub use api::Api;
pub use cloud::FakeCloud;
pub use nvml::Nvml;
pub use running::Running;
pub use world::{Binaries, Program, World, WorldBuilder};
