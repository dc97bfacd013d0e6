//! `towline cluster admit`: the owner lets in the key whose code a person told them, lists who asks, or refuses.

use super::open_cluster;
use super::requests::{self, pending};
use crate::api::Api;
use crate::api::admissions::{Asked, NewAdmission};
use crate::api::views::Cluster;
use crate::arguments::AdmitArguments;
use crate::commands::{ago, api, now_ms};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keys;
use crate::output::Output;
use serde_json::json;
use towline_protocol::admission_code::AdmissionCode;

/// Run the command.
pub async fn run(arguments: AdmitArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    let code = arguments.code.as_deref().map(parse).transpose()?;
    let api = api(profile)?;
    let cluster = api.cluster(&arguments.cluster).await?.view;
    open_cluster(&cluster)?;
    let asked = api.admission_requests(&cluster.id).await?;
    match (code, arguments.refuse) {
        (Some(code), _) => admit(&api, &cluster, &asked.view, code, output).await,
        (None, Some(name)) => refuse(&api, &cluster, &asked.view, &name, output).await,
        (None, None) => {
            output.value(&asked.json);
            list(&cluster, &asked.view, output);
            Ok(())
        }
    }
}

fn parse(code: &str) -> Outcome<AdmissionCode> {
    code.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            "admission_code_malformed",
            "That is not an admission code",
            "type it as it is shown to the person who asks: XXXX-XXXX-XXXX-XXXX",
        )
        .caused_by(&error)
    })
}

async fn admit(api: &Api, cluster: &Cluster, asked: &[Asked], code: AdmissionCode, output: Output) -> Outcome<()> {
    let (id, root) = (open_cluster(cluster)?, keys::root()?);
    if !keys::holds_owner_key(&root, &id) {
        return Err(Failure::new(
            Exit::Refused,
            "owner_key_elsewhere",
            format!("The owner key of {} is not on this machine", cluster.name),
            format!("{} admits clients on the machine and user account that made the cluster", cluster.owner),
        ));
    }
    let Some((asked, spki)) = requests::with_code(&id, asked, code) else {
        return Err(requests::no_such_code(&cluster.name, asked, code, now_ms()));
    };
    // What is signed is the very key whose code was compared.
    let admission = keys::sign_admission(&root, &id, &spki)?;
    let answer = NewAdmission { client: &asked.client, spki: &spki, admission: &admission, requested: true };
    api.admit(&cluster.id, &answer).await?;
    output.value(&json!({
        "cluster": cluster.id,
        "name": cluster.name,
        "client": asked.client,
        "person": asked.person,
        "spki": spki,
    }));
    output.line(&format!("{} of {} is admitted to {}", asked.client, asked.person, cluster.name));
    Ok(())
}

async fn refuse(api: &Api, cluster: &Cluster, asked: &[Asked], name: &str, output: Output) -> Outcome<()> {
    let refused = requests::named(asked, name);
    if refused.is_empty() {
        return Err(Failure::new(
            Exit::Refused,
            "admission_request_unknown",
            format!("{name:?} does not ask to join {}; pending: {}", cluster.name, pending(asked, now_ms())),
            format!("`towline cluster admit {}` shows who asks", cluster.name),
        ));
    }
    let mut clients = Vec::new();
    for asked in refused {
        api.end_admission_request(&cluster.id, &asked.client, true).await?;
        output.line(&format!("{} of {} is refused at {}", asked.client, asked.person, cluster.name));
        clients.push(asked.client.as_str());
    }
    output.value(&json!({ "cluster": cluster.id, "name": cluster.name, "refused": clients }));
    Ok(())
}

/// Who asks. No code: it must come from the person who asks, or the server could show one that fits its own key.
fn list(cluster: &Cluster, asked: &[Asked], output: Output) {
    let now = now_ms();
    let row = |asked: &Asked| {
        let left = crate::output::duration(asked.expires_at_ms.saturating_sub(now) / 1000);
        vec![asked.person.clone(), asked.client.clone(), ago(asked.asked_at_ms, now), left]
    };
    let rows: Vec<_> = asked.iter().filter(|asked| asked.pending()).map(row).collect();
    if rows.is_empty() {
        output.line(&format!("Nobody asks to join {}", cluster.name));
        return;
    }
    output.table(&["person", "client", "asks for", "expires in"], rows);
    output.line("");
    output.line("Have the person tell you the code that is shown to them, by voice or a message of their own; then");
    output.line(&format!("  towline cluster admit {} CODE", cluster.name));
}
