//! `towline host list | show`.

use super::processes::show_processes;
use super::why::{show_gpus, show_vitals, show_why, with_why};
use super::{ago, api, now_ms};
use crate::api::views::Host;
use crate::arguments::HostCommand;
use crate::failure::Outcome;
use crate::output::Output;

/// Columns of a table of hosts.
pub const HEADER: [&str; 6] = ["host", "role", "state", "now", "reports", "last heard"];

/// Run one of the commands.
pub async fn run(command: HostCommand, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    match command {
        HostCommand::List { cluster } => {
            // The API filters by id; people type names.
            let cluster = match cluster {
                Some(name) => Some(api.cluster(&name).await?.view.id),
                None => None,
            };
            let answer = api.hosts(cluster.as_deref()).await?;
            output.value(&answer.json);
            if answer.view.is_empty() {
                output.line("No hosts. Each cluster brings its own.");
            } else {
                output.table(&HEADER, host_rows(&answer.view, now_ms()));
            }
        }
        HostCommand::Show { host } => {
            let answer = api.host(&host).await?;
            let why = api.why_host(&answer.view.id).await?;
            output.value(&with_why(answer.json, &why));
            show(&answer.view, output);
            show_processes(&answer.view, output);
            show_why(&why.view, output);
            show_vitals(std::slice::from_ref(&answer.view), output);
            show_gpus(std::slice::from_ref(&answer.view), output);
        }
    }
    Ok(())
}

/// The rows of a table of hosts.
pub fn host_rows(hosts: &[Host], now: u64) -> Vec<Vec<String>> {
    hosts
        .iter()
        .map(|host| {
            vec![
                host.id.clone(),
                host.role.clone(),
                host.state.clone(),
                host.activity(),
                host.reports.to_string(),
                host.last_seen_at_ms.map_or_else(|| "never".to_owned(), |then| format!("{} ago", ago(then, now))),
            ]
        })
        .collect()
}

fn show(host: &Host, output: Output) {
    let mut rows = vec![
        vec!["id".to_owned(), host.id.clone()],
        vec!["cluster".to_owned(), host.cluster.clone()],
        vec!["role".to_owned(), host.role.clone()],
        vec!["state".to_owned(), host.state.clone()],
        vec!["now".to_owned(), host.activity()],
        vec!["reports".to_owned(), host.reports.to_string()],
    ];
    if let Some(reason) = &host.reason {
        rows.push(vec!["remedy".to_owned(), reason.remedy.clone()]);
    }
    if let Some(interruption) = &host.interruption {
        rows.push(vec!["announced".to_owned(), interruption.sentence(now_ms())]);
    }
    if let Some(verdict) = &host.verdict {
        rows.push(vec!["verdict".to_owned(), format!("{} ({})", verdict.state, verdict.reasons.join(", "))]);
    }
    if let Some(reason) = host.sign_off_reason() {
        rows.push(vec!["signed off".to_owned(), reason.to_owned()]);
    }
    output.table(&["host", ""], rows);
    if !host.phases.is_empty() {
        output.line("");
        let rows = host
            .phases
            .iter()
            .map(|phase| vec![phase.phase.clone(), format!("{:.2} s", phase.millis as f64 / 1000.0)])
            .collect();
        output.table(&["phase", "took"], rows);
    }
}
