//! Whether people use this host: terminals of a machine that is all ours, and Jupyter servers of the workload.
//!
//! Owns the thread that asks Jupyter servers, each with a deadline; no server holds up other vitals. Times are by clocks that
//! somebody may set, so only *that* they change leaves this file: a mark. Must not judge: `idle` does. Follows no address
//! that a workload wrote, but to the loopback; tokens go into one header and nowhere else.

use crate::idle::Presence;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One server may take this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// More servers of one workload are not asked.
const MOST_SERVERS: usize = 8;

/// Longest file and answer that is read.
const LONGEST: u64 = 1 << 20;

/// Where a machine's terminals are.
#[derive(Clone, Copy, Debug)]
pub struct Terminals<'a> {
    /// Those that programs open: ssh, tmux, an editor from afar.
    pub opened: &'a Path,
    /// Devices, consoles among them: of a screen, and the serial one that clouds bring to a browser.
    pub devices: &'a Path,
    /// Who has the consoles on which nobody is logged in.
    pub machine: u32,
}

/// Names of consoles begin with one of these and go on with a number.
const CONSOLES: [&str; 4] = ["tty", "ttyS", "ttyAMA", "hvc"];

impl Terminals<'static> {
    /// Linux's.
    pub fn of_this_machine() -> Self {
        Self { opened: Path::new("/dev/pts"), devices: Path::new("/dev"), machine: 0 }
    }
}

impl Terminals<'_> {
    /// When they were last typed in, as a mark; none: there is none that is somebody's. Linux notes what was read from a
    /// terminal as its file's access: <https://man7.org/linux/man-pages/man4/pts.4.html>. What programs show there is no
    /// use of it. A console becomes its person's at the login; before, it is only a prompt that waits.
    pub fn look(self) -> Option<u64> {
        let numbered = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        let is_console = |name: &str| CONSOLES.iter().any(|kind| name.strip_prefix(kind).is_some_and(numbered));
        let opened = files(self.opened, numbered);
        let consoles = files(self.devices, is_console).filter(|(_, file)| file.uid() != self.machine);
        let used: BTreeSet<_> =
            opened.chain(consoles).map(|(name, file)| (name, file.atime(), file.atime_nsec())).collect();
        (!used.is_empty()).then(|| mark(&used))
    }
}

/// The files of a folder whose names are wanted.
fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (String, fs::Metadata)> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(move |entry| {
        let name = entry.file_name().into_string().ok().filter(|name| wanted(name))?;
        Some((name, entry.metadata().ok()?))
    })
}

fn mark(of: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Both together.
pub fn together(terminals: Option<u64>, notebooks: Presence) -> Presence {
    let mark = match (terminals, notebooks.mark) {
        (None, None) => None,
        both => Some(mark(&both)),
    };
    Presence { mark, ..notebooks }
}

/// The watch on a workload's Jupyter servers.
#[derive(Debug)]
pub struct Notebooks {
    workloads: mpsc::SyncSender<Vec<u32>>,
    newest: watch::Receiver<Presence>,
}

impl Notebooks {
    /// Begin to look whenever [`Self::look`] asks for it. The thread ends with this handle.
    pub fn watch() -> std::io::Result<Self> {
        let (workloads, inbox) = mpsc::sync_channel::<Vec<u32>>(1);
        let (outbox, newest) = watch::channel(Presence::default());
        std::thread::Builder::new().name("notebooks".to_owned()).spawn(move || {
            while let Ok(pids) = inbox.recv() {
                outbox.send_replace(servers(&pids, Path::new("/proc")));
            }
        })?;
        Ok(Self { workloads, newest })
    }

    /// Look at the servers among these processes, in the background, and say what the look before found.
    pub fn look(&self, pids: &[u32]) -> Presence {
        // One that is still being waited for will say so.
        let _ = self.workloads.try_send(pids.to_vec());
        *self.newest.borrow()
    }
}

/// What the servers among these processes say together.
fn servers(pids: &[u32], proc: &Path) -> Presence {
    let files = runtime_files(pids, proc);
    let answers: Vec<Option<Answer>> = files.iter().take(MOST_SERVERS).map(|file| ask(file)).collect();
    let known: Vec<&Answer> = answers.iter().flatten().collect();
    Presence {
        mark: (!known.is_empty()).then(|| mark(&known.iter().map(|answer| &answer.last_activity).collect::<Vec<_>>())),
        computes: known.iter().any(|answer| answer.computes),
        unclear: answers.iter().any(Option::is_none),
    }
}

/// `jpserver-<pid>.json` of each of these processes, where Jupyter leaves them:
/// <https://docs.jupyter.org/en/latest/use/jupyter-directories.html>.
fn runtime_files(pids: &[u32], proc: &Path) -> Vec<PathBuf> {
    let environments = pids.iter().filter_map(|pid| limited(&proc.join(pid.to_string()).join("environ")));
    let folders: BTreeSet<PathBuf> = environments.filter_map(|environment| runtime_folder(&environment)).collect();
    let files =
        folders.iter().flat_map(|folder| pids.iter().map(move |pid| folder.join(format!("jpserver-{pid}.json"))));
    files.filter(|file| file.is_file()).collect()
}

/// PURE: Jupyter's folder for running servers, from the environment of a process.
fn runtime_folder(environment: &[u8]) -> Option<PathBuf> {
    let value = |name: &str| {
        let found = environment
            .split(|byte| *byte == 0)
            .find_map(|pair| std::str::from_utf8(pair).ok()?.strip_prefix(name)?.strip_prefix('=').map(PathBuf::from));
        found.filter(|path| path.is_absolute())
    };
    let data = value("JUPYTER_DATA_DIR")
        .or_else(|| Some(value("XDG_DATA_HOME")?.join("jupyter")))
        .or_else(|| Some(value("HOME")?.join(".local/share/jupyter")));
    value("JUPYTER_RUNTIME_DIR").or_else(|| Some(data?.join("runtime")))
}

/// What a server's own file says of how to ask it.
#[derive(Debug, Deserialize)]
struct Server {
    port: u16,
    #[serde(default)]
    token: String,
    #[serde(default)]
    base_url: String,
    #[serde(default)]
    secure: bool,
}

/// What it answered.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    last_activity: String,
    computes: bool,
}

