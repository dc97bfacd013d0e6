//! Every open session, and the one arbiter between them.
//!
//! Owns who may speak for a host. Must not touch a socket or a record: sessions get commands over their own bounded
//! channel, and bans are given back to the session that caused them. Driven by the sessions' tasks and by the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};
use towline_protocol::ids::HostId;
use towline_protocol::message::{Instance, SessionRefusal};
use towline_protocol::session::{Arbiter, ArbiterAction, SessionNumber};
use towline_protocol::time::BootTime;

/// Commands that wait for one session. More never come: each is sent at most a few times in a session's life.
const COMMAND_LIMIT: usize = 16;

/// What a session is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Welcome the agent: it speaks for its host now.
    Admit,
    /// Ask the agent to prove that it is alive.
    Challenge,
    /// End, and say why.
    End(SessionRefusal),
}

#[derive(Debug)]
struct Entry {
    host: HostId,
    commands: mpsc::Sender<Command>,
    poke: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    arbiter: Arbiter,
    next: u64,
    sessions: BTreeMap<SessionNumber, Entry>,
}

/// A handle on all sessions; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SessionHub(Arc<Mutex<State>>);

/// A session's own end of its entry.
#[derive(Debug)]
pub struct Registration {
    /// Its number.
    pub number: SessionNumber,
    /// What it is told.
    pub commands: mpsc::Receiver<Command>,
    /// There may be something new to send.
    pub poke: Arc<Notify>,
}

impl SessionHub {
    /// Nobody is connected.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection begins.
    pub fn register(&self, host: &HostId) -> Registration {
        let mut state = self.state();
        state.next += 1;
        let number = SessionNumber(state.next);
        let (sender, commands) = mpsc::channel(COMMAND_LIMIT);
        let poke = Arc::new(Notify::new());
        state.sessions.insert(number, Entry { host: host.clone(), commands: sender, poke: poke.clone() });
        Registration { number, commands, poke }
    }

    /// A session said who it is. Gives hosts that are to be banned.
    pub fn hello(&self, number: SessionNumber, host: &HostId, instance: Instance, now: BootTime) -> Vec<HostId> {
        let mut state = self.state();
        let actions = state.arbiter.handle_hello(host, instance, number, now);
        state.act(actions)
    }

    /// A session answered its challenge.
    pub fn answer(&self, number: SessionNumber, host: &HostId, instance: &Instance) -> Vec<HostId> {
        let mut state = self.state();
        let actions = state.arbiter.handle_answer(host, number, instance);
        state.act(actions)
    }

    /// Let time pass.
    pub fn tick(&self, now: BootTime) -> Vec<HostId> {
        let mut state = self.state();
        let actions = state.arbiter.handle_timeout(now);
        state.act(actions)
    }

    /// When [`Self::tick`] wants to be called.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.state().arbiter.poll_timeout()
    }

    /// A connection is gone.
    pub fn closed(&self, number: SessionNumber, host: &HostId) -> Vec<HostId> {
        let mut state = self.state();
        state.sessions.remove(&number);
        let actions = state.arbiter.handle_closed(host, number);
        state.act(actions)
    }

    /// There may be something new to send to a host.
    pub fn poke(&self, host: &HostId) {
        for entry in self.state().sessions.values().filter(|entry| entry.host == *host) {
            entry.poke.notify_one();
        }
    }

    /// Hosts that are connected now.
    pub fn connected(&self) -> BTreeSet<HostId> {
        self.state().sessions.values().map(|entry| entry.host.clone()).collect()
    }
}

impl State {
    fn act(&mut self, actions: Vec<ArbiterAction>) -> Vec<HostId> {
        let mut banned = Vec::new();
        for action in actions {
            match action {
                ArbiterAction::Admit(number) => self.command(number, Command::Admit),
                ArbiterAction::Challenge(number) => self.command(number, Command::Challenge),
                ArbiterAction::Fence(number) => self.command(number, Command::End(SessionRefusal::Fenced)),
                ArbiterAction::Refuse(number, code) => self.command(number, Command::End(code)),
                ArbiterAction::Ban(host) => {
                    let of_host: Vec<SessionNumber> = self
                        .sessions
                        .iter()
                        .filter(|(_, entry)| entry.host == host)
                        .map(|(number, _)| *number)
                        .collect();
                    for number in of_host {
                        self.command(number, Command::End(SessionRefusal::Banned));
                    }
                    banned.push(host);
                }
            }
        }
        banned
    }

    fn command(&self, number: SessionNumber, command: Command) {
        if let Some(entry) = self.sessions.get(&number) {
            // A session that takes no commands is stuck in a write, whose deadline ends it.
            if entry.commands.try_send(command).is_err() {
                tracing::debug!(component = "sessions", session = number.0, "a session took no command");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use towline_protocol::ids::Digest;
    use towline_protocol::session::CHALLENGE_WITHIN;

    fn instance(n: u8) -> Instance {
        Instance { machine: Digest::of(&[n]), boot: Digest::of(b"boot") }
    }

    #[test]
    fn a_silent_older_session_is_fenced_and_the_newer_admitted() {
        let hub = SessionHub::new();
        let host = HostId::from_random([1; 10]);
        let (mut old, mut new) = (hub.register(&host), hub.register(&host));
        hub.hello(old.number, &host, instance(1), BootTime::ZERO);
        assert_eq!(old.commands.try_recv(), Ok(Command::Admit));
        hub.hello(new.number, &host, instance(1), BootTime::ZERO);
        assert_eq!(old.commands.try_recv(), Ok(Command::Challenge));
        assert_eq!(hub.poll_timeout(), Some(BootTime(CHALLENGE_WITHIN)));
        hub.tick(BootTime(CHALLENGE_WITHIN + Duration::from_millis(1)));
        assert_eq!(old.commands.try_recv(), Ok(Command::End(SessionRefusal::Fenced)));
        assert_eq!(new.commands.try_recv(), Ok(Command::Admit));
        hub.closed(old.number, &host);
        assert_eq!(hub.connected(), BTreeSet::from([host]));
    }

    #[test]
    fn a_clone_ends_every_session_of_the_host() {
        let hub = SessionHub::new();
        let host = HostId::from_random([1; 10]);
        let (mut one, mut two) = (hub.register(&host), hub.register(&host));
        hub.hello(one.number, &host, instance(1), BootTime::ZERO);
        hub.hello(two.number, &host, instance(2), BootTime::ZERO);
        assert_eq!(hub.answer(one.number, &host, &instance(1)), vec![host.clone()]);
        assert_eq!(one.commands.try_recv(), Ok(Command::Admit));
        assert_eq!(one.commands.try_recv(), Ok(Command::Challenge));
        assert_eq!(one.commands.try_recv(), Ok(Command::End(SessionRefusal::Banned)));
        assert_eq!(two.commands.try_recv(), Ok(Command::End(SessionRefusal::Banned)));
    }
}
