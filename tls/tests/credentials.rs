//! What a process may start with, what it says when it may not, and what it never shows.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tls::pki::{Authority, Existing, Validity};
use tls::{
    Credentials, CredentialsError, Files, HandshakeLimits, Identity, TrustDomain, accept_connections, dial,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::Connected;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("dr.example").expect("a trust domain")
}

fn east() -> Identity {
    Identity::cluster("u-east").expect("a uid")
}

/// An authority, and a folder with what it issued to `identity`.
fn issued(identity: &Identity) -> (Authority, TempDir) {
    let authority = Authority::create(&trust_domain()).expect("an authority");
    let folder = tempfile::tempdir().expect("a folder");
    issue(&authority, identity, folder.path());
    (authority, folder)
}

fn issue(authority: &Authority, identity: &Identity, folder: &Path) {
    let issued = authority.issue(identity, Validity::days(1)).expect("issued");
    issued.write(folder, Existing::Replace).expect("written");
}

fn load(folder: &Path) -> Result<Credentials, CredentialsError> {
    Credentials::load(Files::in_folder(folder), trust_domain())
}

fn refusal(folder: &Path) -> String {
    load(folder).expect_err("must be refused").to_string()
}

#[test]
fn without_its_authority_certificate_or_key_nothing_starts_and_the_file_and_remedy_are_named() {
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        let (_, folder) = issued(&east());
        let path = folder.path().join(file);
        fs::remove_file(&path).expect("removed");
        let missing = refusal(folder.path());
        assert!(missing.contains(file) && missing.contains("understudy-hub pki"), "{missing}");
        fs::write(&path, "").expect("written");
        let empty = refusal(folder.path());
        assert!(empty.contains(file) && empty.contains("understudy-hub pki"), "{empty}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (authority, folder) = issued(&east());
    let other = tempfile::tempdir().expect("a folder");
    issue(&authority, &east(), other.path());
    fs::copy(other.path().join("tls.key"), folder.path().join("tls.key")).expect("copied");
    let refused = refusal(folder.path());
    assert!(refused.contains("tls.key") && refused.contains("together"), "{refused}");
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused() {
    let (_, folder) = issued(&east());
    let other = TrustDomain::parse("other.example").expect("a trust domain");
    let refused = Credentials::load(Files::in_folder(folder.path()), other).expect_err("must be refused");
    assert!(matches!(refused, CredentialsError::Identity { .. }), "{refused}");
}

#[test]
fn a_renewal_that_would_change_who_we_are_is_not_taken() {
    let (authority, folder) = issued(&east());
    let credentials = load(folder.path()).expect("credentials");
    let before = credentials.not_after();
    let issued = authority.issue(&Identity::Hub, Validity::days(30)).expect("issued");
    issued.write(folder.path(), Existing::Replace).expect("written");
    assert_eq!(credentials.not_after(), before);
    assert_eq!(credentials.identity(), &east());
    issue(&authority, &east(), folder.path());
    assert!(credentials.not_after() >= before);
}

#[tokio::test]
async fn two_authorities_in_one_file_are_both_believed_while_one_replaces_the_other() {
    let (_, old) = issued(&Identity::Hub);
    let (_, new) = issued(&east());
    let both = [old.path(), new.path()]
        .map(|folder| fs::read_to_string(folder.join("ca.crt")).expect("a certificate"))
        .concat();
    let hub = Arc::new(load(old.path()).expect("credentials"));
    assert!(met(&hub, new.path()).await.is_err(), "neither believes the other's authority yet");
    fs::write(old.path().join("ca.crt"), &both).expect("written");
    assert!(met(&hub, new.path()).await.is_err(), "the agent does not believe the hub's authority yet");
    fs::write(new.path().join("ca.crt"), &both).expect("written");
    assert_eq!(met(&hub, new.path()).await.expect("both believe"), east());
}

/// The identity that the hub sees when the agent with this folder connects.
async fn met(hub: &Arc<Credentials>, agent: &Path) -> Result<Identity, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let (authenticated, mut connections) = mpsc::channel(1);
    let (refuse, mut refused) = mpsc::channel(1);
    let accepting = accept_connections(
        listener,
        hub.clone(),
        HandshakeLimits { deadline: Duration::from_secs(60), ..HandshakeLimits::default() },
        authenticated,
        move |_, reason| refuse.try_send(reason.to_string()).expect("one refusal"),
    );
    let agent = load(agent).expect("credentials");
    let dialling = async {
        let _connection = dial::connect(&address, &agent, &Identity::Hub).await;
        tokio::select! {
            connection = connections.recv() => {
                let connection = connection.expect("a connection").expect("no error");
                Ok(connection.connect_info().identity)
            }
            reason = refused.recv() => Err(reason.expect("a reason")),
        }
    };
    tokio::select! {
        () = accepting => panic!("the loop has ended"),
        outcome = dialling => outcome,
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("neither met nor refused in time"),
    }
}

#[test]
fn a_key_is_never_shown() {
    let (authority, folder) = issued(&east());
    let key = fs::read_to_string(folder.path().join("tls.key")).expect("the key");
    let secret = key.lines().nth(1).expect("a line of the key");
    let issued = authority.issue(&east(), Validity::days(1)).expect("issued");
    issued.write(folder.path(), Existing::Replace).expect("written");
    let fresh = fs::read_to_string(folder.path().join("tls.key")).expect("the key");
    let fresh_secret = fresh.lines().nth(1).expect("a line of the key");
    let shown = format!("{:?} {issued:?} {authority:?}", load(folder.path()).expect("credentials"));
    assert!(shown.contains("dr.example") && shown.contains("BEGIN CERTIFICATE"), "{shown}");
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains(secret) && !shown.contains(fresh_secret));
}

#[test]
fn an_authority_read_back_issues_for_its_own_trust_domain() {
    let folder = tempfile::tempdir().expect("a folder");
    Authority::create(&trust_domain())
        .expect("an authority")
        .write(&folder.path().join("ca"), Existing::Keep)
        .expect("written");
    let authority = Authority::read(&folder.path().join("ca")).expect("the authority");
    assert_eq!(authority.trust_domain(), &trust_domain());
    issue(&authority, &east(), folder.path());
    assert_eq!(load(folder.path()).expect("credentials").identity(), &east());
}
