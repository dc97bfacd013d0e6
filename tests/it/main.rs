//! End to end, one file per behaviour. Every test starts the real binary named by `TOWLINE_BINARY`.

mod admission;
mod bad_input;
mod canary;
mod commands;
mod dashboard;
mod demo;
mod enrolment;
mod idle;
mod index;
mod interrupt;
mod life;
mod listeners;
mod logs;
mod lost;
mod metrics;
mod notebook;
mod object;
mod operate;
mod packages;
mod people;
mod refusals;
mod scaling;
mod simulate;
mod sinks;
mod spot;
mod upgrade;
