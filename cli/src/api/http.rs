//! HTTP below the API: clients with limits, and what went wrong in words.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome, chain, one_line};
use crate::profiles::Profile;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// Limit for reaching an address.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// RFC 9457 as our control plane writes it.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    remedy: Option<String>,
}

/// A client that trusts the profile's CA only, or the system's roots when it names none.
pub fn client(profile: &Profile) -> Outcome<reqwest::Client> {
    let Some(path) = &profile.ca_file else {
        return plain_client();
    };
    let failed = || {
        Failure::new(
            Exit::Config,
            "ca_unreadable",
            format!("Cannot use the CA certificate {}", path.display()),
            "run `towline login` again, or start the server that wrote it",
        )
    };
    let pem = std::fs::read_to_string(path).map_err(|error| failed().because(error))?;
    towline_transport::client::http_client(&pem, None).map_err(|error| failed().caused_by(&error))
}

/// A client that trusts what this system trusts, and honours its proxy settings.
pub fn plain_client() -> Outcome<reqwest::Client> {
    reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).read_timeout(Duration::from_secs(60)).build().map_err(
        |error| {
            Failure::new(
                Exit::Config,
                "roots_unreadable",
                "Cannot read this system's trusted certificates",
                "install the package `ca-certificates`, or set SSL_CERT_FILE",
            )
            .caused_by(&error)
        },
    )
}

/// The server did not answer.
pub fn unreachable(place: &str, error: &reqwest::Error) -> Failure {
    let why = reason(error);
    if is_certificate(&why) {
        return Failure::new(
            Exit::Unreachable,
            "certificate_untrusted",
            format!("The certificate of {place} is not trusted"),
            "run `towline login URL#sha256:FINGERPRINT` with the fingerprint that the server printed",
        )
        .because(why);
    }
    Failure::new(
        Exit::Unreachable,
        "unreachable",
        format!("Cannot reach {place}"),
        "check that the server runs (`towline server run`) and that the address in the profile is right",
    )
    .because(why)
}

/// The innermost reason of a failed request, without its URL: URLs may hold capabilities or passwords.
pub fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut last = None;
    while let Some(inner) = source {
        last = Some(inner);
        source = inner.source();
    }
    last.map_or_else(|| "the request failed".to_owned(), |inner| one_line(&inner.to_string()))
}

/// Whether a reason is about the certificate.
pub fn is_certificate(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.contains("certificate") || why.contains("unknownissuer") || why.contains("unknown issuer")
}

/// What the server said instead of an answer.
pub async fn problem(response: reqwest::Response) -> Failure {
    let status = response.status();
    let body = body(response).await.unwrap_or_default();
    read_problem(status.as_u16(), &body)
}

fn read_problem(status: u16, body: &[u8]) -> Failure {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let exit = match status {
        400..=499 => Exit::Refused,
        502..=504 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let default_remedy = match status {
        401 => "run `towline login` again with a fresh token",
        403 => "ask the workspace's administrator for the right",
        404 => "look at `towline cluster list --all` or `towline host list` for what there is",
        429 => "wait a minute and try again",
        400..=499 => "check the arguments; `towline doctor` checks the rest",
        _ => "look into the server's log, then try again",
    };
    let title = problem.title.unwrap_or_else(|| format!("The server answered with status {status}"));
    let code = problem.code.unwrap_or_else(|| format!("http_{status}"));
    let remedy = problem.remedy.filter(|text| !text.is_empty()).unwrap_or_else(|| default_remedy.to_owned());
    let failure = Failure::new(exit, &code, one_line(&title), one_line(&remedy));
    match problem.detail.filter(|detail| *detail != title) {
        Some(detail) => failure.because(detail),
        None => failure,
    }
}

/// The answer as JSON, within the size limit.
pub async fn json(response: reqwest::Response) -> Outcome<Value> {
    let bytes = body(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| nonsense(&error))
}

/// The answer was no JSON of the expected shape.
pub fn nonsense(error: &serde_json::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        "answer_malformed",
        "The server's answer is not what this version expects",
        "check that `towline version` equals the server's version, and that the address is a Towline control plane",
    )
    .because(chain(error))
}

async fn body(mut response: reqwest::Response) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= MAX_ANSWER => bytes.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                return Err(Failure::new(
                    Exit::Failed,
                    "answer_too_large",
                    "The server's answer is larger than 64 MiB",
                    "check that the address is a Towline control plane",
                ));
            }
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(unreachable("the server", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_remedy() {
        let body = br#"{"type":"urn:towline:error:cluster_name_taken","title":"The name is taken","status":409,"detail":"A cluster called \"x\" runs","code":"cluster_name_taken","remedy":"choose another name"}"#;
        let failure = read_problem(409, body);
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Refused, "cluster_name_taken"));
        assert_eq!(failure.line(), "The name is taken: A cluster called \"x\" runs. → choose another name");
    }

    #[test]
    fn an_answer_that_is_no_problem_document_still_has_a_remedy() {
        for status in [401, 403, 404, 418, 429, 500, 503] {
            let failure = read_problem(status, b"<html>");
            assert!(!failure.remedy.is_empty());
            assert!(failure.line().contains(&status.to_string()));
        }
        assert_eq!(read_problem(503, b"").exit, Exit::Unreachable);
        assert_eq!(read_problem(500, b"").exit, Exit::Failed);
    }
}
