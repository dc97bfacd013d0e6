//! EC2's own calls, as far as an instance needs them: to end itself.
//!
//! The contract: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>. One try each: who
//! calls decides on another.

use super::CredentialSource;
use super::sigv4::{Scope, Signable, sign};
use crate::http::{self, HttpError};
use crate::{CredentialError, Freshness, metadata};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Url};
use std::sync::Arc;
use std::time::Duration;

/// One call.
const WITHIN: Duration = Duration::from_secs(20);

const VERSION: &str = "2016-11-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Ec2Error {
    /// The address is none.
    #[error("{0} is no address of EC2")]
    Address(String),
    /// No credentials.
    #[error("there are no AWS credentials")]
    Credentials(#[from] CredentialError),
    /// EC2 said no. `code` is its stable word.
    #[error("EC2 refuses ({code}, status {status})")]
    Refused {
        /// Such as `UnauthorizedOperation`.
        code: String,
        /// The status.
        status: u16,
    },
    /// No answer.
    #[error("EC2 did not answer")]
    Unanswered(#[from] HttpError),
}

impl Ec2Error {
    /// Whether the same call can succeed later without a person's help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Address(_) | Self::Credentials(CredentialError::None { .. }) => false,
            Self::Credentials(_) | Self::Unanswered(_) => true,
            Self::Refused { status, code } => {
                *status >= 500 || *status == 429 || matches!(code.as_str(), "RequestLimitExceeded" | "RequestExpired")
            }
        }
    }
}

/// EC2 in one region.
pub struct Ec2 {
    client: Client,
    url: String,
    region: String,
    credentials: Arc<dyn CredentialSource>,
}

impl Ec2 {
    /// At the region's public address, or another one.
    pub fn new(region: &str, url: Option<&str>, credentials: Arc<dyn CredentialSource>) -> reqwest::Result<Self> {
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        let url = url.map_or_else(|| format!("https://ec2.{region}.amazonaws.com{suffix}/"), str::to_owned);
        Ok(Self { client: http::service_client()?, url, region: region.to_owned(), credentials })
    }

    /// End an instance for good.
    pub async fn terminate(&self, instance: &str) -> Result<(), Ec2Error> {
        let id: String = instance.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let body = format!("Action=TerminateInstances&InstanceId.1={id}&Version={VERSION}");
        let url: Url = self.url.parse().map_err(|_| Ec2Error::Address(self.url.clone()))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(Ec2Error::Address(self.url.clone())),
        };
        let credentials = self.credentials.credentials(Freshness::Any).await?;
        let headers = [("content-type", FORM)];
        let signable = Signable {
            method: "POST",
            host: &host,
            path: url.path(),
            query: &[],
            headers: &headers,
            body: body.as_bytes(),
        };
        let now = i64::try_from(metadata::unix_now()).unwrap_or(i64::MAX);
        let signature = sign(&signable, Scope { region: &self.region, service: "ec2" }, &credentials, now);
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, FORM)
            .header("x-amz-date", signature.date)
            .header(AUTHORIZATION, signature.authorization);
        if let Some(token) = &signature.security_token {
            request = request.header("x-amz-security-token", token.as_str());
        }
        let answer = http::send(&self.client, request.body(body), WITHIN).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer.body);
        let code = between(&text, "<Code>", "</Code>").unwrap_or("unknown");
        let code = code.chars().filter(char::is_ascii_graphic).take(80).collect();
        Err(Ec2Error::Refused { code, status: answer.status.as_u16() })
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(inside, _)| inside)
}
