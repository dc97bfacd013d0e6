//! The runner of this host: what it is told, and how one is found again. Part of the owner task.

use super::owner::Owner;
use crate::launch::RunnerSpec;
use crate::logs::LogFiles;
use std::path::PathBuf;
use std::time::Duration;
use towline_protocol::assignment::Assignment;

impl Owner {
    /// What a runner is told at its start.
    pub(super) fn runner_spec(&self) -> Option<RunnerSpec> {
        let assignment: &Assignment = self.memory.assignment()?;
        Some(RunnerSpec {
            host_dir: self.host.directory.clone(),
            cluster: self.host.user_data.cluster.clone(),
            host: self.host.user_data.host.clone(),
            agent_lost: Duration::from_secs(assignment.deadlines.agent_lost),
            position: assignment.position(),
            users: self.host.users,
            outputs: self.outputs(assignment),
        })
    }

    /// What Dask's processes append to. A plan that names no usable stream is refused when its file is made.
    fn outputs(&self, assignment: &Assignment) -> Vec<PathBuf> {
        let planned = LogFiles::planned(&self.host.directory, &assignment.logs);
        planned.map_or_else(|_| Vec::new(), |files| vec![files.spool, files.index])
    }

    /// Look for the runner that the journal knows, or for what a start left that was cut off before it was written down.
    pub(super) fn begin_adopt(&mut self) {
        let Some(spec) = self.runner_spec() else { return };
        let record = self.memory.state().runner.clone();
        self.work.adopt_runner(self.parties.runners.clone(), record, spec);
    }
}
