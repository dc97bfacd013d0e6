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
    let (mut found, mut next, mut before, mut run) = (Found::default(), 0, 0, 0);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        assert!(text.ends_with('\n'), "whole lines");
        for line in text.lines() {
            let record: LogRecord<'_> = serde_json::from_str(line).expect("a record");
            found.gaps += usize::from(record.gap.is_some());
            if record.id < before {
                // An agent that went on from its cursor; the life before may have been cut short as well.
                found.crashes_seen += 1;
                run = 0;
            }
            before = record.id;
            if record.id < next {
                run += 1;
                found.repeated += 1;
                found.most_repeated_at_once = found.most_repeated_at_once.max(run);
                continue;
            }
            next = record.id + 1;
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

/// A launched host of the fake machine, and its spool.
async fn launched(plane: &mut ControlPlane, host: &TestHost) -> std::path::PathBuf {
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    host.machine.holds().launches[0].log_file.clone()
}

fn append(spool: &Path, text: &str) {
    let mut spool = fs::OpenOptions::new().append(true).open(spool).expect("there");
    std::io::Write::write_all(&mut spool, text.as_bytes()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_are_in_the_store_before_the_host_signs_off() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    let spool = launched(&mut plane, &host).await;
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    append(&spool, "a line\nthe last word");
    plane.assign(&assignment);
    plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    let lines: Vec<String> = read(&host.logs()).lines.into_iter().map(|(_, _, line)| line).collect();
    assert_eq!(lines, ["a line", "the last word"]);
    agent.left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_an_earlier_life_are_shipped_although_the_runner_is_gone() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.deadlines.scheduler_lost = 1;
    plane.assign(&assignment);
    let agent = host.start();
    let spool = launched(&mut plane, &host).await;
    agent.kill().await;
    append(&spool, "while nobody looked\n");
    host.machine.holds().runner = None;
    host.machine.holds().processes.clear();
    let agent = host.start();
    plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(read(&host.logs()).lines[0].2, "while nobody looked");
    agent.left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_delays_the_end_by_seconds_and_keeps_the_lines() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    // A file where the store's folder should be.
    fs::write(host.logs(), "in the way").expect("written");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    let spool = launched(&mut plane, &host).await;
    append(&spool, "kept\n");
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    let begun = Instant::now();
    plane.assign(&assignment);
    plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    agent.left().await;
    assert_eq!(fs::read_to_string(spool).expect("there"), "kept\n");
}

/// Half a minute of a chatty workload while the agent was dead.
const BACKLOG: u64 = 200 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ships 200 MB"]
async fn a_large_backlog_takes_little_memory() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let (notes, done, go) = (host.path().join("starts"), host.path().join("done"), host.path().join("go"));
    let line = "x".repeat(99);
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.1; done\nyes {line} | head -c {BACKLOG}\ntouch {}",
        go.display(),
        done.display()
    );
    stand_in(&host.path().join("store"), &notes, &script);
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let mut agent = start(&host);
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    let resting = high_water(agent.id());
    agent.kill().expect("SIGKILL");
    agent.wait().expect("ours");
    fs::write(&go, "").expect("written");
    while !done.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spool = host.path().join("spool/test.log");
    assert_eq!(fs::metadata(&spool).expect("there").len(), BACKLOG);

    let begun = Instant::now();
    let mut agent = start(&host);
    let allocated = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&spool).expect("there")) * 512;
    while allocated() > 1024 * 1024 {
        assert!(begun.elapsed() < Duration::from_secs(300), "{} bytes are left", allocated());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (seconds, most) = (begun.elapsed().as_secs_f64(), high_water(agent.id()));
    println!(
        "{BACKLOG} bytes in {seconds:.1} s ({:.1} MB/s); at most {most} kB resident, {resting} kB at rest before",
        BACKLOG as f64 / 1e6 / seconds
    );
    assert!(most < resting + 24 * 1024, "bounded whatever the backlog");
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    assert_eq!(exited(&mut agent).await.code(), Some(0));
}

/// The most memory a process ever had, in kB.
fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
