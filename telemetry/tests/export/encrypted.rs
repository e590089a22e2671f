//! A collector behind https is believed by the authorities that were named, and by nobody else's word.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use understudy_telemetry::{Arguments, Lost, OtlpProtocol, Reason, Signal, build};

use crate::patience::{PATIENCE, at_best, eventually};
use crate::receiver::{service, span};

/// A certificate that is its own authority, as a file and as a server shows it.
struct Authority {
    _folder: TempDir,
    file: PathBuf,
    acceptor: TlsAcceptor,
}

fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, certificate.pem()).expect("written");
    let mut settings = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a fitting key");
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Authority { _folder: folder, file, acceptor: TlsAcceptor::from(Arc::new(settings)) }
}

/// Tells the first line of each request, whatever the protocol, and answers HTTP/1.1 that all is well.
async fn encrypted_collector(acceptor: TlsAcceptor) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (told, lines) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&request[..read]);
            let _ = told.send(text.lines().next().unwrap_or_default().to_owned());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, lines)
}

async fn tell(collector: SocketAddr, protocol: OtlpProtocol, believed: PathBuf) -> Lost {
    let arguments = Arguments {
        log: "off".into(),
        otlp_endpoint: Some(format!("https://{collector}")),
        otlp_protocol: protocol,
        otlp_certificate: Some(believed),
        ..Arguments::default()
    };
    let (telemetry, _dispatch) = build(&service(), &arguments).expect("build");
    let lost = telemetry.lost();
    telemetry.spans().expect("a collector").tell(span());
    telemetry.shutdown().await;
    lost
}

async fn tells_nothing(collector: SocketAddr, protocol: OtlpProtocol, believed: PathBuf) {
    let lost = tell(collector, protocol, believed).await;
    eventually("the span is lost", || lost.count(Signal::Traces, Reason::NotTaken) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_http_it_is_spoken_to_only_if_a_named_authority_vouches_for_it() {
    let (right, wrong) = (authority(), authority());
    let (collector, mut lines) = encrypted_collector(right.acceptor.clone()).await;
    tells_nothing(collector, OtlpProtocol::HttpProtobuf, wrong.file.clone()).await;
    assert!(lines.try_recv().is_err(), "it was told something");
    at_best(async || {
        let lost = tell(collector, OtlpProtocol::HttpProtobuf, right.file.clone()).await;
        match lost.count(Signal::Traces, Reason::NotTaken) {
            0 => Ok(()),
            lost => Err(format!("{lost} spans are lost")),
        }
    })
    .await;
    let mut heard = Vec::new();
    while let Ok(line) = lines.try_recv() {
        heard.push(line);
    }
    assert!(heard.contains(&"POST /v1/traces HTTP/1.1".to_owned()), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_grpc_it_is_spoken_to_only_if_a_named_authority_vouches_for_it() {
    let (right, wrong) = (authority(), authority());
    let (collector, mut lines) = encrypted_collector(right.acceptor.clone()).await;
    tells_nothing(collector, OtlpProtocol::Grpc, wrong.file.clone()).await;
    assert!(lines.try_recv().is_err(), "it was told something");
    tell(collector, OtlpProtocol::Grpc, right.file.clone()).await;
    // What begins each connection of HTTP/2; this collector does not go on.
    let line = timeout(PATIENCE, lines.recv()).await.expect("in time");
    assert_eq!(line.as_deref(), Some("PRI * HTTP/2.0"));
}

#[tokio::test]
async fn a_file_without_an_authority_is_refused_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("empty.crt");
    std::fs::write(&file, "no PEM").expect("written");
    let arguments = Arguments {
        otlp_endpoint: Some("https://collector:4318".into()),
        otlp_protocol: OtlpProtocol::HttpProtobuf,
        otlp_certificate: Some(file),
        ..Arguments::default()
    };
    let refused = build(&service(), &arguments).expect_err("a refusal");
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("empty.crt"), "{cause}");
}
