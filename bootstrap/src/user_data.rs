//! Reading what a host was told at its creation.
//!
//! Must not believe a file that others could have written or read. Driven by the bootstrap's one run.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use towline_protocol::strict::{self, StrictError};
use towline_protocol::user_data::UserData;
use towline_protocol::{MAX_FRAME_BYTES, WIRE_VERSION};
use towline_transport::name;

/// Why user data was not believed.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    /// Not there.
    #[error("the file is missing")]
    Missing,
    /// Not readable.
    #[error("the file cannot be read")]
    Unreadable(#[source] io::Error),
    /// Something other than a file of our own.
    #[error("the file is a link, no regular file, or belongs to somebody else")]
    NotOurs,
    /// Others may read or write it.
    #[error("the file's mode is {0:04o}, but it holds a secret and must be 0600")]
    Exposed(u32),
    /// Not user data.
    #[error("the file is not user data")]
    Malformed(#[source] StrictError),
    /// Another wire version.
    #[error("the file is of wire version {0}, this build reads {WIRE_VERSION}")]
    Version(u32),
    /// A field that cannot be.
    #[error("the field {0} is not usable")]
    Field(&'static str),
}

/// Read and check `user-data.json`.
pub fn read(path: &Path) -> Result<UserData, UserDataError> {
    let descriptor = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| match error {
            rustix::io::Errno::NOENT => UserDataError::Missing,
            rustix::io::Errno::LOOP => UserDataError::NotOurs,
            other => UserDataError::Unreadable(other.into()),
        })?;
    let file = File::from(descriptor);
    let metadata = file.metadata().map_err(UserDataError::Unreadable)?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(UserDataError::NotOurs);
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(UserDataError::Exposed(metadata.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the strict reader sees that it is too much.
    file.take(MAX_FRAME_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(UserDataError::Unreadable)?;
    parse(&bytes)
}

/// Parse and check user data.
pub fn parse(bytes: &[u8]) -> Result<UserData, UserDataError> {
    let user_data: UserData = strict::from_slice(bytes).map_err(UserDataError::Malformed)?;
    if user_data.v != WIRE_VERSION {
        return Err(UserDataError::Version(user_data.v));
    }
    if !user_data.control_plane.starts_with("https://") {
        return Err(UserDataError::Field("control_plane"));
    }
    if !name::is_trust_domain(&user_data.trust_domain) {
        return Err(UserDataError::Field("trust_domain"));
    }
    if user_data.token.as_ref().is_some_and(String::is_empty) {
        return Err(UserDataError::Field("token"));
    }
    Ok(user_data)
}
