//! A statement that is carried by others is believed for its signature and for whose certificate that is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tls::pki::{Authority, Existing, Validity};
use tls::{Authorities, Credentials, Files, Identity, Signature, StatementError, TrustDomain};

const DOMAIN: &[u8] = b"test v1\0";
const BODY: &[u8] = b"until noon";

struct Scene {
    believed: Authorities,
    hub: Credentials,
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("dr.example").expect("a trust domain")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}

fn credentials(authority: &Authority, identity: &Identity) -> Credentials {
    let folder = tempfile::tempdir().expect("a folder");
    let issued = authority.issue(identity, Validity::days(1)).expect("issued");
    issued.write(folder.path(), Existing::Keep).expect("written");
    Credentials::load(Files::in_folder(folder.path()), trust_domain()).expect("loaded")
}

fn authority() -> (Authority, Authorities) {
    let authority = Authority::create(&trust_domain()).expect("an authority");
    let folder = tempfile::tempdir().expect("a folder");
    authority.write(folder.path(), Existing::Keep).expect("written");
    let text = std::fs::read_to_string(folder.path().join("ca.crt")).expect("read");
    (authority, Authorities::parse(&text, trust_domain()).expect("authorities"))
}

impl Scene {
    fn new() -> Scene {
        let (authority, believed) = authority();
        Scene { believed, hub: credentials(&authority, &Identity::Hub) }
    }

    fn signature(&self) -> Signature {
        self.hub.sign(DOMAIN, BODY).expect("signed")
    }

    fn verify(&self, signature: &Signature) -> Result<(), StatementError> {
        self.believed.verify(&Identity::Hub, DOMAIN, BODY, signature, now())
    }
}

#[test]
fn what_the_hub_has_signed_is_believed() {
    let scene = Scene::new();
    scene.verify(&scene.signature()).expect("believed");
}

#[test]
fn another_body_or_domain_has_not_been_signed() {
    let scene = Scene::new();
    let signature = scene.signature();
    for (domain, body) in [(DOMAIN, b"until dusk".as_slice()), (b"test v2\0", BODY), (b"", BODY)] {
        let judged = scene.believed.verify(&Identity::Hub, domain, body, &signature, now());
        assert!(matches!(judged, Err(StatementError::Signature(_))), "{judged:?}");
    }
}

#[test]
fn a_cluster_cannot_speak_for_the_hub() {
    let (authority, believed) = authority();
    let east = credentials(&authority, &Identity::cluster("u-east").expect("a uid"));
    let scene = Scene { believed, hub: east };
    let judged = scene.verify(&scene.signature());
    assert!(matches!(judged, Err(StatementError::Another { .. })), "{judged:?}");
}

#[test]
fn another_authority_is_not_believed() {
    let (one, other) = (Scene::new(), Scene::new());
    let judged = one.verify(&other.signature());
    assert!(matches!(judged, Err(StatementError::Chain(_))), "{judged:?}");
}

#[test]
fn a_certificate_that_has_expired_proves_nothing_any_more() {
    let scene = Scene::new();
    let later = now() + Duration::from_secs(3 * 24 * 60 * 60);
    let judged = scene.believed.verify(&Identity::Hub, DOMAIN, BODY, &scene.signature(), later);
    assert!(matches!(judged, Err(StatementError::Chain(_))), "{judged:?}");
}

#[test]
fn without_a_certificate_or_with_an_unknown_scheme_nothing_is_proven() {
    let scene = Scene::new();
    let bare = Signature { chain: Vec::new(), ..scene.signature() };
    assert!(matches!(scene.verify(&bare), Err(StatementError::NoCertificate)));
    let strange = Signature { scheme: 1, ..scene.signature() };
    assert!(matches!(scene.verify(&strange), Err(StatementError::Scheme(1))));
    assert!(matches!(Authorities::parse("", trust_domain()), Err(StatementError::NoAuthority)));
}
