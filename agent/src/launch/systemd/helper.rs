//! The helper that systemd starts, as root, for each connection on the launch socket: it becomes a runner as the user
//! whom the connecting one may start Dask as, or kills a runner of that user.
//!
//! Small and typed because it has rights: everything said is checked again here against what the kernel says of the peer;
//! nobody can become root, or anybody but Dask's user and themselves. Single-threaded, since rights are a thread's.

use super::wire::{Answered, Asked, MAX_LINE};
use crate::accounts::{Account, Accounts};
use crate::launch::Users;
use crate::runner::facts::{self, RunnerRecord};
use crate::runner::wire::RunnerSpec;
use crate::vitals::cgroup::{self, Hierarchy};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::process::{Gid, PidfdFlags, Signal, Uid};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Nobody may hold a root process for longer by saying nothing.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// How long the kernel has to take a killed runner's processes away.
const KILL_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks.
const KILL_POLL: Duration = Duration::from_millis(10);
/// What programs are found on when nobody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How the units of runners are called, before and after what systemd makes of the connection.
const UNIT: (&str, &str) = ("towline-dask@", ".service");
/// The hierarchy in which systemd keeps units where the unified one is not the only one.
const NAMED: Hierarchy = Hierarchy::Controller("name=systemd");
/// Files of a control group that its new owner needs to divide it, as systemd gives them; the kernel's own list is in
/// `/sys/kernel/cgroup/delegate`.
const DELEGATED: [&str; 5] = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "memory.oom.group"];

/// Why something is not done; the peer is told.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the user with the number {0} is not in /etc/passwd")]
    Unknown(u32),
    #[error("people's code may not start runners")]
    Workload,
    #[error("the specification is for other users than these")]
    OtherUsers,
    #[error("{} is not a directory of the user who asks", .0.display())]
    NotYours(PathBuf),
    #[error("the process is not a runner of the user who asks")]
    NotARunner,
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: io::Error },
}

fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Refused {
    move |error| Refused::System { doing, source: error.into() }
}

/// Serve the connection on standard input. `agent` is the user whose runners are of the user `dask`; everybody else who
/// gets to the socket gets runners of their own.
pub fn main(agent: &str, dask: &str) -> ExitCode {
    let _ = tracing_subscriber::fmt().json().with_writer(io::stderr).try_init();
    let stream = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(stream) => UnixStream::from(stream),
        Err(error) => {
            tracing::error!(%error, "there is no connection on standard input");
            return ExitCode::FAILURE;
        }
    };
    let answer = match serve(&stream, agent, dask) {
        Ok(answer) => answer,
        Err(refused) => {
            tracing::warn!(%refused, "refused");
            Answered::Refused { why: refused.to_string() }
        }
    };
    match say(&stream, &answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(stream: &UnixStream, agent: &str, dask: &str) -> Result<Answered, Refused> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(system("asking who speaks"))?.uid.as_raw();
    let asked = hear(stream, ASK_DEADLINE).map_err(system("reading what is asked"))?;
    let accounts = Accounts::read().map_err(system("reading /etc/passwd"))?;
    let account = whose(peer, &accounts, agent, dask)?;
    match asked {
        Asked::Ready => Ok(Answered::Ready { user: account.uid }),
        Asked::Kill { record } => kill(&record, account.uid).map(|processes| Answered::Killed { processes }),
        Asked::Start { spec } => match become_runner(stream, peer, &account, &spec)? {},
    }
}

/// PURE: the user whose runners `peer` may start and kill.
fn whose(peer: u32, accounts: &Accounts, agent: &str, dask: &str) -> Result<Account, Refused> {
    let dask = accounts.named(dask);
    if dask.as_ref().is_some_and(|dask| dask.uid == peer) {
        return Err(Refused::Workload);
    }
    if accounts.named(agent).is_some_and(|agent| agent.uid == peer) {
        // Never root, whatever the files say.
        return dask.filter(|dask| dask.uid != 0).ok_or(Refused::Workload);
    }
    accounts.numbered(peer).ok_or(Refused::Unknown(peer))
}

