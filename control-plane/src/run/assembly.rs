//! Putting the parts together: the only place that knows them all.

use super::{Parts, Ready, RunError, RunOptions, Running};
use crate::api::{self, ApiParts, Nudge};
use crate::authority::HostAuthority;
use crate::backends::local::{Local, LocalSettings};
use crate::backends::{Backend, Backends};
use crate::clock;
use crate::enrolment::{self, EnrolmentParts};
use crate::environments::{Blobs, HttpProbe};
use crate::files::DataDirectory;
use crate::fleet::{self, FleetHandle, FleetParts, FleetSettings, Home};
use crate::identity;
use crate::sessions::{self, SessionHub, SessionParts};
use crate::settings::Settings;
use crate::signer::content::AssignmentPolicy;
use crate::signer::{Signer, SignerTimes};
use crate::store::Store;
use crate::tasks::housekeeping::{self, Folders};
use crate::tasks::renewal::{ListenerTls, Renewer};
use axum::Router;
use rustls::ServerConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{ClusterId, Epoch, WorkspaceId};
use towline_protocol::time::UnixSeconds;
use towline_protocol::trust::Delegation;
use towline_transport::authority::Authority;
use towline_transport::client::http_client;
use towline_transport::plain;
use towline_transport::server::{Limits, Tap, serve_tapped};

/// Between two samples of a host's vitals.
const VITALS_PERIOD: Duration = Duration::from_secs(5);

/// How long a local host's processes have between being asked to end and being killed.
const PATIENCE: Duration = Duration::from_secs(3);

impl Nudge for FleetHandle {
    fn nudge(&self, cluster: &ClusterId) {
        Self::nudge(self, cluster);
    }
}

/// What is read and checked before anything runs.
struct Ground {
    files: DataDirectory,
    settings: Arc<Settings>,
    authority: Arc<Authority>,
    store: Store,
    workspaces: Vec<WorkspaceId>,
    delegation: (Envelope, Delegation),
    epoch: Epoch,
    now: UnixSeconds,
}

impl Ground {
    async fn read(files: &DataDirectory) -> Result<Self, RunError> {
        let settings = Arc::new(Settings::load(&files.server())?);
        let authority = Arc::new(identity::read_authority(files)?);
        let store = Store::open_existing(&files.database()).await?;
        let now = clock::unix_now();
        let workspaces: Vec<_> = store.workspaces().await?.into_iter().map(|workspace| workspace.id).collect();
        let delegation = identity::delegation_for_run(files, workspaces.clone(), now)?;
        let epoch = store.bump_epoch(now).await?;
        // Hosts refuse such an epoch: better no server than one that nobody obeys.
        if epoch.0 > delegation.1.not_after.0 {
            return Err(RunError::EpochBeyondDelegation { epoch, not_after: delegation.1.not_after });
        }
        Ok(Self { files: files.clone(), settings, authority, store, workspaces, delegation, epoch, now })
    }

    fn signer(&self) -> Result<Arc<Signer>, RunError> {
        let key = identity::read_signing_key(&self.files.signing_key())?;
        let validity = self.settings.validity;
        let times = SignerTimes { instruction: validity.instruction, lease: validity.lease };
        Ok(Arc::new(Signer::new(key, self.delegation.0.clone(), self.epoch, times)))
    }

    fn host_authority(&self) -> Arc<HostAuthority> {
        let trust_domain = self.settings.trust_domain.clone();
        Arc::new(HostAuthority::new(self.authority.clone(), trust_domain, self.settings.validity.identity))
    }

    fn blobs(&self, url: String) -> Result<Arc<Blobs>, RunError> {
        let probe = HttpProbe::new(http_client(self.authority.certificate_pem(), None)?);
        let key = identity::read_signing_key(&self.files.blobs_key())?;
        Ok(Arc::new(Blobs::new(url, key, self.settings.validity.blob_grant, Box::new(probe))))
    }

