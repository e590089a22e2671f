//! What admission writes into the gate's containers.

use std::path::PathBuf;

use proto::{ClusterName, NameError, PlacementName};
use thiserror::Error;
use tls::{Authorities, IdentityError, StatementError, TrustDomain};

use crate::lease::Who;

/// What a container of the gate is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Ends when the application may start.
    Wait,
    /// Ends the application.
    Guard,
}

pub struct Settings {
    pub part: Part,
    pub who: Who,
    pub authorities: Authorities,
    /// `host:port`.
    pub agent: String,
    pub memory: PathBuf,
}

#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("say what this container is there for: `gate wait` or `gate guard`")]
    Part,
    #[error("{0} is not set: admission sets it from the ConfigMap understudy-gate")]
    Missing(&'static str),
    #[error("{variable}")]
    Name {
        variable: &'static str,
        #[source]
        source: NameError,
    },
    #[error("UNDERSTUDY_GATE_TRUST_DOMAIN")]
    TrustDomain(#[source] IdentityError),
    #[error("UNDERSTUDY_GATE_CA")]
    Authorities(#[source] StatementError),
}

impl Settings {
    pub fn read(
        part: Option<&str>,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Settings, SettingsError> {
        let part = match part {
            Some("wait") => Part::Wait,
            Some("guard") => Part::Guard,
            Some(_) | None => return Err(SettingsError::Part),
        };
        let needed = |name: &'static str| {
            variable(name).filter(|value| !value.is_empty()).ok_or(SettingsError::Missing(name))
        };
        let cluster = ClusterName::parse(&needed("UNDERSTUDY_GATE_CLUSTER")?)
            .map_err(|source| SettingsError::Name { variable: "UNDERSTUDY_GATE_CLUSTER", source })?;
        let placement = PlacementName::parse(
            &needed("UNDERSTUDY_GATE_NAMESPACE")?,
            &needed("UNDERSTUDY_GATE_PLACEMENT")?,
        )
        .map_err(|source| SettingsError::Name { variable: "UNDERSTUDY_GATE_PLACEMENT", source })?;
        let trust_domain = TrustDomain::parse(&needed("UNDERSTUDY_GATE_TRUST_DOMAIN")?)
            .map_err(SettingsError::TrustDomain)?;
        Ok(Settings {
            part,
            who: Who { cluster, placement, pod: needed("UNDERSTUDY_GATE_POD")? },
            authorities: Authorities::parse(&needed("UNDERSTUDY_GATE_CA")?, trust_domain)
                .map_err(SettingsError::Authorities)?,
            agent: needed("UNDERSTUDY_GATE_AGENT")?,
            memory: needed("UNDERSTUDY_GATE_MEMORY")?.into(),
        })
    }
}
