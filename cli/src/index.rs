//! The package index, as far as this program itself reads it: whether it answers, and single files by address.
//!
//! Which index that is, and what is pinned, belongs to the environments crate. Must never show an index URL with its
//! user and password.

use crate::api::{is_certificate, plain_client, reason};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use reqwest::header::DATE;
use std::time::Duration;
use towline_environments::indexes::Indexes;
use towline_environments::uv::PUBLIC_INDEX;
use url::Url;

/// Limit for one page of the index, and for one file.
const PAGE_LIMIT: Duration = Duration::from_secs(60);
const FILE_LIMIT: Duration = Duration::from_secs(300);
/// Largest file that is read: `uv` has 40 MB, the page that lists it 3.
const MAX_FILE: usize = 300 * 1024 * 1024;

/// An answer of the index.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// The `Date` header.
    pub date: Option<String>,
}

/// The index that this person's settings name.
pub fn url() -> Outcome<Url> {
    let named = Indexes::of_this_person().default_index;
    let text = named.unwrap_or_else(|| PUBLIC_INDEX.to_owned());
    parse(&text).ok_or_else(|| {
        Failure::new(
            Exit::Config,
            "index_malformed",
            "The package index of your settings is not a URL",
            format!("set UV_DEFAULT_INDEX (or pip's index-url) to a URL such as {PUBLIC_INDEX}"),
        )
    })
}

fn parse(text: &str) -> Option<Url> {
    // uv allows `name=url`.
    let text = match text.split_once('=') {
        Some((name, rest)) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => rest,
        _ => text,
    };
    let url = Url::parse(text.trim()).ok()?;
    matches!(url.scheme(), "https" | "http").then_some(url)
}

/// Scheme, host and port of an address: what may be shown.
pub fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The page of one project: is it there, and what time is it over there?
pub async fn page(index: &Url, project: &str) -> Outcome<Answer> {
    let mut url = index.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend([project, ""]);
    }
    get(&url, PAGE_LIMIT).await
}

/// A file or page by its address.
pub async fn download(address: &str) -> Outcome<Vec<u8>> {
    let url = parse(address).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            "index_malformed",
            "The package index names an address that is no URL",
            "check its URL",
        )
    })?;
    Ok(get(&url, FILE_LIMIT).await?.body)
}

async fn get(url: &Url, limit: Duration) -> Outcome<Answer> {
    let response = plain_client()?.get(url.clone()).timeout(limit).send().await;
    let mut response = response.map_err(|error| unreachable(url, &error))?;
    if !response.status().is_success() {
        return Err(refused(url, response.status().as_u16()));
    }
    let date = response.headers().get(DATE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
        if body.len() + chunk.len() > MAX_FILE {
            return Err(unreachable_because(url, "its answer is larger than 300 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { body, date })
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    let why = reason(error);
    if is_certificate(&why) {
        return Failure::new(
            Exit::Unreachable,
            "index_untrusted",
            format!("The certificate of the package index {} is not trusted here", shown(url)),
            "install your organisation's CA certificate into the system's store, or set SSL_CERT_FILE",
        )
        .because(why);
    }
    unreachable_because(url, &why)
}

fn unreachable_because(url: &Url, why: &str) -> Failure {
    Failure::new(
        Exit::Unreachable,
        "index_unreachable",
        format!("Cannot read the package index {}", shown(url)),
        "check the network and proxy (HTTPS_PROXY), or name another index with UV_DEFAULT_INDEX",
    )
    .because(why)
}

fn refused(url: &Url, status: u16) -> Failure {
    let remedy = match status {
        401 | 403 => "check the user and password of the index",
        404 => "check the index's URL; it usually ends in /simple",
        _ => "try again later, or name another index with UV_DEFAULT_INDEX",
    };
    let what = format!("The package index {} answered with status {status}", shown(url));
    Failure::new(Exit::Unreachable, "index_refused", what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_shown_without_its_password() {
        let url = parse("https://ada:secret@index.example:8443/simple").expect("url");
        assert_eq!(shown(&url), "https://index.example:8443");
        assert!(!refused(&url, 401).line().contains("secret"));
    }

    #[test]
    fn takes_uvs_named_form_and_refuses_what_is_no_url() {
        for text in ["corp=https://x.example/simple?a=b", "https://x.example/simple?a=b"] {
            assert_eq!(parse(text).map(|url| url.to_string()).as_deref(), Some("https://x.example/simple?a=b"));
        }
        for bad in ["", "pypi", "file:///etc/passwd", "ftp://x"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
