//! Exit codes, in one place. Scripts and service managers rely on them; never change a number.

use std::process::ExitCode;

/// How the program ended, as a number for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// It was tried and did not work.
    Failed,
    /// The arguments make no sense (`EX_USAGE`).
    Usage,
    /// Nobody answers at the address (`EX_UNAVAILABLE`).
    Unreachable,
    /// The other side understood and said no (`EX_NOPERM`).
    Refused,
    /// A file of settings is missing or wrong (`EX_CONFIG`).
    Config,
    /// A person stopped it (128 + SIGINT).
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Unreachable => 69,
            Self::Refused => 77,
            Self::Config => 78,
            Self::Interrupted => 130,
        }
    }
}

impl TryFrom<u64> for Exit {
    type Error = u64;

    /// The meaning of a number that another process of ours ended with.
    fn try_from(number: u64) -> Result<Self, u64> {
        let all =
            [Self::Ok, Self::Failed, Self::Usage, Self::Unreachable, Self::Refused, Self::Config, Self::Interrupted];
        all.into_iter().find(|exit| u64::from(exit.code()) == number).ok_or(number)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_manual() {
        let all =
            [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Refused, Exit::Config, Exit::Interrupted];
        assert_eq!(all.map(Exit::code), [0, 1, 64, 69, 77, 78, 130]);
        assert_eq!(all.map(|exit| Exit::try_from(u64::from(exit.code()))), all.map(Ok));
        assert_eq!(Exit::try_from(2), Err(2));
    }
}
