//! The agent against a strict control plane of protocol parts, over real TLS on loopback.
//!
//! Runner and environment store are fakes behind the runtime's traits, except in `binary`, which starts the real
//! program and kills it.

mod binary;
mod control_plane;
mod deadlines;
mod doctor;
mod fakes;
mod gpu;
mod host;
mod journal;
mod life;
mod logs;
mod refusal;
mod restart;