#[derive(Deserialize)]
struct Status {
    last_activity: String,
}

#[derive(Deserialize)]
struct Kernel {
    execution_state: String,
}

/// Ask the server of this file. None: it cannot be asked, or does not answer as documented:
/// <https://jupyter-server.readthedocs.io/en/latest/developers/rest-api.html>.
fn ask(file: &Path) -> Option<Answer> {
    let server: Server = serde_json::from_slice(&limited(file)?).ok()?;
    let plain = |text: &str| text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if server.secure || !plain(&server.token) || !plain(&server.base_url) {
        return None;
    }
    let until = Instant::now() + PATIENCE;
    let status: Status = serde_json::from_slice(&get(&server, "status", until)?).ok()?;
    // Otherwise this very question would be a use of the server.
    let kernels = get(&server, "kernels?no_track_activity=1", until)?;
    let kernels: Vec<Kernel> = serde_json::from_slice(&kernels).ok()?;
    let computes = kernels.iter().any(|kernel| kernel.execution_state == "busy");
    Some(Answer { last_activity: status.last_activity, computes })
}

/// The body of a plain answer of the loopback.
fn get(server: &Server, what: &str, until: Instant) -> Option<Vec<u8>> {
    let left = || until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
    let mut stream = TcpStream::connect_timeout(&address, left()?).ok()?;
    let Server { port, token, base_url, .. } = server;
    let base = base_url.trim_matches('/');
    let base = if base.is_empty() { String::new() } else { format!("/{base}") };
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: token {token}\r\n") };
    let request =
        format!("GET {base}/api/{what} HTTP/1.0\r\nHost: localhost:{port}\r\n{authorization}Connection: close\r\n\r\n");
    stream.set_write_timeout(Some(left()?)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut part = [0; 8192];
    loop {
        stream.set_read_timeout(Some(left()?)).ok()?;
        match stream.read(&mut part).ok()? {
            0 => break,
            read if (answer.len() + read) as u64 <= LONGEST => answer.extend_from_slice(&part[..read]),
            _ => return None,
        }
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[..end]).ok()?.lines().next()?.split(' ').nth(1)?;
    (status == "200").then(|| answer.split_off(end + 4))
}

fn limited(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead as _;
    use std::net::TcpListener;
    use std::time::SystemTime;

    #[test]
    fn a_terminal_is_used_when_it_is_read_and_not_when_it_shows_something() {
        let folder = tempfile::tempdir().expect("a directory");
        let terminals = || Terminals { opened: folder.path(), devices: Path::new("/nowhere"), machine: 0 }.look();
        assert_eq!(terminals(), None);
        fs::write(folder.path().join("ptmx"), "").expect("written");
        assert_eq!(terminals(), None, "no terminal of anybody");
        let terminal = fs::File::create(folder.path().join("3")).expect("made");
        let set = |read: u64, shown: u64| {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            terminal.set_times(fs::FileTimes::new().set_accessed(at(read)).set_modified(at(shown))).expect("set");
            terminals()
        };
        let first = set(100, 100);
        assert!(first.is_some());
        assert_eq!(set(100, 900), first);
        assert_ne!(set(108, 900), first);
    }

    #[test]
    fn a_console_counts_once_somebody_has_logged_in_to_it() {
        let folder = tempfile::tempdir().expect("a directory");
        for name in ["tty1", "ttyS0", "tty", "ttyprintk", "hvc0", "null"] {
            fs::write(folder.path().join(name), "").expect("written");
        }
        let me = fs::metadata(folder.path()).expect("there").uid();
        let look = |machine| Terminals { opened: Path::new("/nowhere"), devices: folder.path(), machine }.look();
        assert_eq!(look(me), None, "nobody is logged in");
        let before = look(me + 1).expect("somebody is");
        let typed = |name: &str| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
            let file = fs::File::open(folder.path().join(name)).expect("there");
            file.set_times(fs::FileTimes::new().set_accessed(at)).expect("set");
            look(me + 1)
        };
        assert_eq!(typed("null"), Some(before));
        assert_eq!(typed("ttyprintk"), Some(before), "the kernel's own");
        assert_ne!(typed("ttyS0"), Some(before));
    }

    #[test]
    fn the_folder_of_running_servers_follows_the_environment() {
        let of = |text: &str| runtime_folder(text.replace(' ', "\0").as_bytes());
        assert_eq!(of("A=b HOME=/home/ada"), Some("/home/ada/.local/share/jupyter/runtime".into()));
        assert_eq!(of("HOME=/h XDG_DATA_HOME=/x"), Some("/x/jupyter/runtime".into()));
        assert_eq!(of("HOME=/h JUPYTER_DATA_DIR=/d"), Some("/d/runtime".into()));
        assert_eq!(of("HOME=/h JUPYTER_RUNTIME_DIR=/r"), Some("/r".into()));
        assert_eq!((of("HOME=relative"), of("")), (None, None));
    }

    /// A server that answers as Jupyter's does, and to whom has the token only; it ends after so many questions.
    fn fake(activity: &'static str, state: &'static str, questions: usize) -> (u16, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let thread = std::thread::spawn(move || {
            for _ in 0..questions {
                let (stream, _) = listener.accept().expect("asked");
                let mut lines = std::io::BufReader::new(&stream).lines().map(|line| line.expect("a line"));
                let request = lines.next().expect("a request");
                let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let body = match request.as_str() {
                    _ if !headers.contains(&"Authorization: token secret".to_owned()) => None,
                    "GET /lab/api/status HTTP/1.0" => {
                        Some(format!(r#"{{"connections":2,"kernels":1,"last_activity":"{activity}","started":"x"}}"#))
                    }
                    "GET /lab/api/kernels?no_track_activity=1 HTTP/1.0" => {
                        Some(format!(r#"[{{"id":"a","execution_state":"{state}"}}]"#))
                    }
                    other => panic!("{other}"),
                };
                let answer = body.map_or("HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(), |body| {
                    format!("HTTP/1.1 200 OK\r\nX: y\r\n\r\n{body}")
                });
                (&stream).write_all(answer.as_bytes()).expect("answered");
            }
        });
        (port, thread)
    }

    /// The processes of a workload of which number 7 left this file.
    fn workload(file: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(folder.path().join("7")).expect("made");
        let environment = format!("JUPYTER_RUNTIME_DIR={}", folder.path().display());
        fs::write(folder.path().join("7/environ"), environment).expect("written");
        fs::write(folder.path().join("jpserver-7.json"), file).expect("written");
        fs::write(folder.path().join("jpserver-8.json"), "{}").expect("somebody else's");
        folder
    }

    fn says(activity: &'static str, state: &'static str, token: &str, questions: usize) -> Presence {
        let (port, server) = fake(activity, state, questions);
        let file = format!(r#"{{"port":{port},"token":"{token}","base_url":"/lab/","secure":false,"pid":7}}"#);
        let folder = workload(&file);
        let found = servers(&[6, 7], folder.path());
        server.join().expect("a strict server");
        found
    }

    #[test]
    fn a_server_of_the_workload_is_asked_and_only_its_use_changes_the_mark() {
        let first = says("2026-01-02T03:04:05Z", "idle", "secret", 2);
        assert!(first.mark.is_some() && !first.computes && !first.unclear, "{first:?}");
        assert_eq!(says("2026-01-02T03:04:05Z", "idle", "secret", 2), first, "another port, the same use");
        let later = says("2026-01-02T03:09:05Z", "busy", "secret", 2);
        assert!(later.mark != first.mark && later.computes, "{later:?}");
    }

    #[test]
    fn a_server_that_cannot_be_asked_is_unclear_and_none_is_nothing() {
        assert_eq!(says("x", "idle", "wrong", 1), Presence { unclear: true, ..Presence::default() });
        for file in ["", "{}", r#"{"port":1,"secure":true}"#, r#"{"port":1}"#, r#"{"port":1,"token":"a\r\nb"}"#] {
            assert!(servers(&[7], workload(file).path()).unclear, "{file:?}");
        }
        assert_eq!(servers(&[6, 8], workload("{}").path()), Presence::default(), "those of others are not asked");
    }
}