/// Give up all rights, check what only that user must be able to reach, and be the runner. Returns only when refused.
fn become_runner(stream: &UnixStream, peer: u32, account: &Account, spec: &RunnerSpec) -> Result<Infallible, Refused> {
    let users = (account.uid != peer).then_some(Users { agent: peer, dask: account.uid });
    if spec.users != users {
        return Err(Refused::OtherUsers);
    }
    delegate(account);
    drop_rights(account).map_err(system("becoming the user"))?;
    check_directory(&spec.host_dir, peer)?;
    let told = memory(spec).map_err(system("keeping the specification"))?;
    let record = RunnerRecord::of_this_process().map_err(system("reading its own start"))?;
    let mut runner = Command::new("/proc/self/exe");
    runner.arg0("towline-agent").arg("runner").arg("--host-dir").arg(&spec.host_dir);
    runner.env_clear().env("PATH", PATH).env("HOME", &account.home).env("USER", &account.name);
    runner.env("LOGNAME", &account.name).envs(std::env::vars_os().filter(|(name, _)| name == "LANG"));
    if users.is_none() {
        // By this the control plane's backend `local` knows the processes of its hosts.
        runner.env("TOWLINE_HOST_DIR", &spec.host_dir);
    }
    say(stream, &Answered::Started { record }).map_err(system("answering"))?;
    Err(Refused::System { doing: "becoming the runner", source: runner.stdin(Stdio::from(told)).exec() })
}

/// Let the user divide this unit's control group. Without that there are no limits for single processes, and no more.
fn delegate(account: &Account) {
    let Some(folder) = own_folder() else { return };
    for name in DELEGATED {
        let path = folder.join(name);
        let given = rustix::fs::chown(&path, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)));
        if let Err(error) = given.or_else(|error| if error == rustix::io::Errno::NOENT { Ok(()) } else { Err(error) }) {
            return tracing::warn!(path = %path.display(), %error, "the control group stays root's");
        }
    }
}

/// This unit's group in the unified hierarchy, if this is a unit of ours and that one has controllers.
fn own_folder() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = cgroup::group(&text, Hierarchy::Unified).filter(|group| unit(group).is_some())?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    cgroup::folder(&mounts, Hierarchy::Unified, group)
}

fn drop_rights(account: &Account) -> io::Result<()> {
    let groups: Vec<Gid> = account.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    if !uid.is_root() && rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(io::Error::other("root's rights cannot be given up"));
    }
    std::env::set_current_dir("/")
}

/// The user who asks must own the host's directory: nobody else's is to be filled with files.
fn check_directory(host_dir: &Path, owner: u32) -> Result<(), Refused> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(host_dir, flags, Mode::empty())
        .and_then(rustix::fs::fstat)
        .is_ok_and(|stat| stat.st_uid == owner);
    if host_dir.is_absolute() && theirs { Ok(()) } else { Err(Refused::NotYours(host_dir.to_owned())) }
}

/// The specification as a file that no name leads to.
fn memory(spec: &RunnerSpec) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("runner-spec", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// Kill a recorded runner of `user`; systemd's unit takes the rest along. Says how many processes there were.
fn kill(record: &RunnerRecord, user: u32) -> Result<u32, Refused> {
    let reading = "reading what the kernel says of the runner";
    let Some(pid) = facts::pid(record.pid) else { return Err(Refused::NotARunner) };
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(0),
        Err(error) => return Err(system("finding the runner")(error)),
    };
    // Held by its descriptor: the number cannot have become another process's after this look.
    if !record.is_alive().map_err(system(reading))? {
        return Ok(0);
    }
    let proc = PathBuf::from(format!("/proc/{}", record.pid));
    let status = std::fs::read_to_string(proc.join("status")).map_err(system(reading))?;
    let groups = std::fs::read_to_string(proc.join("cgroup")).map_err(system(reading))?;
    let Some((hierarchy, group)) = unit_group(&groups).filter(|_| user_of(&status) == Some(user)) else {
        return Err(Refused::NotARunner);
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(system(reading))?;
    let folder = cgroup::folder(&mounts, hierarchy, group);
    let count = folder.as_deref().map_or(1, members);
    rustix::process::pidfd_send_signal(process.as_fd(), Signal::KILL).map_err(system("killing the runner"))?;
    let deadline = Instant::now() + KILL_DEADLINE;
    while record.is_alive().map_err(system(reading))? || folder.as_deref().is_some_and(|folder| members(folder) > 0) {
        if Instant::now() >= deadline {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Err(Refused::System { doing: "waiting for the runner's processes to end", source });
        }
        std::thread::sleep(KILL_POLL);
    }
    Ok(count)
}

/// How many processes a group and the groups in it have; a group that is gone has none.
fn members(folder: &Path) -> u32 {
    let procs = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let own = u32::try_from(procs.lines().count()).unwrap_or(u32::MAX);
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.fold(own, |sum, entry| sum.saturating_add(members(&entry.path())))
}

/// PURE: the group of the unit that a process is in, if it is one of ours.
fn unit_group(text: &str) -> Option<(Hierarchy, &str)> {
    [Hierarchy::Unified, NAMED]
        .into_iter()
        .find_map(|hierarchy| Some((hierarchy, unit(cgroup::group(text, hierarchy)?)?)))
}

/// PURE: the part of a group's path that ends with a unit of ours.
fn unit(group: &str) -> Option<&str> {
    let mut length = 0;
    for part in group.split('/') {
        length += part.len();
        if part.strip_prefix(UNIT.0).is_some_and(|rest| rest.ends_with(UNIT.1)) {
            return Some(&group[..length]);
        }
        length += 1;
    }
    None
}

/// PURE: the real user in `/proc/<pid>/status`.
fn user_of(status: &str) -> Option<u32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    numbers.split_ascii_whitespace().next()?.parse().ok()
}

