//! `towline env scan | list | show | prepare`.

use super::{ago, api, now_ms};
use crate::api::Api;
use crate::arguments::EnvironmentCommand;
use crate::environment;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size, warn};
use crate::paths;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use towline_environments::prepare::{Prepared, PreparedBlob, Progress};
use towline_environments::scan::Scan;
use towline_environments::{Concern, ShippedFile, Shipping};

/// The largest scan that is read from standard input.
const MAX_SCAN: u64 = 32 * 1024 * 1024;
/// Uploads at a time.
const UPLOADS: usize = 4;

/// Run one of the commands.
pub async fn run(command: EnvironmentCommand, profile: Option<&str>, output: Output) -> Outcome<Exit> {
    match command {
        EnvironmentCommand::Scan { python, dry_run } => scan(python, dry_run, output).await,
        EnvironmentCommand::List => list(&api(profile)?, output).await,
        EnvironmentCommand::Show { digest } => show(&api(profile)?, &digest, output).await,
        EnvironmentCommand::Uv => uv(output).await,
        EnvironmentCommand::Prepare { .. } => Ok(prepare_lines(profile).await),
    }
}

async fn uv(output: Output) -> Outcome<Exit> {
    let path = environment::uv(&paths::cache()?).await?;
    output.value(&json!({ "uv": path }));
    output.line(&path.display().to_string());
    Ok(Exit::Ok)
}

async fn scan(python: PathBuf, dry_run: bool, output: Output) -> Outcome<Exit> {
    let (scan, shipping) = environment::shipping(environment::scan(python).await?).await?;
    output.value(&json!({
        "interpreter": format!("{}-{}", scan.interpreter.implementation, scan.interpreter.version),
        "platform": scan.interpreter.platform,
        "distributions": scan.distributions.iter().map(|one| json!({
            "name": one.name, "version": one.version, "source": one.source,
        })).collect::<Vec<_>>(),
        "ships": {
            "bytes": shipping.total(),
            "files": shipping.files.iter().filter(|_| dry_run).map(file_json).collect::<Vec<_>>(),
            "warnings": shipping.warnings.iter().map(|one| json!({
                "code": one.code, "message": one.message, "remedy": one.remedy,
            })).collect::<Vec<_>>(),
            "refusals": shipping.refusals.iter().map(|one| json!({
                "package": one.package, "code": one.code, "message": one.to_string(), "remedy": one.remedy,
            })).collect::<Vec<_>>(),
        },
    }));
    if !output.json() {
        show_scan(&scan, &shipping, dry_run, output);
    }
    Ok(if shipping.refusals.is_empty() { Exit::Ok } else { Exit::Refused })
}

fn file_json(file: &ShippedFile) -> Value {
    json!({
        "package": file.package, "path": file.path, "archive": file.archive, "size": file.size,
        "looks_secret": file.concern == Some(Concern::Secret),
    })
}

fn show_scan(scan: &Scan, shipping: &Shipping, dry_run: bool, output: Output) {
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    for one in &scan.distributions {
        *sources.entry(word(&one.source)).or_default() += 1;
    }
    let counts: Vec<String> = sources.iter().map(|(source, count)| format!("{count} {source}")).collect();
    output.line(&format!(
        "{}-{} on {}: {} packages ({})",
        scan.interpreter.implementation,
        scan.interpreter.version,
        scan.interpreter.platform,
        scan.distributions.len(),
        counts.join(", "),
    ));
    let files = shipping.files.len();
    output.line(&format!("{files} files of local code, {}, would be uploaded.", size(shipping.total())));
    if dry_run && files > 0 {
        let rows = shipping.files.iter().map(|file| {
            let mark = if file.concern == Some(Concern::Secret) { "looks like a secret" } else { "" };
            vec![file.package.clone(), file.archive.clone(), size(file.size), mark.to_owned()]
        });
        output.table(&["package", "file", "size", ""], rows.collect());
    } else if files > 0 {
        output.line("`--dry-run` lists them.");
    }
    for one in &shipping.warnings {
        warn(&format!("{}. → {}", one.message, one.remedy));
    }
    for one in &shipping.refusals {
        warn(&format!("{one}. → {}", one.remedy));
    }
}

fn word(source: &impl serde::Serialize) -> String {
    match serde_json::to_value(source) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "other".to_owned(),
    }
}

async fn list(api: &Api, output: Output) -> Outcome<Exit> {
    let answer = api.environments().await?;
    output.value(&answer.json);
    if answer.view.is_empty() {
        output.line("No environments. The first cluster brings one.");
        return Ok(Exit::Ok);
    }
    let now = now_ms();
    let rows = answer.view.iter().map(|one| {
        vec![
            one.digest.chars().take(16).collect(),
            one.interpreter.clone(),
            one.platform.clone(),
            one.packages.len().to_string(),
            if one.complete { "complete" } else { "incomplete" }.to_owned(),
            ago(one.created_at_ms, now),
        ]
    });
    output.table(&["digest", "interpreter", "platform", "packages", "state", "age"], rows.collect());
    Ok(Exit::Ok)
}

