//! The proxy on the loopback: requests of a browser, each judged, then passed on over the gateway; websockets too.
//!
//! Owns the connections of browsers, and what of a request and an answer does not pass: the secret, cookies and passwords
//! of other programs on this machine, and the names that the pages' server would judge by. One connection to the
//! gateway for each of a browser's.

use super::gate::{Gate, Judgement};
use super::upstream::Upstream;
use crate::failure::{Failure, Outcome};
use axum::body::Body;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections of browsers at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 128;

/// Longest wait for a request's head: browsers open connections ahead of need.
const HEAD_WITHIN: Duration = Duration::from_secs(120);

/// Longest wait for an answer's head: the first page imports Bokeh.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A connection that has not ended its last answer by then is left to itself.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// How long tasks may take to end once they are told to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// The name that the scheduler's plugin expects, in every request that was let through.
const INSIDE: &str = "towline-dashboard";

/// The same as the page that a websocket comes from.
const ORIGIN: &str = "http://towline-dashboard";

/// Not passed on: other programs' secrets, the link's own, and what is for one connection only.
const DROPPED: [HeaderName; 9] = [
    header::COOKIE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::REFERER,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::SET_COOKIE,
];

/// Every task of the proxy, and their common end.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl Tasks {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            // Dropping the work closes its connections.
            tokio::select! {
                () = end.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Serve until told to end; open connections are cut then.
pub async fn serve(listener: TcpListener, gate: Arc<Gate>, upstream: Arc<Upstream>, end: CancellationToken) {
    let tasks = Tasks { tracker: TaskTracker::new(), end: end.clone() };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Cancel-safe: a connection that was not taken stays in the queue, a slot with the others.
        let accepted = tokio::select! {
            () = end.cancelled() => break,
            accepted = async {
                let slot = slots.clone().acquire_owned().await.expect("it is never closed");
                (listener.accept().await, slot)
            } => accepted,
        };
        let (Ok((stream, _)), slot) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let page = Arc::new(Page { gate: gate.clone(), upstream: upstream.clone(), tasks: tasks.clone() });
        tasks.spawn(async move {
            browser(stream, page).await;
            drop(slot);
        });
    }
    tasks.tracker.close();
    let _ = tokio::time::timeout(END_WITHIN, tasks.tracker.wait()).await;
}

/// What answers one browser's connection.
struct Page {
    gate: Arc<Gate>,
    upstream: Arc<Upstream>,
    tasks: Tasks,
}

async fn browser(stream: TcpStream, page: Arc<Page>) {
    let _ = stream.set_nodelay(true);
    // A browser asks one thing after the other on a connection.
    let spoken: Arc<Mutex<Option<SendRequest<Body>>>> = Arc::default();
    let service = service_fn(move |request| {
        let (page, spoken) = (page.clone(), spoken.clone());
        async move { Ok::<_, Infallible>(page.answer(request, &mut *spoken.lock().await).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    // A browser may go at any moment.
    let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

impl Page {
    async fn answer(&self, request: Request<Incoming>, spoken: &mut Option<SendRequest<Body>>) -> Response<Body> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let answer = match self.gate.judge(if request.uri().authority().is_some() { "" } else { target }) {
            Judgement::Refuse => says(
                StatusCode::FORBIDDEN,
                "This page needs the whole link of `towline cluster dashboard`, or of `dashboard_link` in Python.\n",
            ),
            Judgement::Redirect(place) => {
                let mut answer = says(StatusCode::FOUND, "");
                place_in(&mut answer, &place);
                answer
            }
            Judgement::Pass(target) => match self.pass(request, &target, spoken).await {
                Ok(answer) => answer,
                Err(failure) => says(StatusCode::BAD_GATEWAY, &format!("{}\n", failure.line())),
            },
        };
        guarded(answer)
    }

    /// Ask the pages' server, and take over both ends where it agrees to a websocket.
    async fn pass(
        &self,
        mut request: Request<Incoming>,
        target: &str,
        spoken: &mut Option<SendRequest<Body>>,
    ) -> Outcome<Response<Body>> {
        let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut asked = Request::new(Body::new(body));
        *asked.method_mut() = parts.method;
        *asked.uri_mut() = target.parse::<Uri>().map_err(|error| lost(&error))?;
        *asked.headers_mut() = inside(&parts.headers, upgrade.is_some());
        let mut sender = self.sender(spoken.take()).await?;
        let answered = tokio::time::timeout(ANSWER_WITHIN, sender.send_request(asked)).await;
        let mut answer = answered.map_err(|error| lost(&error))?.map_err(|error| lost(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(browser), pages) = (upgrade, hyper::upgrade::on(&mut answer)) else {
                return Err(lost(&"it changed the protocol unasked"));
            };
            self.tasks.spawn(async move {
                if let (Ok(browser), Ok(pages)) = tokio::join!(browser, pages) {
                    // Either end may go at any moment; silence is ended by the gateway.
                    let _ = copy_bidirectional(&mut TokioIo::new(browser), &mut TokioIo::new(pages)).await;
                }
            });
        } else {
            *spoken = Some(sender);
            for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::SET_COOKIE] {
                answer.headers_mut().remove(name);
            }
        }
        let mut answer = answer.map(Body::new);
        if let Some(place) = answer.headers().get(header::LOCATION).and_then(|place| place.to_str().ok()) {
            let place = self.gate.outside(place);
            place_in(&mut answer, &place);
        }
        Ok(answer)
    }

    /// The connection that this browser's last request used, if it still serves, or a new one.
    async fn sender(&self, last: Option<SendRequest<Body>>) -> Outcome<SendRequest<Body>> {
        if let Some(mut last) = last
            && matches!(tokio::time::timeout(READY_WITHIN, last.ready()).await, Ok(Ok(())))
        {
            return Ok(last);
        }
        let (sender, connection) = self.upstream.speak().await?;
        self.tasks.spawn(async move {
            // What went wrong is told to whoever asks on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }
}

/// The headers of a request as the pages' server gets them.
fn inside(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut passed: HeaderMap =
        headers.iter().filter(|(name, _)| !DROPPED.contains(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    passed.insert(header::HOST, HeaderValue::from_static(INSIDE));
    if upgrade {
        passed.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        passed.remove(header::UPGRADE);
    }
    if passed.contains_key(header::ORIGIN) {
        // It was judged here, by the secret.
        passed.insert(header::ORIGIN, HeaderValue::from_static(ORIGIN));
    }
    passed
}

/// What every answer says: the link stays here, whatever a page refers to.
fn guarded(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

fn place_in(answer: &mut Response<Body>, place: &str) {
    if let Ok(place) = HeaderValue::from_str(place) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
}

fn says(status: StatusCode, sentence: &str) -> Response<Body> {
    let mut answer = Response::new(Body::from(sentence.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn lost(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        crate::exit::Exit::Failed,
        "dashboard_lost",
        "The scheduler's pages did not answer",
        "reload the page; a cluster whose scheduler was started by an older Towline has none",
    )
    .because(why)
}