    fn policy(&self) -> AssignmentPolicy {
        AssignmentPolicy {
            rules: self.settings.rules,
            phases: self.settings.phases,
            vitals_period: VITALS_PERIOD,
            logs: self.files.logs(),
        }
    }

    fn home(&self, agents_url: String) -> Result<Home, RunError> {
        Ok(Home {
            agents_url,
            ca_pem: self.authority.certificate_pem().to_owned(),
            root_key: identity::read_public_key(&self.files.root_public())?,
            trust_domain: self.settings.trust_domain.clone(),
        })
    }

    fn renewer(&self, signer: Arc<Signer>, hub: SessionHub) -> Renewer {
        Renewer {
            files: self.files.clone(),
            authority: self.authority.clone(),
            names: self.settings.names.clone(),
            workspaces: self.workspaces.clone(),
            delegation: Box::new(move |delegation| {
                signer.replace_delegation(delegation);
                for host in hub.connected() {
                    hub.poke(&host);
                }
            }),
        }
    }
}

/// The listeners, bound.
struct Bound {
    people: TcpListener,
    agents: TcpListener,
    metrics: Option<TcpListener>,
    place: Ready,
}

impl Bound {
    async fn new(ground: &Ground, options: &RunOptions) -> Result<Self, RunError> {
        let (people, people_address) = bind("people", options.people).await?;
        let (agents, agents_address) = bind("agents", options.agents).await?;
        let metrics = match ground.settings.metrics_listen {
            Some(address) => Some(bind("metrics", address).await?),
            None => None,
        };
        let place = Ready {
            pid: std::process::id(),
            people_url: url(people_address),
            agents_url: url(agents_address),
            blobs_url: options.blobs_url.clone(),
            metrics_url: metrics.as_ref().map(|(_, address)| format!("http://{}/metrics", reached_at(*address))),
            ca_sha256: ground.authority.certificate_sha256(),
            ca_file: ground.files.ca_certificate(),
        };
        Ok(Self { people, agents, metrics: metrics.map(|(listener, _)| listener), place })
    }
}

/// Start everything. Nothing is left running when this fails: whatever can fail comes before the first task.
pub(super) async fn start(files: &DataDirectory, options: RunOptions) -> Result<(Running, Ready), RunError> {
    let ground = Ground::read(files).await?;
    let (signer, authority) = (ground.signer()?, ground.host_authority());
    let hub = SessionHub::new();
    let metrics_hub = hub.clone();
    let renewer = ground.renewer(signer.clone(), hub.clone());
    let (agents_tls, people_tls) = renewer.listeners(ground.now)?;
    let tls = ListenerTls { agents: watch::Sender::new(agents_tls), people: watch::Sender::new(people_tls) };
    let bound = Bound::new(&ground, &options).await?;
    let home = ground.home(bound.place.agents_url.clone())?;
    let blobs = ground.blobs(options.blobs_url)?;
    let uv = uv().await;

    let (front_stop, back_stop) = (CancellationToken::new(), CancellationToken::new());
    let wake = Arc::new(Notify::new());
    let local =
        Arc::new(Local::new(local_settings(&ground, options.agent_program, uv), wake.clone(), back_stop.clone()));
    let backends = Backends::new([local.clone() as Arc<dyn Backend>]);
    let parts = FleetParts {
        store: ground.store.clone(),
        signer: signer.clone(),
        backends: backends.clone(),
        sessions: hub.clone(),
        settings: Arc::new(FleetSettings {
            limits: ground.settings.limits,
            ..FleetSettings::new(ground.policy(), ground.settings.validity.local_token)
        }),
        home,
        wake,
    };
    let (fleet, fleet_joined) = fleet::spawn(parts, back_stop.clone());
    let people_router = people_router(&ground, &blobs, &fleet, &backends, &front_stop);
    let agents_router = agents_router(SessionParts {
        store: ground.store.clone(),
        signer,
        authority,
        hub,
        fleet,
        blobs,
        policy: Arc::new(ground.policy()),
        shutdown: front_stop.clone(),
    });

    let mut front = Parts::new();
    let listener =
        |who, listener, tls, router| listen(who, listener, tls, router, front_stop.clone(), options.tap.clone());
    front.spawn(listener("people", bound.people, tls.people.subscribe(), people_router));
    front.spawn(listener("agents", bound.agents, tls.agents.subscribe(), agents_router));
    if let Some(listener) = bound.metrics {
        let (store, hub, stop) = (ground.store.clone(), metrics_hub, front_stop.clone());
        front.spawn(async move {
            plain::serve(listener, crate::metrics::router(store, hub), stop).await;
            ("metrics", Ok(()))
        });
    }
    let back = back(&ground, fleet_joined, renewer, tls, &back_stop);
    let backends = Box::pin(async move { local.join().await });
    Ok((
        Running { epoch: ground.epoch, front_stop, front, back_stop, back, store: ground.store, backends },
        bound.place,
    ))
}

