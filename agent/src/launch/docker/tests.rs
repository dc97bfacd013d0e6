//! What answers of an engine mean, without one; what needs a real engine stands in `agent/tests/docker.rs`.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn launcher(socket: &Path) -> DockerLauncher {
    DockerLauncher {
        host: HostId::from_random([1; 10]),
        host_dir: "/nowhere".into(),
        program: RunnerProgram { exe: "/bin/false".into(), args: Vec::new() },
        store: "/nowhere/store".into(),
        settings: DockerSettings { socket: Some(socket.to_owned()), ..DockerSettings::default() },
    }
}

fn seen(exit_code: i64, oom_killed: bool) -> Seen {
    let (id, error) = ("x".to_owned(), String::new());
    Seen { id, host: None, state: State::Ended, pid: 0, exit_code: Some(exit_code), oom_killed, error }
}

#[test]
fn an_end_is_told_in_a_sentence() {
    let memory = end_of(Some(&seen(137, true)), Some(64));
    assert!(memory.contains("want of memory") && memory.contains("64 bytes"), "{memory}");
    assert_eq!(
        out_of_memory(Some(&seen(137, true)), Some(64 << 20)).as_deref(),
        Some("its whole container (it may have 64 MiB, by docker_memory_bytes)")
    );
    assert_eq!((out_of_memory(Some(&seen(137, false)), None), out_of_memory(None, None)), (None, None));
    assert!(end_of(Some(&seen(137, false)), None).contains("killed from outside"));
    assert!(end_of(Some(&seen(3, false)), None).ends_with("exit code 3"));
    assert!(end_of(None, None).contains("removed"));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a directory");
    let absent = launcher(&folder.path().join("none.sock")).check().await.expect_err("nothing is there");
    assert!(absent.to_string().contains("none.sock") && absent.remedy.contains("docker_socket"), "{absent}");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("bound"));
    let refused = launcher(&dead).check().await.expect_err("nobody listens");
    assert!(refused.remedy.contains("systemctl status docker"), "{refused}");
}

#[tokio::test]
async fn what_answers_nonsense_or_errors_is_no_engine() {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, answer) in [
        ("nonsense", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("failing", "HTTP/1.1 500 Oh\r\ncontent-length: 22\r\n\r\n{\"message\":\"no space\"}"),
        ("not-http", "220 mail.example ESMTP\r\n"),
    ] {
        let path = folder.path().join(name);
        let listener = tokio::net::UnixListener::bind(&path).expect("bound");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 1024];
                // The first connection only tries whether somebody listens.
                if stream.read(&mut asked).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        let unfit = launcher(&path).check().await.expect_err(name);
        assert!(unfit.remedy.contains("docker info"), "{name}: {unfit}");
        serving.abort();
    }
}
