//! Who ends a cluster that nobody needs, and in which order.

use super::*;

#[test]
fn what_hosts_measure_ends_nothing_until_the_schedulers_host_decides() {
    let mut world = running();
    let idle = Verdict {
        state: VerdictState::Idle,
        reasons: Vec::new(),
        held_for: std::collections::BTreeMap::new(),
        idle_for: 9_999,
        no_client_for: Some(9_999),
        warning: None,
    };
    for host in &mut world.hosts {
        host.said.verdict = Some(idle.clone());
    }
    assert!(world.settle());
    assert_eq!(world.cluster.state, ClusterState::Running, "a task may be on its way that only the scheduler sees");
}

#[test]
fn a_scheduler_host_that_is_about_to_end_by_its_own_rule_ends_the_cluster_workers_first() {
    for (ending, code) in [(EndReason::Idle, "idle"), (EndReason::NoClient, "no_client")] {
        let mut world = running();
        world.hosts[0].said.ending = Some(ending);
        assert!(world.settle());
        assert_eq!(world.cluster.reason.as_ref().map(|reason| reason.code.as_str()), Some(code));
        let states: Vec<_> = world.hosts.iter().map(|host| host.state).collect();
        assert_eq!(
            states,
            [HostState::Up, HostState::Ending, HostState::Ending],
            "the scheduler waits for the workers"
        );
        world.suffer(Event::Pass(20));
        assert!(world.settle());
        world.suffer(Event::Pass(20));
        assert!(world.settle());
        assert_eq!(world.cluster.state, ClusterState::Stopped, "{ending:?} is no failure");
    }
}

#[test]
fn a_worker_that_is_about_to_end_by_its_own_rule_ends_no_cluster() {
    let mut world = running();
    world.hosts[1].said.ending = Some(EndReason::MaxLifetime);
    assert!(world.settle());
    assert_eq!(world.cluster.state, ClusterState::Running);
}
