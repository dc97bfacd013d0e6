//! `towline token create | list | revoke`.

use super::arguments::{CreateArguments, Expiry, TokenCommand};
use super::moment;
use crate::api::Api;
use crate::api::operate::{NewToken, Token};
use crate::commands::{ago, api, now_ms};
use crate::failure::Outcome;
use crate::output::Output;

/// Run one of the commands.
pub async fn run(command: TokenCommand, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    match command {
        TokenCommand::Create(arguments) => create(&api, arguments, output).await,
        TokenCommand::List { all } => list(&api, all, output).await,
        TokenCommand::Revoke { token } => revoke(&api, &token, output).await,
    }
}

async fn create(api: &Api, arguments: CreateArguments, output: Output) -> Outcome<()> {
    let wanted = NewToken {
        name: arguments.name,
        person: arguments.person,
        role: arguments.role.as_str(),
        expires_after: arguments.expires.map(|expires| match expires {
            Expiry::After(span) => Some(span.as_secs()),
            Expiry::Never => None,
        }),
    };
    let answer = api.create_token(&wanted).await?;
    output.value(&answer.json);
    let token = &answer.view.token;
    output.line(&format!(
        "{} is {}'s token {:?} with the role {}; it {}.",
        token.id,
        token.person,
        token.name,
        token.role,
        token.expires_at_ms.map_or_else(|| "never expires".to_owned(), |at| format!("expires at {}", moment(at)))
    ));
    output.line("This is the only time that it is shown; `towline login URL` asks for it:");
    output.line(&answer.view.secret);
    Ok(())
}

async fn list(api: &Api, all: bool, output: Output) -> Outcome<()> {
    let answer = api.tokens(all).await?;
    output.value(&answer.json);
    let now = now_ms();
    let rows = answer.view.iter().map(|token| row(token, now)).collect();
    output.table(&["id", "person", "name", "role", "state", "expires", "last used"], rows);
    Ok(())
}

fn row(token: &Token, now: u64) -> Vec<String> {
    vec![
        token.id.clone(),
        token.person.clone(),
        token.name.clone(),
        token.role.clone(),
        token.state.clone(),
        token.expires_at_ms.map_or_else(|| "never".to_owned(), moment),
        // The server notes a use to the hour.
        match token.last_used_at_ms.map(|used| now.saturating_sub(used)) {
            None => "never".to_owned(),
            Some(0..3_600_000) => "within the hour".to_owned(),
            Some(_) => format!("{} ago", ago(token.last_used_at_ms.unwrap_or(now), now)),
        },
    ]
}

async fn revoke(api: &Api, token: &str, output: Output) -> Outcome<()> {
    let answer = api.revoke_token(token).await?;
    output.value(&answer.json);
    let token = &answer.view;
    output.line(&format!(
        "{}'s token {:?} ({}) is revoked; it opens nothing any more",
        token.person, token.name, token.id
    ));
    Ok(())
}
