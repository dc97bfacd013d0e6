//! Log stores as the shipper sees them. Knows no store; each has a folder of its own.

use super::record::Record;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Why a batch was not taken. Never holds a line.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct SinkError {
    /// What was tried, naming the thing and, where a person must act, the remedy.
    pub doing: String,
    /// The store asks for fewer requests.
    pub throttled: bool,
    /// Not to be tried again before; none: when the shipper likes.
    pub retry_after: Option<Duration>,
    /// Why it failed.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl SinkError {
    /// An error that another try may cure.
    pub fn new(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { doing: doing.into(), throttled: false, retry_after: None, source: source.into() }
    }

    /// Not to be tried again before.
    pub fn after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }
}

/// A log store.
pub trait Sink: Send + 'static {
    /// Whether lines could be taken now. Asked once at the start, so that a person learns early what is missing.
    fn check(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Write the first records of a batch, as many as the store takes at once, and give their number: one at least.
    /// Returns only when a power cut cannot take them back: what is acknowledged here is freed on the host. After an error
    /// the whole batch is offered again, so a store may see a record twice.
    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError>;
}

/// A sink that is made when it is needed, and until that is possible takes nothing: its spool is kept to its cap all the
/// same.
pub struct Unmade<F> {
    make: Arc<F>,
    made: Option<Box<dyn Sink>>,
}

impl<F: Fn() -> Result<Box<dyn Sink>, SinkError>> Unmade<F> {
    /// What `make` makes.
    pub fn new(make: Arc<F>) -> Self {
        Self { make, made: None }
    }

    fn sink(&mut self) -> Result<&mut Box<dyn Sink>, SinkError> {
        let sink = match self.made.take() {
            Some(sink) => sink,
            None => (self.make)()?,
        };
        Ok(self.made.insert(sink))
    }
}

impl<F: Fn() -> Result<Box<dyn Sink>, SinkError> + Send + Sync + 'static> Sink for Unmade<F> {
    fn check(&mut self) -> Result<(), SinkError> {
        self.sink()?.check()
    }

    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
        self.sink()?.write(batch)
    }
}
