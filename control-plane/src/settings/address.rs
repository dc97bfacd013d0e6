//! An address to listen on, as operators write it: a port alone is one of the loopback.

use serde::{Deserialize, Deserializer, de::Error as _};
use std::net::{Ipv4Addr, SocketAddr};

/// `"9464"` is 127.0.0.1:9464; `"10.0.0.7:9464"` and `"[::]:9464"` are what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let port = text.parse::<u16>().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        port.or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is no port such as \"9464\" and no address such as \"127.0.0.1:9464\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::{Fragment, Settings};

    fn listen(text: &str) -> Result<Option<String>, String> {
        let fragment = Fragment::parse(text).map_err(|error| error.to_string())?;
        let settings = Settings::from_fragment(fragment).map_err(|error| error.to_string())?;
        Ok(settings.metrics_listen.map(|address| address.to_string()))
    }

    #[test]
    fn metrics_are_off_and_on_the_loopback_unless_said_otherwise() {
        assert_eq!(listen(""), Ok(None));
        assert_eq!(listen("metrics_listen = \"9464\""), Ok(Some("127.0.0.1:9464".to_owned())));
        assert_eq!(listen("metrics_listen = \"[::1]:1\""), Ok(Some("[::1]:1".to_owned())));
        for text in ["metrics_listen = \"localhost\"", "metrics_listen = \"99999\"", "metrics_listen = 9464"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
