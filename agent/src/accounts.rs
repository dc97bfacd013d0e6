//! Users and groups of this machine, from the texts of `passwd(5)` and `group(5)`. System users lie there and nowhere
//! else; no name service is asked. Decides nothing.

use crate::launch::Users;
use std::io;
use std::path::PathBuf;

/// Why an account cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is none of that name.
    #[error("there is no user {0:?} in /etc/passwd; `systemd-sysusers` makes Towline's users")]
    Unknown(String),
    /// What the agent makes would be of another group.
    #[error("the agent must run with the group of {0:?} as its own: set Group={0} in its unit")]
    OtherGroup(String),
    /// The files cannot be read.
    #[error("/etc/passwd or /etc/group cannot be read")]
    Unreadable(#[from] io::Error),
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Its home.
    pub home: PathBuf,
    /// The other groups that it is in.
    pub groups: Vec<u32>,
}

/// The two files.
#[derive(Clone, Debug)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Read them.
    pub fn read() -> io::Result<Self> {
        let read = std::fs::read_to_string;
        Ok(Self { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
    }

    #[cfg(test)]
    pub fn of(passwd: &str, group: &str) -> Self {
        Self { passwd: passwd.to_owned(), group: group.to_owned() }
    }

    /// By name.
    pub fn named(&self, name: &str) -> Option<Account> {
        self.find(|account| account.name == name)
    }

    /// By number.
    pub fn numbered(&self, uid: u32) -> Option<Account> {
        self.find(|account| account.uid == uid)
    }

    fn find(&self, fits: impl Fn(&Account) -> bool) -> Option<Account> {
        let mut account = self.passwd.lines().filter_map(account).find(fits)?;
        account.groups = self.group.lines().filter_map(|line| member(line, &account.name)).collect();
        Some(account)
    }
}

/// A line `name:password:uid:gid:comment:home:shell`.
fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    Some(Account { name: (*name).to_owned(), uid, gid, home: PathBuf::from(home), groups: Vec::new() })
}

/// The group of a line `name:password:gid:user,user`, if the user is in it.
fn member(line: &str, user: &str) -> Option<u32> {
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, gid, users] = fields.as_slice() else { return None };
    users.split(',').any(|one| one == user).then(|| gid.parse().ok())?
}

/// This process's user and Dask's.
pub fn users(dask: &str) -> Result<Users, AccountError> {
    let account = Accounts::read()?.named(dask).ok_or_else(|| AccountError::Unknown(dask.to_owned()))?;
    if rustix::process::getegid().as_raw() != account.gid {
        return Err(AccountError::OtherGroup(dask.to_owned()));
    }
    Ok(Users { agent: rustix::process::geteuid().as_raw(), dask: account.uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user_with_its_groups_and_skips_what_is_no_entry() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\n+nis\nada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\n".to_owned(),
            group: "video:x:44:ada,bob\nada:x:1001:\nrender:x:105:adam\nbroken\nx:x:no:ada\n".to_owned(),
        };
        let ada = accounts.named("ada").expect("there");
        assert_eq!((ada.uid, ada.gid, ada.groups.as_slice()), (1000, 1001, &[44][..]));
        assert_eq!(accounts.numbered(1000), Some(ada));
        assert_eq!(accounts.named("ad"), None);
        assert_eq!(accounts.numbered(1), None);
    }

    #[test]
    fn a_user_that_is_not_there_or_not_our_group_is_named() {
        assert!(matches!(users("nobody-of-this-name"), Err(AccountError::Unknown(_))));
        assert!(matches!(users("daemon"), Err(AccountError::OtherGroup(_))));
    }
}
