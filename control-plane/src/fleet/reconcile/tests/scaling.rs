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
fn hosts_that_a_person_chose_go_and_nobody_else_does() {
    let mut world = running();
    world.scheduler_word();
    world.now_ms += 1000;
    // One host still starts, in place of one that failed: without a choice it would be the one that goes.
    world.suffer(Event::Scale(3));
    assert!(world.settle());
    let going = world.hosts[1].id.clone();
    let live = world.hosts.iter().map(|host| host.id.clone()).collect();
    world.cluster.scale_without(2, [going].into(), &live, world.now_ms);
    assert!(world.settle());
    let states = |world: &World| world.hosts.iter().map(|host| host.state).collect::<Vec<HostState>>();
    assert_eq!(states(&world)[1], HostState::Up, "its data has not moved yet");
    assert!(states(&world)[3].is_useful(), "the newcomer is not the one that was chosen");
    world.suffer(Event::Retires(1));
    assert!(world.settle());
    let after = states(&world);
    assert!(!after[1].is_useful() && after[2].is_useful() && after[3].is_useful(), "{after:?}");
    assert_eq!(world.hosts.len(), 4, "nobody was made in its place");

    // A scheduler that does not retire it has two minutes.
    let mut world = running();
    world.scheduler_word();
    let (going, live) = (world.hosts[2].id.clone(), world.hosts.iter().map(|host| host.id.clone()).collect());
    world.cluster.scale_without(2, [going].into(), &live, world.now_ms);
    assert!(world.settle());
    assert_eq!((useful(&world), world.hosts.len()), (3, 4), "one comes for the one that goes");
    world.suffer(Event::Pass(120));
    assert!(world.settle());
    assert!(!world.hosts[2].state.is_useful());
    assert_eq!(useful(&world), 2);
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
