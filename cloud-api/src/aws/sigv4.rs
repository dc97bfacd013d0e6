//! AWS Signature Version 4: what goes into `Authorization`. PURE: the time is passed in, nothing is sent.
//!
//! The form is told at <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>. Owns
//! the canonical form of a request. Must not know a service: S3, which encodes paths once only, is not served by it.

use super::Credentials;
use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use std::borrow::Cow;
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// The name of the method.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A request as it will be sent.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// Host, and port where it is not the scheme's own, as in the `Host` header.
    pub host: &'a str,
    /// The path as it stands in the request line; empty counts as `/`.
    pub path: &'a str,
    /// Names and values of the query, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Headers that are signed beside `Host` and those of the signature itself.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// What a signature is good for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Such as `eu-central-1`.
    pub region: &'a str,
    /// Such as `logs`.
    pub service: &'a str,
}

/// Headers to add to the request.
pub struct Signature {
    /// `X-Amz-Date`.
    pub date: String,
    /// `Authorization`.
    pub authorization: String,
    /// `X-Amz-Security-Token`, with temporary credentials.
    pub security_token: Option<Zeroizing<String>>,
}

/// Sign a request as of `now` (Unix seconds).
pub fn sign(request: &Signable<'_>, scope: Scope<'_>, credentials: &Credentials, now: i64) -> Signature {
    // Out of jiff's range nothing is valid anyhow.
    let moment = Timestamp::from_second(now).unwrap_or_default();
    let date = moment.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &date[..8];
    let token = credentials.session_token.clone();
    let (canonical, signed) = canonical(request, &date, token.as_ref().map(|token| token.as_str()));
    let Scope { region, service } = scope;
    let within = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("{ALGORITHM}\n{date}\n{within}\n{}", sha256(canonical.as_bytes()));
    let key = signing_key(&credentials.secret_access_key, day, scope);
    let signature = hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let id = &credentials.access_key_id;
    let authorization = format!("{ALGORITHM} Credential={id}/{within}, SignedHeaders={signed}, Signature={signature}");
    Signature { date, authorization, security_token: token }
}

/// The canonical request and the names of its signed headers.
fn canonical(request: &Signable<'_>, date: &str, token: Option<&str>) -> (String, String) {
    let mut headers: Vec<(String, Cow<'_, str>)> =
        vec![("host".to_owned(), request.host.into()), ("x-amz-date".to_owned(), date.into())];
    headers.extend(token.map(|token| ("x-amz-security-token".to_owned(), token.into())));
    headers.extend(request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), trimmed(value))));
    // Stable: values of one name stay in their order.
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 = format!("{},{}", first.1, later.1).into();
        }
        same
    });
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let mut query: Vec<(String, String)> =
        request.query.iter().map(|(name, value)| (encoded(name, false), encoded(value, false))).collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let path = if request.path.is_empty() { "/" } else { request.path };
    let mut text = format!("{}\n{}\n{query}\n", request.method, encoded(path, true));
    for (name, value) in &headers {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(text, "\n{names}\n{}", sha256(request.body));
    (text, names)
}

/// Without spaces at the ends, and with one where there were several.
fn trimmed(value: &str) -> Cow<'_, str> {
    let value = value.trim();
    if value.contains("  ") {
        value.split_ascii_whitespace().collect::<Vec<_>>().join(" ").into()
    } else {
        value.into()
    }
}

/// Each byte that is not unreserved (RFC 3986) as `%XX`.
fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if plain || (byte == b'/' && keep_slashes) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn signing_key(secret: &str, day: &str, scope: Scope<'_>) -> hmac::Key {
    let first = Zeroizing::new(format!("AWS4{secret}"));
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
    for part in [day, scope.region, scope.service, "aws4_request"] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's published key of its examples.
    fn example(token: Option<&str>) -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: token.map(|token| Zeroizing::new(token.to_owned())),
            expires_at: None,
        }
    }

    /// 2015-08-30T12:36:00Z, the moment of AWS's test suite.
    const MOMENT: i64 = 1_440_938_160;

    const VANILLA: Signable<'_> =
        Signable { method: "GET", host: "example.amazonaws.com", path: "/", query: &[], headers: &[], body: b"" };

    fn signature(request: &Signable<'_>) -> String {
        let scope = Scope { region: "us-east-1", service: "service" };
        let signed = sign(request, scope, &example(None), MOMENT);
        assert_eq!(signed.date, "20150830T123600Z");
        signed.authorization.rsplit_once('=').expect("a signature").1.to_owned()
    }

    #[test]
    fn signs_as_the_published_test_suite_does() {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let cases = [
            ("get-vanilla", VANILLA, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "get-vanilla-query-order-key-case",
                Signable { query: &[("Param2", "value2"), ("Param1", "value1")], ..VANILLA },
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                Signable { method: "POST", ..VANILLA },
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                Signable { method: "POST", headers: &form, body: b"Param1=value1", ..VANILLA },
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ];
        for (name, request, wanted) in cases {
            assert_eq!(signature(&request), wanted, "{name}");
        }
    }

    #[test]
    fn signs_the_published_example_of_a_query_request() {
        let content = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
        let request = Signable {
            host: "iam.amazonaws.com",
            query: &[("Action", "ListUsers"), ("Version", "2010-05-08")],
            headers: &content,
            ..VANILLA
        };
        let signed = sign(&request, Scope { region: "us-east-1", service: "iam" }, &example(None), MOMENT);
        assert_eq!(
            signed.authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    /// As `botocore` 1.44 signs it.
    #[test]
    fn signs_what_log_requests_are_made_of() {
        let headers = [("X-Amz-Target", "Logs_20140328.PutLogEvents"), ("Content-Type", "application/x-amz-json-1.1")];
        let body = "{\"logGroupName\":\"/towline/ä\"}".as_bytes();
        let request = Signable { method: "POST", host: "127.0.0.1:4711", headers: &headers, body, ..VANILLA };
        let scope = Scope { region: "eu-central-1", service: "logs" };
        let signed = sign(&request, scope, &example(Some("a/token+==")), MOMENT);
        assert_eq!(
            signed.authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-central-1/logs/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, \
             Signature=de0999b7fe8347244d15760472c010668c924209b1b6f2dda42ce96f1afeb5e2"
        );
        assert_eq!(signed.security_token.expect("sent along").as_str(), "a/token+==");
    }

    #[test]
    fn spaces_and_repeated_headers_are_made_one() {
        assert_eq!(trimmed("  a   b  "), "a b");
        let headers = [("My-Header1", "value2"), ("My-Header1", "value1")];
        let (text, names) = canonical(&Signable { headers: &headers, ..VANILLA }, "20150830T123600Z", None);
        assert!(text.contains("\nmy-header1:value2,value1\n"), "{text}");
        assert_eq!(names, "host;my-header1;x-amz-date");
        assert_eq!(encoded("a b/ä~", true), "a%20b/%C3%A4~");
        assert_eq!(encoded("a/b", false), "a%2Fb");
    }
}
