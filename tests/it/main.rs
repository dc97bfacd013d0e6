//! End to end, one file per behaviour. Every test starts the real binary named by `TOWLINE_BINARY`.
