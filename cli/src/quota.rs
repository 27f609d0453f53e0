//! What a domain may use of the store, in words.

use std::str::FromStr;

use ringfence_xenstored::Limits;
use thiserror::Error;

/// `WHAT=NUMBER` of a command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quota {
    name: String,
    value: u64,
}

/// No quota.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// No such name.
    #[error("quota '{name}': expected one of {known}", known = Limits::NAMES.join(", "))]
    Name {
        /// As it was written.
        name: String,
    },
    /// No number.
    #[error("quota {name} '{value}': expected a number")]
    Value {
        /// What it is of.
        name: String,
        /// As it was written.
        value: String,
    },
}

impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if !Limits::NAMES.contains(&name) {
            return Err(QuotaError::Name { name: name.into() });
        }
        let number = value.parse().map_err(|_| QuotaError::Value {
            name: name.into(),
            value: value.into(),
        })?;
        Ok(Self {
            name: name.into(),
            value: number,
        })
    }
}

/// Xen's defaults, but for these. Of two for the same the last one counts.
pub fn limits(quotas: &[Quota]) -> Limits {
    quotas.iter().fold(Limits::DEFAULT, |mut limits, quota| {
        // The name was looked at when it was parsed.
        let _ = limits.set(&quota.name, quota.value);
        limits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Quota, String> {
        text.parse().map_err(|error: QuotaError| error.to_string())
    }

    #[test]
    fn quotas_in_words() {
        let quotas: Vec<Quota> = ["watches=7", "watches=2000", "nodes=100000"]
            .map(|text| parse(text).expect(text))
            .into();
        let limits = limits(&quotas);
        assert_eq!((limits.watches, limits.nodes), (2000, 100_000));
        assert_eq!(limits.transactions, Limits::DEFAULT.transactions);
        assert_eq!(super::limits(&[]), Limits::DEFAULT);
    }

    #[test]
    fn a_refusal_names_what_and_value() {
        let error = parse("colours=3").expect_err("no such quota");
        assert!(error.starts_with("quota 'colours': expected one of nodes, watches,"));
        assert_eq!(
            parse("nodes=many"),
            Err("quota nodes 'many': expected a number".to_owned())
        );
    }
}
