//! One session's task: bytes in, frames to the state machine, its events to `answers`, its frames out.
//!
//! Owns the socket and its deadlines. What a frame means is the state machine's and `answers`' business.

use super::answers::Conversation;
use super::hub::{Command, Registration};
use super::{Caller, SessionParts};
use crate::fleet::clock::boot_now;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use towline_protocol::WIRE_VERSION;
use towline_protocol::message::{self, FromControlPlane, SessionRefusal};
use towline_protocol::session::{ControlPlaneSession, SessionEnd};
use towline_protocol::time::BootTime;
use towline_transport::websocket::{CLOSE_DEADLINE, SEND_DEADLINE};

/// Longest sleep of an idle session; only a bound, every deadline is asked for.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Run one session to its end.
pub async fn run(mut socket: WebSocket, parts: Arc<SessionParts>, caller: Caller) {
    let registration = parts.hub.register(&caller.host);
    let number = registration.number;
    let host = caller.host.clone();
    tracing::info!(component = "sessions", host_id = %host, session = number.0, "connection opened");
    let ended = Box::pin(converse(&mut socket, &parts, caller, registration)).await;
    for banned in parts.hub.closed(number, &host) {
        super::bans::ban(&parts, &banned).await;
    }
    let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
    // The other end may be gone already; then there is nothing to close.
    let _ = timeout(CLOSE_DEADLINE, socket.send(close)).await;
    tracing::info!(component = "sessions", host_id = %host, session = number.0, reason = %ended, "connection closed");
}

/// Talk until the session is over; gives the reason for the log.
async fn converse(
    socket: &mut WebSocket,
    parts: &Arc<SessionParts>,
    caller: Caller,
    mut registration: Registration,
) -> String {
    let mut session = ControlPlaneSession::new(vec![WIRE_VERSION], boot_now());
    let mut conversation = Conversation::new(parts.clone(), caller, registration.number);
    loop {
        if let Err(reason) = conversation.handle_events(&mut session).await {
            return reason;
        }
        if let Err(reason) = flush(socket, &mut session).await {
            return reason;
        }
        if let Some(end) = session.is_over() {
            if *end == SessionEnd::NoCommonVersion {
                super::bans::give_up(parts, conversation.host()).await;
            }
            return end.to_string();
        }
        let wake = wake_at(&session, parts);
        tokio::select! {
            // Cancel-safe: a frame is either taken whole or still in the socket's own buffer.
            frame = socket.recv() => match frame {
                Some(Ok(Message::Text(text))) => match message::from_agent(text.as_bytes()) {
                    Ok(frame) => session.handle_frame(frame, boot_now()),
                    Err(error) => {
                        tracing::warn!(component = "sessions", host_id = %conversation.host(), error = %error, "frame refused");
                        session.refuse(SessionRefusal::Malformed);
                    }
                },
                Some(Ok(Message::Binary(_))) => session.refuse(SessionRefusal::Malformed),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return "the agent closed it".to_owned(),
                Some(Err(error)) => return error.to_string(),
            },
            // Cancel-safe: a command is either taken or still in the channel.
            command = registration.commands.recv() => match command {
                Some(Command::Admit) => conversation.admit(&mut session).await,
                Some(Command::Challenge) => {
                    let nonce = conversation.challenge();
                    session.handle_send(FromControlPlane::Challenge { nonce }, boot_now());
                }
                Some(Command::End(code)) => session.refuse(code),
                None => session.refuse(SessionRefusal::GoingAway),
            },
            // Cancel-safe: a permit that is not taken stays.
            () = registration.poke.notified() => conversation.send_outstanding(&mut session).await,
            // Cancel-safe: nothing is lost by sleeping again.
            () = sleep_until(wake) => {
                let now = boot_now();
                session.handle_timeout(now);
                for banned in parts.hub.tick(now) {
                    super::bans::ban(parts, &banned).await;
                }
            }
            // Cancel-safe: the token stays cancelled.
            () = parts.shutdown.cancelled() => session.refuse(SessionRefusal::GoingAway),
        }
    }
}

/// The next moment at which something happens by itself.
fn wake_at(session: &ControlPlaneSession, parts: &SessionParts) -> Instant {
    let now = boot_now();
    let next: Option<BootTime> = [session.poll_timeout(), parts.hub.poll_timeout()].into_iter().flatten().min();
    let wait = next.map_or(LONGEST_SLEEP, |at| at.since(now)).min(LONGEST_SLEEP);
    // One millisecond more: a timer that fires early would find nothing to do and spin.
    Instant::now() + wait + Duration::from_millis(1)
}

async fn flush(socket: &mut WebSocket, session: &mut ControlPlaneSession) -> Result<(), String> {
    while let Some(frame) = session.poll_transmit() {
        let text = message::to_frame(&frame);
        match timeout(SEND_DEADLINE, socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                return Err(format!("a frame did not leave within {} s", SEND_DEADLINE.as_secs()));
            }
        }
    }
    Ok(())
}
