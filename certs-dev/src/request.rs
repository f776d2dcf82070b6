//! What a certificate shall say: its role, names and validity, right or wrong on purpose.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::CertError;

const DAYS_DEFAULT: u32 = 365;
const DAYS_MAX: u32 = 36_500;
const NAME_LENGTH_MAX: usize = 63;
const NAMES_RESERVED: [&str; 2] = ["ca", "server"];
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const TRUST_DOMAIN: &str = "syncd.test";

/// Which end of a connection a certificate is for (its extended key usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The receiver: `serverAuth`.
    Server,
    /// An agent: `clientAuth`.
    Agent,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday on, for this many days from now.
    Days(u32),
    /// It was valid until an hour ago.
    Expired,
    /// It will be valid from tomorrow on.
    NotYet,
}

impl Validity {
    pub(crate) fn bounds(self) -> Result<(OffsetDateTime, OffsetDateTime), CertError> {
        let now = OffsetDateTime::now_utc();
        let day = Duration::days(1);
        match self {
            Self::Days(days) if (1..=DAYS_MAX).contains(&days) => Ok((now - day, now + day * days)),
            Self::Days(days) => Err(CertError::Days(days)),
            Self::Expired => Ok((now - day, now - Duration::hours(1))),
            Self::NotYet => Ok((now + day, now + day * 2)),
        }
    }
}

impl Default for Validity {
    fn default() -> Self {
        Self::Days(DAYS_DEFAULT)
    }
}

/// A certificate to be issued; start with [`Request::server`] or [`Request::agent`] and bend it from there.
#[derive(Debug, Clone)]
pub struct Request {
    stem: String,
    role: Role,
    common_name: String,
    names: Vec<String>,
    uris: Vec<String>,
    validity: Validity,
}

impl Request {
    /// A receiver's certificate for localhost, 127.0.0.1, ::1 and `extra` (DNS names or IP addresses), in
    /// `server.pem` and `server.key`.
    pub fn server<S: AsRef<str>>(extra: &[S]) -> Self {
        let names = SERVER_NAMES
            .into_iter()
            .chain(extra.iter().map(AsRef::as_ref));
        Self {
            stem: "server".to_owned(),
            role: Role::Server,
            common_name: "syncd-recv".to_owned(),
            names: names.map(str::to_owned).collect(),
            uris: Vec::new(),
            validity: Validity::default(),
        }
    }

    /// An agent's certificate with the identities `spiffe://syncd.test/agent/NAME` and DNS `NAME`, in
    /// `NAME.pem` and `NAME.key`.
    pub fn agent(name: &str) -> Self {
        Self {
            stem: name.to_owned(),
            role: Role::Agent,
            common_name: name.to_owned(),
            names: vec![name.to_owned()],
            uris: vec![Self::agent_uri(name)],
            validity: Validity::default(),
        }
    }

    /// The URI identity that [`Request::agent`] gives to `name`.
    pub fn agent_uri(name: &str) -> String {
        format!("spiffe://{TRUST_DOMAIN}/agent/{name}")
    }

    /// Writes to `STEM.pem` and `STEM.key` instead.
    #[must_use]
    pub fn file_stem(mut self, stem: &str) -> Self {
        self.stem = stem.to_owned();
        self
    }

    /// Replaces the extended key usage, for a certificate used at the wrong end.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Replaces all DNS names and IP addresses, for a certificate of another host; none is allowed too.
    #[must_use]
    pub fn names<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.names = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self
    }

    /// Replaces all URI names.
    #[must_use]
    pub fn uris<S: AsRef<str>>(mut self, uris: &[S]) -> Self {
        self.uris = uris.iter().map(|uri| uri.as_ref().to_owned()).collect();
        self
    }

    /// Replaces the time in which the certificate is valid.
    #[must_use]
    pub fn validity(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    /// The two files this request becomes.
    pub fn file_names(&self) -> [String; 2] {
        [format!("{}.pem", self.stem), format!("{}.key", self.stem)]
    }

    /// Checks everything that can be checked before a key is made.
    pub fn check(&self) -> Result<(), CertError> {
        let own_server_files = self.role == Role::Server && self.stem == "server";
        if !own_server_files {
            check_name(&self.stem)?;
        }
        self.to_params().map(drop)
    }

    pub(crate) fn to_params(&self) -> Result<CertificateParams, CertError> {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = self.validity.bounds()?;
        params.distinguished_name = common_name(&self.common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match self.role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Agent => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        for name in &self.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(ascii(name)?),
            });
        }
        for uri in &self.uris {
            params.subject_alt_names.push(SanType::URI(ascii(uri)?));
        }
        Ok(params)
    }
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn ascii(name: &str) -> Result<Ia5String, CertError> {
    let printable = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    let converted = printable.then(|| Ia5String::try_from(name));
    converted
        .and_then(Result::ok)
        .ok_or_else(|| CertError::Name(name.to_owned()))
}

fn check_name(name: &str) -> Result<(), CertError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fits = name.len() <= NAME_LENGTH_MAX && name.bytes().all(allowed);
    if first && fits && !NAMES_RESERVED.contains(&name) {
        Ok(())
    } else {
        Err(CertError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_or_hide_the_authority_are_refused() {
        for name in [
            "",
            "ca",
            "server",
            "..",
            ".hidden",
            "a/b",
            "a b",
            "-x",
            "ä",
            &"n".repeat(64),
        ] {
            assert!(
                matches!(Request::agent(name).check(), Err(CertError::Name(_))),
                "{name:?}"
            );
        }
        for name in ["web01", "web-01.example", "A_b", &"n".repeat(63)] {
            assert!(Request::agent(name).check().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn server_names_must_be_plain_ascii() {
        assert!(
            Request::server(&["mirror.example", "10.1.2.3"])
                .check()
                .is_ok()
        );
        assert!(matches!(
            Request::server(&["mirr\u{f6}r"]).check(),
            Err(CertError::Name(_))
        ));
        assert!(matches!(
            Request::server(&["a b"]).check(),
            Err(CertError::Name(_))
        ));
    }

    #[test]
    fn days_have_limits() {
        for days in [0, DAYS_MAX + 1, u32::MAX] {
            let request = Request::agent("a").validity(Validity::Days(days));
            assert!(matches!(request.check(), Err(CertError::Days(d)) if d == days));
        }
    }
}
