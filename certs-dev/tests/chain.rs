//! What the issued certificates prove, as a TLS stack would judge them, and how they lie on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use certs_dev::{Authority, CertError, Issued, Request, Role, Validity};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName,
    SignatureVerificationAlgorithm, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, Error, KeyUsage, RevocationOptions,
    RevocationOptionsBuilder, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256,
};

const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[ECDSA_P256_SHA256];

#[test]
fn a_server_certificate_is_trusted_for_each_of_its_names_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let issued = authority
        .issue_server(&["mirror.example", "10.1.2.3"])
        .unwrap();
    judge(&authority, &issued, KeyUsage::server_auth()).unwrap();
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "mirror.example",
        "10.1.2.3",
    ] {
        assert!(is_named(&issued, name), "{name}");
    }
    assert!(!is_named(&issued, "other.example"));
    let other = authority
        .issue(
            &Request::server(&[""; 0])
                .file_stem("other")
                .names(&["other.example"]),
        )
        .unwrap();
    assert!(is_named(&other, "other.example"));
    assert!(!is_named(&other, "localhost"));
}

#[test]
fn each_end_is_trusted_for_its_own_use_only() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let server = authority.issue_server(&[""; 0]).unwrap();
    let agent = authority.issue_agent("web01").unwrap();
    let disguised = authority
        .issue(&Request::agent("disguised").role(Role::Server))
        .unwrap();
    judge(&authority, &agent, KeyUsage::client_auth()).unwrap();
    for wrong in [&server, &disguised] {
        let error = judge(&authority, wrong, KeyUsage::client_auth()).unwrap_err();
        assert!(
            matches!(error, Error::RequiredEkuNotFoundContext(_)),
            "{error:?}"
        );
    }
    let error = judge(&authority, &agent, KeyUsage::server_auth()).unwrap_err();
    assert!(
        matches!(error, Error::RequiredEkuNotFoundContext(_)),
        "{error:?}"
    );
}

#[test]
fn an_agent_carries_its_dns_and_uri_identity() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let issued = authority.issue_agent("web01").unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let cert = EndEntityCert::try_from(&der).unwrap();
    assert_eq!(cert.valid_dns_names().collect::<Vec<_>>(), ["web01"]);
    assert_eq!(
        cert.valid_uri_names().collect::<Vec<_>>(),
        ["spiffe://syncd.test/agent/web01"]
    );
    assert_eq!(
        Request::agent_uri("web01"),
        "spiffe://syncd.test/agent/web01"
    );
}

#[test]
fn the_wrong_time_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let expired = authority
        .issue(&Request::agent("old").validity(Validity::Expired))
        .unwrap();
    let early = authority
        .issue(&Request::agent("early").validity(Validity::NotYet))
        .unwrap();
    let error = judge(&authority, &expired, KeyUsage::client_auth()).unwrap_err();
    assert!(matches!(error, Error::CertExpired { .. }), "{error:?}");
    let error = judge(&authority, &early, KeyUsage::client_auth()).unwrap_err();
    assert!(matches!(error, Error::CertNotValidYet { .. }), "{error:?}");
}

#[test]
fn a_second_authority_of_the_same_name_is_not_trusted() {
    let [first_dir, second_dir] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Authority::create(first_dir.path()).unwrap();
    let second = Authority::create(second_dir.path()).unwrap();
    let issued = second.issue_agent("web01").unwrap();
    judge(&second, &issued, KeyUsage::client_auth()).unwrap();
    judge(&first, &issued, KeyUsage::client_auth()).unwrap_err();
}

#[test]
fn a_revoked_certificate_is_on_the_list_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let gone = authority.issue_agent("gone").unwrap();
    let kept = authority.issue_agent("kept").unwrap();
    let path = authority.revoke(&[&gone]).unwrap();
    let der = CertificateRevocationListDer::from_pem_slice(&fs::read(path).unwrap()).unwrap();
    let list =
        CertRevocationList::from(webpki::BorrowedCertRevocationList::from_der(&der).unwrap());
    let lists = [&list];
    let revocation = || Some(RevocationOptionsBuilder::new(&lists).unwrap().build());
    judge_with(&authority, &kept, KeyUsage::client_auth(), revocation()).unwrap();
    let error = judge_with(&authority, &gone, KeyUsage::client_auth(), revocation()).unwrap_err();
    assert!(matches!(error, Error::CertRevoked), "{error:?}");
}

