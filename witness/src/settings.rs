//! How an installation names its witnesses: `name=third,kubeconfig=/etc/…,namespace=understudy-witness,failureDomain=third-site`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

const FIELDS: [&str; 4] = ["name", "kubeconfig", "namespace", "failureDomain"];
const EXAMPLE: &str = "name=third,kubeconfig=/etc/understudy/witness/third,namespace=understudy-witness,failureDomain=third-site";

/// One witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessSettings {
    pub name: String,
    pub kubeconfig: PathBuf,
    pub namespace: String,
    /// What it shares its fate with. Only the hub looks at it; agents may be given the same words.
    pub failure_domain: String,
}

#[derive(Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error("{field} is missing in {given:?}: write it like {EXAMPLE}")]
    Missing { field: &'static str, given: String },
    #[error(
        "{part:?} is no field of a witness: write name, kubeconfig, namespace and failureDomain, like {EXAMPLE}"
    )]
    Unknown { part: String },
    #[error("{field} is given twice in {given:?}: leave one out")]
    Twice { field: String, given: String },
    #[error(
        "{field} {value:?} is not a DNS label: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
    )]
    NotALabel { field: &'static str, value: String },
    #[error("name {name:?} is given to two witnesses: give each a name of its own")]
    NameTwice { name: String },
    #[error(
        "failureDomain {domain:?} of witness {name:?} is that of {other}: a witness counts only in a domain of its own; name the right one, or choose another witness"
    )]
    DomainTwice { name: String, domain: String, other: String },
}

impl FromStr for WitnessSettings {
    type Err = SettingsError;

    fn from_str(given: &str) -> Result<WitnessSettings, SettingsError> {
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        for part in given.split(',').map(str::trim) {
            let field = part.split_once('=').filter(|(field, _)| FIELDS.contains(&field.trim()));
            let Some((field, value)) = field else {
                return Err(SettingsError::Unknown { part: part.to_owned() });
            };
            if fields.insert(field.trim(), value.trim()).is_some() {
                return Err(SettingsError::Twice { field: field.trim().to_owned(), given: given.to_owned() });
            }
        }
        let [name, kubeconfig, namespace, failure_domain] = FIELDS.map(|field| {
            let value = fields.get(field).filter(|value| !value.is_empty());
            value
                .map(|value| (*value).to_owned())
                .ok_or(SettingsError::Missing { field, given: given.to_owned() })
        });
        Ok(WitnessSettings {
            name: label("name", name?)?,
            kubeconfig: PathBuf::from(kubeconfig?),
            namespace: label("namespace", namespace?)?,
            failure_domain: failure_domain?,
        })
    }
}

fn label(field: &'static str, value: String) -> Result<String, SettingsError> {
    match proto::ClusterName::parse(&value) {
        Ok(_) => Ok(value),
        Err(_) => Err(SettingsError::NotALabel { field, value }),
    }
}

/// Each name once, and each failure domain.
pub fn ensure_distinct(witnesses: &[WitnessSettings]) -> Result<(), SettingsError> {
    for (index, witness) in witnesses.iter().enumerate() {
        let before = witnesses.iter().take(index);
        if before.clone().any(|other| other.name == witness.name) {
            return Err(SettingsError::NameTwice { name: witness.name.clone() });
        }
        let mut same = before.filter(|other| other.failure_domain == witness.failure_domain);
        if let Some(other) = same.next() {
            return Err(witness.not_its_own(&format!("witness {:?}", other.name)));
        }
    }
    Ok(())
}

impl WitnessSettings {
    /// A witness's failure domain is its own.
    pub fn ensure_apart_from(&self, domain: &str, whose: &str) -> Result<(), SettingsError> {
        if self.failure_domain == domain { Err(self.not_its_own(whose)) } else { Ok(()) }
    }

    fn not_its_own(&self, other: &str) -> SettingsError {
        SettingsError::DomainTwice {
            name: self.name.clone(),
            domain: self.failure_domain.clone(),
            other: other.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &str) -> Result<WitnessSettings, SettingsError> {
        given.parse()
    }

    #[test]
    fn a_witness_is_named_by_four_fields_in_any_order() {
        let expected = WitnessSettings {
            name: "third".to_owned(),
            kubeconfig: PathBuf::from("/etc/w"),
            namespace: "witness".to_owned(),
            failure_domain: "zone c".to_owned(),
        };
        let given = "failureDomain=zone c, namespace=witness,kubeconfig=/etc/w ,name=third";
        assert_eq!(parse(given), Ok(expected));
    }

    #[test]
    fn what_is_wrong_with_a_witness_is_said_by_field_value_and_remedy() {
        let cases = [
            ("name=third", ["kubeconfig is missing", "name=third", "write it like"]),
            (
                "name=,kubeconfig=k,namespace=n,failureDomain=f",
                ["name is missing", "name=,", "write it like"],
            ),
            ("third", ["\"third\"", "no field of a witness", "write name, kubeconfig"]),
            ("name=a,name=b", ["name is given twice", "name=b", "leave one out"]),
            ("name=Third,kubeconfig=k,namespace=n,failureDomain=f", ["name", "\"Third\"", "use 1 to 63"]),
            ("name=t,kubeconfig=k,namespace=N_S,failureDomain=f", ["namespace", "\"N_S\"", "use 1 to 63"]),
        ];
        for (given, said) in cases {
            let refused = parse(given).expect_err(given).to_string();
            assert!(said.iter().all(|part| refused.contains(part)), "{given}: {refused}");
        }
    }

    #[test]
    fn two_witnesses_of_one_name_or_one_failure_domain_are_refused() {
        let witness = |name: &str, domain: &str| {
            parse(&format!("name={name},kubeconfig=k,namespace=n,failureDomain={domain}")).expect("a witness")
        };
        assert_eq!(ensure_distinct(&[witness("a", "x"), witness("b", "y")]), Ok(()));
        let refused = ensure_distinct(&[witness("a", "x"), witness("a", "y")]).expect_err("one name");
        assert!(refused.to_string().contains("name \"a\" is given to two witnesses"), "{refused}");
        let refused = ensure_distinct(&[witness("a", "x"), witness("b", "x")]).expect_err("one domain");
        assert!(refused.to_string().contains("failureDomain \"x\" of witness \"b\""), "{refused}");
        let refused = witness("a", "x").ensure_apart_from("x", "the hub").expect_err("the hub's");
        assert!(refused.to_string().contains("is that of the hub"), "{refused}");
    }
}
