//! The API through its router, without sockets.