#[test]
fn an_authority_opened_again_issues_under_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let created = Authority::create(dir.path()).unwrap();
    let opened = Authority::open(dir.path()).unwrap();
    assert_eq!(created.cert_pem(), opened.cert_pem());
    assert_eq!(created.key_pem(), opened.key_pem());
    let issued = opened.issue_agent("later").unwrap();
    judge(&created, &issued, KeyUsage::client_auth()).unwrap();
}

#[test]
fn an_authority_whose_key_is_another_ones_is_not_opened() {
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    Authority::create(first.path()).unwrap();
    Authority::create(second.path()).unwrap();
    fs::copy(second.path().join("ca.key"), first.path().join("ca.key")).unwrap();
    let error = Authority::open(first.path()).unwrap_err();
    assert!(
        matches!(&error, CertError::ForeignAuthority(path) if path.ends_with("ca.pem")),
        "{error}"
    );
    fs::write(first.path().join("ca.pem"), "no certificate").unwrap();
    assert!(matches!(
        Authority::open(first.path()),
        Err(CertError::ForeignAuthority(_))
    ));
}

#[test]
fn keys_are_for_their_owner_only_and_the_directory_too() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new");
    let authority = Authority::create(&dir).unwrap();
    let server = authority.issue_server(&[""; 0]).unwrap();
    let agent = authority.issue_agent("web01").unwrap();
    assert_eq!(mode(&dir), 0o700);
    for key in [&dir.join("ca.key"), &server.key_path, &agent.key_path] {
        assert_eq!(mode(key), 0o600, "{}", key.display());
    }
    assert_eq!(fs::read_to_string(&agent.key_path).unwrap(), agent.key_pem);
    assert_eq!(
        fs::read_to_string(&agent.cert_path).unwrap(),
        agent.cert_pem
    );
    PrivateKeyDer::from_pem_slice(agent.key_pem.as_bytes()).unwrap();
}

#[test]
fn nothing_is_overwritten_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    let agent = authority.issue_agent("web01").unwrap();
    let before = contents(dir.path());
    let refused = [
        Authority::create(dir.path()).map(drop),
        authority.issue_agent("web01").map(drop),
    ];
    for (result, name) in refused.into_iter().zip(["ca.pem", "web01.pem"]) {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, CertError::Exists(path) if path.ends_with(name)),
            "{error}"
        );
        assert!(error.to_string().contains("--force"), "{error}");
    }
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert!(
        matches!(Authority::create(dir.path()), Err(CertError::Exists(path)) if path.ends_with("ca.key"))
    );
    fs::write(dir.path().join("ca.pem"), authority.cert_pem()).unwrap();
    assert_eq!(before, contents(dir.path()));

    let forced = Authority::create_with(dir.path(), Validity::default(), true).unwrap();
    let replaced = forced.issue_agent("web01").unwrap();
    assert_ne!(replaced.cert_pem, agent.cert_pem);
    assert_eq!(mode(&replaced.key_path), 0o600);
    assert_eq!(contents(dir.path()).len(), before.len());
}

fn judge(authority: &Authority, issued: &Issued, usage: KeyUsage) -> Result<(), Error> {
    judge_with(authority, issued, usage, None)
}

fn judge_with(
    authority: &Authority,
    issued: &Issued,
    usage: KeyUsage,
    revocation: Option<RevocationOptions<'_>>,
) -> Result<(), Error> {
    let root = CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap();
    let anchors = [anchor_from_trusted_cert(&root).unwrap()];
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let cert = EndEntityCert::try_from(&der)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    ));
    cert.verify_for_usage(ALGORITHMS, &anchors, &[], now, usage, revocation, None)
        .map(drop)
}

fn is_named(issued: &Issued, name: &str) -> bool {
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let cert = EndEntityCert::try_from(&der).unwrap();
    cert.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
        .is_ok()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn contents(dir: &Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}
