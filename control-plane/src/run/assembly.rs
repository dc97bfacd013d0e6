//! Putting the parts together: the only place that knows them all.

use super::{Parts, Ready, RunError, RunOptions, Running};
use crate::api::{self, ApiParts, Nudge};
use crate::clock;
use crate::environments::{Blobs, HttpProbe};
use crate::files::DataDirectory;
use crate::identity;
use crate::settings::Settings;
use crate::store::Store;
use crate::tasks::housekeeping;
use crate::tasks::renewal::{ListenerTls, Renewer};
use axum::Router;
use rustls::ServerConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::ClusterId;
use towline_transport::client::http_client;
use towline_transport::server::{Limits, Tap, serve_tapped};

struct NoFleet;

impl Nudge for NoFleet {
    fn nudge(&self, _: &ClusterId) {}
}

/// Start everything. Nothing is left running when this fails.
pub(super) async fn start(files: &DataDirectory, options: RunOptions) -> Result<(Running, Ready), RunError> {
    let settings = Arc::new(Settings::load(&files.server())?);
    let authority = Arc::new(identity::read_authority(files)?);
    let store = Store::open(&files.database()).await?;
    let now = clock::unix_now();
    let workspaces: Vec<_> = store.workspaces().await?.into_iter().map(|workspace| workspace.id).collect();
    let (_delegation_envelope, delegation) = identity::delegation_for_run(files, workspaces.clone(), now)?;
    let epoch = store.bump_epoch(now).await?;
    // Hosts refuse such an epoch: better no server than one that nobody obeys.
    if epoch.0 > delegation.not_after.0 {
        return Err(RunError::EpochBeyondDelegation { epoch, not_after: delegation.not_after });
    }
    let renewer = Renewer {
        files: files.clone(),
        authority: authority.clone(),
        names: settings.names.clone(),
        workspaces,
        delegation: Box::new(|_| {}),
    };
    let (agents_tls, people_tls) = renewer.listeners(now)?;
    let (people, people_address) = bind("people", options.people).await?;
    let (agents, agents_address) = bind("agents", options.agents).await?;
    let place = Ready {
        pid: std::process::id(),
        people_url: url(people_address),
        agents_url: url(agents_address),
        blobs_url: options.blobs_url.clone(),
        ca_sha256: authority.certificate_sha256(),
        ca_file: files.ca_certificate(),
    };
    let (front_stop, back_stop) = (CancellationToken::new(), CancellationToken::new());
    let probe = HttpProbe::new(http_client(authority.certificate_pem(), None)?);
    let blobs_key = identity::read_signing_key(&files.blobs_key())?;
    let blobs = Arc::new(Blobs::new(options.blobs_url, blobs_key, settings.validity.blob_grant, Box::new(probe)));
    let people_router = api::router(ApiParts {
        store: store.clone(),
        settings: settings.clone(),
        blobs: blobs.clone(),
        fleet: Arc::new(NoFleet),
        backends: vec!["local".to_owned()],
        logs_directory: files.logs().display().to_string(),
        clock: clock::unix_ms,
        shutdown: front_stop.clone(),
    });
    let agents_router = Router::new();
    let tls = ListenerTls { agents: watch::Sender::new(agents_tls), people: watch::Sender::new(people_tls) };
    let mut front = Parts::new();
    let listener = |who, listener, tls, router| {
        listen(who, listener, tls, router, front_stop.clone(), options.tap.clone())
    };
    front.spawn(listener("people", people, tls.people.subscribe(), people_router));
    front.spawn(listener("agents", agents, tls.agents.subscribe(), agents_router));
    let mut back = Parts::new();
    let stop = back_stop.clone();
    back.spawn(async move {
        renewer.run(tls, now, delegation.not_after, stop).await;
        ("renewal", Ok(()))
    });
    let (housekeeping_store, logs, stop) = (store.clone(), files.logs(), back_stop.clone());
    back.spawn(async move {
        housekeeping::run(housekeeping_store, logs, stop).await;
        ("housekeeping", Ok(()))
    });
    let backends = Box::pin(async {});
    Ok((Running { epoch, front_stop, front, back_stop, back, store, backends }, place))
}

async fn bind(who: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), RunError> {
    let failed = |source| RunError::Bind { who, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn listen(
    who: &'static str,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    stop: CancellationToken,
    tap: Option<Tap>,
) -> (&'static str, Result<(), RunError>) {
    let served = serve_tapped(listener, tls, router, Limits::default(), stop, tap).await;
    (who, served.map_err(|source| RunError::Listener { who, source }))
}

/// How programs on this machine reach a listener: one on every address is reached on the loopback.
fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_on_the_loopback() {
        let url_of = |text: &str| url(text.parse().expect("an address"));
        assert_eq!(url_of("0.0.0.0:1"), "https://127.0.0.1:1");
        assert_eq!(url_of("[::]:2"), "https://[::1]:2");
        assert_eq!(url_of("10.0.0.7:3"), "https://10.0.0.7:3");
    }
}
