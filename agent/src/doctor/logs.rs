//! What lets this host's log lines out: the files of credentials, the machine's own identity, the store itself, and the
//! room in which lines wait.

use super::{Finding, spool, within};
use crate::logs::{Access, Destination, LogFiles, MachineIdentity, open};
use crate::runtime::story;
use rustix::fs::Access as Rights;
use std::path::Path;
use std::time::Duration;
use towline_cloud::Platform;
use towline_cloud_api::aws::{self, CredentialSource};
use towline_cloud_api::azure::{self, TokenSource};
use towline_cloud_api::{CredentialError, Freshness};
use towline_protocol::assignment::{LogPlan, Sink};
use towline_protocol::ids::ClusterId;

const SINK: &str = "log sink";

/// A store answers within seconds, also over an ocean and with a token to be fetched first.
const LIMIT: Duration = Duration::from_secs(20);

/// A metadata service is on the machine itself.
const IDENTITY_LIMIT: Duration = Duration::from_secs(8);

/// What tokens for Azure's log store are for.
const AZURE_LOGS: &str = "https://monitor.azure.com/";

/// All of it. `plan`: where the lines of the assignment go.
pub async fn look(access: &Access, host_dir: &Path, plan: Option<&(ClusterId, LogPlan)>) -> Vec<Finding> {
    let mut findings = files(access).await;
    if let Some(identity) = &access.identity {
        findings.extend(identified(access, identity).await);
    }
    if let Some((cluster, plan)) = plan {
        findings.push(sink(access, host_dir, cluster, plan, LIMIT).await);
    }
    findings.push(spool::look(host_dir));
    findings
}

/// The files that are set: there, of their form, and closed to others.
async fn files(access: &Access) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &access.aws_credentials_file {
        let read = aws::file::CredentialFile::new(path).credentials(Freshness::Any).await.map(drop);
        findings.push(file("aws credentials", path, read));
    }
    if let Some(path) = &access.azure_token_file {
        findings.push(file("azure token", path, azure::file::TokenFile::new(path).load().map(drop)));
    }
    if let Some(path) = &access.otlp_token_file {
        findings.push(file("otlp token", path, azure::file::TokenFile::new(path).load().map(drop)));
    }
    findings
}

fn file(check: &'static str, path: &Path, read: Result<(), CredentialError>) -> Finding {
    match read {
        Ok(()) => Finding::ok(check, format!("{} is there and closed to others", path.display())),
        Err(error) => Finding::fail(check, story(&error), "see the words above, then run this again"),
    }
}

/// Whether the machine's own role may be asked for; needed only where no file is set.
async fn identified(access: &Access, identity: &MachineIdentity) -> Option<Finding> {
    const CHECK: &str = "log identity";
    let url = &identity.url;
    let asked = async {
        match identity.platform {
            Platform::Aws if access.aws_credentials_file.is_none() => {
                let metadata = aws::metadata::Metadata::new(url).map_err(|error| story(&error));
                let metadata = match metadata {
                    Ok(metadata) => metadata,
                    Err(why) => return Some(Err(why)),
                };
                let role = metadata.credentials(Freshness::Any).await;
                Some(role.map(|_| "the instance has a role").map_err(|error| story(&error)))
            }
            Platform::Azure if access.azure_token_file.is_none() => {
                let metadata = azure::metadata::Metadata::new(url, None).map_err(|error| story(&error));
                let metadata = match metadata {
                    Ok(metadata) => metadata,
                    Err(why) => return Some(Err(why)),
                };
                let token = metadata.token(AZURE_LOGS, Freshness::Any).await;
                Some(token.map(|_| "the machine has a managed identity").map_err(|error| story(&error)))
            }
            _ => None,
        }
    };
    let answer = tokio::time::timeout(IDENTITY_LIMIT, asked).await;
    let answer = answer.unwrap_or_else(|_| Some(Err(format!("{url} does not answer"))))?;
    Some(match answer {
        Ok(detail) => Finding::ok(CHECK, detail),
        Err(why) => Finding::missing(
            CHECK,
            why,
            "needed only for a log store of this cloud: give the machine a role, or set a file of credentials",
        ),
    })
}

