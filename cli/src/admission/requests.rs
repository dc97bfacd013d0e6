//! PURE: which of those who ask is meant by a code, a person's name or a client's.

use crate::api::admissions::Asked;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::duration;
use towline_protocol::admission_code::AdmissionCode;
use towline_protocol::ids::{ClusterId, Spki};

/// The one who asks with the key of this code. The code of each is made here, from its key: none is taken from the server.
pub fn with_code<'a>(cluster: &ClusterId, asked: &'a [Asked], code: AdmissionCode) -> Option<(&'a Asked, Spki)> {
    asked.iter().filter(|asked| asked.pending()).find_map(|asked| {
        let spki: Spki = asked.spki.parse().ok()?;
        (AdmissionCode::of(cluster, &spki) == code).then_some((asked, spki))
    })
}

/// Those who ask under this client's name; if none does, those of this person.
pub fn named<'a>(asked: &'a [Asked], name: &str) -> Vec<&'a Asked> {
    let pending = || asked.iter().filter(|asked| asked.pending());
    let client: Vec<_> = pending().filter(|asked| asked.client == name).collect();
    if client.is_empty() { pending().filter(|asked| asked.person == name).collect() } else { client }
}

/// Nobody asks with the key of this code.
pub fn no_such_code(cluster: &str, asked: &[Asked], code: AdmissionCode, now_ms: u64) -> Failure {
    let remedy = if asked.iter().any(Asked::pending) {
        "compare the code, letter by letter, with the one that is shown to the person who asks; if it is the same, the \
         control plane shows you another key than theirs: admit nobody, and tell whoever runs it"
    } else {
        "have the person ask again (`towline cluster join NAME` there); a request lives an hour"
    };
    Failure::new(
        Exit::Refused,
        "admission_code_unknown",
        format!("Nobody who asks to join {cluster} has the code {code}; pending: {}", pending(asked, now_ms)),
        remedy,
    )
}

/// Who asks, in words: nothing from which a code could be copied.
pub fn pending(asked: &[Asked], now_ms: u64) -> String {
    let one = |asked: &Asked| {
        let since = duration(now_ms.saturating_sub(asked.asked_at_ms) / 1000);
        format!("{} ({}, for {since})", asked.person, asked.client)
    };
    let all: Vec<_> = asked.iter().filter(|asked| asked.pending()).map(one).collect();
    if all.is_empty() { "nobody".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_transport::keys::KeyPair;

    fn asked(client: &str, person: &str, spki: &str) -> Asked {
        let (client, person, spki) = (client.to_owned(), person.to_owned(), spki.to_owned());
        Asked { client, person, spki, state: "pending".to_owned(), asked_at_ms: 0, expires_at_ms: 9 }
    }

    fn key() -> Spki {
        KeyPair::generate().expect("a key").spki()
    }

    #[test]
    fn the_code_chooses_the_key_and_nothing_else_does() {
        let (here, there) = (ClusterId::from_random([1; 10]), ClusterId::from_random([2; 10]));
        let (bobs, swapped) = (key(), key());
        let code = AdmissionCode::of(&here, &bobs);
        let list = [asked("client-x", "carol", key().as_str()), asked("client-bob", "bob", bobs.as_str())];
        assert_eq!(with_code(&here, &list, code).map(|(asked, _)| asked.client.as_str()), Some("client-bob"));
        assert_eq!(with_code(&there, &list, code), None, "a code is for one cluster");
        let tampered = [asked("client-bob", "bob", swapped.as_str())];
        assert_eq!(with_code(&here, &tampered, code), None, "a swapped key has another code");
        let broken = [asked("client-bob", "bob", "no key"), asked("client-bob", "bob", "")];
        assert_eq!(with_code(&here, &broken, code), None);
        let refused = [Asked { state: "refused".to_owned(), ..list[1].clone() }];
        assert_eq!(with_code(&here, &refused, code), None);
        // What the server says of person and client changes nothing.
        let renamed = [asked("client-mallory", "mallory", bobs.as_str())];
        assert!(with_code(&here, &renamed, code).is_some_and(|(_, spki)| spki == bobs));
    }

    #[test]
    fn a_name_means_the_client_before_the_person() {
        let list = [asked("client-a", "bob", ""), asked("client-b", "bob", ""), asked("client-c", "client-a", "")];
        let names = |name| named(&list, name).into_iter().map(|asked| asked.client.as_str()).collect::<Vec<_>>();
        assert_eq!(names("bob"), ["client-a", "client-b"]);
        assert_eq!(names("client-a"), ["client-a"]);
        assert_eq!(names("carol"), [""; 0]);
    }

    #[test]
    fn an_unknown_code_names_who_asks_and_shows_no_other_code() {
        let cluster = ClusterId::from_random([1; 10]);
        let spki = key();
        let list = [asked("client-bob", "bob", spki.as_str())];
        let line = no_such_code("steps", &list, AdmissionCode::of(&cluster, &key()), 61_000).line();
        assert!(line.contains("bob (client-bob, for 1 min 1 s)") && line.contains("letter by letter"), "{line}");
        assert!(!line.contains(&AdmissionCode::of(&cluster, &spki).to_string()) && !line.contains(spki.as_str()));
        assert!(no_such_code("steps", &[], AdmissionCode::of(&cluster, &spki), 0).line().contains("pending: nobody"));
    }
}
