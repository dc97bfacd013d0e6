//! Environments: what is installed here, as an exact, hash-locked set of wheels for a host.
//!
//! Owns the scan's types, the choice of wheels, the packing of local code, the lock and its digest, and the calls of
//! `uv` that solve on the person's own machine. Must not use tokio or an HTTP client, run code of the packages it
//! ships, or upload anything: it returns files and their digests. Driven by `cli` (prepare), by `agent` (lock,
//! interpreters) and by `control-plane` (digests, what `local` hosts offer). The rules in words: docs/packages.md.

mod cache;
mod contents;
pub mod indexes;
pub mod interpreters;
pub mod lock;
pub mod names;
pub mod pack;
pub mod prepare;
mod process;
pub mod pylock;
pub mod record;
pub mod refusal;
pub mod scan;
mod shipping;
pub mod solve;
pub mod tags;
pub mod uv;
pub mod wheel;

pub use refusal::{Refusal, Warning};
pub use shipping::{Concern, ShippedFile, Shipping, shipping};