fn hear(mut stream: &UnixStream, within: Duration) -> io::Result<Asked> {
    let deadline = Instant::now() + within;
    let (mut line, mut piece) = (Vec::new(), [0u8; 4096]);
    while !line.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() as u64 > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line does not end"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => line.extend_from_slice(&piece[..count]),
        }
    }
    Ok(serde_json::from_slice(&line)?)
}

fn say(mut stream: &UnixStream, answer: &Answered) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(ASK_DEADLINE))?;
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let passwd = "root:x:0:0::/root:/bin/sh\ntowline:x:900:900::/:/bin/false\ntowline-dask:x:901:901::/d:/bin/false\n\
                      ada:x:1000:1000::/home/ada:/bin/sh\nevil:x:0:0::/:/bin/sh\n";
        Accounts::of(passwd, "towline-dask:x:901:towline\n")
    }

    #[test]
    fn the_agent_gets_dasks_user_and_everybody_else_only_themselves() {
        let whose = |peer, dask| whose(peer, &accounts(), "towline", dask).map(|account| account.uid);
        assert_eq!(whose(900, "towline-dask").expect("the agent"), 901);
        assert_eq!(whose(1000, "towline-dask").expect("a person"), 1000);
        assert_eq!(whose(0, "towline-dask").expect("root"), 0);
        assert!(matches!(whose(901, "towline-dask"), Err(Refused::Workload)), "people's code");
        assert!(matches!(whose(4711, "towline-dask"), Err(Refused::Unknown(4711))));
        assert!(whose(900, "nobody-made-it").is_err(), "no user for Dask");
        assert!(whose(900, "evil").is_err(), "never root");
    }

    #[test]
    fn only_a_unit_of_ours_is_one() {
        let ours = "/towline.slice/towline-dask.slice/towline-dask@3-1-0.service";
        assert_eq!(unit(ours), Some(ours));
        assert_eq!(unit(&format!("{ours}/runner")), Some(ours));
        for other in ["/", "/user.slice", "/system.slice/towline-agent.service", "/x/towline-dask@3.scope"] {
            assert_eq!(unit(other), None, "{other}");
        }
        let hybrid = format!("5:memory:/\n1:name=systemd:{ours}\n0::/\n");
        assert_eq!(unit_group(&hybrid), Some((NAMED, ours)));
        assert_eq!(unit_group(&format!("0::{ours}\n")), Some((Hierarchy::Unified, ours)));
    }

    #[test]
    fn reads_the_real_user() {
        assert_eq!(user_of("Name:\tx\nUid:\t901\t0\t0\t0\nGid:\t1\n"), Some(901));
        assert_eq!(user_of("Name:\tUid: 5\n"), None);
    }

    #[test]
    fn a_process_that_is_no_runner_is_not_killed() {
        let me = RunnerRecord::of_this_process().expect("own record");
        let uid = rustix::process::geteuid().as_raw();
        assert!(matches!(kill(&me, uid), Err(Refused::NotARunner)));
        assert!(matches!(kill(&RunnerRecord { start_time: me.start_time + 1, ..me }, uid), Ok(0)));
    }

    #[test]
    fn a_line_must_come_whole_and_in_time() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let hear = || hear(&ours, Duration::from_millis(100));
        (&theirs).write_all(b"{\"op\":\"ready\"}\n").expect("said");
        assert!(matches!(hear(), Ok(Asked::Ready)));
        (&theirs).write_all(b"{\"op\":").expect("said");
        assert!(hear().is_err(), "half a line");
        (&theirs).write_all(b"{\"op\":\"exec\",\"argv\":[]}\n").expect("said");
        assert!(hear().is_err(), "unknown");
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let owner = rustix::process::geteuid().as_raw();
        assert!(check_directory(directory.path(), owner).is_ok());
        assert!(check_directory(directory.path(), owner + 1).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).expect("made");
        assert!(check_directory(&link, owner).is_err(), "a link");
        assert!(check_directory(Path::new("."), owner).is_err(), "relative");
    }
}
