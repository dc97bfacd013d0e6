//! Log stores as the shipper sees them. Knows no store; each has a folder of its own.

use super::record::Record;

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct SinkError {
    /// What was tried, naming the thing.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: std::io::Error,
}

/// A log store.
pub trait Sink: Send + 'static {
    /// Write a batch. Returns only when a power cut cannot take it back: what is acknowledged here is freed on the host.
    /// After an error the batch is offered again, so a store may see a record twice.
    fn write(&mut self, batch: &[Record]) -> Result<(), SinkError>;
}
