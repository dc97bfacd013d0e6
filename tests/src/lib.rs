//! The harness of the end-to-end tests: real binaries, real Dask, short times, nothing left behind.
