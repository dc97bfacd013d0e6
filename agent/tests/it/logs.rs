//! Every line arrives although the agent is killed with SIGKILL again and again while its workload writes.

use super::binary::{alive, exited, stand_in, start};
use super::control_plane::ControlPlane;
use super::host::{TestHost, phases};
use super::life::cluster_ca;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::log_record::LogRecord;
use towline_transport::keys::random_fraction;

/// Most records of one batch: what a crash may repeat.
const BATCH: usize = 8_192;

/// Lines that the workload writes at once.
const BURST: usize = 500;

/// A shell that writes numbered lines in bursts, and says when it is done.
fn writer(lines: usize, done: &Path) -> String {
    format!(
        "i=0\nwhile [ $i -lt {lines} ]; do\n  j=0\n  while [ $j -lt {BURST} ]; do echo \"line $i\"; i=$((i+1)); j=$((j+1)); \
         done\n  sleep 0.1\ndone\ntouch {}",
        done.display()
    )
}

/// What a reader finds in the sink.
#[derive(Debug, Default)]
struct Found {
    lines: Vec<(u64, u64, String)>,
    repeated: usize,
    most_repeated_at_once: usize,
    crashes_seen: usize,
    gaps: usize,
}

fn read(folder: &Path) -> Found {
    let mut files: Vec<_> = fs::read_dir(folder).expect("a sink").flatten().map(|entry| entry.path()).collect();
    // `test.000001.jsonl` comes before `test.jsonl`.
    files.sort();
    let (mut found, mut next, mut run) = (Found::default(), 0, 0);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        assert!(text.ends_with('\n'), "whole lines");
        for line in text.lines() {
            let record: LogRecord<'_> = serde_json::from_str(line).expect("a record");
            found.gaps += usize::from(record.gap.is_some());
            if record.id < next {
                found.crashes_seen += usize::from(run == 0);
                run += 1;
                found.repeated += 1;
                found.most_repeated_at_once = found.most_repeated_at_once.max(run);
                continue;
            }
            (next, run) = (record.id + 1, 0);
            found.lines.push((record.id, record.time, record.line.expect("a line").into_owned()));
        }
    }
    found
}

/// The place of each line is where it stands in what was written, and its time is within the test's.
fn check(found: &Found, lines: usize, begun_ms: u64, ended_ms: u64) {
    let mut place = 0;
    let mut before = begun_ms.saturating_sub(1000);
    for (number, (id, time, text)) in found.lines.iter().enumerate() {
        assert_eq!((*id, text.as_str()), (place, format!("line {number}").as_str()));
        assert!((before..=ended_ms).contains(time), "line {number} at {time}, the one before at {before}");
        // A restart may see the time of a line more or less exactly than the life before it.
        before = time.saturating_sub(1500);
        place += text.len() as u64 + 1;
    }
    assert_eq!((found.lines.len(), found.gaps), (lines, 0));
}

/// Until the sink has grown: most likely it is not synced yet and the cursor has not moved.
async fn just_written(file: &Path, longest: Duration) {
    let length = || fs::metadata(file).map_or(0, |metadata| metadata.len());
    let (before, begun) = (length(), Instant::now());
    while length() == before && begun.elapsed() < longest {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn unix_ms() -> u64 {
    towline_agent::runner::facts::unix_ms()
}

async fn every_line_arrives(lines: usize, kills: u32, longest_life: Duration) {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let (notes, done) = (host.path().join("starts"), host.path().join("done"));
    stand_in(&host.path().join("store"), &notes, &writer(lines, &done));
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let begun_ms = unix_ms();
    let mut agent = start(&host);
    plane.certify_when_connected(&cluster_ca()).await;
    let report = plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    let pid = report.processes[0].pid;

    let mut killed_while_writing = 0;
    for kill in 0..kills {
        if kill % 2 == 0 {
            tokio::time::sleep(longest_life.mul_f64(random_fraction())).await;
        } else {
            just_written(&host.logs().join("test.jsonl"), longest_life * 2).await;
        }
        agent.kill().expect("SIGKILL");
        agent.wait().expect("ours");
        killed_while_writing += u32::from(!done.exists());
        assert!(alive(pid), "the agent's death does not touch the workload");
        agent = start(&host);
    }
    let waited = Instant::now();
    while !done.exists() {
        assert!(waited.elapsed() < Duration::from_secs(120), "the workload writes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(exited(&mut agent).await.code(), Some(0));

    let found = read(&host.logs());
    println!(
        "{lines} lines, {kills} kills, {killed_while_writing} of them while writing: {} records repeated after {} crashes, \
         {} at most after one",
        found.repeated, found.crashes_seen, found.most_repeated_at_once
    );
    check(&found, lines, begun_ms, unix_ms());
    assert!(found.most_repeated_at_once <= BATCH && found.crashes_seen <= kills as usize);
    assert!(killed_while_writing * 2 >= kills, "the kills fall into the writing");
    assert!(found.crashes_seen > 0, "some kills fall between the sink and the cursor");
    assert_eq!(fs::read_to_string(&notes).expect("notes").lines().count(), 1, "launched once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_arrives_over_ten_kills_of_the_agent() {
    every_line_arrives(40_000, 10, Duration::from_millis(1200)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes about a minute"]
async fn every_line_arrives_over_fifty_kills_of_the_agent() {
    every_line_arrives(200_000, 50, Duration::from_millis(1200)).await;
}
