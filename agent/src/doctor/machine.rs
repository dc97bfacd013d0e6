//! What this machine is, who tells that it will be taken away, and how it would be powered off.

use super::Finding;
use crate::config::Machine;
use crate::interruption::Source;
use crate::runtime::story;
use rustix::fs::Access;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;
use towline_cloud::{Platform, machine, power};

/// A metadata service is on the machine itself.
const LIMIT: Duration = Duration::from_secs(8);

/// All three.
pub async fn look(machine: &Machine) -> Vec<Finding> {
    vec![platform(machine.platform, machine::platform()), notices(machine).await, power_off(machine)]
}

/// PURE: what the settings say beside what the firmware says.
fn platform(set: Platform, firmware: Platform) -> Finding {
    const CHECK: &str = "platform";
    let is_cloud = |platform| matches!(platform, Platform::Aws | Platform::Azure | Platform::Google);
    match (set, firmware) {
        (set, firmware) if set == firmware => Finding::ok(CHECK, format!("{set}, as the firmware says")),
        (Platform::Local, firmware) if is_cloud(firmware) => Finding::missing(
            CHECK,
            format!(
                "the firmware says {firmware}, and the settings do not: a host here would not end the machine, nor \
                hear that it is taken away"
            ),
            "on a machine that is only Towline's put `platform = \"detect\"` into agent.toml",
        ),
        (set, firmware) if is_cloud(set) => Finding::warn(
            CHECK,
            format!("the settings say {set}, the firmware does not ({firmware})"),
            "put `platform = \"detect\"` into agent.toml",
        ),
        (set, _) => Finding::ok(CHECK, format!("{set}")),
    }
}

/// Whether who would give notice answers.
async fn notices(machine: &Machine) -> Finding {
    const CHECK: &str = "notices";
    let url = machine.metadata_url();
    let source = match Source::of(machine) {
        Ok(Some(source)) => source,
        Ok(None) => return Finding::ok(CHECK, "nobody takes this machine away with notice"),
        Err(error) => return Finding::fail(CHECK, story(&error), "see the words above"),
    };
    match tokio::time::timeout(LIMIT, source.is_reached()).await {
        Ok(Ok(())) => Finding::ok(CHECK, format!("the metadata service of {} answers at {url}", machine.notices())),
        silent => Finding::fail(
            CHECK,
            match silent {
                Ok(Err(error)) => format!("the metadata service does not answer: {}", story(&error)),
                _ => format!("the metadata service at {url} does not answer within {} s", LIMIT.as_secs()),
            },
            "let this machine reach it (no proxy, hop limit 2 in a container), or correct `platform`, `notices` and \
             `metadata_url` in agent.toml",
        ),
    }
}

/// Whether a power-off is there to be asked for. It is not tried.
fn power_off(machine: &Machine) -> Finding {
    const CHECK: &str = "power off";
    match (machine.platform, &machine.power_off) {
        (Platform::Local, _) => return Finding::ok(CHECK, "not needed: whoever started a host here removes it"),
        (Platform::OnPrem, _) if !machine.power_off_at_end => {
            return Finding::ok(CHECK, "not wanted: the machine stays on when its host ends");
        }
        _ => {}
    }
    let (path, rights, remedy) = match &machine.power_off {
        Some(program) => {
            (program.as_path(), Access::EXEC_OK, "correct `power_off` in agent.toml, or make it a program")
        }
        None => (
            Path::new(power::SOCKET),
            Access::WRITE_OK,
            "install Towline's units, then `systemctl enable --now towline-power-off.socket \
             towline-power-off-forced.socket`",
        ),
    };
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let fits = kind.map(|kind| if machine.power_off.is_some() { kind.is_file() } else { kind.is_socket() });
    let why = match (fits, rustix::fs::access(path, rights)) {
        (Ok(true), Ok(())) => return Finding::ok(CHECK, format!("by {}", path.display())),
        (Err(error), _) => error.to_string(),
        (Ok(false), _) => "it is of another kind".to_owned(),
        (Ok(true), Err(error)) => error.to_string(),
    };
    Finding::fail(CHECK, format!("{}: {why}", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn settings_and_firmware_are_compared() {
        for (set, firmware, grade) in [
            (Platform::Aws, Platform::Aws, Grade::Ok),
            (Platform::Local, Platform::OnPrem, Grade::Ok),
            (Platform::OnPrem, Platform::Azure, Grade::Ok),
            (Platform::Local, Platform::Google, Grade::Missing),
            (Platform::Aws, Platform::OnPrem, Grade::Warn),
        ] {
            let finding = platform(set, firmware);
            assert_eq!((finding.grade, finding.remedy.is_empty()), (grade, grade == Grade::Ok), "{finding:?}");
        }
    }

    #[tokio::test]
    async fn a_metadata_service_that_refuses_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        for platform in [Platform::Aws, Platform::Azure, Platform::Google] {
            let machine = Machine { notices: Some(platform), metadata_url: Some(url.clone()), ..Machine::default() };
            let finding = notices(&machine).await;
            assert!(finding.grade == Grade::Fail && finding.remedy.contains("metadata_url"), "{finding:?}");
        }
        assert_eq!(notices(&Machine::default()).await.grade, Grade::Ok);
    }

    #[test]
    fn a_power_off_that_would_be_asked_for_must_be_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("off");
        let of = |platform, wanted| {
            let power_off = Some(program.clone());
            power_off_grade(&Machine { platform, power_off, power_off_at_end: wanted, ..Machine::default() })
        };
        assert_eq!((of(Platform::Local, false), of(Platform::OnPrem, false)), (Grade::Ok, Grade::Ok));
        assert_eq!((of(Platform::OnPrem, true), of(Platform::Aws, false)), (Grade::Fail, Grade::Fail), "not there");
        std::fs::write(&program, "#!/bin/sh\n").expect("written");
        assert_eq!(of(Platform::Aws, false), Grade::Fail, "not a program");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("its mode");
        assert_eq!(of(Platform::Aws, false), Grade::Ok);
    }

    fn power_off_grade(machine: &Machine) -> Grade {
        let finding = power_off(machine);
        assert_eq!(finding.remedy.is_empty(), finding.grade == Grade::Ok, "{finding:?}");
        finding.grade
    }
}
