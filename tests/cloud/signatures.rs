//! Our signatures beside botocore's, AWS's own signer, over requests as odd as they come. What AWS published of Signature
//! Version 4 (its test suite and its example of a query request) stands beside the signer, in `towline-cloud-api`.

use crate::tools::python;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use towline_cloud_api::aws::Credentials;
use towline_cloud_api::aws::sigv4::{Scope, Signable, sign};
use zeroize::Zeroizing;

/// 2015-08-30T12:36:00Z.
const NOW: i64 = 1_440_938_160;

const PLAIN: Signable<'_> =
    Signable { method: "GET", host: "example.amazonaws.com", path: "/", query: &[], headers: &[], body: b"" };

fn table() -> Vec<(&'static str, Signable<'static>)> {
    let target = &[("X-Amz-Target", "Logs_20140328.PutLogEvents"), ("Content-Type", "application/x-amz-json-1.1")];
    vec![
        ("plain", PLAIN),
        ("query in any order", Signable { query: &[("b", "2"), ("a", "1"), ("B", "0"), ("a2", "")], ..PLAIN }),
        ("query with spaces and signs", Signable { query: &[("a b", "c d"), ("p", "1+1=2&3/4?~_.-*'()")], ..PLAIN }),
        ("query beyond ASCII", Signable { query: &[("schlüssel", "größe 🐍"), ("ab", "\u{7f}\t")], ..PLAIN }),
        ("names where one begins the other", Signable { query: &[("a-b", "1"), ("a", "2"), ("a=", "3")], ..PLAIN }),
        ("a path", Signable { path: "/a-b_c.d~e/f", ..PLAIN }),
        ("an encoded path", Signable { path: "/a%20b/%C3%A4", ..PLAIN }),
        ("an empty body", Signable { method: "POST", ..PLAIN }),
        (
            "a body beyond ASCII",
            Signable { method: "POST", headers: target, body: "{\"a\":\"ä🐍\"}".as_bytes(), ..PLAIN },
        ),
        ("a port", Signable { method: "POST", host: "127.0.0.1:4711", headers: target, body: b"{}", ..PLAIN }),
        ("a header with spaces", Signable { headers: &[("My-Header", "  a   b  ")], ..PLAIN }),
        ("another method", Signable { method: "DELETE", path: "/x", query: &[("y", "z")], ..PLAIN }),
    ]
}

fn keys(token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
        session_token: token.map(|token| Zeroizing::new(token.to_owned())),
        expires_at: None,
    }
}

#[test]
fn odd_requests_are_signed_as_botocore_signs_them() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let scope = Scope { region: "eu-central-1", service: "logs" };
    let (mut asked, mut ours) = (Vec::new(), Vec::new());
    for (name, request) in table() {
        for token in [None, Some("a/session+token==")] {
            let Signable { method, host, path, query, headers, body } = request;
            asked.push(json!({
                "method": method, "host": host, "path": path, "query": query, "headers": headers,
                "body": std::str::from_utf8(body)?, "id": "AKIDEXAMPLE",
                "secret": keys(None).secret_access_key.as_str(), "token": token, "now": NOW,
                "region": scope.region, "service": scope.service,
            }));
            ours.push((name, sign(&request, scope, &keys(token), NOW).authorization));
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/botocore_signer.py");
    let mut signer = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    signer.stdin.take().context("piped")?.write_all(Value::from(asked).to_string().as_bytes())?;
    let theirs: Vec<String> = serde_json::from_slice(&signer.wait_with_output()?.stdout)?;
    ensure!(theirs.len() == ours.len());
    let wrong: Vec<_> = ours.iter().zip(&theirs).filter(|((_, ours), theirs)| ours != *theirs).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
