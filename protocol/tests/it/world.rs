//! A host, its operator, its control plane and its owner, with fixed keys: the same bytes on every run.

use aws_lc_rs::signature::Ed25519KeyPair;
use towline_protocol::assignment::{
    Assignment, Caps, DaskOptions, Deadlines, EnvironmentKind, EnvironmentSpec, IdlePolicy, Interpreter, Lifecycle,
    LogPlan, PhaseDeadlines, Ports, Profile, Role, RoleKind, SchedulerAddress, Sink, VitalsPlan,
};
use towline_protocol::envelope::{Envelope, sign, verifying_key};
use towline_protocol::ids::{ClusterId, Digest, Epoch, Generation, HostId, Spki, WorkspaceId};
use towline_protocol::lease::Lease;
use towline_protocol::roster::{Admission, Member, MemberRole, Roster};
use towline_protocol::time::UnixSeconds;
use towline_protocol::trust::{Delegation, Identity, Trust};

/// The moment at which every vector is judged.
pub const NOW: u64 = 1_800_000_000;

pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed")
}

pub fn root() -> Ed25519KeyPair {
    key(1)
}
pub fn signer() -> Ed25519KeyPair {
    key(2)
}
pub fn owner() -> Ed25519KeyPair {
    key(3)
}
pub fn stranger() -> Ed25519KeyPair {
    key(9)
}

pub fn host(n: u8) -> HostId {
    HostId::from_random([n; 10])
}
pub fn cluster(n: u8) -> ClusterId {
    ClusterId::from_random([n; 10])
}
pub fn workspace(n: u8) -> WorkspaceId {
    WorkspaceId::from_random([n; 10])
}

/// A P-256 key by shape only: nothing here signs with it.
pub fn spki(n: u8) -> Spki {
    let mut der = vec![
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
    ];
    der.extend([n; 64]);
    Spki::from_der(&der).expect("of the right shape")
}

pub fn delegation() -> Delegation {
    Delegation {
        v: 0,
        key: verifying_key(&signer()),
        workspaces: vec![workspace(1)],
        version: 5,
        epoch_floor: Epoch(100),
        not_before: UnixSeconds(NOW - 86_400),
        not_after: UnixSeconds(NOW + 20 * 86_400),
    }
}

pub fn assignment() -> Assignment {
    Assignment {
        v: 0,
        audience: host(1),
        workspace: workspace(1),
        cluster: cluster(1),
        owner: verifying_key(&owner()),
        epoch: Epoch(1_000),
        generation: Generation(7),
        issued_at: UnixSeconds(NOW - 10),
        expires_at: UnixSeconds(NOW + 890),
        lifecycle: Lifecycle::Run,
        environment: Some(EnvironmentSpec {
            digest: Digest::of(b"a lock"),
            interpreter: Interpreter { implementation: "cpython".into(), version: "3.11.2".into(), sha256: None },
            kind: EnvironmentKind::Wheels,
        }),
        role: Some(Role {
            kind: RoleKind::Worker,
            profile: Profile::Dask,
            processes: 1,
            threads: 2,
            memory_limit: Some(1 << 30),
            local_directory: None,
            ports: Ports { dask: 0, gateway: 0 },
            resources: Vec::new(),
            job_sha256: None,
            options: DaskOptions { nanny: true },
        }),
        deadlines: Deadlines {
            agent_lost: 1_800,
            control_plane_lost: 14_400,
            scheduler_lost: 300,
            no_client: Some(120),
            first_client: 600,
            phases: PhaseDeadlines { synced: 600, launched: 120, joined: 120 },
        },
        scheduler: Some(SchedulerAddress { addresses: vec!["tls://127.0.0.1:20001".into()] }),
        logs: LogPlan { sink: Sink::File { directory: "/var/log/towline".into() }, stream: "worker".into() },
        vitals: VitalsPlan { period: 10 },
        idle: IdlePolicy { after: Some(1_200), hold_until: None },
        caps: Caps { max_lifetime: 86_400, budget_milli: None },
        scaling: None,
    }
}

pub fn admission(n: u8) -> Admission {
    Admission {
        v: 0,
        cluster: cluster(1),
        spki: spki(n),
        role: MemberRole::Client,
        not_after: UnixSeconds(NOW + 86_400),
    }
}

pub fn client_entry(n: u8, admission: Option<Envelope>) -> Member {
    Member {
        id: format!("client-{n}"),
        role: MemberRole::Client,
        spki: spki(n),
        not_after: UnixSeconds(NOW + 86_400),
        admission,
    }
}

pub fn scheduler_entry(n: u8) -> Member {
    Member {
        id: host(n).to_string(),
        role: MemberRole::Scheduler,
        spki: spki(n),
        not_after: UnixSeconds(NOW + 86_400),
        admission: None,
    }
}

pub fn roster() -> Roster {
    Roster {
        v: 0,
        audience: host(1),
        workspace: workspace(1),
        cluster: cluster(1),
        epoch: Epoch(1_000),
        version: 4,
        issued_at: UnixSeconds(NOW - 10),
        expires_at: UnixSeconds(NOW + 890),
        entries: vec![
            Member {
                id: host(2).to_string(),
                role: MemberRole::Worker,
                spki: spki(2),
                not_after: UnixSeconds(NOW + 86_400),
                admission: None,
            },
            client_entry(3, Some(sign(&admission(3), &owner()))),
            scheduler_entry(1),
        ],
    }
}

pub fn lease() -> Lease {
    Lease {
        v: 0,
        audience: host(1),
        epoch: Epoch(1_000),
        newest: Some(assignment().position()),
        now: UnixSeconds(NOW),
        lease_until: UnixSeconds(NOW + 120),
    }
}

/// A host that accepted the delegation and one earlier assignment and roster.
pub fn trust() -> Trust {
    let me = Identity { host: host(1), workspace: workspace(1), cluster: cluster(1) };
    let mut trust = Trust::new(verifying_key(&root()), me, UnixSeconds(NOW - 3_600));
    trust.accept_delegation(&sign(&delegation(), &root()), UnixSeconds(NOW)).expect("a valid delegation");
    let earlier = Assignment { generation: Generation(6), issued_at: UnixSeconds(NOW - 60), ..assignment() };
    trust.accept_assignment(&sign(&earlier, &signer()), UnixSeconds(NOW)).expect("a valid assignment");
    let first = Roster { version: 3, entries: Vec::new(), ..roster() };
    trust.accept_roster(&sign(&first, &signer()), None, UnixSeconds(NOW)).expect("a valid roster");
    trust
}
