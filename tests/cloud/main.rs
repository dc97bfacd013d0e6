//! The parts that speak to a cloud, against the fake one: no Dask and no control plane.

mod ec2;
mod ending;
mod logs;
mod metadata;
mod signatures;
mod tools;
