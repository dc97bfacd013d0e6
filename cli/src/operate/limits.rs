//! `towline limits show | set`.

use super::arguments::{LimitsCommand, SetLimitsArguments};
use crate::api::operate::{Limit, Limits, LimitsOf, NewLimits};
use crate::commands::api;
use crate::failure::Outcome;
use crate::output::Output;

/// Run one of the commands.
pub async fn run(command: LimitsCommand, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    let answer = match command {
        LimitsCommand::Show => api.limits().await?,
        LimitsCommand::Set(arguments) => api.set_limits(&wanted(arguments)).await?,
    };
    output.value(&answer.json);
    output.table(&["limit of", "hosts", "cores"], rows(&answer.view));
    Ok(())
}

fn wanted(arguments: SetLimitsArguments) -> NewLimits {
    let of = match (&arguments.person, arguments.everyone) {
        (Some(_), _) => "person",
        (None, true) => "everyone",
        (None, false) => "workspace",
    };
    NewLimits { of, person: arguments.person, hosts: arguments.hosts, cores: arguments.cores }
}

fn rows(limits: &Limits) -> Vec<Vec<String>> {
    let used = |name: &str, of: &LimitsOf| {
        let cell = |limit: &Limit| format!("{} of {}", limit.used, most(limit));
        vec![name.to_owned(), cell(&of.hosts), cell(&of.cores)]
    };
    let everyone = &limits.everyone;
    let each = vec!["each person".to_owned(), most(&everyone.hosts), most(&everyone.cores)];
    let people = limits.people.iter().map(|person| used(&person.person, &person.limits));
    [used("the workspace", &limits.workspace), each].into_iter().chain(people).collect()
}

fn most(limit: &Limit) -> String {
    let number = limit.most.map_or_else(|| "no limit".to_owned(), |most| most.to_string());
    match limit.set_by.as_str() {
        "settings" => format!("{number} (server's settings)"),
        "everyone" => format!("{number} (each person's)"),
        _ => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_used_of_what_and_who_set_it() {
        let limit = |used, most, by: &str| serde_json::json!({"used": used, "most": most, "set_by": by});
        let limits: Limits = serde_json::from_value(serde_json::json!({
            "workspace": {"hosts": limit(3, Some(20), "admin"), "cores": limit(5, None, "nobody")},
            "everyone": {"hosts": limit(3, Some(4), "settings"), "cores": limit(5, None, "nobody")},
            "people": [{"person": "bob", "hosts": limit(3, Some(4), "settings"), "cores": limit(5, Some(9), "everyone")}],
        }))
        .expect("reads");
        assert_eq!(
            rows(&limits),
            [
                ["the workspace", "3 of 20", "5 of no limit"],
                ["each person", "4 (server's settings)", "no limit"],
                ["bob", "3 of 4 (server's settings)", "5 of 9 (each person's)"],
            ]
        );
    }
}