/// The store of the assignment: reached, and lets us write, as far as a harmless request can tell.
async fn sink(access: &Access, host_dir: &Path, cluster: &ClusterId, plan: &LogPlan, limit: Duration) -> Finding {
    if let Sink::File { directory } = &plan.sink {
        return folder(Path::new(directory));
    }
    let files = match LogFiles::planned(host_dir, plan) {
        Ok(files) => files,
        Err(error) => {
            return Finding::fail(SINK, story(&error), "look at the `[logs]` section of the server's settings");
        }
    };
    let destination = Destination::new(plan, cluster, access);
    let checked = within(limit, move || open::open(&destination, &files.quarantine)?.check()).await;
    match checked {
        Some(Ok(())) => Finding::ok(SINK, "the log store answers and lets this host write"),
        Some(Err(error)) => Finding::fail(SINK, story(&error), "until then lines wait on this host, up to their cap"),
        None => Finding::fail(
            SINK,
            format!("the log store did not answer within {} s", limit.as_secs()),
            "check the way to it: name service, routes, firewall, proxy; until then lines wait on this host",
        ),
    }
}

/// A folder of files, which the first line makes.
fn folder(directory: &Path) -> Finding {
    let place = directory.display();
    let Some(there) = spool::existing(directory) else {
        return Finding::fail(SINK, format!("{place} has no place"), "correct `[logs]` in the server's settings");
    };
    match rustix::fs::access(&there, Rights::WRITE_OK | Rights::EXEC_OK) {
        Ok(()) => Finding::ok(SINK, format!("files in {place}")),
        Err(error) => Finding::fail(
            SINK,
            format!("{} cannot be written: {error}", there.display()),
            "give the agent's user the right to write there, or correct `[logs]` in the server's settings",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn plan(sink: Sink) -> (ClusterId, LogPlan) {
        (ClusterId::from_random([7; 10]), LogPlan { sink, stream: "worker-a".to_owned() })
    }

    #[tokio::test]
    async fn files_that_are_not_there_or_open_to_others_fail_and_no_secret_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let token = directory.path().join("token");
        std::fs::write(&token, "s3cret").expect("written");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        let access = Access {
            aws_credentials_file: Some("/nowhere/credentials".into()),
            otlp_token_file: Some(token.clone()),
            ..Access::default()
        };
        let findings = files(&access).await;
        assert!(findings.iter().all(|finding| finding.grade == Grade::Fail), "{findings:?}");
        assert!(findings[0].detail.contains("/nowhere/credentials"), "{findings:?}");
        assert!(findings[1].detail.contains("chmod 600") && !findings[1].detail.contains("s3cret"), "{findings:?}");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        assert_eq!(files(&access).await[1].grade, Grade::Ok);
    }

    #[tokio::test]
    async fn a_store_that_refuses_or_stays_silent_fails_in_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let otlp = |address| plan(Sink::Otlp { endpoint: format!("http://{address}") });
        let looked = |plan: (ClusterId, LogPlan)| {
            let host = directory.path().to_owned();
            async move { sink(&Access::default(), &host, &plan.0, &plan.1, Duration::from_millis(300)).await }
        };
        let silent = looked(otlp(address)).await;
        assert!(silent.grade == Grade::Fail && silent.detail.contains("did not answer"), "{silent:?}");
        drop(listener);
        let refused = looked(otlp(address)).await;
        assert!(refused.grade == Grade::Fail && !refused.detail.contains("did not answer"), "{refused:?}");
        let cloudwatch = Sink::Cloudwatch { region: "eu-central-1".into(), group: "g".into(), endpoint: None };
        let locked = looked(plan(cloudwatch)).await;
        assert!(locked.grade == Grade::Fail && locked.detail.contains("aws_credentials_file"), "{locked:?}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0, "it leaves nothing");
    }

    #[tokio::test]
    async fn a_folder_of_files_need_not_be_there_yet() {
        let directory = tempfile::tempdir().expect("a directory");
        let there = directory.path().join("not/yet").display().to_string();
        let (cluster, plan) = plan(Sink::File { directory: there });
        let findings = look(&Access::default(), directory.path(), Some(&(cluster, plan))).await;
        assert!(findings.iter().all(|finding| finding.grade == Grade::Ok), "{findings:?}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0, "it leaves nothing");
    }
}
