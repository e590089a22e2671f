//! The command-line arguments that both binaries take.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Clone, Debug, Default, Args)]
pub struct Arguments {
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "UNDERSTUDY_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What to log, as directives of the form `info,hub_core=debug`. Audit records stay, unless `understudy::audit` is named.
    #[arg(long, default_value = "info", env = "UNDERSTUDY_LOG")]
    pub log: String,

    /// OTLP endpoint for traces, metrics and logs, such as http://collector:4317. Without it nothing is sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// How the endpoint is spoken to.
    #[arg(long, value_enum, default_value_t = OtlpProtocol::Grpc, env = "OTEL_EXPORTER_OTLP_PROTOCOL")]
    pub otlp_protocol: OtlpProtocol,

    /// The authorities that the certificate of an https endpoint must come from, in PEM.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    pub otlp_certificate: Option<PathBuf>,

    /// Address of the endpoint with /metrics, /healthz and /readyz; port 0 takes a free one. Without it none is served.
    #[arg(long, env = "UNDERSTUDY_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// By the names of OpenTelemetry's own setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    #[default]
    Grpc,
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}
