//! `towline cluster dashboard`: Dask's pages of a cluster on this machine, for whoever has the link.
//!
//! Owns the command's life: key, gateway, listener, link, end. Who may ask is `gate`'s, this machine's certificate
//! `pass`'s, the way to the cluster `upstream`'s, and what passes `proxy`'s.

mod gate;
mod pass;
mod proxy;
mod upstream;

use crate::api::Api;
use crate::api::views::Cluster;
use crate::arguments::DashboardArguments;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};
use crate::{commands, files, paths, stop};
use gate::Gate;
pub use pass::{Pass, pass};
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::ClusterId;
use towline_transport::keys;
use towline_transport::member::{DASHBOARD, Knock};
use upstream::Upstream;

/// How long a cluster that starts is waited for: certificate and gateway come with its scheduler.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// Between two looks at whether the cluster still lives.
const WATCH: Duration = Duration::from_secs(5);

/// Run until Ctrl-C, until standard input is closed where that was asked for, or until the cluster has ended.
pub async fn run(arguments: &DashboardArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    let stopped = stop::requested(arguments.until_stdin_closes);
    tokio::pin!(stopped);
    let api = commands::api(profile)?;
    let opened = tokio::select! {
        opened = open(&api, arguments) => opened?,
        _ = &mut stopped => return Err(Failure::interrupted()),
    };
    let link = opened.gate.link();
    output.value(&json!({
        "link": link, "host": Ipv4Addr::LOCALHOST.to_string(), "port": opened.gate.port(),
        "secret": opened.gate.secret(), "cluster": opened.cluster.id,
    }));
    output.line(&format!("Dask's dashboard of {}, for whoever has this link, until Ctrl-C:", opened.cluster.name));
    output.line(&link);
    let page = if arguments.open { browse(&link) } else { None };
    let end = CancellationToken::new();
    let gate = Arc::new(opened.gate);
    let serving = tokio::spawn(proxy::serve(opened.listener, gate, Arc::new(opened.upstream), end.clone()));
    tokio::select! {
        _ = &mut stopped => {}
        ended = ended(&api, &opened.cluster.id) => {
            let sentence = format!("{} has ended{ended}; so has its dashboard", opened.cluster.name);
            if output.json() { output::warn(&sentence) } else { output.line(&sentence) }
        }
    }
    end.cancel();
    let _ = serving.await;
    if let Some(page) = page {
        // Somebody else may have cleaned up.
        let _ = std::fs::remove_file(page);
    }
    Ok(())
}

/// Everything that must be there before there is a link.
struct Opened {
    cluster: Cluster,
    gate: Gate,
    listener: TcpListener,
    upstream: Upstream,
}

async fn open(api: &Api, arguments: &DashboardArguments) -> Outcome<Opened> {
    let cluster = until(api, &arguments.cluster, |cluster| cluster.gateway.clone().map(|_| cluster.clone())).await?;
    let id: ClusterId = cluster.id.parse().map_err(|error| unusable().caused_by(&error))?;
    let pass = pass(api, &id, &cluster).await?;
    let knock = Knock::new(&pass.identity, &pass.ca_pem, &id, DASHBOARD);
    let knock = knock.map_err(|error| unusable().caused_by(&error))?;
    let upstream = Upstream::new(api.clone(), cluster.id.clone(), cluster.gateway.clone(), knock);
    // A link that leads nowhere is no link.
    upstream.dial().await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await;
    let listener = listener.map_err(|error| taken(arguments.port).because(error))?;
    let address = listener.local_addr().map_err(|error| taken(arguments.port).because(error))?;
    Ok(Opened { cluster, gate: Gate::new(address.port(), keys::random_hex(16)), listener, upstream })
}

/// Look at a cluster until it shows something, for as long as it may still come.
async fn until<T>(api: &Api, cluster: &str, found: impl Fn(&Cluster) -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = api.cluster(cluster).await?.view;
        if let Some(reason) = why_ended(&view) {
            return Err(Failure::new(
                Exit::Failed,
                "cluster_ended",
                format!("Cluster {} has ended{reason}", view.name),
                "`towline cluster list` shows those that run",
            ));
        }
        if let Some(found) = found(&view) {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::Failed,
                "gateway_missing",
                format!("Cluster {} has no gateway: its scheduler's host does not say where it listens", view.name),
                "try again when `towline cluster show` says it runs; its log of the scheduler's host says more",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why a cluster is no more, as the end of a sentence; none while it lives.
fn why_ended(cluster: &Cluster) -> Option<String> {
    let ended = matches!(cluster.state.as_str(), "failed" | "stopped" | "stopping");
    ended.then(|| cluster.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", reason.message)))
}

/// Returns once the cluster has ended. A control plane that does not answer says nothing about it.
async fn ended(api: &Api, cluster: &str) -> String {
    loop {
        tokio::time::sleep(WATCH).await;
        if let Ok(answer) = api.cluster(cluster).await
            && let Some(reason) = why_ended(&answer.view)
        {
            return reason;
        }
    }
}

/// Show a link in the browser, by way of a file: arguments of a program can be read by every user. Returns the file.
fn browse(link: &str) -> Option<PathBuf> {
    let shown = || -> Outcome<PathBuf> {
        let folder = paths::state()?.join("dashboards");
        files::private_directory(&folder).map_err(|error| unusable().because(error))?;
        let page = folder.join(format!("{}.html", keys::random_hex(6)));
        let text = format!("<meta http-equiv=\"refresh\" content=\"0; url={link}\">\n");
        keys::write_secret(&page, text.as_bytes()).map_err(|error| unusable().because(error))?;
        let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let mut command = std::process::Command::new(program);
        command.arg(&page).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        // Its own affair from here on: it may live as long as the browser.
        command.spawn().map_err(|error| unusable().because(error))?;
        Ok(page)
    };
    match shown() {
        Ok(page) => Some(page),
        Err(failure) => {
            output::warn(&format!("no browser could be opened ({}); open the link yourself", failure.message()));
            None
        }
    }
}

fn taken(port: u16) -> Failure {
    Failure::new(
        Exit::Failed,
        "port_taken",
        format!("Cannot listen on 127.0.0.1, port {port}"),
        "leave --port out, or name a free one",
    )
}

fn unusable() -> Failure {
    Failure::new(
        Exit::Failed,
        "dashboard_unusable",
        "The dashboard cannot be opened",
        "run `towline doctor`; compare `towline version` with the server's",
    )
}

#[cfg(test)]
mod tests;
