//! More hosts, fewer hosts, and which.

use super::*;

#[test]
fn scaling_down_ends_the_newest_worker() {
    let mut world = running();
    world.now_ms += 1000;
    world.suffer(Event::Scale(3));
    assert!(world.settle());
    world.suffer(Event::Scale(2));
    assert!(world.settle());
    let states: Vec<HostState> = world.hosts.iter().map(|host| host.state).collect();
    assert_eq!(states[..3], [HostState::Up; 3]);
    assert_ne!(states[3], HostState::Up);
    assert_ne!(states[3], HostState::Starting);
}

/// How many worker hosts are starting or up.
fn useful(world: &World) -> usize {
    world.hosts.iter().filter(|host| host.role == RoleKind::Worker && host.state.is_useful()).count()
}

#[test]
fn hosts_that_are_too_many_wait_for_the_scheduler_to_move_their_data() {
    let mut world = running();
    world.scheduler_word();
    world.suffer(Event::Scale(1));
    assert!(world.settle());
    assert_eq!(useful(&world), 2, "the scheduler has not said which");
    world.suffer(Event::Retires(1));
    assert!(world.settle());
    let states: Vec<HostState> = world.hosts.iter().map(|host| host.state).collect();
    assert_eq!(states, [HostState::Up, HostState::Ending, HostState::Up], "the one that it chose, not the newest");

    // One that says nothing has two minutes.
    let mut world = running();
    world.scheduler_word();
    world.suffer(Event::Scale(1));
    world.suffer(Event::Pass(119));
    assert!(world.settle());
    assert_eq!(useful(&world), 2);
    world.suffer(Event::Pass(1));
    assert!(world.settle());
    assert_eq!(useful(&world), 1);
}

#[test]
fn hosts_that_never_worked_go_first_and_at_once() {
    let mut world = running();
    world.scheduler_word();
    world.now_ms += 1000;
    world.suffer(Event::Scale(4));
    assert!(world.settle());
    world.suffer(Event::Scale(3));
    assert!(world.settle());
    let states: Vec<HostState> = world.hosts.iter().map(|host| host.state).collect();
    assert_eq!(states[..3], [HostState::Up; 3]);
    assert_eq!(useful(&world), 3);
}

#[test]
fn the_scheduler_scales_within_what_a_person_allowed() {
    let mut world = running();
    world.suffer(Event::Wants(50));
    assert!(world.settle());
    assert_eq!(world.cluster.n_workers, 2, "a person chose the number");
    world.suffer(Event::Adapt(1, 3));
    assert!(world.settle());
    assert_eq!((world.cluster.n_workers, useful(&world)), (4, 4));
    world.suffer(Event::Wants(0));
    world.suffer(Event::Retires(1));
    assert!(world.settle());
    assert_eq!((world.cluster.n_workers, useful(&world)), (1, 1), "hosts that had not joined go at once");
    assert_eq!(world.hosts.len(), 5, "no host was made to be ended");
    world.suffer(Event::Scale(2));
    world.suffer(Event::Wants(4));
    assert!(world.settle());
    assert_eq!((world.cluster.n_workers, useful(&world)), (2, 2), "a person's number ends it");
}

#[test]
fn a_limit_that_no_longer_holds_the_scheduler_back_is_not_spoken_of() {
    let mut world = running();
    world.cluster.reason = Some(reasons::scaling_limited(9, 2, None));
    assert!(world.settle());
    assert_eq!(world.cluster.reason, None);
}
