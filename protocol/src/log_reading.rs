//! What a person's machine and an agent say to each other when lines are read live: a question, then records and signs, one
//! JSON object a line. It passes between the two alone, by a cluster's gateway and its own TLS; never part of a message.

use crate::ids::HostId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Longest question or sign, in bytes.
pub const MAX_LINE: usize = 16 * 1024;

/// An agent with nothing to tell says an empty line this often, so that both ends know of each other.
pub const BEAT: std::time::Duration = std::time::Duration::from_secs(15);

/// What is asked of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Question {
    /// Not before this moment, in Unix milliseconds.
    pub since_ms: u64,
    /// Not from this moment on.
    pub until_ms: Option<u64>,
    /// Whole lines that hold this text. Parts of long lines and gaps come all the same: nobody knows what is in the rest.
    pub filter: Option<String>,
    /// Of what is there already only so many of the last records.
    pub tail: Option<usize>,
    /// Go on with what comes.
    pub follow: bool,
    /// By stream: the first id that is not known yet.
    pub known: BTreeMap<String, u64>,
}

/// Which host a gateway is to bring somebody to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The host.
    pub host: HostId,
    /// Where its own gateway listens.
    pub address: SocketAddr,
}

/// What is said between records. A record has no field `sign`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sign", rename_all = "snake_case")]
pub enum Sign {
    /// A stream of this host; what lies before this id is not on the host any more.
    Begin {
        /// The stream.
        stream: String,
        /// Its first id here.
        id: u64,
    },
    /// That was all: what follows is no cut.
    End,
    /// The way to another host is open: what follows comes from there.
    Open,
    /// It cannot be done.
    Failed {
        /// Why, for people.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_record::LogRecord;

    #[test]
    fn a_sign_is_no_record_and_a_record_no_sign() {
        let signs = [
            Sign::Begin { stream: "worker-ho-a".into(), id: 7 },
            Sign::End,
            Sign::Open,
            Sign::Failed { why: "no".into() },
        ];
        for sign in signs {
            let text = serde_json::to_string(&sign).expect("JSON");
            assert!(text.starts_with(r#"{"sign":""#), "{text}");
            assert_eq!(serde_json::from_str::<Sign>(&text).expect("read"), sign);
            assert!(serde_json::from_str::<LogRecord<'_>>(&text).is_err());
        }
        assert!(serde_json::from_str::<Sign>(r#"{"time":5,"stream":"a","id":9,"line":"b"}"#).is_err());
    }

    #[test]
    fn a_question_of_a_later_version_is_understood_as_far_as_it_goes() {
        let question: Question = serde_json::from_str(r#"{"follow":true,"colour":"red"}"#).expect("read");
        assert_eq!(question, Question { follow: true, ..Question::default() });
    }
}
