//! Who may be a host: the rules for half-open connections and for clones, over all sessions of one control plane.
//!
//! A second session of a host makes the control plane challenge the *older* one. No answer within five seconds: the
//! older connection was half-open and is fenced. Answered by the same instance as the newcomer: the newcomer is a
//! duplicate and is refused. Answered by another instance: two live holders of one identity, both are banned.

use super::CHALLENGE_WITHIN;
use crate::ids::HostId;
use crate::message::{Instance, SessionRefusal};
use crate::time::BootTime;
use std::collections::BTreeMap;

/// Names one connection within one run of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber(pub u64);

/// What the control plane must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArbiterAction {
    /// Welcome this session: it is the host now.
    Admit(SessionNumber),
    /// Ban the host: every session of it ends, its certificate counts no more.
    Ban(HostId),
    /// Ask this session to prove that it is alive.
    Challenge(SessionNumber),
    /// End this session, which a newer one replaces.
    Fence(SessionNumber),
    /// End this session with a reason.
    Refuse(SessionNumber, SessionRefusal),
}

#[derive(Debug)]
struct Holder {
    session: SessionNumber,
    instance: Instance,
    contest: Option<Contest>,
}

#[derive(Debug)]
struct Contest {
    newcomer: SessionNumber,
    instance: Instance,
    until: BootTime,
}

/// Holds, for each host, the one session that speaks for it.
#[derive(Debug, Default)]
pub struct Arbiter {
    hosts: BTreeMap<HostId, Holder>,
}

impl Arbiter {
    /// Nobody is connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session introduced itself as `host`.
    pub fn handle_hello(
        &mut self,
        host: &HostId,
        instance: Instance,
        session: SessionNumber,
        now: BootTime,
    ) -> Vec<ArbiterAction> {
        let Some(holder) = self.hosts.get_mut(host) else {
            self.hosts.insert(host.clone(), Holder { session, instance, contest: None });
            return vec![ArbiterAction::Admit(session)];
        };
        if holder.contest.is_some() {
            // One contest at a time: a third caller waits its back-off.
            return vec![ArbiterAction::Refuse(session, SessionRefusal::AlreadyConnected)];
        }
        holder.contest = Some(Contest { newcomer: session, instance, until: now.plus(CHALLENGE_WITHIN) });
        vec![ArbiterAction::Challenge(holder.session)]
    }

    /// The challenged session answered.
    pub fn handle_answer(&mut self, host: &HostId, session: SessionNumber, instance: &Instance) -> Vec<ArbiterAction> {
        let Some(holder) = self.hosts.get_mut(host) else {
            return Vec::new();
        };
        if holder.session != session {
            return Vec::new();
        }
        let Some(contest) = holder.contest.take() else {
            return Vec::new();
        };
        if *instance != holder.instance || *instance != contest.instance {
            self.hosts.remove(host);
            return vec![ArbiterAction::Ban(host.clone())];
        }
        vec![ArbiterAction::Refuse(contest.newcomer, SessionRefusal::AlreadyConnected)]
    }

    /// A connection is gone.
    pub fn handle_closed(&mut self, host: &HostId, session: SessionNumber) -> Vec<ArbiterAction> {
        let Some(holder) = self.hosts.get_mut(host) else {
            return Vec::new();
        };
        if holder.contest.as_ref().is_some_and(|contest| contest.newcomer == session) {
            holder.contest = None;
            return Vec::new();
        }
        if holder.session != session {
            return Vec::new();
        }
        match holder.contest.take() {
            Some(contest) => {
                holder.session = contest.newcomer;
                holder.instance = contest.instance;
                vec![ArbiterAction::Admit(contest.newcomer)]
            }
            None => {
                self.hosts.remove(host);
                Vec::new()
            }
        }
    }

    /// Let time pass: holders that did not answer are fenced.
    pub fn handle_timeout(&mut self, now: BootTime) -> Vec<ArbiterAction> {
        let mut actions = Vec::new();
        for holder in self.hosts.values_mut() {
            if holder.contest.as_ref().is_none_or(|contest| contest.until > now) {
                continue;
            }
            if let Some(contest) = holder.contest.take() {
                actions.push(ArbiterAction::Fence(holder.session));
                actions.push(ArbiterAction::Admit(contest.newcomer));
                holder.session = contest.newcomer;
                holder.instance = contest.instance;
            }
        }
        actions
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.hosts.values().filter_map(|holder| holder.contest.as_ref().map(|contest| contest.until)).min()
    }

    /// The session that speaks for a host.
    pub fn holder(&self, host: &HostId) -> Option<SessionNumber> {
        self.hosts.get(host).map(|holder| holder.session)
    }
}
