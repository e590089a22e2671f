//! The certificates, keys and tokens of one control plane, made anew for each start from nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who the API server knows from the start, by token.
#[derive(Debug)]
pub struct Credentials {
    folder: PathBuf,
    admin_token: String,
    controller_manager_token: String,
}

impl Credentials {
    /// Makes an authority, a serving certificate for the address, a key for service accounts and the first tokens.
    pub fn make(folder: &Path, address: Ipv4Addr) -> Result<Credentials> {
        fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
        let credentials = Credentials {
            folder: folder.to_owned(),
            admin_token: random_token()?,
            controller_manager_token: random_token()?,
        };
        credentials.write_certificates(address).context("making the certificates of a control plane")?;
        credentials.write_tokens()?;
        Ok(credentials)
    }

    pub fn authority_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub fn serving_certificate_file(&self) -> PathBuf {
        self.folder.join("apiserver.crt")
    }

    pub fn serving_key_file(&self) -> PathBuf {
        self.folder.join("apiserver.key")
    }

    pub fn service_account_key_file(&self) -> PathBuf {
        self.folder.join("service-accounts.key")
    }

    pub fn service_account_public_key_file(&self) -> PathBuf {
        self.folder.join("service-accounts.pub")
    }

    pub fn tokens_file(&self) -> PathBuf {
        self.folder.join("tokens.csv")
    }

    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    pub fn controller_manager_token(&self) -> &str {
        &self.controller_manager_token
    }

    /// Writes a kubeconfig that reaches the API at the address, which may be the near end of a relay.
    pub fn kubeconfig(&self, api: SocketAddr, token: &str) -> Result<PathBuf> {
        let digest = Sha256::digest(format!("{api} {token}"));
        let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let file = self.folder.join(format!("kubeconfig-{name}.json"));
        write_private(&file, &format!("{:#}\n", self.kubeconfig_value(api, token)))?;
        Ok(file)
    }

    pub async fn client(&self, api: SocketAddr, token: &str) -> Result<Client> {
        let kubeconfig: Kubeconfig =
            serde_json::from_value(self.kubeconfig_value(api, token)).context("composing a kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("reading the kubeconfig for the API server at {api}"))?;
        Client::try_from(config).with_context(|| format!("making a client of the API server at {api}"))
    }

    fn kubeconfig_value(&self, api: SocketAddr, token: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "clusters": [{"name": "default", "cluster": {
                "server": format!("https://{api}"),
                "certificate-authority": self.authority_file(),
                "tls-server-name": "kubernetes.default.svc",
            }}],
            "users": [{"name": "default", "user": {"token": token}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        })
    }

    fn write_certificates(&self, address: Ipv4Addr) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "control plane of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let mut params =
            CertificateParams::new(["kubernetes.default.svc".to_owned(), "localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let addresses = [IpAddr::V4(address), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        params.subject_alt_names.extend(addresses.map(rcgen::SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let serving_key = KeyPair::generate()?;
        let serving = params.signed_by(&serving_key, &authority)?;

        write_private(&self.authority_file(), &authority.pem())?;
        write_private(&self.serving_certificate_file(), &serving.pem())?;
        write_private(&self.serving_key_file(), &serving_key.serialize_pem())?;
        let service_accounts = KeyPair::generate()?;
        write_private(&self.service_account_key_file(), &service_accounts.serialize_pem())?;
        write_private(&self.service_account_public_key_file(), &service_accounts.public_key_pem())
    }

    fn write_tokens(&self) -> Result<()> {
        let (admin, controller_manager) = (&self.admin_token, &self.controller_manager_token);
        let tokens = format!(
            "{admin},admin,admin,\"system:masters\"\n\
             {controller_manager},system:kube-controller-manager,controller-manager\n"
        );
        write_private(&self.tokens_file(), &tokens)
    }
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("drawing a token")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", file.display()))
}
