//! Google Cloud.

pub mod instances;
pub mod metadata;
