//! Looks at hosts that lie in a directory.

use super::*;
use std::fs;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        for name in ["host/identity", "host/keys", "agent", "own"] {
            fs::create_dir_all(directory.path().join(name)).expect("made");
        }
        fs::write(directory.path().join("host/agent.toml"), settings).expect("written");
        fs::write(directory.path().join("host/identity/chain.pem"), "x").expect("written");
        Self { directory }
    }

    fn options(&self, dry_run: bool) -> Options {
        let at = |name: &str| self.directory.path().join(name);
        let stop_units = Vec::new();
        Options { host_dir: at("host"), agent_dir: at("agent"), own_dir: at("own"), stop_units, dry_run, json: true }
    }

    fn sign(&self, age: Duration) {
        let at_ms = u64::try_from(awake_time().saturating_sub(age).as_millis()).expect("small");
        let sign = Sign { at_ms, limit: 30, has_left: false };
        sign.write(&self.directory.path().join("agent").join(sign::NAME)).expect("written");
    }

    async fn look(&self, dry_run: bool) {
        run(&self.options(dry_run), &CancellationToken::new()).await.expect("looked");
    }

    fn is_wiped(&self) -> bool {
        !self.directory.path().join("host/keys").exists()
    }
}

#[tokio::test]
async fn a_machine_of_ones_own_is_wiped_and_left_once_its_agent_is_dead() {
    let place = Place::new("platform = \"onprem\"");
    place.look(false).await;
    assert!(!place.is_wiped(), "nobody has looked for long");
    place.sign(Duration::from_secs(20));
    place.look(false).await;
    assert!(!place.is_wiped(), "alive");
    place.sign(Duration::from_secs(31));
    place.look(true).await;
    assert!(!place.is_wiped(), "asked only");
    place.look(false).await;
    assert!(place.is_wiped());
    let told = fs::read_to_string(place.directory.path().join("host/ending.jsonl")).expect("evidence");
    let first: serde_json::Value = serde_json::from_str(told.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["rung"], "agent_dead", "{told}");
    assert!(told.contains("\"wipe\"") && told.contains("\"leave\""), "{told}");
    fs::create_dir(place.directory.path().join("host/keys")).expect("made");
    place.look(false).await;
    assert!(!place.is_wiped(), "once is enough");
}

#[tokio::test]
async fn a_machines_time_as_a_host_begins_when_it_is_one() {
    let place = Place::new("platform = \"onprem\"");
    let chain = place.directory.path().join("host/identity/chain.pem");
    let since = place.directory.path().join("own/since");
    fs::write(&since, "0").expect("written");
    fs::remove_file(&chain).expect("removed");
    place.look(false).await;
    assert!(!since.exists() && !place.is_wiped(), "no host");
    fs::write(&chain, "x").expect("written");
    place.look(false).await;
    assert!(since.exists() && !place.is_wiped(), "a host that has just enrolled on a machine that is up for long");
    fs::write(place.directory.path().join("agent").join(sign::NAME), "{").expect("written");
    let error = run(&place.options(false), &CancellationToken::new()).await.expect_err("says so");
    assert!(error.to_string().contains("no sign of life that can be read"), "{error}");
    assert!(!place.is_wiped());
}

#[tokio::test]
async fn settings_that_cannot_be_read_end_nothing_and_say_so() {
    let place = Place::new("platform = \"aix\"");
    place.sign(Duration::from_secs(99));
    let error = run(&place.options(false), &CancellationToken::new()).await.expect_err("refused");
    assert!(error.to_string().contains("platform must be"), "{error}");
    assert!(!place.is_wiped());
}

#[test]
fn a_look_is_told_in_words_and_as_json() {
    let dead = Judgement::Dead { silent: 31, limit: 30 };
    assert_eq!(said(dead, true), "{\"verdict\":\"dead\",\"silent\":31,\"limit\":30}");
    assert!(said(dead, false).contains("no sign for 31 s"));
    assert_eq!(said(Judgement::NoHost, true), "{\"verdict\":\"no_host\"}");
}
