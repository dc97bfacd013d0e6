//! `towline usage`: host-hours and CPU-hours, as a table, as JSON or as comma-separated values.

use super::arguments::UsageArguments;
use super::moment;
use crate::api::operate::{Usage, UsageLine, UsageSum};
use crate::commands::{api, now_ms};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Show what was used.
pub async fn run(arguments: &UsageArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    // Not clap's to refuse: it sees no conflict with `--json` before the command.
    if arguments.csv && output.json() {
        return Err(Failure::new(
            Exit::Usage,
            "usage",
            "--csv and --json are two forms of one answer",
            "leave one of them out",
        ));
    }
    let api = api(profile)?;
    let now = now_ms();
    let moment_of = |when: Option<crate::logs::when::When>| when.map(|when| when.unix_ms(now));
    let answer = api.usage(moment_of(arguments.since), moment_of(arguments.until), &arguments.by).await?;
    output.value(&answer.json);
    if arguments.csv {
        let mut lines = output.lines();
        csv(&answer.view).iter().for_each(|line| lines.write(line));
        lines.flush();
    } else {
        show(&answer.view, output);
    }
    Ok(())
}

fn show(usage: &Usage, output: Output) {
    let whose = usage.only_of.as_ref().map_or_else(|| "everybody's use".to_owned(), |person| format!("{person}'s use"));
    output.line(&format!("{whose} from {} until {}", moment(usage.since_ms), moment(usage.until_ms)));
    let hours =
        |sum: &UsageSum| vec![sum.hosts.to_string(), format!("{:.2}", sum.host_hours), format!("{:.2}", sum.cpu_hours)];
    let mut rows: Vec<_> = usage.lines.iter().map(|line| [label(line, &usage.by), hours(&line.sum)].concat()).collect();
    let mut total = vec![String::new(); labels(&usage.by).len()];
    total[0] = "all".to_owned();
    rows.push([total, hours(&usage.total)].concat());
    let header = labels(&usage.by).into_iter().chain(["hosts", "host-hours", "CPU-hours"]).collect::<Vec<_>>();
    output.table(&header, rows);
}

/// The columns that say whose a line is.
fn labels(by: &str) -> Vec<&str> {
    if by == "cluster" { vec!["cluster", "name", "person"] } else { vec![by] }
}

fn label(line: &UsageLine, by: &str) -> Vec<String> {
    let key = line.key.clone().unwrap_or_else(|| "(without)".to_owned());
    match by {
        "cluster" => vec![key, line.name.clone().unwrap_or_default(), line.person.clone().unwrap_or_default()],
        _ => vec![key],
    }
}

/// RFC 4180 with a header. Clusters without the tag have an empty first cell. Names that a spreadsheet would take for a
/// formula get an apostrophe in front, which it shows as text: names are chosen by anybody of the workspace. Pure.
fn csv(usage: &Usage) -> Vec<String> {
    let header = labels(&usage.by).into_iter().chain(["hosts", "host_hours", "cpu_hours"]);
    let mut lines = vec![row(header.map(str::to_owned))];
    for line in &usage.lines {
        let mut cells: Vec<String> = label(line, &usage.by).into_iter().map(as_text).collect();
        if line.key.is_none() {
            cells[0] = String::new();
        }
        let sum = &line.sum;
        cells.extend([sum.hosts.to_string(), format!("{:.6}", sum.host_hours), format!("{:.6}", sum.cpu_hours)]);
        lines.push(row(cells.into_iter()));
    }
    lines
}

fn as_text(name: String) -> String {
    if name.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{name}") } else { name }
}

fn row(cells: impl Iterator<Item = String>) -> String {
    let quoted = |cell: String| {
        let needs = cell.contains([',', '"', '\n', '\r']) || cell.trim() != cell;
        if needs { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
    };
    cells.map(quoted).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(by: &str, lines: &[(Option<&str>, u64)]) -> Usage {
        let sum = |hours: u64| UsageSum { hosts: 1, host_hours: hours as f64 / 3.0, cpu_hours: hours as f64 };
        let line = |(key, hours): &(Option<&str>, u64)| UsageLine {
            key: key.map(str::to_owned),
            name: (by == "cluster").then(|| "steps".to_owned()),
            person: (by == "cluster").then(|| "ada, the first".to_owned()),
            sum: sum(*hours),
        };
        let lines = lines.iter().map(line).collect();
        Usage { since_ms: 0, until_ms: 1, by: by.to_owned(), only_of: None, lines, total: sum(9) }
    }

    #[test]
    fn what_would_break_a_row_is_quoted() {
        let lines = csv(&usage("tag:project", &[(Some("sky, \"sea\""), 1), (Some("plain"), 2), (None, 3)]));
        assert_eq!(
            lines,
            [
                "tag:project,hosts,host_hours,cpu_hours",
                "\"sky, \"\"sea\"\"\",1,0.333333,1.000000",
                "plain,1,0.666667,2.000000",
                ",1,1.000000,3.000000",
            ]
        );
        assert_eq!(
            csv(&usage("cluster", &[(Some("cl-x"), 3)]))[1],
            "cl-x,steps,\"ada, the first\",1,1.000000,3.000000"
        );
    }

    #[test]
    fn no_name_is_a_formula() {
        let lines = csv(&usage("person", &[(Some("=HYPERLINK(\"x\")"), 1), (Some("ada=b"), 2)]));
        assert_eq!(lines[1], "\"'=HYPERLINK(\"\"x\"\")\",1,0.333333,1.000000");
        assert_eq!(lines[2], "ada=b,1,0.666667,2.000000");
    }

    /// A reader of RFC 4180, of one record.
    fn read(text: &str) -> Vec<String> {
        let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(std::mem::take(&mut cell)),
                letter => cell.push(letter),
            }
        }
        cells.push(cell);
        cells
    }

    proptest! {
        #[test]
        fn every_cell_comes_back_as_it_was(cells in prop::collection::vec("[a,\" \r\n=é]{0,8}", 1..5)) {
            prop_assert_eq!(read(&row(cells.clone().into_iter())), cells);
        }
    }
}
