//! Who may ask the proxy: whoever knows the secret in the link. Pure.
//!
//! The secret is the first part of every path, and Dask's pages refer to each other by relative paths, so it stays there.
//! No cookie: a browser gives cookies of 127.0.0.1 to every port of it, that is to other users' programs too. With the
//! secret neither the name in the request nor the page it comes from matters, which is what a notebook server in
//! between needs; without it nothing does.

use std::net::Ipv4Addr;

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Pass it on, with this path.
    Pass(String),
    /// Send the browser to the first page, which is here from where it asked.
    Redirect(String),
    /// It does not know the secret.
    Refuse,
}

/// One link.
pub struct Gate {
    port: u16,
    secret: String,
}

impl Gate {
    /// A gate at a port.
    pub fn new(port: u16, secret: String) -> Self {
        Self { port, secret }
    }

    /// The link to the first page.
    pub fn link(&self) -> String {
        format!("http://{}:{}/{}/status", Ipv4Addr::LOCALHOST, self.port, self.secret)
    }

    /// Where it is.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What whoever asks must know.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Judge a request by its path and query.
    pub fn judge(&self, target: &str) -> Judgement {
        let Some(rest) = target.strip_prefix('/') else { return Judgement::Refuse };
        let length = rest.find(['/', '?']).unwrap_or(rest.len());
        let (shown, rest) = rest.split_at(length);
        if !equal(shown.as_bytes(), self.secret.as_bytes()) {
            return Judgement::Refuse;
        }
        match rest {
            "/" => Judgement::Redirect("status".to_owned()),
            rest if rest.starts_with('/') => Judgement::Pass(rest.to_owned()),
            _ => Judgement::Redirect(format!("{}/status", self.secret)),
        }
    }

    /// A place on the pages' own server, as a browser must ask for it.
    pub fn outside(&self, location: &str) -> String {
        // `//host` is another server.
        if location.starts_with('/') && !location.starts_with("//") {
            return format!("/{}{location}", self.secret);
        }
        location.to_owned()
    }
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_opens_and_it_is_taken_off() {
        let gate = Gate::new(8787, "5ec4e7".to_owned());
        assert_eq!(gate.link(), "http://127.0.0.1:8787/5ec4e7/status");
        for (asked, answer) in [
            ("/5ec4e7/status", Judgement::Pass("/status".to_owned())),
            ("/5ec4e7/status/ws?x=/y", Judgement::Pass("/status/ws?x=/y".to_owned())),
            ("/5ec4e7//x", Judgement::Pass("//x".to_owned())),
            ("/5ec4e7/", Judgement::Redirect("status".to_owned())),
            ("/5ec4e7", Judgement::Redirect("5ec4e7/status".to_owned())),
            ("/5ec4e7?x", Judgement::Redirect("5ec4e7/status".to_owned())),
            ("/", Judgement::Refuse),
            ("", Judgement::Refuse),
            ("/status", Judgement::Refuse),
            ("/5ec4e8/status", Judgement::Refuse),
            ("/5ec4e/status", Judgement::Refuse),
            ("/5ec4e77/status", Judgement::Refuse),
            ("//5ec4e7/status", Judgement::Refuse),
            ("/x/5ec4e7/status", Judgement::Refuse),
            ("http://127.0.0.1:8787/5ec4e7/status", Judgement::Refuse),
        ] {
            assert_eq!(gate.judge(asked), answer, "{asked}");
        }
    }

    #[test]
    fn places_on_the_pages_server_keep_the_secret() {
        let gate = Gate::new(8787, "5ec4e7".to_owned());
        for (inside, outside) in
            [("/status", "/5ec4e7/status"), ("info/main/workers.html", "info/main/workers.html"), ("//a/b", "//a/b")]
        {
            assert_eq!(gate.outside(inside), outside);
        }
    }
}
