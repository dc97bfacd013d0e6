//! A machine that outlives its agents: runners that keep their processes, and a store of environments.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use towline_agent::launch::{LaunchPlan, RunnerRecord, RunnerSpec, RunnerStatus, StopReport};
use towline_agent::runner::facts::unix_time;
use towline_agent::runtime::{AdoptFailure, Environments, Parties, Runner, Runners, SessionBlobs, StepError};
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::ids::Digest;
use towline_protocol::report::{ExitRecord, FailureKind, ProcessRecord};

/// What the machine holds, over all lives of the agent.
#[derive(Default)]
pub struct Holds {
    pub runner: Option<RunnerRecord>,
    pub runners_started: u32,
    pub launches: Vec<LaunchPlan>,
    pub processes: Vec<ProcessRecord>,
    pub joined: bool,
    pub environments: Vec<Digest>,
    pub syncs: u32,
    pub stops: u32,
    /// The next syncs fail with these.
    pub sync_failures: Vec<StepError>,
    /// The next launches are refused with these.
    pub launch_failures: Vec<StepError>,
    /// How long each launch takes.
    pub launch_takes: Duration,
    /// A launch takes hold, but its answer never comes.
    pub launch_hangs: bool,
    /// A start takes hold, but its answer never comes.
    pub start_hangs: bool,
    /// Runners do not answer.
    pub silent: bool,
}

#[derive(Clone, Default)]
pub struct Machine(Arc<Mutex<Holds>>);

impl Machine {
    pub fn holds(&self) -> MutexGuard<'_, Holds> {
        self.0.lock().expect("no panic while held")
    }

    pub fn parties(&self, directory: &std::path::Path) -> Parties {
        Parties {
            runners: Arc::new(self.clone()),
            environments: Arc::new(self.clone()),
            terminator: Arc::new(towline_cloud::local::LocalHost::new(directory)),
        }
    }

    /// Wait until the machine looks as it should.
    pub async fn until(&self, what: &str, fits: impl Fn(&Holds) -> bool) {
        for _ in 0..1000 {
            if fits(&self.holds()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the machine never {what}");
    }

    pub fn exit_all(&self, code: i32) {
        let exit = ExitRecord { code: Some(code), signal: None, at: unix_time() };
        let mut holds = self.holds();
        holds.joined = false;
        for process in &mut holds.processes {
            process.exit = Some(exit);
        }
    }

    /// The runner, which is made if there is none.
    fn started(&self) -> RunnerRecord {
        let mut holds = self.holds();
        if holds.runner.is_none() {
            holds.runners_started += 1;
            let pid = 100_000 + holds.runners_started;
            holds.runner = Some(RunnerRecord { pid, start_time: 1, boot_id: "fake".into() });
        }
        holds.runner.clone().expect("just made")
    }

    fn handle(&self, record: RunnerRecord) -> Arc<dyn Runner> {
        Arc::new(Held { machine: self.clone(), record })
    }
}

struct Held {
    machine: Machine,
    record: RunnerRecord,
}

fn refused(kind: FailureKind) -> StepError {
    StepError::new(kind, false, "the fake refuses")
}

impl Runners for Machine {
    fn start(&self, _: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, StepError>> {
        async move {
            let record = self.started();
            if self.holds().start_hangs {
                std::future::pending::<()>().await;
            }
            Ok(self.handle(record))
        }
        .boxed()
    }

    fn find(&self, _: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>> {
        let record = self.holds().runner.clone();
        let found = record.map(|record| self.handle(record)).ok_or_else(|| AdoptFailure::Gone("not there".into()));
        async { found }.boxed()
    }

    fn adopt(&self, record: RunnerRecord, _: RunnerSpec) -> BoxFuture<'_, Result<Arc<dyn Runner>, AdoptFailure>> {
        async move {
            let holds = self.holds();
            if holds.silent {
                return Err(AdoptFailure::Unknown("silent".into()));
            }
            if holds.runner.as_ref() != Some(&record) {
                return Err(AdoptFailure::Gone("not there".into()));
            }
            drop(holds);
            Ok(self.handle(record))
        }
        .boxed()
    }

    fn kill(&self, record: RunnerRecord) -> BoxFuture<'_, Result<StopReport, StepError>> {
        async move {
            let mut holds = self.holds();
            assert_eq!(holds.runner.take(), Some(record), "only the recorded runner is killed");
            let killed = holds.processes.len() as u32;
            holds.processes.clear();
            Ok(StopReport { stopped: killed, killed })
        }
        .boxed()
    }
}

impl Runner for Held {
    fn record(&self) -> RunnerRecord {
        self.record.clone()
    }

    fn launch(&self, plan: LaunchPlan) -> BoxFuture<'_, Result<(), StepError>> {
        async move {
            let (refusal, takes) = {
                let mut holds = self.machine.holds();
                (holds.launch_failures.pop(), holds.launch_takes)
            };
            tokio::time::sleep(takes).await;
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            {
                let mut holds = self.machine.holds();
                assert!(plan.keys.certificate.exists() && plan.keys.ca.exists(), "no launch without a certificate");
                assert!(holds.processes.is_empty(), "launched twice");
                let name = format!("{}-0", plan.role.kind.as_str());
                let record = ProcessRecord { name, role: plan.role.kind, pid: 4242, exit: None, out_of_memory: None };
                holds.processes.push(record);
                holds.launches.push(plan);
            }
            if self.machine.holds().launch_hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
        .boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<RunnerStatus, StepError>> {
        async move {
            let holds = self.machine.holds();
            if holds.silent || holds.runner.is_none() {
                return Err(refused(FailureKind::AdoptionFailed));
            }
            Ok(RunnerStatus { processes: holds.processes.clone(), joined: holds.joined, failure: None })
        }
        .boxed()
    }

    fn stop(&self, _: Duration) -> BoxFuture<'_, Result<StopReport, StepError>> {
        async move {
            let mut holds = self.machine.holds();
            if holds.silent {
                return Err(refused(FailureKind::AdoptionFailed));
            }
            holds.stops += 1;
            holds.runner = None;
            let stopped = holds.processes.len() as u32;
            holds.processes.clear();
            Ok(StopReport { stopped, killed: 0 })
        }
        .boxed()
    }
}

impl Environments for Machine {
    fn present(&self) -> Vec<Digest> {
        self.holds().environments.clone()
    }

    fn python(&self, digest: &Digest) -> Option<PathBuf> {
        self.holds().environments.contains(digest).then(|| PathBuf::from("/fake/bin/python"))
    }

    fn interpreters(&self) -> Vec<String> {
        vec!["cpython-3.11.2".to_owned()]
    }

    fn sync(&self, spec: EnvironmentSpec, blobs: Arc<SessionBlobs>) -> BoxFuture<'_, Result<PathBuf, StepError>> {
        async move {
            let failure = {
                let mut holds = self.holds();
                holds.syncs += 1;
                holds.sync_failures.pop()
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            let grants = blobs.grants(vec![spec.digest.clone()]).await.expect("the control plane answers");
            assert_eq!(grants.len(), 1);
            self.holds().environments.push(spec.digest);
            Ok(PathBuf::from("/fake/bin/python"))
        }
        .boxed()
    }
}