async fn show(api: &Api, digest: &str, output: Output) -> Outcome<Exit> {
    let whole = if digest.len() == 64 { digest.to_owned() } else { complete_digest(api, digest).await? };
    let answer = api.environment(&whole).await?;
    output.value(&answer.json);
    output.line(&format!("{} for {} on {}", answer.view.digest, answer.view.interpreter, answer.view.platform));
    let rows = answer.view.packages.iter().map(|one| vec![one.name.clone(), one.version.clone()]);
    output.table(&["package", "version"], rows.collect());
    Ok(Exit::Ok)
}

async fn complete_digest(api: &Api, beginning: &str) -> Outcome<String> {
    let known = api.environments().await?.view;
    // Nothing begins every digest: it names none.
    let begins = |digest: &String| !beginning.is_empty() && digest.starts_with(beginning);
    let mut fits = known.into_iter().map(|one| one.digest).filter(begins);
    match (fits.next(), fits.next()) {
        (Some(digest), None) => Ok(digest),
        (first, _) => Err(Failure::new(
            Exit::Refused,
            "environment_unknown",
            format!("{} environment begins with {beginning:?}", if first.is_none() { "No" } else { "More than one" }),
            "see `towline env list`",
        )),
    }
}

/// The conversation with the Python package: progress, then `ready` or `error`, one object per line.
async fn prepare_lines(profile: Option<&str>) -> Exit {
    let lines = Output::new(true);
    match prepare(profile, lines).await {
        Ok(ready) => {
            lines.value(&ready);
            Exit::Ok
        }
        Err(failure) => {
            lines.value(&failure.json());
            Exit::Failed
        }
    }
}

async fn prepare(profile: Option<&str>, lines: Output) -> Outcome<Value> {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let read = tokio::io::stdin().take(MAX_SCAN).read_to_end(&mut bytes).await;
    read.map_err(|error| {
        Failure::new(Exit::Usage, "scan_unreadable", "Cannot read the scan from standard input", "pipe a scan into it")
            .because(error)
    })?;
    let scan = environment::read_scan(&bytes)?;
    let names: BTreeMap<String, String> =
        scan.distributions.iter().map(|one| (one.name.clone(), one.version.clone())).collect();
    let api = api(profile)?;
    let cache = paths::cache()?;
    let (who, uv) = tokio::try_join!(api.whoami(), environment::uv(&cache))?;
    let report = move |progress: Progress| {
        tell(lines, progress.phase.as_str(), &progress.message, progress.done, progress.total);
    };
    let prepared = environment::prepare(scan, who.view.target, uv, cache, report).await?;
    for one in &prepared.warnings {
        lines.value(&json!({ "event": "warning", "code": one.code, "message": one.message, "remedy": one.remedy }));
    }
    let uploaded = upload(&api, &prepared, lines).await?;
    Ok(json!({
        "event": "ready",
        "environment": prepared.spec,
        "packages": prepared.lock.wheels.len(),
        "scanned": names.len(),
        "uploaded_bytes": uploaded,
        "seconds": began.elapsed().as_secs_f64(),
    }))
}

async fn upload(api: &Api, prepared: &Prepared, lines: Output) -> Outcome<u64> {
    let lock = &prepared.lock;
    let missing = api
        .name_environment(&json!({
            "digest": prepared.spec.digest,
            "interpreter": format!("{}-{}", lock.interpreter.implementation, lock.interpreter.version),
            "platform": lock.platform,
            "packages": lock.wheels.iter().map(|one| json!({ "name": one.name, "version": one.version })).collect::<Vec<_>>(),
            "blobs": prepared.blobs.iter().map(|one| json!({ "digest": one.digest, "size": one.size })).collect::<Vec<_>>(),
        }))
        .await?;
    let blobs: BTreeMap<&str, &PreparedBlob> = prepared.blobs.iter().map(|one| (one.digest.as_str(), one)).collect();
    let wanted: Vec<_> =
        missing.iter().filter_map(|one| blobs.get(one.digest.as_str()).map(|blob| (one, *blob))).collect();
    let total: u64 = wanted.iter().map(|(_, blob)| blob.size).sum();
    let mut done = 0;
    for batch in wanted.chunks(UPLOADS) {
        let sent = batch.iter().map(|(capability, blob)| async move {
            api.upload(capability, &blob.path, blob.size).await.map(|()| blob.size)
        });
        done += futures_util::future::try_join_all(sent).await?.into_iter().sum::<u64>();
        tell(lines, "upload", &format!("{} of local code", size(total)), done, total);
    }
    api.complete_environment(prepared.spec.digest.as_str()).await?;
    Ok(total)
}

fn tell(lines: Output, phase: &str, message: &str, done: u64, total: u64) {
    lines.value(&json!({ "event": "progress", "phase": phase, "message": message, "done": done, "total": total }));
}
