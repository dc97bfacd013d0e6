//! Contract tests of the store, and the records that tests of this crate share.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

pub(crate) mod records;
