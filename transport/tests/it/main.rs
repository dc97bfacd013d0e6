//! Transport against real sockets: who is let in, who is not, and what every limit does.

mod authority;
mod enrolment;
mod limits;
mod mutual_tls;
mod support;
mod websocket;
