//! `towline cluster list | show | scale | adapt | hold | release | stop`. The events of a cluster are `events`', its pages `dashboard`'s,
//! sharing it is `admission`'s.

use super::why::{show_gpus, show_vitals, show_why, with_why};
use super::{ago, api, now_ms};
use crate::admission;
use crate::api::Api;
use crate::api::views::{Cluster, Hold};
use crate::arguments::ClusterCommand;
use crate::commands::host::host_rows;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, duration};
use std::time::Duration;
use tokio::time::Instant;

/// How long `stop` waits for the hosts of a cluster.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Run one of the commands.
pub async fn run(command: ClusterCommand, profile: Option<&str>, output: Output) -> Outcome<()> {
    match command {
        ClusterCommand::Admit(arguments) => return admission::admit::run(arguments, profile, output).await,
        ClusterCommand::Dashboard(arguments) => return crate::dashboard::run(&arguments, profile, output).await,
        ClusterCommand::Events { cluster, follow } => {
            return super::events::run(&cluster, follow, profile, output).await;
        }
        ClusterCommand::Join(arguments) => return admission::join::run(arguments, profile, output).await,
        _ => {}
    }
    let api = api(profile)?;
    match command {
        // Answered above.
        ClusterCommand::Admit(_)
        | ClusterCommand::Dashboard(_)
        | ClusterCommand::Events { .. }
        | ClusterCommand::Join(_) => Ok(()),
        ClusterCommand::List { all } => list(&api, all, output).await,
        ClusterCommand::Show { cluster } => show(&api, &cluster, output).await,
        ClusterCommand::Scale { cluster, workers } => {
            let answer = api.scale(&cluster, workers).await?;
            output.value(&answer.json);
            output.line(&format!("{} is to have {workers} worker hosts", answer.view.name));
            Ok(())
        }
        ClusterCommand::Adapt { cluster, minimum, maximum } => {
            let answer = api.adapt(&cluster, minimum, maximum).await?;
            output.value(&answer.json);
            output.line(&format!("{} is to have {} worker hosts", answer.view.name, size(&answer.view)));
            Ok(())
        }
        ClusterCommand::Hold { cluster, time, reason } => {
            let answer = api.hold(&cluster, time.as_secs(), reason.as_deref()).await?;
            output.value(&answer.json);
            output.line(&format!("{} is held for {}", answer.view.name, duration(time.as_secs())));
            Ok(())
        }
        ClusterCommand::Release { cluster } => {
            let answer = api.release(&cluster).await?;
            output.value(&answer.json);
            output.line(&format!("{} is held no more", answer.view.name));
            Ok(())
        }
        ClusterCommand::Stop { cluster, no_wait } => stop(&api, &cluster, no_wait, output).await,
    }
}

/// Who holds it, for how long yet, and why.
fn holder(hold: &Hold, now: u64) -> String {
    let left = duration(hold.until_ms.saturating_sub(now) / 1000);
    let reason = hold.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    // What another person typed.
    crate::failure::one_line(&format!("by {} for {left} more{reason}", hold.by))
}

/// How many worker hosts there are to be, in words.
fn size(cluster: &Cluster) -> String {
    match cluster.adaptive {
        Some(limits) => format!("{} to {}, as its work needs", limits.minimum, limits.maximum),
        None => cluster.n_workers.to_string(),
    }
}

async fn list(api: &Api, all: bool, output: Output) -> Outcome<()> {
    let answer = api.clusters(all).await?;
    output.value(&answer.json);
    if answer.view.is_empty() {
        output.line("No clusters. Start one from Python: towline.Cluster(n_workers=2)");
        return Ok(());
    }
    let now = now_ms();
    let rows = answer.view.iter().map(|cluster| row(cluster, now)).collect();
    output.table(&["name", "id", "state", "workers", "owner", "backend", "age"], rows);
    Ok(())
}

fn row(cluster: &Cluster, now: u64) -> Vec<String> {
    vec![
        cluster.name.clone(),
        cluster.id.clone(),
        cluster.state.clone(),
        format!("{}/{}", cluster.workers_up(), cluster.n_workers),
        cluster.owner.clone(),
        cluster.backend.clone(),
        ago(cluster.created_at_ms, now),
    ]
}

async fn show(api: &Api, name: &str, output: Output) -> Outcome<()> {
    let answer = api.cluster(name).await?;
    let why = api.why_cluster(&answer.view.id).await?;
    output.value(&with_why(answer.json, &why));
    let cluster = &answer.view;
    let mut rows = vec![
        vec!["name".to_owned(), cluster.name.clone()],
        vec!["id".to_owned(), cluster.id.clone()],
        vec!["state".to_owned(), cluster.state.clone()],
        vec!["workers".to_owned(), format!("{} of {}", cluster.workers_up(), cluster.n_workers)],
        vec!["owner".to_owned(), cluster.owner.clone()],
    ];
    if cluster.adaptive.is_some() {
        rows.push(vec!["adaptive".to_owned(), size(cluster)]);
    }
    if let Some(hold) = &cluster.hold {
        rows.push(vec!["held".to_owned(), holder(hold, now_ms())]);
    }
    if !cluster.tags.is_empty() {
        let tags: Vec<_> = cluster.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.push(vec!["tags".to_owned(), tags.join(", ")]);
    }
    if let Some(reason) = &cluster.reason {
        rows.push(vec!["reason".to_owned(), format!("{} [{}]", reason.message, reason.code)]);
        rows.push(vec!["remedy".to_owned(), reason.remedy.clone()]);
    }
    if let Some(logs) = &cluster.logs {
        rows.push(vec!["logs".to_owned(), logs.directory.clone()]);
    }
    output.table(&["cluster", ""], rows);
    if !cluster.hosts.is_empty() {
        output.line("");
        output.table(&crate::commands::host::HEADER, host_rows(&cluster.hosts, now_ms()));
    }
    show_why(&why.view, output);
    show_vitals(&cluster.hosts, output);
    show_gpus(&cluster.hosts, output);
    Ok(())
}

async fn stop(api: &Api, name: &str, no_wait: bool, output: Output) -> Outcome<()> {
    let mut answer = api.stop(name).await?;
    let id = answer.view.id.clone();
    let deadline = Instant::now() + STOP_LIMIT;
    while !no_wait && !answer.view.ended() {
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Failed,
                "stop_late",
                format!("Cluster {name} has not ended within {} s", STOP_LIMIT.as_secs()),
                format!("the server goes on trying; look at `towline cluster show {id}`"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        answer = api.cluster(&id).await?;
    }
    output.value(&answer.json);
    if no_wait {
        output.line(&format!("{} is ending", answer.view.name));
        return Ok(());
    }
    let signed_off = answer.view.hosts.iter().filter(|host| host.sign_off.is_some()).count();
    output.line(&format!(
        "{} has ended; {signed_off} of {} hosts signed off",
        answer.view.name,
        answer.view.hosts.len()
    ));
    Ok(())
}