/// Fleet and background tasks.
fn back(ground: &Ground, fleet: JoinHandle<()>, renewer: Renewer, tls: ListenerTls, stop: &CancellationToken) -> Parts {
    let mut back = Parts::new();
    back.spawn(async move { ("fleet", fleet.await.map_err(RunError::Panicked)) });
    let (now, delegated_until) = (ground.now, ground.delegation.1.not_after);
    let renewal_stop = stop.clone();
    back.spawn(async move {
        renewer.run(tls, now, delegated_until, renewal_stop).await;
        ("renewal", Ok(()))
    });
    let folders = Folders { logs: ground.files.logs(), hosts: ground.files.hosts() };
    let (store, stop) = (ground.store.clone(), stop.clone());
    back.spawn(async move {
        housekeeping::run(store, folders, stop).await;
        ("housekeeping", Ok(()))
    });
    back
}

fn people_router(
    ground: &Ground,
    blobs: &Arc<Blobs>,
    fleet: &FleetHandle,
    backends: &Backends,
    stop: &CancellationToken,
) -> Router {
    api::router(ApiParts {
        store: ground.store.clone(),
        settings: ground.settings.clone(),
        blobs: blobs.clone(),
        fleet: Arc::new(fleet.clone()),
        backends: backends.all().map(|backend| backend.name().to_owned()).collect(),
        logs_directory: ground.files.logs().display().to_string(),
        clock: clock::unix_ms,
        shutdown: stop.clone(),
    })
}

fn agents_router(parts: SessionParts) -> Router {
    let enrolment =
        EnrolmentParts { store: parts.store.clone(), authority: parts.authority.clone(), fleet: parts.fleet.clone() };
    sessions::router(parts).merge(enrolment::router(enrolment))
}

fn local_settings(ground: &Ground, agent_program: PathBuf, uv: Option<PathBuf>) -> LocalSettings {
    let (files, simulate) = (&ground.files, ground.settings.local_simulate);
    if simulate {
        tracing::warn!(component = "server", "hosts are simulated (`local.simulate`): clusters compute nothing");
    }
    LocalSettings {
        hosts: files.hosts(),
        agent_program,
        environments: files.store(),
        uv,
        patience: PATIENCE,
        agent: ground.settings.local_agent.clone(),
        simulate,
    }
}

/// The `uv` that local hosts use: one that is here and new enough, else the place in the cache where the CLI puts the
/// pinned one when it prepares an environment.
async fn uv() -> Option<PathBuf> {
    let cache = cache_directory(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))?;
    // Asking a program for its version blocks.
    let found = tokio::task::spawn_blocking(move || {
        towline_environments::uv::locate(&cache).unwrap_or_else(|| towline_environments::uv::cached_path(&cache))
    });
    found.await.ok()
}

fn cache_directory(cache: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let base = cache.and_then(|cache| absolute(cache.into()));
    let base = base.or_else(|| absolute(Path::new(&home?).join(".cache")))?;
    Some(base.join("towline"))
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
    format!("https://{}", reached_at(address))
}

fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
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
