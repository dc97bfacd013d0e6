//! The HTTP face: `GET`, `HEAD` and `PUT` of `/v1/blobs/<digest>?grant=…`.
//!
//! Must not log a query: it holds the grant. Driven by the serving loop in `transport`.

use crate::problem::Problem;
use crate::store::{Store, UploadError};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_util::io::ReaderStream;
use towline_transport::blob_grant::{self, BlobClaims, BlobMethod, Digest, UnixSeconds, VerifyingKey};
use tracing::{error, info};

/// Piece size when a blob is read: large wheels pass in few system calls, a connection holds little memory.
const READ_PIECE: usize = 128 * 1024;

struct Shared {
    store: Arc<Store>,
    key: VerifyingKey,
    max_blob_bytes: u64,
}

/// The routes.
pub(crate) fn router(store: Arc<Store>, key: VerifyingKey, max_blob_bytes: u64) -> Router {
    Router::new()
        .route("/v1/blobs/{digest}", get(read).head(read).put(write))
        .fallback(async || Problem::NO_SUCH_PAGE)
        .with_state(Arc::new(Shared { store, key, max_blob_bytes }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capability {
    grant: String,
}

impl Shared {
    /// The blob that is asked for, once the grant allows it.
    fn allowed(
        &self,
        method: BlobMethod,
        digest: &str,
        capability: Option<Query<Capability>>,
        now: UnixSeconds,
    ) -> Result<(Digest, BlobClaims), Problem> {
        let digest: Digest = digest.parse().map_err(|_| Problem::MALFORMED)?;
        let Query(Capability { grant }) = capability.ok_or(Problem::MALFORMED)?;
        let claims = blob_grant::verify(&grant, &self.key, now)?;
        claims.allow(method, &digest)?;
        Ok((digest, claims))
    }
}

async fn read(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Path(digest): Path<String>,
    capability: Result<Query<Capability>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let wanted = if method == Method::HEAD { BlobMethod::Head } else { BlobMethod::Get };
    let (digest, _) = shared.allowed(wanted, &digest, capability.ok(), now())?;
    let found = shared.store.read(&digest).await.map_err(|error| {
        error!(component = "blob-store", %digest, %error, "a blob cannot be read");
        Problem::BROKEN
    })?;
    let (file, size) = found.ok_or(Problem::NOT_FOUND)?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::ETAG, format!("\"{digest}\"")),
    ];
    let body = match wanted {
        BlobMethod::Head => Body::empty(),
        _ => Body::from_stream(ReaderStream::with_capacity(file, READ_PIECE)),
    };
    Ok((headers, body).into_response())
}

async fn write(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    capability: Result<Query<Capability>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (digest, claims) = shared.allowed(BlobMethod::Put, &digest, capability.ok(), now())?;
    let limit = claims.max_size.min(shared.max_blob_bytes);
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > limit) {
        return Err(Problem::from(&UploadError::TooLarge));
    }
    let started = std::time::Instant::now();
    match shared.store.write(&digest, limit, body.into_data_stream()).await {
        Ok(new) => {
            let elapsed_ms = started.elapsed().as_millis() as u64;
            info!(component = "blob-store", %digest, new, elapsed_ms, "a blob was uploaded");
            Ok(if new { StatusCode::CREATED } else { StatusCode::NO_CONTENT })
        }
        Err(error) => {
            let problem = Problem::from(&error);
            match &error {
                UploadError::Full(source) | UploadError::Storage(source) => {
                    error!(component = "blob-store", %digest, %error, %source, "a blob cannot be written");
                }
                _ => info!(component = "blob-store", %digest, %error, "an upload was refused"),
            }
            Err(problem)
        }
    }
}

fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(since.as_secs())
}
